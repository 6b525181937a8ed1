"""The operator's commands in an attack: `rootsrv shed`, `unshed`, `sheds`, and `top`, which says who floods."""

import argparse
import json
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rootsrv.admission import shed
from rootsrv.admission.blocks import BlockRefused, parse_seconds
from rootsrv.commands import numbers
from rootsrv.commands.asking import DEFAULT_CONFIG, add_config, ask, failed
from rootsrv.commands.printing import complain, say
from rootsrv.config import file as config_file
from rootsrv.config.file import Config
from rootsrv.control.client import NoAnswer, NotDone

_LOOK_SECONDS = 1.0  # kernel and workers show what they counted once a second
_DRY_SECONDS = "10s"
_CLEAR = "\x1b[H\x1b[2J"


def add_arguments(parser: argparse.ArgumentParser, verb: str) -> None:
    """The options of `rootsrv <verb>`."""
    add_config(parser)
    if verb == "unshed":
        parser.add_argument("rule", metavar="RULE", type=numbers.whole, help="its number, as `rootsrv sheds` says")
    if verb == "top":
        parser.add_argument("--once", action="store_true", help="print once, and do not go on")
    if verb != "shed":
        return
    parser.add_argument(
        "--match", action="append", required=True, metavar="KEY=VALUE",
        help=f"{', '.join(shed.KEYS)}; said several times, all must hold",
    )  # fmt: skip
    parser.add_argument("--do", choices=shed.ACTIONS, default="tc-unless-cookie", help="default tc-unless-cookie")
    parser.add_argument("--for", dest="duration", metavar="TIME", help="90s, 20m, 2h; at most 24h; dry: 10s")
    parser.add_argument("--reason", metavar="TEXT", help="what the log and `rootsrv sheds` will say")
    parser.add_argument("--dry-run", action="store_true", help="only say live what it would hit")
    parser.add_argument("--really", action="store_true", help="also if that is nearly everything")


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv shed | unshed | sheds | top`; returns the exit status."""
    config = config_file.load(arguments.config)
    try:
        if arguments.verb == "shed":
            return _shed(arguments, config)
        if arguments.verb == "top":
            return _top(arguments, config)
        request: dict[str, Any] = {"command": arguments.verb}
        if arguments.verb == "unshed":
            request["rule"] = arguments.rule
        _show(arguments, _told(config, request))
    except (shed.ShedRefused, BlockRefused) as error:
        complain(error)
        return 2
    except NoAnswer as error:
        return failed(arguments, error)
    except KeyboardInterrupt:
        return 0 if arguments.verb == "top" else 128 + signal.SIGINT  # top ends so; of all else it is not known
    return 0


def _told(config: Config, request: dict[str, Any]) -> dict[str, Any]:
    return ask(config, "serve", request, timeout_seconds=5.0)[0]


def _shed(arguments: argparse.Namespace, config: Config) -> int:
    if not arguments.dry_run and not (arguments.duration and arguments.reason):
        raise shed.ShedRefused("a rule needs --for TIME and --reason TEXT (or --dry-run, which ends by itself)")
    request: dict[str, Any] = {
        "command": "shed",
        "match": str(shed.Match.parse(arguments.match)).split(),
        "do": arguments.do,
        "seconds": parse_seconds(arguments.duration or _DRY_SECONDS),
        "reason": arguments.reason or "dry run",
        "dry_run": arguments.dry_run,
        "really": arguments.really,
    }
    try:
        told = _told(config, request)
    except NotDone as error:
        if "--really" not in str(error) or arguments.really or not _says_so_twice(str(error)):
            raise
        told = _told(config, request | {"really": True})
    if arguments.dry_run:
        return _watch(arguments, config, told["made"], request["seconds"])
    _show(arguments, told)
    return 0


def _says_so_twice(warning: str) -> bool:
    """Whether a person at a terminal confirms it, twice."""
    if not sys.stdin.isatty():
        return False
    complain(warning)
    for question in ("Shed it all the same? ", "Really? "):
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() != "yes":
            return False
    return True


def _watch(arguments: argparse.Namespace, config: Config, rule: int, seconds: int) -> int:
    """Say live what the dry rule would hit, until its time is over; then it is gone."""
    end = time.monotonic() + seconds
    latest: dict[str, Any] = {}
    try:
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(_LOOK_SECONDS, left))
            found = [each for each in _told(config, {"command": "sheds"})["rules"] if each["rule"] == rule]
            if not found:
                break
            latest = found[0]
            if not arguments.json:
                say(
                    f"{latest['hits']} of {latest['queries']} queries ({_share(latest['share'])}), and"
                    f" {latest['hits_with_cookie']} of {latest['queries_with_cookie']} with a cookie"
                    f" ({_share(latest['share_with_cookie'])}), would be hit"
                )
    except KeyboardInterrupt:
        _told(config, {"command": "unshed", "rule": rule})
    if arguments.json:
        print(json.dumps(latest, indent=2))
    elif latest and not latest["queries"]:
        say("no query came over UDP that rules look at: from service addresses and limits.exempt nobody is judged")
    return 0


def _show(arguments: argparse.Namespace, told: dict[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(told, indent=2))
        return
    for each in told["rules"]:
        say(rule_line(each))
    if not told["rules"]:
        say("nothing is shed")


def rule_line(rule: dict[str, Any]) -> str:
    """One rule, for people."""
    does = "would do" if rule["dry_run"] else "does"
    return (
        f"rule {rule['rule']}: {rule['match']} {does} {rule['do']} for another {rule['ends_in_seconds']:.0f} s;"
        f" {rule['hits']} hits ({_share(rule['share'])} of all, {_share(rule['share_with_cookie'])} of those with a"
        f" cookie); by {rule['who']}: {rule['reason']}"
    )


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _top(arguments: argparse.Namespace, config: Config) -> int:
    live = sys.stdout.isatty() and not (arguments.once or arguments.json)
    while True:
        told = _told(config, {"command": "top"})
        if arguments.json:
            print(json.dumps(told, indent=2))
            return 0
        lines = top_lines(told, arguments.config)
        if live:
            sys.stdout.write(_CLEAR)
        for line in lines:
            say(line)
        if not live:
            return 0
        sys.stdout.flush()
        time.sleep(_LOOK_SECONDS)


def top_lines(told: dict[str, Any], config: Path = DEFAULT_CONFIG) -> list[str]:
    """What `rootsrv top` prints of the instance that *config* describes."""
    whose = "" if config == DEFAULT_CONFIG else f" --config {shlex.quote(str(config))}"
    flood, limits = told["flood"], told["limits"]
    mode = limits["mode"] + (" (too many over their rate: dry-run)" if limits["falls_back"] else "")
    lines = [
        f"{flood['queries_per_second']:.0f} UDP queries/s in the last {flood['seconds']} s,"
        f" {flood['with_cookie']:.1%} with a good cookie; limits {mode}:"
        f" {limits['limited']} limited, {limits['would_be_limited']} would be",
    ]
    lines += map(rule_line, told["rules"])
    for dimension, values in flood["top"].items():
        lines += ["", dimension]
        lines += [f"  {each['share']:7.1%}  {each['value']}" for each in values]
    if flood["suggestions"]:
        lines += ["", "to look at what stands out (nothing is run by itself):"]
        lines += [f"{each}{whose}" for each in flood["suggestions"]]
    return lines
