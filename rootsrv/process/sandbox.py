"""Confining a process that reads what strangers send: it opens nothing but what it needs, and starts and ends nothing.

Landlock (landlock(7)) and a seccomp filter (seccomp(2)); neither needs a privilege, so that both also hold where all
roles share an account (a container).  What is open stays open.
"""
# Theory of operation
# -------------------
# A worker answers on sockets that it inherits and reads answer tables through a directory that it inherits.  So of the
# file system it needs its program (modules are read late) and that directory, for reading.  It needs no new connection:
# those of strangers are accepted, and a control socket of another role obeys whoever can connect to it.  It starts no
# program, ends no process, looks into none, and cuts no file short.
#
# A kernel that is too old, or a container that forbids it, is no reason not to answer: `enter` says what is missing.

import ctypes
import errno
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import rootsrv

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2

# linux/landlock.h; these numbers are the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
"""All rights on files that a version of Landlock knows, by the first version that does."""

# Numbers of the system calls that are refused: x86_64 (asm/unistd_64.h), aarch64 (asm-generic/unistd.h).
_REFUSED = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "connect": 42, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200, "tgkill": 234,
            "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_open": 434, "pidfd_send_signal": 424,
            "pidfd_getfd": 438, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "truncate": 76,
            "ftruncate": 77, "fallocate": 285, "bpf": 321, "perf_event_open": 298, "io_uring_setup": 425,
            "userfaultfd": 323, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "keyctl": 250,
            "add_key": 248, "request_key": 249, "open_by_handle_at": 304, "chmod": 90, "fchmod": 91, "chown": 92,
            "fchown": 93, "lchown": 94, "fchownat": 260, "fchmodat": 268, "fchmodat2": 452, "utime": 132,
            "utimes": 235, "futimesat": 261, "utimensat": 280, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190,
            "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199, "setxattrat": 463, "removexattrat": 466,
            "file_setattr": 469, "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144,
            "sched_setaffinity": 203, "sched_setattr": 314, "ioprio_set": 251, "migrate_pages": 256,
            "move_pages": 279, "process_madvise": 440, "process_mrelease": 448, "kcmp": 312,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "connect": 203, "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "tgkill": 131,
            "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_open": 434, "pidfd_send_signal": 424,
            "pidfd_getfd": 438, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "truncate": 45,
            "ftruncate": 46, "fallocate": 47, "bpf": 280, "perf_event_open": 241, "io_uring_setup": 425,
            "userfaultfd": 282, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "keyctl": 219,
            "add_key": 217, "request_key": 218, "open_by_handle_at": 265, "fchmod": 52, "fchmodat": 53,
            "fchownat": 54, "fchown": 55, "fchmodat2": 452, "utimensat": 88, "setxattr": 5, "lsetxattr": 6,
            "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "setxattrat": 463,
            "removexattrat": 466, "file_setattr": 469, "setpriority": 140, "sched_setparam": 118,
            "sched_setscheduler": 119, "sched_setaffinity": 122, "sched_setattr": 274, "ioprio_set": 30,
            "migrate_pages": 238, "move_pages": 239, "process_madvise": 440, "process_mrelease": 448, "kcmp": 272,
        },
    ),
}  # fmt: skip

# System calls that are refused by one of their arguments.
_BY_ARGUMENT = {
    "x86_64": {"prlimit64": 302, "fcntl": 72, "ioctl": 16},
    "aarch64": {"prlimit64": 261, "fcntl": 25, "ioctl": 29},
}
# linux/bpf_common.h, linux/seccomp.h
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data; the lower halves, on little-endian
_X32_BIT = 0x40000000

_Instruction = tuple[int, int, int, int]
"""struct sock_filter: code, jump if true, jump if false, operand."""

_PERMIT: _Instruction = (_RETURN, 0, 0, _ALLOW)
_REFUSE: _Instruction = (_RETURN, 0, 0, _ERRNO | errno.EPERM)

