"""RSSAC002 load-time, from what maintain says once a second."""

from rootsrv.telemetry.load_times import LoadTime, LoadTimes
from rootsrv.telemetry.view import Said

OLD, NEW, NEWER = 2026112100, 2026112101, 2026112102


def root(**said: float | None) -> Said:
    return Said({"name": ".", **said})


def test_it_counts_from_when_the_serial_was_known_until_it_was_served() -> None:
    times = LoadTimes(OLD)

    assert times.hear(root(known=OLD, served=OLD), 1000.0) is None
    assert times.hear(root(known=NEW, known_age_seconds=0.75, served=OLD), 1001.0) is None
    assert (
        times.hear(root(known=NEW, known_age_seconds=10.75, received=NEW, received_age_seconds=8, served=OLD), 1011.0)
        is None
    )
    assert times.hear(
        root(known=NEW, received=NEW, received_age_seconds=9, served=NEW, served_age_seconds=0.5), 1012.0
    ) == (LoadTime(NEW, 1000.25, 11.25))
    assert times.hear(root(known=NEW, served=NEW, served_age_seconds=1.5), 1013.0) is None


def test_one_that_came_and_went_into_service_between_two_looks_counts_from_its_transfer() -> None:
    times = LoadTimes(OLD)
    times.hear(root(known=OLD, served=OLD), 1000.0)

    assert times.hear(
        root(known=NEW, received=NEW, received_age_seconds=0.5, served=NEW, served_age_seconds=0.25), 1001.0
    ) == (LoadTime(NEW, 1000.5, 0.25))


def test_the_second_of_two_in_a_row_does_not_inherit_the_age_of_the_first() -> None:
    times = LoadTimes(OLD)
    times.hear(root(known=NEW, known_age_seconds=1, served=OLD), 1000.0)
    times.hear(root(known=NEW, known_age_seconds=100, served=OLD), 1099.0)
    times.hear(root(known=NEWER, known_age_seconds=101, served=OLD), 1100.0)

    assert times.hear(root(known=NEWER, served=NEWER, served_age_seconds=0), 1110.0) == LoadTime(NEWER, 1099.0, 11.0)


def test_what_was_served_when_we_began_has_no_load_time() -> None:
    assert LoadTimes(None).hear(root(known=OLD, received=OLD, received_age_seconds=5, served=OLD), 1000.0) is None


def test_what_a_role_does_not_say_is_no_error() -> None:
    times = LoadTimes(OLD)

    assert times.hear(Said({}), 1000.0) is None
    assert times.hear(Said({"served": "x", "known": [], "known_age_seconds": None}), 1001.0) is None
