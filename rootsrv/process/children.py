"""Child processes of this very program."""

import os
from pathlib import Path

import rootsrv


def environment() -> dict[str, str]:
    """Environment in which a child process finds this very package."""
    package = str(Path(rootsrv.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))}
