"""accept4 through cffi: a connection's descriptor and its packed source address, without an object for either."""

import errno
import os
import socket
import sys
from typing import Any

from rootsrv.process.c_declarations import declared

_ffi = declared("accepting", "int accept4(int fd, void *address, unsigned int *size, int flags);")

_ADDRESS_OCTETS = 32  # a sockaddr_in6 (28 octets) rounded up
_GONE = frozenset(
    (
        errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN,
        errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.ETIMEDOUT,
    )
)  # fmt: skip
"""Nothing waits, or what waited is gone, or a firewall refused it (accept(2), "Error handling")."""


class Acceptor:
    """Takes connections from listening sockets."""

    def __init__(self) -> None:
        library: Any = _ffi.dlopen(None)
        self._accept4 = library.accept4
        self._address = _ffi.new(f"char[{_ADDRESS_OCTETS}]")
        self._size = _ffi.new("unsigned int *")
        self._octets = _ffi.buffer(self._address)

    def accept(self, descriptor: int) -> tuple[int, bytes] | None:
        """The next connection of the listening socket *descriptor*, not blocking; None if there is none.

        Raises OSError when there is one that cannot be had: no descriptors (EMFILE, ENFILE) or no memory.
        """
        self._size[0] = _ADDRESS_OCTETS
        accepted: int = self._accept4(descriptor, self._address, self._size, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        if accepted < 0:
            if _ffi.errno in _GONE:
                return None
            raise OSError(_ffi.errno, os.strerror(_ffi.errno))
        octets = self._octets
        if int.from_bytes(octets[:2], sys.byteorder) == socket.AF_INET6:
            return accepted, octets[8:24]
        return accepted, octets[4:8]