_ARGUMENTS: dict[str, tuple[int, tuple[int, ...], _Instruction, _Instruction]] = {
    # Of others the limits cannot be set, RLIMIT_CPU among them.
    "prlimit64": (0, (0,), _PERMIT, _REFUSE),
    # F_SETOWN, F_SETSIG, F_SETOWN_EX have the kernel send any signal to anybody of the same account.
    "fcntl": (1, (8, 10, 15), _REFUSE, _PERMIT),
    # So do FIOSETOWN and SIOCSPGRP; TIOCSTI types into a terminal.
    "ioctl": (1, (0x8901, 0x8902, 0x5412), _REFUSE, _PERMIT),
}
"""By call: the argument's place, values of it, what becomes of these, and of others."""


class Confinement:
    """Made while all is still within reach; entered when privileges are given up, by a process of one thread."""

    def __init__(self, readable: Iterable[int]) -> None:
        """*readable*: descriptors of directories in which the process goes on reading."""
        self._library = ctypes.CDLL(None, use_errno=True)
        self._ruleset: int | None = None
        self._missing: list[str] = []
        if not sys.platform.startswith("linux"):
            self._missing.append("this is not Linux")
            return
        try:
            self._ruleset = _ruleset(self._library, readable)
        except OSError as error:
            self._missing.append(f"Landlock: {error.strerror}")

    def enter(self) -> str:
        """Confine this process from now on.  What of it could not be had, and why; empty if all is in force."""
        if not sys.platform.startswith("linux"):
            return self._missing[0]
        self._library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        try:
            if self._ruleset is not None:
                _checked(self._library.syscall(_RESTRICT_SELF, self._ruleset, 0))
                os.close(self._ruleset)
        except OSError as error:
            self._missing.append(f"Landlock: {error.strerror}")
        try:
            _filter(self._library)
        except OSError as error:
            self._missing.append(f"seccomp: {error.strerror}")
        return "; ".join(self._missing)


def _ruleset(library: ctypes.CDLL, readable: Iterable[int]) -> int:
    """The descriptor of a Landlock ruleset."""
    version = _checked(library.syscall(_CREATE_RULESET, None, 0, _VERSION))
    handled = max(rights for first, rights in _FILE_RIGHTS.items() if first <= version)
    ruleset = _checked(library.syscall(_CREATE_RULESET, struct.pack("=Q", handled), 8, 0))
    try:
        for path in _program():
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                _allow(library, ruleset, descriptor)
            finally:
                os.close(descriptor)
        for descriptor in readable:
            _allow(library, ruleset, descriptor)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def _allow(library: ctypes.CDLL, ruleset: int, directory: int) -> None:
    rule = struct.pack("=Qi", _EXECUTE | _READ_FILE | _READ_DIR, directory)
    _checked(library.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))


def _program() -> list[Path]:
    """Directories of the program: the interpreter's modules and libraries, and our own."""
    paths = sysconfig.get_paths()
    found = {Path(paths[each]) for each in ("stdlib", "platstdlib", "purelib", "platlib")}
    found |= {Path(rootsrv.__file__).parent, *map(Path, ("/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo"))}
    return [each for each in found if each.is_dir()]


def _filter(library: ctypes.CDLL) -> None:
    if (known := _REFUSED.get(platform.machine())) is None:
        raise OSError(errno.ENOSYS, f"not for {platform.machine()}")
    program = _program_of(*known, _BY_ARGUMENT[platform.machine()])
    octets = b"".join(struct.pack("=HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(octets, len(octets))
    described = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    _checked(library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(described), 0, 0))


def _program_of(architecture: int, refused: dict[str, int], by_argument: dict[str, int]) -> list[_Instruction]:
    # Jumps are counted from the next instruction: (0, 1) goes past one that returns.
    program = [
        (_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture),  # of another one the numbers would mean something else
        _REFUSE,
        (_LOAD_WORD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_AT_LEAST, 0, 1, _X32_BIT),
        _REFUSE,
    ]
    for number in sorted(refused.values()):
        program += [(_JUMP_IF_EQUAL, 0, 1, number), _REFUSE]
    for name, number in by_argument.items():
        at, values, met, otherwise = _ARGUMENTS[name]
        block: list[_Instruction] = [(_LOAD_WORD, 0, 0, _ARGUMENTS_AT + 8 * at)]
        for value in values:
            block += [(_JUMP_IF_EQUAL, 0, 1, value), met]
        block.append(otherwise)
        program += [(_JUMP_IF_EQUAL, 0, len(block), number), *block]
    return [*program, _PERMIT]


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
