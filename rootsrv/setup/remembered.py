"""Answers as they are kept beside the configuration that was made from them."""

import dataclasses
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from rootsrv.config.checks import ConfigError
from rootsrv.config.typed import build

A = TypeVar("A")


def read(path: Path) -> dict[str, object]:
    """What *path* says, not looked at yet; ConfigError if it is no TOML."""
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def check(kind: type[A], answers: dict[str, object], where: str = "") -> A:
    """*answers* as a *kind*, a dataclass that checks them; ConfigError begins with *where*."""
    try:
        return build(kind, answers, "")
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error


def load(kind: type[A], path: Path) -> A:
    """The answers kept at *path*; ConfigError names file and key."""
    return check(kind, read(path), f"{path}: ")


def to_text(answers: Any, title: str) -> str:
    """*answers*, a dataclass of them, below the comment *title*, as `load` reads them."""
    lines = [f"# {title}"]
    for key, value in dataclasses.asdict(answers).items():
        # JSON's strings, numbers and lists of strings are TOML's, once nothing beyond ASCII is escaped in pairs.
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def lists(kind: Any) -> tuple[str, ...]:
    """The answers of the dataclass *kind* that are lists."""
    return tuple(each.name for each in dataclasses.fields(kind) if each.type == tuple[str, ...])
