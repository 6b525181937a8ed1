"""Serial number arithmetic (RFC 1982, SERIAL_BITS = 32)."""

from typing import TypeGuard

_HALF = 1 << 31
_MODULUS = 1 << 32


def is_serial(value: object) -> TypeGuard[int]:
    """Whether *value* is a serial at all: 32 bits (RFC 1982 §2), and not `True`."""
    return type(value) is int and 0 <= value < _MODULUS


def serial_is_newer(theirs: int, ours: int) -> bool:
    """Whether *theirs* > *ours* (RFC 1982 §3.2).

    Serials exactly 2^31 apart have no order: False both ways, so such a zone is never taken by itself.
    """
    return 0 < (theirs - ours) % _MODULUS < _HALF


def nearest(value: int, reference: float) -> int:
    """The number congruent to the 32-bit *value* that is nearest to *reference*.

    RRSIG times are 32 bits of seconds since 1970, to be read so (RFC 4034 §3.1.5).
    """
    near = int(reference)
    return near + (value - near + _HALF) % _MODULUS - _HALF
