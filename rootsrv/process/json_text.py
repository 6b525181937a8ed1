"""JSON that was kept, or came from another process: whatever is wrong with it is a ValueError."""

import json
import math
from typing import Any

_INTEGERS = range(-(1 << 63), 1 << 64)
"""What fits into 64 bits: nothing that is counted or timed here is larger, and int, float and struct disagree on it."""

_LONGEST_QUOTED = 40


class Lacking(KeyError):
    """An object has not what it should have: whoever wrote it is of another version, say."""

    def __str__(self) -> str:
        return f"an answer has no {self.args[0]!r}: is the role of another version than this command?"


class FromAnother(dict[str, Any]):
    """An object that another process has sent; what it has not is Lacking."""

    def __missing__(self, key: str) -> Any:
        raise Lacking(key)


def parse(text: str | bytes, *, infinite: bool = False) -> Any:
    """What *text* says; ValueError if it is not JSON, nested so deeply that Python gives up, or has no usable number.

    Python reads 1e999, Infinity and NaN, which are no JSON (RFC 8259 §6), and `int` of them is an OverflowError.
    *infinite*: that they may be there, in what this program has written itself, whose objects are FromAnother.
    """
    try:
        if infinite:
            return json.loads(text, object_hook=FromAnother)
        return json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_of_64_bits)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_number(text: str) -> float:
    raise ValueError(f"{text[:_LONGEST_QUOTED]} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _of_64_bits(text: str) -> int:
    if (number := int(text)) not in _INTEGERS:
        raise ValueError(f"{text[:_LONGEST_QUOTED]} has more than 64 bits")
    return number
