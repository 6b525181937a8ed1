"""Work that takes a core for a while, in a process of its own: a fork that sees what we have and returns octets.

Verifying and compiling a root take most of a second; NOTIFY, control and leases must not wait for it.  A fork needs no
copying of 25,000 records back and forth.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import pickle
import signal
import stat
import sys
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from rootsrv.process.aside import aside

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1

_MUCH_OCTETS = 100_000
"""What is less is objects within a millisecond or two."""


class Inherited(Protocol):
    """What a fork must let go of, lest it hold a lock that is the parent's."""

    def leave_in_child(self) -> None:
        """Called in the child, before its work."""


class ChildFailed(Exception):
    """The process that did the work died, or its work raised what it should not."""


class ChildHindered(ChildFailed):
    """The machine refused something: no process, memory or descriptor, a file that could not be read or written.

    It says nothing about the work; trying again may help.
    """


async def in_child(
    work: Callable[[], T],
    inherited: Inherited,
    timeout_seconds: float = 120.0,
    expected: tuple[type[Exception], ...] = (),
) -> T:
    """The result of *work*, done in a forked process; what it raises of the *expected* exceptions is raised here.

    ChildHindered when it cannot be started or the machine refuses it something (OSError, MemoryError); ChildFailed when
    it dies or raises anything else, whatever that is; TimeoutError when it takes longer than *timeout_seconds*.
    """
    loop = asyncio.get_running_loop()
    parent = os.getpid()
    try:
        receiver, sender = os.pipe()
    except OSError as error:
        raise ChildHindered(f"no pipe for a process: {error.strerror}") from error
    try:
        pid = os.fork()
    except OSError as error:
        os.close(receiver)
        os.close(sender)
        raise ChildHindered(f"no process: {error.strerror}") from error
    if pid == 0:
        _run_child(work, inherited, parent, sender)
    os.close(sender)
    ended: asyncio.Future[None] = loop.create_future()
    parts: list[bytes] = []

    def readable() -> None:
        try:
            part = os.read(receiver, 1 << 20)
        except BlockingIOError:
            return
        if part:
            parts.append(part)
        else:
            loop.remove_reader(receiver)
            if not ended.done():
                ended.set_result(None)

    try:
        os.set_blocking(receiver, False)
        loop.add_reader(receiver, readable)
        async with asyncio.timeout(timeout_seconds):
            await ended
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        loop.remove_reader(receiver)
        os.close(receiver)
        _, status = os.waitpid(pid, 0)  # noqa: ASYNC222  (it has ended or was killed)
    if status or not parts:
        raise ChildFailed(f"ended with status {os.waitstatus_to_exitcode(status)}")
    outcome = b"".join(parts)
    # A whole zone takes 50 to 90 ms to become objects.
    good, result = await aside(lambda: pickle.loads(outcome)) if len(outcome) > _MUCH_OCTETS else pickle.loads(outcome)  # noqa: S301  (from our own fork)
    if good:
        return cast(T, result)
    failure = cast(Exception, result)
    if isinstance(failure, (*expected, ChildFailed)):
        raise failure
    kind = ChildHindered if isinstance(failure, (OSError, MemoryError)) else ChildFailed
    raise kind(f"{type(failure).__name__}: {failure}") from failure


def _run_child(work: Callable[[], object], inherited: Inherited, parent: int, sender: int) -> None:
    gc.disable()  # a collection would copy all pages, and its memory goes when it ends
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == parent:
            inherited.leave_in_child()
            _close_sockets()
            try:
                outcome = pickle.dumps((True, work()))
            except Exception as error:
                outcome = _pickled_failure(error)
            view = memoryview(outcome)
            while view:
                view = view[os.write(sender, view) :]
            status = 0
    finally:
        # Whatever cannot be written any more (a log on a full disk): what is above us is the parent's, who has an event
        # loop and sockets, and must never go on in here.
        try:
            sys.stderr.flush()
        finally:
            os._exit(status)


def _close_sockets() -> None:
    """They are the parent's: a fork that holds one keeps its address taken and its connections open."""
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # that of the listing itself
            if number > 2 and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)


def _pickled_failure(error: Exception) -> bytes:
    try:
        octets = pickle.dumps((False, error))
        pickle.loads(octets)  # noqa: S301  (our own)
    except Exception:
        return pickle.dumps((False, ChildFailed(f"{type(error).__name__}: {error}")))
    return octets
