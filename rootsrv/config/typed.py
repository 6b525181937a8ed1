"""From a table of plain values, as TOML and JSON give it, to a frozen dataclass; an error names the key."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from rootsrv.config.checks import ConfigError
from rootsrv.config.text import is_secret

T = typing.TypeVar("T")

_LONGEST_SHOWN = 80


Unknown = Literal["refused", "ignored"]


def build(kind: type[T], table: Mapping[str, Any], prefix: str = "", *, unknown: Unknown = "refused") -> T:
    """An instance of the dataclass *kind* from *table*, whose keys are called *prefix*.key in the ConfigError.

    *unknown*: what becomes of keys that the dataclass does not have.
    """
    known = {each.name: each for each in dataclasses.fields(typing.cast(Any, kind))}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in known and unknown == "ignored":
            continue
        if key not in known:
            meant = difflib.get_close_matches(key[:_LONGEST_SHOWN], known, 1)
            raise ConfigError(
                f"{prefix}{key[:_LONGEST_SHOWN]}: unknown key (known: {', '.join(sorted(known)) or 'none'})"
                + (f"; did you mean {meant[0]}?" if meant else "")
            )
        values[key] = _convert(hints[key], value, prefix + key, unknown)
    for each in known.values():
        missing = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
        if missing and each.name not in values:
            raise ConfigError(f"{prefix}{each.name}: is missing")
    return kind(**values)


def _convert(hint: Any, value: Any, key: str, unknown: Unknown) -> Any:
    """*value* as what *hint* asks for; ConfigError names *key*."""
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: must be a table, got {_toml_type(value)}")
        return build(typing.cast(type, hint), value, key + ".", unknown=unknown)
    if origin is tuple:
        (item, _) = typing.get_args(hint)
        if not isinstance(value, list):
            got = "" if is_secret(key) else f", got {_toml_type(value)}"
            raise ConfigError(f"{key}: must be an array{got}")
        return tuple(_convert(item, each, f"{key}[{index}]", unknown) for index, each in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{key}: must be a table, got {_toml_type(value)}")
        return value
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ConfigError(f"{key}: must be one of {', '.join(map(str, choices))}; got {_shown(value)}")
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (each for each in typing.get_args(hint) if each is not type(None))
        if value is None:
            return None
        return _convert(inner, value, key, unknown)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value, key)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        got = _TYPE_NAMES.get(type(value), type(value).__name__) if is_secret(key) else _toml_type(value)
        raise ConfigError(f"{key}: must be {_TYPE_NAMES[hint]}, got {got}")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # half of a pair, as JSON can write it: "\\ud800"
            raise ConfigError(f"{key}: must be a string, and what is given is no text") from None
        if "\0" in value:  # no path has it, and no address: every call of the system ends there or refuses it
            raise ConfigError(f"{key}: must be a string without NUL")
    return value


def _finite(value: float, key: str) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ConfigError(f"{key}: must be a finite number")
    return number


_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


def _toml_type(value: Any) -> str:
    names = {**_TYPE_NAMES, list: "an array", dict: "a table"}
    return f"{names.get(type(value), type(value).__name__)} ({_shown(value)})"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
