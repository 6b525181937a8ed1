"""Whether the operator's own configuration of the resolver has the root, too, beside the part that was written."""

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from rootsrv.hyperlocal.resolvers import HERE
from rootsrv.resolvers import rivals

MAX_FILES = 500
MAX_OCTETS = 4 << 20
"""Of one file: lists of names to block are larger, and have no root."""

_MAIN: Mapping[str, tuple[tuple[str, ...], rivals.Read]] = {
    "unbound": (("unbound.conf",), rivals.unbound),
    "bind": (("named.conf",), rivals.bind),
    "kresd": (("kresd.conf",), rivals.kresd),
    "kresd6": (("config.yaml",), rivals.kresd6),
    "pdns": (("recursor.conf",), rivals.pdns),
    "pdns5": (("recursor.yml", "recursor.conf"), rivals.pdns5),  # Debian's package has YAML in the second
}
"""The file in which each begins to read, the first that is there, and how that is read."""


def warnings(kind: str, part: Path) -> list[str]:
    """A line for each place where the resolver *kind*, which takes *part* in, has the root from elsewhere.

    A file that cannot be looked at is named, too.
    """
    names, read = _MAIN[kind]
    usual = HERE[kind].file
    places = dict.fromkeys((part.parent, part.parent.parent, usual.parent, usual.parent.parent))
    main = next((each / name for each in places for name in names if (each / name).is_file()), None)
    if main is None:
        return [f"{names[0]} was not found: whether the root stands there, too, was not looked at"]
    return list(_warnings(main, read, part))


def _warnings(main: Path, read: rivals.Read, part: Path) -> Iterator[str]:
    waiting, seen, directory = [(main, read)], set[Path](), main.parent
    while waiting:
        path, read = waiting.pop(0)
        if (real := path.resolve()) in seen or real == part.resolve():
            continue
        seen.add(real)
        if len(seen) > MAX_FILES:
            yield f"{path}: is one of more than {MAX_FILES} files; no more were looked at"
            return
        try:
            if path.stat().st_size > MAX_OCTETS:
                yield f"{path}: was not looked at, it is larger than {MAX_OCTETS >> 20} MiB"
                continue
            text = path.read_bytes().decode("utf-8", "replace")
        except OSError as error:
            yield f"{path}: was not looked at: {error.strerror}"
            continue
        found = read(text)
        for line, says in found.rivals:
            yield f"{path}:{line}: {says}"
        directory = directory / found.directory
        for pattern, how in found.includes:
            # A name without wildcards that is not there keeps the resolver from starting: that it says itself.
            names = sorted(glob.glob(os.path.join(glob.escape(str(directory)), pattern)))
            waiting += [(Path(name), how) for name in names]
