"""RFC 1982."""

from hypothesis import given
from hypothesis import strategies as st

from rootsrv.wire.serial import serial_is_newer

serials = st.integers(0, 2**32 - 1)


@given(serials, st.integers(1, 2**31 - 1))
def test_an_addition_of_less_than_half_the_space_is_newer_also_across_the_wrap(serial: int, step: int) -> None:
    assert serial_is_newer((serial + step) % 2**32, serial)
    assert not serial_is_newer(serial, (serial + step) % 2**32)


@given(serials)
def test_a_serial_is_not_newer_than_itself_nor_than_the_one_opposite(serial: int) -> None:
    assert not serial_is_newer(serial, serial)
    assert not serial_is_newer((serial + 2**31) % 2**32, serial)
    assert not serial_is_newer(serial, (serial + 2**31) % 2**32)
