"""Child processes of this very program."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import rootsrv
from rootsrv.process import real_time


def describe_error(error: BaseException) -> str:
    """An exception in a word or two, for the log."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def describe_end(status: int) -> str:
    """How a process ended, by its exit status, for the log."""
    if status == -signal.SIGXCPU:
        return f"held its core for {real_time.HOLD_SECONDS} s before all others (SIGXCPU)"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"


def environment() -> dict[str, str]:
    """Environment in which a child process finds this very package, and nothing in the directory that it starts in.

    `python -m` looks there first: whoever may write to it would say what a process that may be root imports.
    """
    package = str(Path(rootsrv.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


# What another program is to do first is done by this one, which then becomes it: between fork and exec of a process
# that may have threads nothing is to be done in Python.
_BECOME = """\
import os, sys
from rootsrv.process.privileges import die_with_parent
if die_with_parent(int(sys.argv[1])):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def ends_with_us(command: Sequence[str]) -> list[str]:
    """*command*, of any program, so that it gets SIGTERM when this process ends, whatever ends it.

    To be started with `environment()`, from a thread that lives as long as the process.
    """
    return [sys.executable, "-c", _BECOME, str(os.getpid()), *command]
