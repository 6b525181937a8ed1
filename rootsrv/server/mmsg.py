"""Many datagrams per system call: recvmmsg and sendmmsg through cffi in ABI mode (Linux).

No compiler is needed: the structures are declared here as the kernel and the C library lay them out on 64-bit Linux,
and `available` says whether that is where we are.
"""
# A Batch owns everything that the two calls need and is used for one socket at a time.  What is done per datagram is
# done by C loops of Python: lengths are read and written as strided slices of memoryviews over the C arrays, the
# responses are joined into one bytes object, and the addresses of the parts are running sums.
#
# What stands at equal distances is taken by one call of `struct` for the whole batch: addresses, ports, and the
# datagrams themselves.  Each is received behind an octet that is free; its length is put there, and then it is what
# `struct` calls a Pascal string.  Slices, one for each, took 0.2 us a datagram more (bench/README.md).

import errno
import os
import socket
import struct
import sys
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

from rootsrv.capture.messages import TOO_LONG
from rootsrv.process.c_declarations import declared

MAX_QUERY_OCTETS = 4096
"""A query is a header, a question and an OPT record; padded (RFC 8467) it is a few hundred octets.  Longer: dropped."""

_ffi = declared(
    "mmsg",
    """
    struct iovec { void *iov_base; size_t iov_len; };
    struct msghdr {
        void *msg_name; unsigned int msg_namelen;
        struct iovec *msg_iov; size_t msg_iovlen;
        void *msg_control; size_t msg_controllen;
        int msg_flags;
    };
    struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
    int recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, void *timeout);
    int sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
    """,
)

_NAME_OCTETS = 32  # a sockaddr_in6 (28 octets) rounded up
_FREE_OCTETS = 64  # before each datagram
_STRIDE = _FREE_OCTETS + MAX_QUERY_OCTETS  # of buffers: a multiple of the page size would crowd a few cache lines

# One datagram, source address or port of a batch.
_SHORT_OCTETS = 255  # what fits into a Pascal string
_DATAGRAM = f"{_FREE_OCTETS - 1}x{1 + _SHORT_OCTETS}p{MAX_QUERY_OCTETS - _SHORT_OCTETS}x"
_ADDRESSES = {socket.AF_INET: "4x4s24x", socket.AF_INET6: "8x16s8x"}
_PORT = "2xH28x"
_MESSAGE_OCTETS = 64  # of struct mmsghdr

_LENGTH_WORD = 14  # of msg_len, in 32-bit words of struct mmsghdr
_FLAGS_WORD = 12  # of msg_flags
_DONT_WAIT = socket.MSG_DONTWAIT
_TRY_LATER = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM))


def available() -> bool:
    """Whether this system has the two calls in the layout declared here."""
    if not sys.platform.startswith("linux") or sys.maxsize < 2**32 or sys.byteorder != "little":
        return False
    try:
        library: Any = _ffi.dlopen(None)
        return bool(library.recvmmsg and library.sendmmsg) and _ffi.sizeof("struct mmsghdr") == _MESSAGE_OCTETS
    except (OSError, AttributeError):
        return False


@cache
def _many(row: str, count: int) -> struct.Struct:
    """*count* times the format *row*, in network order."""
    return struct.Struct("!" + row * count)


