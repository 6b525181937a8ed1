"""Whether a member's answer table is the one that others made of the same zones with the same software."""
# One that is not says that a machine reckons wrong (memory, processor) or that compiling depends on what it should not.
# Whose it is nobody can know from one other member, so whoever is not with most makes it again, once, and says so.  It
# never silences anybody: if all tables differed, nobody could tell the good ones.

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from rootsrv.mesh.orders import Subject


@dataclass(frozen=True, slots=True)
class StagedTable:
    """The answer table that a member has staged for a zone."""

    subject: Subject
    made_of: str
    """Format, software and serials: tables of the same are octet for octet the same."""

    digest: str
    """SHA-256, hexadecimal digits."""


def difference(me: str, tables: Mapping[str, StagedTable]) -> str:
    """Why *me* should make its table again: others' of the same is another one; empty if it is as most have it."""
    own = tables.get(me)
    if own is None:
        return ""
    same = Counter(
        each.digest for each in tables.values() if (each.subject, each.made_of) == (own.subject, own.made_of)
    )
    other, count = max(((digest, count) for digest, count in same.items() if digest != own.digest),
                       key=lambda found: found[1], default=("", 0))  # fmt: skip
    if not count or count < same[own.digest]:
        return ""
    return f"{count} members made table {other[:16]}…, {same[own.digest]} with us {own.digest[:16]}…, of {own.made_of}"
