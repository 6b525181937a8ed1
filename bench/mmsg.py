"""sendmmsg and recvmmsg (Linux, FreeBSD) through cffi, over arrays of messages that numpy can look into."""

import errno
import os
from typing import Any

import cffi
import numpy
from numpy.typing import NDArray

ffi: Any = cffi.FFI()  # attributes of C structs are beyond its type stubs
ffi.cdef("""
struct iovec { void *iov_base; size_t iov_len; };
struct msghdr {
    void *msg_name; uint32_t msg_namelen; struct iovec *msg_iov; size_t msg_iovlen;
    void *msg_control; size_t msg_controllen; int msg_flags;
};
struct mmsghdr { struct msghdr msg_hdr; unsigned int msg_len; };
int sendmmsg(int, struct mmsghdr *, unsigned int, int);
int recvmmsg(int, struct mmsghdr *, unsigned int, int, void *);
""")
_libc: Any = ffi.dlopen(None)
_DONTWAIT = 0x40
_NOTHING_NOW = {errno.EAGAIN, errno.ENOBUFS, errno.EINTR, errno.ECONNREFUSED, errno.ENETUNREACH}


class Batch:
    """An array of messages, one iovec each, in one buffer of rows of equal size."""

    def __init__(self, rows: int, row_octets: int) -> None:
        self.rows = rows
        self._memory = ffi.new("char[]", rows * row_octets)
        self.octets: NDArray[numpy.uint8] = numpy.frombuffer(ffi.buffer(self._memory), numpy.uint8).reshape(
            rows, row_octets
        )
        self._iovecs = ffi.new("struct iovec[]", rows)
        self._headers = ffi.new("struct mmsghdr[]", rows)
        for row in range(rows):
            self._iovecs[row].iov_base = self._memory + row * row_octets
            self._iovecs[row].iov_len = row_octets
            self._headers[row].msg_hdr.msg_iov = self._iovecs + row
            self._headers[row].msg_hdr.msg_iovlen = 1
        stride = ffi.sizeof("struct mmsghdr")
        words = numpy.frombuffer(ffi.buffer(self._headers), numpy.uint32).reshape(rows, stride // 4)
        self.sizes: NDArray[numpy.uint32] = words[:, ffi.offsetof("struct mmsghdr", "msg_len") // 4]
        """Octets of each received message."""

    def fill(self, row: int, message: bytes) -> None:
        """Put *message* into *row* for sending."""
        ffi.memmove(self._iovecs[row].iov_base, message, len(message))
        self._iovecs[row].iov_len = len(message)

    def send(self, descriptor: int, first: int, count: int) -> int:
        """Send rows first … first + count − 1; how many the kernel took (0: none now)."""
        sent = int(_libc.sendmmsg(descriptor, self._headers + first, count, _DONTWAIT))
        return sent if sent > 0 else _nothing("sendmmsg")

    def receive(self, descriptor: int) -> int:
        """Receive into the rows from 0 on; how many came (0: none now)."""
        received = int(_libc.recvmmsg(descriptor, self._headers, self.rows, _DONTWAIT, ffi.NULL))
        return received if received > 0 else _nothing("recvmmsg")


def _nothing(what: str) -> int:
    if ffi.errno in _NOTHING_NOW:
        return 0
    raise OSError(ffi.errno, f"{what}: {os.strerror(ffi.errno)}")
