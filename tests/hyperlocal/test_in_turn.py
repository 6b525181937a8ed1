"""Publishers in turn: whose answer is of use, by serial arithmetic around 2^32 and beyond 2^31."""

import asyncio
from collections.abc import Sequence

import pytest

from rootsrv.secondary.in_turn import InTurn
from rootsrv.secondary.primary import SerialAnswer, Transferred, Unreachable
from rootsrv.zone.contents import ZoneContents

ROOT = b"\0"


class Names:
    """A publisher that names a serial."""

    authenticated = False

    def __init__(self, serial: int) -> None:
        self.name = self.where = str(serial)
        self._serial = serial

    async def ask(self, zone: bytes) -> SerialAnswer:
        return SerialAnswer(self._serial, None)

    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
        raise Unreachable("nobody fetches")


def asked(ours: int | None, named: Sequence[int]) -> int:
    """The serial of the answer that is of use."""
    in_turn = InTurn([Names(each) for each in named], lambda: ours, shuffle=lambda sources: None)
    return asyncio.run(in_turn.ask(ROOT)).serial


@pytest.mark.parametrize(
    ("ours", "named", "useful"),
    [
        (None, (7, 9), 7),
        (9, (8, 9), 9),
        (9, (7, 8, 10), 10),
        (2**32 - 1, (2**32 - 2, 0), 0),
        (0, (2**32 - 1, 1), 1),
        (5, (5 + 2**31, 5), 5),
        (2**31 + 5, (5, 2**31 + 5), 2**31 + 5),
        (5, (5 + 2**31 + 1, 6), 6),
        (5, (5 + 2**31 - 1, 5), 5 + 2**31 - 1),
    ],
)
def test_who_names_neither_our_serial_nor_a_newer_one_is_passed_over(
    ours: int | None, named: tuple[int, ...], useful: int
) -> None:
    assert asked(ours, named) == useful


def test_nobody_is_of_use_whose_serial_cannot_be_compared() -> None:
    with pytest.raises(Unreachable, match="not to be compared with 5"):
        asked(5, (5 + 2**31,))
