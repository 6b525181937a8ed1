"""Child processes of this very program."""

import os
from pathlib import Path

import rootsrv


def describe_error(error: BaseException) -> str:
    """An exception in a word or two, for the log."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def environment() -> dict[str, str]:
    """Environment in which a child process finds this very package."""
    package = str(Path(rootsrv.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
