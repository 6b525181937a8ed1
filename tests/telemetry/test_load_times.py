"""RSSAC002 load-time, from the instants that maintain publishes."""

import pytest

from rootsrv.telemetry.load_times import LoadTime, LoadTimes
from rootsrv.telemetry.view import Said
from rootsrv.zone import instant

OLD, NEW, NEWER = 2026112100, 2026112101, 2026112102
KNOWN_AT = 1_800_000_000.25


def root(served: int, known_at: float | None = KNOWN_AT, served_at: float = KNOWN_AT + 11.25) -> Said:
    known = None if known_at is None else instant.to_text_precise(known_at)
    return Said(
        {"name": ".", "served": served, "served_known_at": known, "served_at": instant.to_text_precise(served_at)}
    )


def test_it_is_told_once_of_each_zone_that_goes_into_service() -> None:
    times = LoadTimes(OLD)
    assert times.hear(root(OLD)) is None
    assert times.hear(root(NEW)) == LoadTime(NEW, KNOWN_AT, 11.25)
    assert times.hear(root(NEW)) is None
    assert times.hear(root(NEWER, KNOWN_AT + 5)) == LoadTime(NEWER, KNOWN_AT + 5, 6.25)
    assert times.served == NEWER


def test_it_is_told_although_nobody_listened_when_it_happened() -> None:
    assert LoadTimes(OLD).hear(root(NEW)) == LoadTime(NEW, KNOWN_AT, 11.25)


def test_what_was_served_when_we_began_has_no_load_time() -> None:
    times = LoadTimes(None)
    assert times.hear(root(OLD)) is None
    assert times.hear(root(NEW)) is not None


def test_a_zone_that_was_in_service_before_it_was_known_took_no_time() -> None:
    assert LoadTimes(OLD).hear(root(NEW, KNOWN_AT, KNOWN_AT - 1)) == LoadTime(NEW, KNOWN_AT, 0.0)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"served": "x", "served_known_at": [], "served_at": None},
        {"served": NEW},  # of a version that published ages
        {"served": NEW, "served_known_at": None, "served_at": "2026-11-21T00:00:00.000Z"},
        {"served": NEW, "served_known_at": "soon", "served_at": "2026-11-21T00:00:00.000Z"},
        {"served": NEW, "served_known_at": "9999-99-99T00:00:00Z", "served_at": "2026-11-21T00:00:00"},
    ],
)
def test_what_a_role_does_not_say_is_no_error(said: dict[str, object]) -> None:
    assert LoadTimes(OLD).hear(Said(said)) is None
