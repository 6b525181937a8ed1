"""Numbers as options of commands: argparse names the option, and says what it must be."""

import argparse
from collections.abc import Callable

from rootsrv.wire import digits
from rootsrv.wire.digits import N


def whole_within(lowest: int, highest: int = digits.LARGEST) -> Callable[[str], int]:
    """What takes a whole number within these bounds."""
    return _option(digits.whole, lowest, highest)


def decimal_within(lowest: float, highest: float) -> Callable[[str], float]:
    """What takes a number within these bounds."""
    return _option(digits.decimal, lowest, highest)


def _option(read: Callable[[str, N, N], N], lowest: N, highest: N) -> Callable[[str], N]:
    def take(text: str) -> N:
        try:
            return read(text, lowest, highest)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return take


whole = whole_within(0)
"""A whole number, 0 or more."""

port = whole_within(0, 65_535)
"""A port, or 0."""

serial = whole_within(0, (1 << 32) - 1)
"""A serial (RFC 1982)."""

decimal = decimal_within(0, 1e20)
"""A number, 0 or more."""
