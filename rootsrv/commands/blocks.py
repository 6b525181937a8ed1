"""The operator's commands on blocks: `rootsrv block PREFIX --for 10m --reason TEXT`, `unblock`, `blocks`."""

import argparse
import json
from typing import Any

from rootsrv.admission import blocks
from rootsrv.commands.asking import add_config, ask, failed
from rootsrv.commands.printing import complain, say
from rootsrv.config import file as config_file
from rootsrv.control.client import NoAnswer


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """The options of `rootsrv <verb>`."""
    add_config(parser)
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
    request: dict[str, Any] = {"command": arguments.verb}
    try:
        if arguments.verb != "blocks":
            request["prefix"] = str(blocks.parse_prefix(arguments.prefix))
        if arguments.verb == "block":
            request |= {"seconds": blocks.parse_seconds(arguments.duration), "reason": arguments.reason}
    except blocks.BlockRefused as error:
        complain(error)
        return 2
    try:
        told, _ = ask(loaded, "serve", request, timeout_seconds=5.0)
    except NoAnswer as error:
        return failed(arguments, error)
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        for each in told["blocks"]:
            say(_line(each))
        if not told["blocks"]:
            say("nothing is blocked")
    return 0


def _line(block: dict[str, Any]) -> str:
    return f"{block['prefix']} for another {block['ends_in_seconds']:.0f} s, by {block['who']}: {block['reason']}"
