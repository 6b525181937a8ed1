"""Whose answer table is another one than others made of the same zones."""

import pytest

from rootsrv.mesh.orders import Subject
from rootsrv.mesh.tables import StagedTable, difference

SUBJECT = Subject(".", 7, "abcd")
GOOD, BAD = "a" * 64, "b" * 64


def table(digest: str, *, made_of: str = "format=5 .=7", subject: Subject = SUBJECT) -> StagedTable:
    return StagedTable(subject, made_of, digest)


@pytest.mark.parametrize(
    ("ours", "others", "differs"),
    [
        (GOOD, [GOOD, GOOD], False),
        (GOOD, [], False),
        (BAD, [GOOD, GOOD], True),
        (GOOD, [GOOD, BAD], False),
        # One other, and it differs: nobody knows whose is wrong, so both make it again.
        (GOOD, [BAD], True),
        (GOOD, [GOOD, BAD, BAD], True),
    ],
)
def test_who_is_not_with_most_is_told(ours: str, others: list[str], differs: bool) -> None:
    tables = {f"m{number}": table(each) for number, each in enumerate([ours, *others])}
    assert bool(difference("m0", tables)) is differs


def test_only_tables_of_the_same_are_compared() -> None:
    other = Subject(".", 7, "another zone with this serial")
    tables = {
        "m0": table(GOOD),
        "m1": table(BAD, made_of="format=6 .=7"),
        "m2": table(BAD, subject=other),
        "m3": table(BAD, subject=other),
    }
    assert difference("m0", tables) == ""
    assert difference("nobody", tables) == ""


def test_both_digests_and_what_they_are_of_are_named() -> None:
    told = difference("m0", {"m0": table(BAD), "m1": table(GOOD), "m2": table(GOOD)})
    assert told == f"2 members made table {GOOD[:16]}…, 1 with us {BAD[:16]}…, of format=5 .=7"
