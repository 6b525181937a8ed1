"""Serial number arithmetic (RFC 1982, SERIAL_BITS = 32)."""

_HALF = 1 << 31
_MODULUS = 1 << 32


def serial_is_newer(theirs: int, ours: int) -> bool:
    """Whether *theirs* > *ours* (RFC 1982 §3.2).

    Serials exactly 2^31 apart have no order: False both ways, so such a zone is never taken by itself.
    """
    return 0 < (theirs - ours) % _MODULUS < _HALF