class Batch:
    """Room to receive up to *size* datagrams and to send as many responses to where they came from."""

    def __init__(self, size: int, family: int) -> None:
        self.size = size
        self.oversized = 0
        """Datagrams of the latest `receive` that were longer than MAX_QUERY_OCTETS."""
        library: Any = _ffi.dlopen(None)
        self._receive, self._send = library.recvmmsg, library.sendmmsg
        self._buffers = _ffi.new("char[]", size * _STRIDE)
        self._names = _ffi.new("char[]", size * _NAME_OCTETS)
        self._vectors = _ffi.new("struct iovec[]", 2 * size)
        self._incoming = _ffi.new("struct mmsghdr[]", size)
        self._outgoing = _ffi.new("struct mmsghdr[]", size)
        name_octets = 28 if family == socket.AF_INET6 else 16
        for index in range(size):
            self._vectors[index].iov_base = self._buffers + index * _STRIDE + _FREE_OCTETS
            self._vectors[index].iov_len = MAX_QUERY_OCTETS
            for messages, vector in ((self._incoming, index), (self._outgoing, size + index)):
                header = messages[index].msg_hdr
                header.msg_name = self._names + index * _NAME_OCTETS
                header.msg_namelen = name_octets
                header.msg_iov = self._vectors + vector
                header.msg_iovlen = 1
        incoming = memoryview(_ffi.buffer(self._incoming)).cast("B").cast("I")
        self._lengths, self._flags = incoming[_LENGTH_WORD::16], incoming[_FLAGS_WORD::16]
        outgoing = memoryview(_ffi.buffer(self._vectors + size, 16 * size)).cast("B").cast("Q")
        self._out_bases, self._out_lengths = outgoing[0::2], outgoing[1::2]
        self._octets = memoryview(_ffi.buffer(self._buffers)).cast("B")
        self._short_lengths = self._octets[_FREE_OCTETS - 1 :: _STRIDE]
        self._names_octets = _ffi.buffer(self._names)
        self._address = _ADDRESSES[socket.AddressFamily(family)]

    def receive(self, descriptor: int) -> tuple[Sequence[bytes], Sequence[bytes]]:
        """What waits on the socket, without blocking: datagrams and their packed source addresses; empty if nothing.

        A datagram longer than MAX_QUERY_OCTETS is given as TOO_LONG, of no octets.

        Raises OSError for what is not "nothing there".
        """
        count = self._receive(descriptor, self._incoming, self.size, _DONT_WAIT, _ffi.NULL)
        if count <= 0:
            if count < 0 and _ffi.errno not in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR):
                raise OSError(_ffi.errno, os.strerror(_ffi.errno))
            return (), ()
        lengths = self._lengths[:count].tolist()
        datagrams: Sequence[bytes]
        try:
            self._short_lengths[:count] = bytes(lengths)
            datagrams = _many(_DATAGRAM, count).unpack_from(self._octets)
        except ValueError:  # some are longer
            datagrams = [
                self._octets[at : at + length].tobytes()
                for at, length in zip(range(_FREE_OCTETS, len(self._octets), _STRIDE), lengths, strict=False)
            ]
        self.oversized = 0
        flags = self._flags[:count].tolist()
        if any(flags):  # MSG_TRUNC is the only flag that a UDP socket sets here
            datagrams = [
                TOO_LONG if each & socket.MSG_TRUNC else whole for whole, each in zip(datagrams, flags, strict=True)
            ]
            self.oversized = sum(1 for each in flags if each & socket.MSG_TRUNC)
        return datagrams, _many(self._address, count).unpack_from(self._names_octets)

    def ports(self, count: int) -> Sequence[int]:
        """The source ports of the first *count* datagrams of the latest `receive`."""
        return _many(_PORT, count).unpack_from(self._names_octets)

    def send(self, descriptor: int, first: int, responses: Sequence[bytes]) -> list[int]:
        """Send `responses[i]` to where received datagram *first* + i came from, without blocking.

        Returns the indexes of the responses that could not be sent: the kernel has no room, or refuses the destination.
        """
        count = len(responses)
        lengths = list(map(len, responses))
        joined = b"".join(responses)
        base = int(_ffi.cast("uintptr_t", _ffi.from_buffer(joined)))
        self._out_lengths[first : first + count] = array("Q", lengths)
        self._out_bases[first : first + count] = array("Q", accumulate(lengths[:-1], initial=base))
        at = 0
        unsent: list[int] = []
        while at < count:
            sent = self._send(descriptor, self._outgoing + first + at, count - at, _DONT_WAIT)
            if sent > 0:
                at += sent
            elif _ffi.errno in _TRY_LATER:
                # No room, and waiting for it would stop everybody else: the rest is lost, as a full queue loses them.
                unsent.extend(range(at, count))
                break
            elif _ffi.errno != errno.EINTR:
                unsent.append(at)  # this destination only, e.g. port 0 or unreachable
                at += 1
        return unsent
