"""The operator's commands on a running capture: `rootsrv capture start`, `stop`, `status`, `ditl`."""

import argparse
import dataclasses
import datetime
import json
import re
import shlex
import time
from typing import Any

from rootsrv.commands import numbers
from rootsrv.commands.asking import add_config, ask, failed
from rootsrv.commands.printing import complain, say
from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.control.client import NoAnswer
from rootsrv.doctor.capture import QUERY_OCTETS
from rootsrv.process import clocks
from rootsrv.telemetry.capture_room import room_octets
from rootsrv.zone import instant

_PATIENCE_SECONDS = 30.0  # a stop waits until the last file is on the disk
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_SECONDS = 366 * 86_400

DITL_HOURS = 50
"""DNS-OARC's "Day in the Life of the Internet" collects two days and an hour on either side."""

DITL_CLOCK_SECONDS = 0.5
"""DNS-OARC's scripts stop at a clock that is further off."""

_MOST_DAYS = 8  # that are named one by one in the command that brings them away; else their months
_GREATEST_RATE = 10**9
_GIGABYTE = 10**9


class NotSo(ValueError):
    """What was typed cannot be; the text says why."""


def add_arguments(commands: Any) -> None:
    """The sub-commands, into `rootsrv capture`'s *commands*."""
    start = commands.add_parser("start", help="write what is asked to files, for a time or until stop")
    add_config(start)
    start.add_argument("--for", dest="duration", metavar="TIME", help="30m, 50h, 7d (default: until stop)")
    _add_what(start)
    start.add_argument("--format", choices=("cdns", "pcap"), help="default: as configured")
    start.set_defaults(command=run_start)

    stop = commands.add_parser("stop", help="end the capture; returns when its last file is whole")
    add_config(stop)
    stop.set_defaults(command=run_stop)

    status = commands.add_parser("status", help="rate, losses, files, disk, until when")
    add_config(status)
    status.set_defaults(command=run_status)

    ditl = commands.add_parser("ditl", help="a collection for DNS-OARC: 50 hours of pcap, checked before it begins")
    add_config(ditl)
    ditl.add_argument("--begin", metavar="TIME", help="YYYY-MM-DDTHH:MM, UTC (default: now)")
    ditl.add_argument("--hours", type=numbers.whole, default=DITL_HOURS, help=f"default {DITL_HOURS}")
    ditl.add_argument(
        "--rate", type=numbers.decimal, default=0.0, help="queries a second to have room for (default: as of now)"
    )
    ditl.add_argument("--to", metavar="HOST:DIRECTORY", help="where the files shall go: shown in the command for that")
    _add_what(ditl)
    ditl.add_argument("--check", action="store_true", help="only say whether it could begin")
    ditl.set_defaults(command=run_ditl)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compression", choices=("none", "gzip", "zstd"), help="default: as configured")
    parser.add_argument("--name", help="begins the files' names (default: as configured)")
    parser.add_argument(
        "--every", type=numbers.whole, default=0, metavar="N", help="one query of N (default: as configured)"
    )


def run_start(arguments: argparse.Namespace) -> int:
    """`rootsrv capture start`."""
    try:
        seconds = parse_duration(arguments.duration) if arguments.duration else 0
    except NotSo as error:
        complain(error)
        return 2
    request = {"command": "capture-start", "seconds": float(seconds), **_what(arguments)}
    return _order(arguments, request | ({"format": arguments.format} if arguments.format else {}))


def run_stop(arguments: argparse.Namespace) -> int:
    """`rootsrv capture stop`."""
    return _order(arguments, {"command": "capture-stop"})


def run_status(arguments: argparse.Namespace) -> int:
    """`rootsrv capture status`."""
    return _order(arguments, {"command": "status"})


def _what(arguments: argparse.Namespace) -> dict[str, Any]:
    chosen = {"compression": arguments.compression, "name": arguments.name, "every": arguments.every}
    return {key: value for key, value in chosen.items() if value}


def _order(arguments: argparse.Namespace, request: dict[str, Any]) -> int:
    loaded = config_file.load(arguments.config)
    if loaded.capture is None:
        return failed(arguments, f"{arguments.config}: there is no section [capture]")
    try:
        told, _ = ask(loaded, "capture", request, timeout_seconds=_PATIENCE_SECONDS)
    except NoAnswer as error:
        return failed(arguments, error)
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        for line in lines(told):
            say(line)
    return 0


