"""How commands ask the roles: which configuration, which socket, what to say when it did not work."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootsrv.commands.printing import complain, shown
from rootsrv.config.file import Config
from rootsrv.control import client
from rootsrv.control.protocol import Document

DEFAULT_CONFIG = Path("/etc/rootsrv/rootsrv.toml")


def add_config(parser: argparse.ArgumentParser, json_text: str = "print as JSON") -> None:
    """The options that every command has that asks a role; without *json_text* there is no --json."""
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default {DEFAULT_CONFIG}")
    if json_text:
        parser.add_argument("--json", action="store_true", help=json_text)


def ask(
    config: Config, role: str, request: Mapping[str, Any], timeout_seconds: float, octets: bytes = b""
) -> tuple[Document, bytes]:
    """Ask *role* of the instance that *config* describes.  Raises NoAnswer, NotDone."""
    path = Path(config.state.runtime_directory) / f"{role}.sock"
    return asyncio.run(client.ask_for_octets(path, request, timeout_seconds, octets))


def failed(arguments: argparse.Namespace, reason: object) -> int:
    """Say that it did not work, and why; the exit status."""
    if getattr(arguments, "json", False):
        print(json.dumps({"ok": False, "error": shown(reason)}))
    complain(reason)
    return 1
