"""Which programs are at an interface's tcx ingress, and how one is taken off by its number."""
# libbpf takes a program off by its descriptor.  Only CAP_SYS_ADMIN may have one of a program that it does not hold, and
# the role *serve* has no such capability; but a program's place is enough, and CAP_NET_ADMIN: the kernel takes off the
# one that comes before all others, or behind the one with a given number (kernel/bpf/mprog.c).  A revision tells which
# list is meant.

import ctypes
import errno
import os
import struct

from rootsrv.fastpath.libbpf import ATTACH_TCX_INGRESS

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_PROG_DETACH, _PROG_QUERY = 9, 16  # enum bpf_cmd (linux/bpf.h)
_BEFORE, _AFTER, _BY_NUMBER = 1 << 3, 1 << 4, 1 << 5  # BPF_F_BEFORE, BPF_F_AFTER, BPF_F_ID
_QUERY = struct.Struct("=IIIIQIIQQQQ")  # its part of union bpf_attr
_DETACH = struct.Struct("=IIIIIIQ")
_MOST = 64  # programs; the kernel's own limit (BPF_MPROG_MAX)
_TRIES = 8


def idents(ifindex: int) -> list[int]:
    """The kernel's numbers of the programs, in the order in which they run; OSError where there is no tcx."""
    return _look(ifindex)[0]


def remove(ifindex: int, ident: int) -> None:
    """Take program number *ident* off, which was attached without a link; nothing if it is not there.  OSError."""
    for left in reversed(range(_TRIES)):
        there, revision = _look(ifindex)
        if ident not in there:
            return
        place = there.index(ident)
        flags, neighbour = (_AFTER | _BY_NUMBER, there[place - 1]) if place else (_BEFORE, 0)
        try:
            _bpf(_PROG_DETACH, _DETACH.pack(ifindex, 0, ATTACH_TCX_INGRESS, flags, 0, neighbour, revision))
        except OSError as error:
            # Somebody else changed the list meanwhile, or took the neighbour away.
            if error.errno not in (errno.ESTALE, errno.ENOENT) or not left:
                raise
        else:
            return


def _look(ifindex: int) -> tuple[list[int], int]:
    """The programs' numbers, and the revision of their list."""
    found = (ctypes.c_uint32 * _MOST)()
    asked = _QUERY.pack(ifindex, ATTACH_TCX_INGRESS, 0, 0, ctypes.addressof(found), _MOST, 0, 0, 0, 0, 0)
    answer = _QUERY.unpack(_bpf(_PROG_QUERY, asked))
    return list(found[: answer[5]]), answer[10]


def _bpf(command: int, attributes: bytes) -> bytes:
    """The system call bpf(2); what the kernel has made of its attributes."""
    number = _SYS_BPF.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    octets = ctypes.create_string_buffer(attributes, len(attributes))
    if libc.syscall(number, command, octets, len(attributes)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return octets.raw
