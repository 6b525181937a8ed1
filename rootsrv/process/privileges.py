"""Giving up what a process does not need."""

import ctypes
import errno
import os
import pwd
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

NET_BIND_SERVICE = 10
"""The capability to listen on a port below 1024 (capabilities(7))."""

_OF_A_FILE_SYSTEM = {"lost+found"}
"""What is in one that is new."""

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
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


def hand_over(directory: Path, user_id: int, own: Callable[[str], bool] | None = None) -> None:
    """Make *directory*, with all that is in it, that user's.  What is his already needs no disk that can be written.

    *own*: whether files of a name are ours; then what others put there stays theirs, and all of it if nothing is ours
    (PermissionError): an operator named a directory that is in use.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for _, names, files, descriptor in os.fwalk(directory):
        if own is not None:
            ours = [each for each in files if own(each)]
            if not ours and {*names, *files} - _OF_A_FILE_SYSTEM and directory.stat().st_uid != user_id:
                raise PermissionError(errno.EPERM, "nothing of ours is in it, but of others", str(directory))
            files = ours
            names.clear()
        for name in (*names, *files):
            # By descriptor and without following: who owns a part of it already cannot have us give away anything else.
            state = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if state.st_uid != user_id and (state.st_nlink == 1 or name in names):
                os.chown(name, user_id, -1, dir_fd=descriptor, follow_symlinks=False)
    if directory.stat().st_uid != user_id:
        os.chown(directory, user_id, -1)


def unreachable(paths: Iterable[Path], user_id: int) -> list[Path]:
    """Those directories that root could not use any more as that user, in root's own group; only root may ask."""
    os.seteuid(user_id)
    try:
        return [path for path in paths if not os.access(path, os.R_OK | os.X_OK, effective_ids=True)]
    finally:
        os.seteuid(0)


def keep_group_only(user_id: int, capability: int | None = None) -> None:
    """Let root become that user for good, with no supplementary groups; its group it keeps, and *capability*."""
    library = ctypes.CDLL(None, use_errno=True)
    os.setgroups([])
    library.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setuid(user_id)
    give_up_capabilities(capability)


def give_up_capabilities(but: int | None = None) -> None:
    """Keep none of what a service manager gave its unprivileged account (capabilities(7)); root stays root.

    *but*: one that is kept, if it is held.  OSError when the kernel refuses, which it has no reason to.
    """
    if os.geteuid() == 0 or not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    held = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: 0 … 31, then 32 … 63
    library.capget(header, held)
    kept = held[1] & (1 << but) if but is not None else 0
    if not any(held):
        return  # and a sandbox that gave none need not allow the call (deploy/systemd/rootsrv-report.service)
    library.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if library.capset(header, (ctypes.c_uint32 * 6)(kept, kept)):
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
