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

MAX_POLICY_OCTETS = 64 << 20
"""Of a response policy zone, which may be a list of names to block: it takes some seconds."""

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
    policies, files = list[rivals.PolicyZone](), dict[str, str]()
    while waiting:
        path, read = waiting.pop(0)
        if (real := path.resolve()) in seen or real == part.resolve():
            continue
        seen.add(real)
        if len(seen) > MAX_FILES:
            yield f"{path}: is one of more than {MAX_FILES} files; no more were looked at"
            return
        try:
            text = _read(path, MAX_OCTETS)
        except _NotLookedAt as error:
            yield str(error)
            continue
        found = read(text)
        for line, says in found.rivals:
            yield f"{path}:{line}: {says}"
        directory = directory / found.directory
        for pattern, how in found.includes:
            # A name without wildcards that is not there keeps the resolver from starting: that it says itself.
            names = sorted(glob.glob(os.path.join(glob.escape(str(directory)), pattern)))
            waiting += [(Path(name), how) for name in names]
        policies += found.policies
        files |= found.files
    for policy in policies:
        # One that came from elsewhere and is in no file, or in none yet, cannot be looked at.
        name = policy.file or files.get(policy.zone, "")
        if (path := directory / name).is_file():
            try:
                yield from (f"{path}:{line}: {says}" for line, says in policy.rivals(_read(path, MAX_POLICY_OCTETS)))
            except _NotLookedAt as error:
                yield str(error)


class _NotLookedAt(Exception):
    """The text names the file and says why."""


def _read(path: Path, most: int) -> str:
    try:
        if path.stat().st_size > most:
            raise _NotLookedAt(f"{path}: was not looked at, it is larger than {most >> 20} MiB")
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise _NotLookedAt(f"{path}: was not looked at: {error.strerror}") from error
