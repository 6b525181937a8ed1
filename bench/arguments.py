"""Numbers as command lines of benchmarks have them: argparse names the option that has another."""

import argparse
from collections.abc import Callable

from rootsrv.wire import digits


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    return whole(1)(text)


def positives(text: str) -> list[int]:
    """Whole numbers, 1 or more, with commas between them."""
    return [positive(each) for each in text.split(",")]


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    return whole(0)(text)


def whole(lowest: int, highest: int = digits.LARGEST) -> Callable[[str], int]:
    """What takes a whole number within these bounds."""

    def take(text: str) -> int:
        try:
            return digits.whole(text, lowest, highest)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return take


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """What takes a number within these bounds."""

    def take(text: str) -> float:
        try:
            return digits.decimal(text, lowest, highest)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return take


decimal = number(0, 1e20)
"""A number, 0 or more."""
