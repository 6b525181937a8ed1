"""Numbers as command lines of benchmarks have them: argparse names the option that has another."""

import argparse
from collections.abc import Callable


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def positives(text: str) -> list[int]:
    """Whole numbers, 1 or more, with commas between them."""
    return [positive(each) for each in text.split(",")]


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value


def number(lowest: float, highest: float) -> Callable[[str], float]:
    """What takes a number within these bounds; a NaN is within none."""

    def decimal(text: str) -> float:
        value = float(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"must be {lowest:g}..{highest:g}, got {value:g}")
        return value

    return decimal
