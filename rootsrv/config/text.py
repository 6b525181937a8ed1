"""Configuration back to TOML: the effective values, defaults included."""

import dataclasses
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rootsrv.config.checks import without_query

_SECRET_KEYS = frozenset({"secret", "previous_secrets", "password", "token", "session_password", "cookie_secret"})
SECRET_FILE_KEYS = frozenset({"secret_file", "tls_key", "password_file", "token_file", "sources_key_file"})


def is_secret(key: str) -> bool:
    """Whether the value of the dotted *key* (`cookies.previous_secrets[0]`) is not for everybody's eyes."""
    return key.rpartition(".")[2].partition("[")[0] in _SECRET_KEYS


def _settings(config: Any, prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Each setting of *config*: its key, the last part of that, its value; first those within it."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item):
                yield from _settings(item, f"{prefix}{each.name}.")
        yield prefix + each.name, each.name, value


def secrets(config: Any) -> Iterator[str]:
    """The keys of *config* (a Config) whose values are secrets that stand in the file itself."""
    for key, name, value in _settings(config):
        if value and (is_secret(name) or (name == "url" and without_query(value) != value)):
            yield key


def secret_files(config: Any) -> Iterator[tuple[str, Path]]:
    """The files that hold a secret each, with the keys that name them."""
    for key, name, value in _settings(config):
        if value and name in SECRET_FILE_KEYS:
            yield key, Path(value)


_FILE_KEYS = SECRET_FILE_KEYS | {"file", "trust_anchors", "tls_certificate", "tls_ca", "tls_client_ca", "certificate"}
_FILES_BY_NAME = frozenset({"mesh.key", "mesh.roster", "dot.key"})
"""Whose last part is something else elsewhere: a [[primary]]'s key is the name of one."""


def files(config: Any) -> Iterator[tuple[str, Path]]:
    """The files that the roles read, with the keys that name them."""
    for key, name, value in _settings(config):
        if value and isinstance(value, str) and (name in _FILE_KEYS or key in _FILES_BY_NAME):
            yield key, Path(value)


def is_for_everybody(path: Path) -> bool:
    """Whether every account of this host can read the file at *path*; OSError when that cannot be seen."""
    path = path.resolve(strict=True)
    return bool(path.stat().st_mode & stat.S_IROTH) and all(each.stat().st_mode & stat.S_IXOTH for each in path.parents)


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
        elif each.name == "url" and value and without_query(value) != value:
            own.append(f"{each.name} = {_value(without_query(value))}  # its query is not shown")
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
