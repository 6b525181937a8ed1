"""Who connects and says nothing takes no place from those who ask."""

import pytest

from rootsrv.process.places import NoPlace, Places


def test_a_silent_prefix_takes_half_of_the_places_and_then_its_own() -> None:
    places: Places[int] = Places(8)
    assert [places.take(number, f"192.0.2.{number}") for number in range(4)] == [None] * 4

    assert places.take(4, "192.0.2.200") == 0
    assert places.take(5, "::ffff:192.0.2.9") == 1  # however the address is written
    assert places.take(6, "198.51.100.1") is None
    assert sorted(places) == [2, 3, 4, 5, 6]


def test_a_prefix_that_asks_has_half_and_no_more() -> None:
    places: Places[int] = Places(4)
    for number in range(2):
        places.take(number, "2001:db8::1")
        places.has_asked(number)

    with pytest.raises(NoPlace):
        places.take(2, "2001:db8:0:ff::1")  # of the same /56
    assert places.take(3, "2001:db8:0:100::1") is None


def test_where_all_are_taken_the_oldest_silent_one_of_the_fullest_prefix_goes() -> None:
    places: Places[str] = Places(6)
    for name, address in (
        ("lone", "203.0.113.1"), ("asks", "198.51.100.1"), ("b1", "192.0.2.1"), ("b2", "192.0.2.2"),
        ("b3", "192.0.2.3"), ("c1", "198.51.100.2"),
    ):  # fmt: skip
        assert places.take(name, address) is None
    places.has_asked("asks")

    assert places.take("new", "2001:db8::1") == "b1"
    assert sorted(places) == ["asks", "b2", "b3", "c1", "lone", "new"]


def test_where_all_have_asked_nobody_goes_and_a_place_that_is_left_is_free() -> None:
    places: Places[int] = Places(2)
    for number in range(2):
        places.take(number, f"192.0.{number}.1")
        places.has_asked(number)

    with pytest.raises(NoPlace):
        places.take(2, "203.0.113.1")
    places.leave(0)
    places.leave(0)
    assert places.take(2, "203.0.113.1") is None


def test_there_is_always_a_place_for_somebody() -> None:
    places: Places[int] = Places(1)
    assert places.take(0, "192.0.2.1") is None
    assert places.take(1, "192.0.2.1") == 0
    assert places.take(2, "203.0.113.1") == 1
