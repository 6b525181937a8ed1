"""Frames that come from XDP_REDIRECT, as a network card's driver delivers them: with room behind them.

python -m tests.fastpath.sender INTERFACE: reads frames in hexadecimal, one a line, and sends each out of INTERFACE.
"""

import os
import socket
import struct
import sys

import cffi

from rootsrv.fastpath import libbpf

_PROG_TYPE_XDP = 6
_REDIRECT = 23  # BPF_FUNC_redirect
_ffi = cffi.FFI()
_ffi.cdef("int bpf_prog_load(int, const char *, const char *, const void *, size_t, const void *);")


def _instruction(code: int, register: int, immediate: int) -> bytes:
    return struct.pack("<BBhi", code, register, 0, immediate)


def _load(*instructions: bytes) -> int:
    lib, octets = _ffi.dlopen("libbpf.so.1"), b"".join(instructions)
    program: int = lib.bpf_prog_load(  # type: ignore[attr-defined]
        _PROG_TYPE_XDP, b"test", b"Apache-2.0", _ffi.from_buffer(octets), len(instructions), _ffi.NULL
    )
    if program < 0:
        raise OSError(_ffi.errno, os.strerror(_ffi.errno))
    return program


class Sender:
    """Sends frames out of an interface; a veth there sends XDP_TX back to us only while this one lives."""

    def __init__(self, interface: str) -> None:
        ifindex = socket.if_nametoindex(interface)
        accept = _load(_instruction(0xB7, 0, 2), _instruction(0x95, 0, 0))  # r0 = XDP_PASS; exit
        # r1 = ifindex; r2 = 0; r0 = bpf_redirect(r1, r2); exit
        self._redirect = _load(
            _instruction(0xB7, 1, ifindex),
            _instruction(0xB7, 2, 0),
            _instruction(0x85, 0, _REDIRECT),
            _instruction(0x95, 0, 0),
        )
        self._link = libbpf.link(accept, ifindex, libbpf.ATTACH_XDP, libbpf.XDP_DRIVER_MODE)

    def send(self, octets: bytes) -> None:
        """One frame."""
        libbpf.run_on_packet(self._redirect, octets, repeat=1, flags=libbpf.TEST_RUN_LIVE_FRAMES)


if __name__ == "__main__":
    sender = Sender(sys.argv[1])
    print("ready", flush=True)
    for line in sys.stdin:
        sender.send(bytes.fromhex(line))
        print("sent", flush=True)
