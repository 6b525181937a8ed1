"""Troubles: told once while they last, again after an hour, and when they are over."""

import logging

import pytest

from rootsrv.process import troubles
from rootsrv.process.troubles import AGAIN_SECONDS, AT_MOST, Troubles


class Clock:
    """One that goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(caplog: pytest.LogCaptureFixture) -> Clock:
    caplog.set_level(logging.INFO, "rootsrv")
    return Clock()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_one_that_stays_is_told_once_and_when_it_is_over(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    kept = Troubles("counts cannot be kept", "counts are kept again", clock)
    kept.over()
    assert told(caplog) == []
    for _ in range(100):
        kept.met("No space left on device", file="/state/counts")
        clock.now += 1
    assert told(caplog) == ['counts cannot be kept file=/state/counts reason="No space left on device"']
    kept.met("Permission denied")
    assert told(caplog) == ['counts cannot be kept reason="Permission denied"']
    kept.over()
    kept.over()
    assert told(caplog) == ["counts are kept again"]
    kept.met("Permission denied")
    assert len(told(caplog)) == 1


def test_what_stands_for_an_hour_is_told_again_with_how_often(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    kept = Troubles("it fails", clock=clock)
    for _ in range(int(AGAIN_SECONDS) + 10):
        kept.met("why")
        clock.now += 1
    assert told(caplog) == ["it fails reason=why", f"it fails reason=why times={AGAIN_SECONDS:.0f}"]


def test_each_key_has_its_own_and_there_is_room_for_so_many(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    kept = Troubles("key cannot be used", "key can be used", clock)
    for _ in range(3):
        for key in ("a.", "b."):
            kept.met("damaged", key=key, tsig_key=key)
    assert told(caplog) == [f"key cannot be used tsig_key={key} reason=damaged" for key in ("a.", "b.")]
    kept.over("b.")
    assert told(caplog) == ["key can be used"]
    for number in range(AT_MOST):
        kept.met("damaged", key=number)
    caplog.clear()
    kept.over("a.")  # had to go
    assert told(caplog) == []
    kept.over(AT_MOST - 1)
    assert told(caplog) == ["key can be used"]


def test_an_exception_is_the_same_whatever_a_stranger_makes_it_say(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    kept = Troubles("page failed", clock=clock)

    def fail(said: str) -> None:
        raise ValueError(said)

    def fail_elsewhere() -> None:
        raise ValueError

    for number in range(50):
        try:
            fail(f"not a number: {number}")
        except ValueError as error:
            kept.raised(error, path=f"/{number}")
    (line,) = told(caplog)
    assert line.startswith("page failed path=/0 at=")
    assert "test_troubles.py:" in line
    assert 'error="ValueError: not a number: 0" reason=ValueError' in line
    with pytest.raises(ValueError) as found:  # noqa: PT011
        fail_elsewhere()
    kept.raised(found.value)
    assert len(told(caplog)) == 1


def test_where_something_is_raised_is_its_innermost_line() -> None:
    with pytest.raises(ZeroDivisionError) as found:
        _ = 1 // 0
    assert troubles.place_of(found.value).startswith(__file__)
    assert troubles.place_of(ValueError()) == ""
