"""Instants are read and written as RFC 3339 in UTC."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootsrv.wire.serial import nearest
from rootsrv.zone import instant


def test_an_instant_is_seconds_since_1970() -> None:
    assert instant.from_text("1970-01-01T00:00:00Z") == 0
    assert instant.from_text("2025-09-20T12:00:00Z") == 1_758_369_600
    assert instant.from_text("2025-09-20T14:00:00+02:00") == 1_758_369_600
    assert instant.to_text(1_758_369_600.9) == "2025-09-20T12:00:00Z"


@pytest.mark.parametrize(
    "text", ["", "noon", "2025-09-20", "2025-09-20T12:00:00", "2025-13-01T00:00:00Z", "1758369600"]
)
def test_what_is_not_an_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        instant.from_text(text)


@given(st.integers(0, 2**34), st.integers(-(2**31), 2**31 - 1))
def test_a_32_bit_time_is_the_one_nearest_to_now(now: int, distance: int) -> None:
    assert nearest((now + distance) % 2**32, now) == now + distance
