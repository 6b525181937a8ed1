"""When who counts into a slot of the page begins another day."""

from pathlib import Path

import pytest

from rootsrv.page.day import DAY_SECONDS, begin, day_of, day_to_count, span
from rootsrv.page.layout import KERNEL_SLOT, Page

DAY = 20_000
MIDNIGHT = DAY * DAY_SECONDS


@pytest.mark.parametrize(
    ("wall_seconds", "counted"),
    [
        (MIDNIGHT, DAY),
        (MIDNIGHT + DAY_SECONDS - 0.001, DAY),
        (MIDNIGHT + DAY_SECONDS, DAY + 1),
        (MIDNIGHT + 9 * DAY_SECONDS, DAY + 9),
        (MIDNIGHT - 0.001, DAY),  # stepped back over midnight
        (MIDNIGHT - DAY_SECONDS, DAY),
        (MIDNIGHT - DAY_SECONDS - 0.001, DAY - 2),  # it was wrong before
    ],
)
def test_the_day_that_is_counted(wall_seconds: float, counted: int) -> None:
    assert day_to_count(DAY, wall_seconds) == counted
    since, until = span(DAY)
    assert (since <= wall_seconds < until) is (counted == DAY)


def test_who_has_counted_nothing_yet_begins_with_today() -> None:
    assert day_to_count(0, MIDNIGHT + 5) == DAY == day_of(MIDNIGHT + 5)


def test_a_day_begins_with_what_was_counted(tmp_path: Path) -> None:
    slot = Page.create(tmp_path / "page").worker(KERNEL_SLOT)
    slot.counters[3] = 7
    begin(slot, DAY + 1)
    slot.counters[3] = 9
    assert slot.day == DAY + 1
    assert slot.day_start[3] == 7
