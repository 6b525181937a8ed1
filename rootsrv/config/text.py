"""Configuration back to TOML: the effective values, defaults included."""

import dataclasses
from typing import Any

_SECRET_KEYS = frozenset({"secret", "previous_secrets"})


def to_toml(config: Any) -> str:
    """*config* (a Config) as TOML; secrets are not shown, sections that are absent are left out."""
    return "\n\n".join(_sections(config, "")) + "\n"


def _sections(config: Any, prefix: str) -> list[str]:
    own: list[str] = []
    nested: list[str] = []
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        name = prefix + each.name
        if value is None:
            continue
        if dataclasses.is_dataclass(value):
            nested.extend(_table(f"[{name}]", value, name))
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for item in value:
                nested.extend(_table(f"[[{name}]]", item, name))
        elif each.name in _SECRET_KEYS and value:
            own.append(f"# {each.name} is set and not shown")
        elif value != () or not _is_sections(each):
            own.append(f"{each.name} = {_value(value)}")
    return (["\n".join(own)] if own else []) + nested


def _is_sections(each: "dataclasses.Field[Any]") -> bool:
    """Whether the key is an array of tables, which TOML writes as sections (none, here)."""
    return "Config" in str(each.type)


def _table(heading: str, value: Any, name: str) -> list[str]:
    first, *others = _sections(value, f"{name}.") or [""]
    return [f"{heading}\n{first}".rstrip(), *others]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    text = "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in str(value))
    return f'"{text}"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
