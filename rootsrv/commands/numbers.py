"""Numbers as options of commands: argparse names the option, and says what it must be."""

import argparse

from rootsrv.wire import digits

LARGEST_SERIAL = (1 << 32) - 1


def whole(text: str) -> int:
    """A whole number, 0 or more."""
    return _whole(text, digits.LARGEST)


def port(text: str) -> int:
    """A port, or 0."""
    return _whole(text, 65_535)


def serial(text: str) -> int:
    """A serial (RFC 1982)."""
    return _whole(text, LARGEST_SERIAL)


def decimal(text: str) -> float:
    """A number, 0 or more."""
    try:
        return digits.decimal(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(text: str, highest: int) -> int:
    try:
        return digits.whole(text, highest=highest)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