def lines(told: dict[str, Any]) -> list[str]:
    """A capture's status, for people."""
    until = f", until {_utc(told['until'])}" if told["until"] else ""
    form = f" as {told['format']}" if told["format"] else ""
    found = [f"{told['state']}{form}{until}"]
    if told["begins"] > time.time():
        found[0] = f"waits for {_utc(told['begins'])}{until}"
    if told["why"]:
        found.append(f"why: {told['why']}")
    lost = ", ".join(f"{where} {number}" for where, number in told["lost"].items())
    found.append(f"{told['items']} queries, {told['rate']:.0f} a second; lost: {lost}")
    if told["passed_over"]:
        found.append(f"{told['passed_over']} not wanted, or not in the sample")
    if told["late"]:
        found.append(f"{told['late']} came late, and stand out of order")
    if told["queries_counted"] is not None:
        of_it = told.get("capture", told | {"lost": sum(told["lost"].values())})  # an older role has no other numbers
        found.append(
            f"this capture: {of_it['items']} in files or on their way, {of_it['lost']} lost, {of_it['passed_over']} not"
            f" wanted; the instance counted {told['queries_counted']} meanwhile (RSSAC002)"
        )
    found.append(f"file {told['file'] or '-'}; {told['files_finished']} finished, {told['files_failed']} failed")
    if staying := told.get("files_staying"):
        found.append(f"cannot be set aside, and nobody writes to it: {', '.join(staying)}")
    found.append(
        f"{told['directory']}: {told['directory_octets'] / _GIGABYTE:.2f} GB of {told['quota_octets'] / _GIGABYTE:.2f},"
        f" {told['free_octets'] / _GIGABYTE:.1f} GB free{_left(told)}"
    )
    found.append(f"rings {100 * told['ring_fill']:.1f} % full, {told['behind_seconds']:.2f} s behind")
    if not told["columns"]:
        most = f": {told['most_a_second']:,} queries a second at most" if told["most_a_second"] else ""
        found.append(f"numpy is not installed (pip install rootsrv[capture]){most}")
    return found


def _left(told: dict[str, Any]) -> str:
    """For how long there is room at the rate of now."""
    if not told["octets_a_second"]:
        return ""
    return f", room for {room_octets(told.get) / told['octets_a_second'] / 3600:.1f} h"


def run_ditl(arguments: argparse.Namespace) -> int:
    """`rootsrv capture ditl`: 1 if the clock, the place or the role hinders it."""
    loaded = config_file.load(arguments.config)
    if loaded.capture is None:
        return failed(arguments, f"{arguments.config}: there is no section [capture]")
    try:
        begin = parse_time(arguments.begin) if arguments.begin else time.time()
        if not 1 <= arguments.hours <= _LONGEST_SECONDS // 3600:
            raise NotSo(f"--hours: must be 1..{_LONGEST_SECONDS // 3600}")
        if not 0 <= arguments.rate <= _GREATEST_RATE:  # nor is it one if it is no number
            raise NotSo(f"--rate: must be 0..{_GREATEST_RATE}")
        until = begin + arguments.hours * 3600
        if until > instant.LAST:
            raise NotSo(f"--begin {arguments.begin}: its {arguments.hours} hours are not over in the year 9999")
        try:
            chosen = dataclasses.replace(loaded.capture, format="pcap", **_what(arguments))
        except ConfigError as error:
            raise NotSo(str(error).replace("capture.", "--", 1)) from error
    except NotSo as error:
        complain(error)
        return 2
    try:
        told, _ = ask(loaded, "capture", {"command": "status"}, timeout_seconds=_PATIENCE_SECONDS)
    except NoAnswer as error:
        return failed(arguments, error)
    octets = QUERY_OCTETS["pcap", chosen.compression] / chosen.every
    problems = _hindrances(loaded, told, arguments.rate, arguments.hours, octets)
    if until <= time.time():
        problems.append(f"the {arguments.hours} hours from {_utc(begin)} on are over")
    for problem in problems:
        complain(problem)
    if problems:
        return 1
    name = chosen.name
    if not arguments.check:
        request = {"command": "capture-start", "format": "pcap", "at": begin, "until": until, **_what(arguments)}
        try:
            told, _ = ask(loaded, "capture", request, timeout_seconds=_PATIENCE_SECONDS)
        except NoAnswer as error:
            return failed(arguments, error)
    begin = max(begin, time.time())
    if arguments.json:
        print(json.dumps(told | {"upload": upload(told["directory"], name, arguments.to, begin, until)}, indent=2))
        return 0
    verb = "could be collected" if arguments.check else "are collected"
    say(f"queries {verb} from {_utc(begin)} to {_utc(until)} into {told['directory']} as {name}.*.pcap*")
    if chosen.filter:
        say(f"of them only {chosen.filter}, as is configured")
    if chosen.every > 1:
        say(f"of them one of {chosen.every}")
    say("each file has its MD5 (.md5) and what it holds and lost (.json) beside it")
    say("afterwards, and as often as the line breaks:")
    say(f"  {upload(told['directory'], name, arguments.to, begin, until)}")
    return 0


