"""Numbers as command lines of benchmarks have them: those of commands (rootsrv/commands/numbers.py), by short names."""

from rootsrv.commands.numbers import decimal
from rootsrv.commands.numbers import decimal_within as number
from rootsrv.commands.numbers import whole as natural
from rootsrv.commands.numbers import whole_within as whole

__all__ = ["decimal", "natural", "number", "positive", "positives", "whole"]

positive = whole(1)
"""A whole number, 1 or more."""


def positives(text: str) -> list[int]:
    """Whole numbers, 1 or more, with commas between them."""
    return [positive(each) for each in text.split(",")]
