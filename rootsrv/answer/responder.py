"""Answers queries from an answer table."""

import enum


class Transport(enum.IntEnum):
    """How a query came in."""

    UDP = 0
    TCP = 1
