"""What the program brings besides its modules: deploy/ and docs/."""

import sys
from pathlib import Path

import rootsrv


def brought(directory: str, witness: str) -> Path | None:
    """The *directory* (`deploy`, `docs`) that belongs to the modules which run; None when *witness*, a file in it, is
    in none.

    An editable installation has two: its sources', and the one in share/, which is as old as the installation.  A wheel
    has the latter alone: what lies beside its modules in site-packages is of others.
    """
    sources = Path(rootsrv.__file__).parents[1]
    of_the_wheel = Path(sys.prefix) / "share/rootsrv" / directory
    places = [sources / directory, of_the_wheel] if (sources / "pyproject.toml").is_file() else [of_the_wheel]
    return next((each for each in places if (each / witness).is_file()), None)
