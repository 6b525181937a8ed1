"""One resource record, and that records do not fit together."""

Record = tuple[bytes, int, int, bytes]
"""(owner, type, TTL in seconds, RDATA): one resource record of class IN."""


class ZoneMalformed(ValueError):
    """The records do not make a zone."""
