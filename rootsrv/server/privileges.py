"""Giving up what a worker does not need."""

import ctypes
import os
import pwd
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_VERSION_3 = 0x20080522


class NoSuchUser(Exception):
    """The account that workers shall run as does not exist, or may not be taken on."""


def account(name: str) -> tuple[int, int] | None:
    """User and group id of the account *name*; None for "" (stay as started).  NoSuchUser says what is wrong."""
    if not name:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise NoSuchUser(f"service.user: there is no account {name!r} on this host") from error
    if os.geteuid() not in {0, entry.pw_uid}:
        raise NoSuchUser(f"service.user: only root can run workers as {name!r}")
    return entry.pw_uid, entry.pw_gid


def drop(user_id: int, group_id: int) -> None:
    """Become that user and group for good, with no supplementary groups and no way back."""
    if os.geteuid() == 0:
        os.setgroups([])
    os.setgid(group_id)
    os.setuid(user_id)


def give_up_capabilities() -> None:
    """Keep none of what a service manager gave its unprivileged account (capabilities(7)); root stays root.

    OSError when the kernel refuses, which it has no reason to.
    """
    if os.geteuid() == 0 or not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    library.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if library.capset(header, nothing):
        raise OSError(ctypes.get_errno(), f"capset: {os.strerror(ctypes.get_errno())}")


def die_with_parent(parent: int) -> bool:
    """Have the kernel end this process when its parent ends; False if that has happened already.

    To be called after `drop`: a change of user clears it.
    """
    if sys.platform.startswith("linux"):
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    return os.getppid() == parent