def upload(directory: str, name: str, to: str | None, begin: float, until: float) -> str:
    """A command that brings whole files with their checksums away, and goes on where it was when called again.

    *begin*, *until*: seconds since 1970.  What was captured on other days, or under a name that begins alike, is not
    what this collection was made for, and stays.
    """
    last = int(until - 1) // _UNITS["d"] * _UNITS["d"]
    starts = range(int(begin) // _UNITS["d"] * _UNITS["d"], last + 1, _UNITS["d"])
    form = "%Y%m%d" if len(starts) <= _MOST_DAYS else "%Y%m*"
    days = dict.fromkeys(f"{datetime.datetime.fromtimestamp(at, datetime.UTC):{form}}" for at in starts)
    # Of a number: another file began in the same microsecond (collector.py).
    patterns = [f"{name}{number}.{day}.*.pcap*" for day in days for number in ("", "-[0-9]")]
    return (
        "rsync --archive --partial --append-verify --exclude '*.part' --exclude '*.incomplete'"
        f" {' '.join(f'--include {shlex.quote(each)}' for each in patterns)} --exclude '*'"
        f" {shlex.quote(f'{directory}/')} {shlex.quote(f'{to}/') if to else 'HOST:DIRECTORY/'}"
    )


def _hindrances(config: Config, told: dict[str, Any], rate: float, hours: int, octets: float) -> list[str]:
    """Why the collection should not begin; *octets*: of a query that was asked, in its files."""
    found = []
    if config.clock.source != "trusted":
        error = clocks.greatest_error_seconds()
        if error is None or error >= DITL_CLOCK_SECONDS:
            known = "not synchronised" if error is None else f"off by up to {error:.3f} s"
            found.append(f"the clock is {known}; it must be right to {DITL_CLOCK_SECONDS} s")
    if told["state"] != "idle" or told["begins"] > time.time():
        found.append("a capture is under way, or waits (rootsrv capture stop ends it)")
    rate = rate or told["rate"] or told["queries_a_second"]
    needed = rate * hours * 3600 * octets
    room = room_octets(told.get)
    assert config.capture is not None
    if 0 < config.capture.retention_days * 24 <= hours:
        found.append(
            f"retention_days = {config.capture.retention_days:g} takes its first files away before its {hours} hours"
            " are over"
        )
    if needed > room:
        found.append(
            f"{told['directory']}: room for {room / _GIGABYTE:.0f} GB, and {hours} hours of {rate:.0f} queries a second"
            f" take some {needed / _GIGABYTE:.0f} GB"
        )
    return found


def parse_duration(text: str) -> int:
    """Seconds in `90s`, `30m`, `50h`, `7d`; NotSo for anything else, or more than a year."""
    found = re.fullmatch(r"([0-9]{1,8})([smhd])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_SECONDS:
        raise NotSo(f"--for {text}: must be like 90s, 30m, 50h or 7d, and at most a year")
    return seconds


def parse_time(text: str) -> float:
    """Seconds since 1970 of YYYY-MM-DDTHH:MM, UTC; NotSo for anything else."""
    try:
        found = datetime.datetime.strptime(text.removesuffix("Z"), "%Y-%m-%dT%H:%M")
        return found.replace(tzinfo=datetime.UTC).timestamp()
    except ValueError as error:
        raise NotSo(f"--begin {text}: must be YYYY-MM-DDTHH:MM, UTC") from error


def _utc(at: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
