"""The operator's commands on blocks: `rootsrv block PREFIX --for 10m --reason TEXT`, `unblock`, `blocks`."""

import argparse
import asyncio
import json
import os
import pwd
import sys
from pathlib import Path
from typing import Any

from rootsrv.admission import blocks
from rootsrv.config import file as config_file
from rootsrv.control.status_socket import NoAnswer, ask

DEFAULT_CONFIG = Path("/etc/rootsrv/rootsrv.toml")


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """The options of `rootsrv <verb>`."""
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default {DEFAULT_CONFIG}")
    parser.add_argument("--json", action="store_true", help="print as JSON")
    if verb != "blocks":
        parser.add_argument("prefix", metavar="PREFIX", help="IPv4 or IPv6 prefix, or address")
    if verb == "block":
        parser.add_argument("--for", dest="duration", required=True, metavar="TIME", help="90s, 10m, 2h; at most 24h")
        parser.add_argument(
            "--reason", required=True, metavar="TEXT", help="what the log and `rootsrv blocks` will say"
        )


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv block | unblock | blocks`; returns the exit status."""
    loaded = config_file.load(arguments.config)
    request: dict[str, Any] = {"command": arguments.verb, "who": _who()}
    try:
        if arguments.verb != "blocks":
            request["prefix"] = str(blocks.parse_prefix(arguments.prefix))
        if arguments.verb == "block":
            request |= {"seconds": blocks.parse_seconds(arguments.duration), "reason": arguments.reason}
    except blocks.BlockRefused as error:
        print(f"rootsrv: {error}", file=sys.stderr)
        return 2
    try:
        told = asyncio.run(ask(Path(loaded.state.runtime_directory) / "serve.sock", request, timeout=5.0))
    except NoAnswer as error:
        print(f"rootsrv: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        print("\n".join(_line(each) for each in told["blocks"]) or "nothing is blocked")
    return 0


def _line(block: dict[str, Any]) -> str:
    return f"{block['prefix']} for another {block['ends_in_seconds']:.0f} s, by {block['who']}: {block['reason']}"


def _who() -> str:
    """The person at the terminal, also behind sudo."""
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
