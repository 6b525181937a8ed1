"""accept4 through cffi: a connection's descriptor and its packed source address, without an object for either."""

import os
import socket
from typing import Any

from rootsrv.process.c_declarations import declared
from rootsrv.process.descriptors import NOBODY_CAME

_ffi = declared("accepting", "int accept4(int fd, void *address, unsigned int *size, int flags);")

_ADDRESS_OCTETS = 32  # a sockaddr_in6 (28 octets) rounded up
_FLAGS = int(socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class Acceptor:
    """Takes connections from a socket that listens, not blocking."""

    def __init__(self, listening: socket.socket) -> None:
        library: Any = _ffi.dlopen(None)
        self._socket = listening
        self._descriptor = listening.fileno()
        self._accept4 = library.accept4
        self._address = _ffi.new(f"char[{_ADDRESS_OCTETS}]")
        # The kernel puts in what it takes: of one family that is always the same.
        self._size = _ffi.new("unsigned int *", _ADDRESS_OCTETS)
        self._octets = _ffi.buffer(self._address)
        self._source = slice(8, 24) if listening.family == socket.AF_INET6 else slice(4, 8)

    def accept(self) -> tuple[int, bytes] | None:
        """The next connection and the packed address it comes from; None if there is none.

        Raises OSError when there is one that cannot be had: no descriptors (EMFILE, ENFILE) or no memory.
        """
        accepted: int = self._accept4(self._descriptor, self._address, self._size, _FLAGS)
        if accepted < 0:
            if _ffi.errno in NOBODY_CAME:
                return None
            raise OSError(_ffi.errno, os.strerror(_ffi.errno))
        return accepted, self._octets[self._source]
