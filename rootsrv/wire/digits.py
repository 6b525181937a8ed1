"""Numbers in text, as people, files and peers write them: digits 0 to 9, and nothing else.

`int` and `float` take more, with a meaning that nobody meant: of them 1_0 is ten, " 7" is seven, and so is the same
digit of any other script, 1e3 is a thousand, and "nan" is what cannot be compared with anything.
"""

import re
from typing import TypeVar

N = TypeVar("N", int, float)

LARGEST = (1 << 64) - 1

_WHOLE = re.compile("[0-9]{1,20}")
_DECIMAL = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,20})?|\.[0-9]{1,20}")
_LONGEST_SHOWN = 40


def whole(text: str, lowest: int = 0, highest: int = LARGEST) -> int:
    """The whole number that *text* is, within these bounds; ValueError says what it must be."""
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"must be a whole number in digits, got {_shown(text)}")
    return _within(int(text), lowest, highest)


def decimal(text: str, lowest: float = 0.0, highest: float = 1e20) -> float:
    """The number that *text* is, as 2, 0.5 or .5, within these bounds; ValueError says what it must be."""
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError(f"must be a number such as 2 or 0.5, got {_shown(text)}")
    return _within(float(text), lowest, highest)


def _within(value: N, lowest: float, highest: float) -> N:
    if not lowest <= value <= highest:
        bounds = f"at least {lowest}" if highest >= LARGEST > value else f"{lowest}..{highest}"
        raise ValueError(f"must be {bounds}, got {value}")
    return value


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}…"
