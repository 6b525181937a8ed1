"""The operator's commands to the fast path: `rootsrv fastpath status | attach | detach`."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootsrv.commands.asking import add_config, ask, failed
from rootsrv.commands.printing import say
from rootsrv.config import file as config_file
from rootsrv.control.client import NoAnswer, NotDone
from rootsrv.process import whole_file

_PATIENCE_SECONDS = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of `rootsrv fastpath`."""
    verbs = parser.add_subparsers(required=True, metavar="COMMAND", dest="verb")
    for verb, text in (
        ("status", "where the kernel answers, from what, how much"),
        ("attach", "attach (again)"),
        ("tap", "write a capture of the samples that the tap took since last asked (fastpath.tap_every)"),
        ("detach", "take the program off; the workers go on"),
    ):
        each = verbs.add_parser(verb, help=text)
        add_config(each)
        if verb == "attach":
            each.add_argument("--replace", action="store_true", help="in the place of a program that is there already")
        if verb == "tap":
            each.add_argument("--write", type=Path, required=True, metavar="PCAP", help="the capture file to write")
        if verb == "detach":
            each.add_argument("--reason", default="by order", help="what the log and status will say")


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv fastpath status | attach | detach`; returns the exit status."""
    loaded = config_file.load(arguments.config)
    request: dict[str, Any] = {"command": f"fastpath-{arguments.verb}"}
    if arguments.verb == "attach":
        request["replace"] = arguments.replace
    if arguments.verb == "detach":
        request["reason"] = arguments.reason
    try:
        status, pcap = ask(loaded, "serve", request, _PATIENCE_SECONDS)
    except NotDone as error:
        return failed(arguments, error)
    except NoAnswer as error:
        return failed(arguments, f"serve cannot be asked: {error}")
    if arguments.verb == "tap":
        try:
            whole_file.put(arguments.write, pcap, 0o600)  # who asked what is not for everybody
        except OSError as error:
            return failed(arguments, f"{arguments.write}: {error.strerror}")
        counters = status["counters"]
        print(f"{arguments.write}: {counters.get('tapped', 0)} samples in all, {counters.get('tap_lost', 0)} lost")
    elif arguments.json:
        print(json.dumps(status, indent=2))
    else:
        for line in render(status):
            say(line)
    return 0


def render(status: Mapping[str, Any]) -> list[str]:
    """*status* as a person wants to read it."""
    lines = []
    if status["unavailable"]:
        lines.append(f"off: {status['unavailable']}")
    if status["detached_by_order"]:
        lines.append(f"detached: {status['detached_by_order']}")
    for each in status["interfaces"]:
        lines.append(f"{each['name']}: {each['hook']}" + (f" ({each['why']})" if each["why"] else ""))
    lines.append(f"mode {status['mode']}, Linux {status['kernel']}")
    serials = ", ".join(map(str, status["serials"])) or "none"
    lines.append(f"generation {status['active']}, serials {serials}; staged {status['staged'] or 'none'}")
    for generation, outcome in status["self_tests"].items():
        lines.append(f"self-test of generation {generation}: {outcome}")
    counters = status.get("counters")
    if counters is not None:
        left = ", ".join(f"{seconds:g} s" for seconds in status["answer_until_seconds"])
        lines.append(
            f"answers for another {left} (per zone) unless renewed; {status['memory_octets']:,} octets of memory"
        )
        for family, replies in counters["replies"].items():
            told = ", ".join(f"rcode {rcode}: {number:,}" for rcode, number in replies.items()) or "none"
            lines.append(f"replies {family}: {told}")
        lines.append(f"whole {counters['whole']:,}, cut {counters['cut']:,}, truncated {counters['truncated']:,}")
        for reason, number in sorted(counters["passes"].items(), key=lambda item: -item[1]):
            lines.append(f"passed up, {reason.replace('_', ' ')}: {number:,}")
    return lines
