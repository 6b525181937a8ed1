"""`rootsrv restart [--when-token] [--upgrade PATH]`: without loss; one box of a mesh at a time, canaries first."""
# Theory of operation
# -------------------
# In a mesh the command is given on all boxes at once, by whatever gives commands there; the floor makes them go one by
# one.  Outside of one there is nobody to ask: it begins with DRAIN, and whoever types sees to it that others announce.
#
#   CANARIES ──────────▶ DRAIN ──────────▶ LINK ──▶ RESTART ──────────▶ HEALTHY ──────────▶ UNDRAIN
#   none of them still    a token, then     only with                    answers, no older   announced
#   wants a token for     no traffic        --upgrade                    serial than before
#   this, or has the                                                        │ not in time
#   version before                                                          ▼
#                                                        LINK back ──▶ RESTART ──▶ HEALTHY ──▶ UNDRAIN, exit status 1
#
# The wish to be drained stands in the state directory, so nothing is announced meanwhile that the floor does not know
# of: the roles that start again ask for a token again, and are degraded and announced while they have none.

import argparse
import asyncio
import json
import os
import shlex
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rootsrv.commands import numbers
from rootsrv.commands.asking import add_config, ask, failed
from rootsrv.commands.printing import reason_of, say
from rootsrv.commands.routes import until_withdrawn
from rootsrv.config import file as config_file
from rootsrv.config.file import Config
from rootsrv.control.client import NoAnswer
from rootsrv.wire.serial import serial_is_newer

REASON = "restart"
"""What a token is wanted for; canaries that want one for this go first."""

UNITS = "systemctl restart rootsrv-maintain rootsrv-serve rootsrv-report rootsrv-mesh rootsrv-advertise"
UNITS_ALONE = UNITS.replace("rootsrv-mesh ", "")
"""Outside of a mesh."""

WHERE_IT_RUNS = "systemctl try-restart rootsrv-capture"
"""Besides, unless `--by` says how: what not every box has."""

SHOWN_SECONDS = 12.0
"""After so long the board shows whether a canary was given the same order."""

_POLL_SECONDS = 1.0
_ASK_SECONDS = 5.0
_TOKEN_SECONDS = 6 * 3600.0


class CannotGoOn(Exception):
    """The box is not restarted, or not well; the text names the cause and what was left."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv restart`."""
    parser.add_argument(
        "--when-token", action="store_true", help="in a mesh, and needed there: when a token of its floor allows it"
    )
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="only if a role runs from another version than this one, or the configuration changed since it started",
    )
    parser.add_argument("--upgrade", type=Path, metavar="PATH", help="to the version at PATH (/opt/rootsrv/0.2.0)")
    parser.add_argument(
        "--link",
        type=Path,
        metavar="LINK",
        help="that names the version in use (default: current, beside the directory of the version that runs this)",
    )
    parser.add_argument("--by", metavar="COMMAND", help=f"how it is restarted (default: {UNITS}; the latter in a mesh)")
    parser.add_argument(
        "--healthy-within",
        type=numbers.decimal,
        default=300.0,
        metavar="SECONDS",
        help="after that it goes back (default 300)",
    )
    add_config(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """One box; returns the exit status: 0 restarted and announced (or not needed), 1 not."""
    loaded = config_file.load(arguments.config)
    if reason := _out_of_place(arguments, loaded):
        return failed(arguments, f"{arguments.config}: {reason}")
    tell = say if not arguments.json else lambda _: None
    if arguments.if_needed and arguments.upgrade is None:
        told = list(outdated(Path(loaded.state.runtime_directory), arguments.config, Path(sys.prefix)))
        for each in told:
            tell(each)
        if not told:
            tell("nothing to restart")
            if arguments.json:
                print(json.dumps({"ok": True, "restarted": False}))
            return 0
    try:
        version = "" if arguments.upgrade is None else _examined(arguments.upgrade, arguments.config)
        before = _status(loaded)
        if loaded.mesh is not None:
            await_canaries(lambda: ask(loaded, "mesh", {"command": "status"}, _ASK_SECONDS)[0], version, tell)
            tell("waiting for a token, and for traffic to go")
        else:
            tell("waiting for traffic to go")
        _drain(loaded)
        went_back = _restart(arguments, loaded, before, version, tell)
        _undrain(loaded, arguments.healthy_within)
    except (CannotGoOn, NoAnswer, OSError) as error:
        return failed(arguments, error)
    if arguments.json:
        done = {"ok": not went_back, "restarted": True, "went_back": went_back, "version": version or before["version"]}
        print(json.dumps(done))
    if went_back:
        return 1 if arguments.json else failed(arguments, f"the version before is in use again: {went_back}")
    tell("restarted, and announced again as soon as it may be")
    return 0


def _out_of_place(arguments: argparse.Namespace, config: Config) -> str:
    """Why this box cannot be restarted so; empty: it can."""
    if config.anycast is None:
        return "has no [anycast] section: nothing is announced, so `systemctl restart rootsrv-serve` loses nothing more"
    if arguments.when_token and config.mesh is None:
        return "has no [mesh] section: there is no floor to wait for; leave --when-token out"
    if config.mesh is not None and not arguments.when_token:
        return "has a [mesh] section: --when-token waits until the others allow it"
    return ""


def outdated(runtime: Path, configuration: Path, home: Path) -> Iterator[str]:
    """Why each role that has a socket in *runtime* is not what a start would make of it now, a line each.

    It runs from another version than the one at *home*, or it started before *configuration* was written.
    """
    written_at = configuration.stat().st_mtime
    for path in sorted(runtime.glob("*.sock")):
        try:
            pid = _listener(path)
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            started_at = _started_at(pid)
        except OSError:
            continue  # nobody listens, or it has just ended: what starts next is new
        version = Path(os.fsdecode(words[0])).parent.parent
        if version != home:
            yield f"{path.stem} (process {pid}) runs from {version}, and {home} is in use"
        elif started_at < written_at:
            yield f"{path.stem} (process {pid}) is older than {configuration}"


def _listener(path: Path) -> int:
    """The process that listens at the Unix socket *path* (unix(7), SO_PEERCRED); OSError when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        asked.settimeout(_ASK_SECONDS)
        asked.connect(str(path))
        pid, _, _ = struct.unpack("3i", asked.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _started_at(pid: int) -> float:
    """When the process started, on the clock of files (proc_pid_stat(5), field 22)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def _examined(path: Path, config: Path) -> str:
    """The version at *path*, which can read the configuration; CannotGoOn."""
    program = path / "bin" / "rootsrv"
    said = _run((str(program), "--version"))
    _run((str(program), "check-config", str(config)))
    return said.split()[-1] if said.split() else ""


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotGoOn(f"{shlex.join(command)}: {reason_of(error)}") from error
    if done.returncode:
        raise CannotGoOn(f"{shlex.join(command)}: exit status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def canaries_before_us(told: Mapping[str, Any], version: str) -> str:
    """Why we do not go yet; empty: we may.  *version*: of an upgrade; else empty."""
    members = told["members"]
    me = next((each for each in members if each["name"] == told["member"]), None)
    if me is None:
        return f"the roster lists no member {told['member']}"
    if me["canary"]:
        return ""
    canaries = [each for each in members if each["canary"] and each["present"]]
    for each in canaries:
        if str(each["status"].get("wants", "")).startswith(REASON):
            return f"{each['name']} is a canary and wants to be restarted"
    if version:
        there = [each for each in canaries if each["status"].get("version") == version]
        if len(there) < len(canaries) or not there:
            late = ", ".join(each["name"] for each in canaries if each not in there)
            return f"not all canaries have version {version}: {late or 'none is there'}"
    return ""


def await_canaries(status: Callable[[], Mapping[str, Any]], version: str, tell: Callable[[str], object]) -> None:
    """Until none of them goes before us, for as long as it takes the board to show it; CannotGoOn after six hours."""
    told, free_since = "", None
    deadline = time.monotonic() + _TOKEN_SECONDS
    while time.monotonic() < deadline:
        said: Mapping[str, Any] = {"members": (), "member": ""}
        try:
            why = canaries_before_us(said := status(), version)
        except NoAnswer as error:  # the role mesh is started again, say
            why = str(error)
        if why != told and why:
            tell(f"waiting: {why}")
        told = why
        now = time.monotonic()
        free_since = None if why else free_since if free_since is not None else now
        is_canary = any(each["canary"] for each in said["members"] if each["name"] == said["member"])
        if free_since is not None and (is_canary or now - free_since >= SHOWN_SECONDS):
            return
        time.sleep(_POLL_SECONDS)
    raise CannotGoOn(f"after {_TOKEN_SECONDS / 3600:.0f} hours: {told}")


def _wish(config: Config, command: str) -> dict[str, Any]:
    assert config.anycast is not None
    return {"command": command, "reason": REASON, "versions": list(config.anycast.versions()), "force": False}


def _drain(config: Config) -> None:
    assert config.anycast is not None
    ask(config, "advertise", _wish(config, "drain"), _ASK_SECONDS)
    path = Path(config.state.runtime_directory) / "advertise.sock"
    longest = config.anycast.drain_seconds + 30 + (_TOKEN_SECONDS if config.mesh is not None else 0)
    try:
        asyncio.run(until_withdrawn(path, config.anycast.versions(), longest))
    except NoAnswer:
        ask(config, "advertise", _wish(config, "undrain"), _ASK_SECONDS)
        raise


def _undrain(config: Config, seconds: float) -> None:
    """What advertises may come back later than what answers; CannotGoOn if it does not in time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask(config, "advertise", _wish(config, "undrain"), _ASK_SECONDS)
            return
        except NoAnswer as error:
            if time.monotonic() >= deadline:
                raise CannotGoOn(f"{error}; it stays drained") from error
        time.sleep(_POLL_SECONDS)


def _restart(
    arguments: argparse.Namespace,
    config: Config,
    before: Mapping[str, Any],
    version: str,
    tell: Callable[[str], object],
) -> str:
    """Restart; why it went back to the version before, empty if it did not.  CannotGoOn: it is not well at all."""
    link: Path = arguments.link or Path(sys.prefix).parent / "current"
    former = None
    if arguments.upgrade is not None:
        former = Path(os.readlink(link))
        point(link, arguments.upgrade.absolute())
    why = ""
    try:
        _restart_once(arguments, config, before, version, tell)
    except CannotGoOn as error:
        if former is None:
            raise CannotGoOn(f"{error}; it stays drained") from error
        why = str(error)
        tell(f"going back to {former}: {why}")
        point(link, former)
        try:
            _restart_once(arguments, config, before, before["version"], tell)
        except CannotGoOn as second:
            raise CannotGoOn(f"{why}; and with {former}: {second}; it stays drained") from second
    return why


def _restart_once(
    arguments: argparse.Namespace,
    config: Config,
    before: Mapping[str, Any],
    version: str,
    tell: Callable[[str], object],
) -> None:
    units = UNITS_ALONE if config.mesh is None else UNITS
    for command in (arguments.by,) if arguments.by else (units, WHERE_IT_RUNS):
        tell(command)
        _run(tuple(shlex.split(command)))
    deadline = time.monotonic() + arguments.healthy_within
    why = "it does not answer"
    while time.monotonic() < deadline:
        try:
            why = fault(_status(config), before, version)
        except NoAnswer as error:
            why = str(error)
        if not why:
            return
        time.sleep(_POLL_SECONDS)
    raise CannotGoOn(f"not well {arguments.healthy_within:g} s after the restart: {why}")


def _status(config: Config) -> dict[str, Any]:
    return ask(config, "maintain", {"command": "status"}, _ASK_SECONDS)[0]


def fault(now: Mapping[str, Any], before: Mapping[str, Any], version: str) -> str:
    """Why an instance that was restarted must not be announced again; empty: it may."""
    if now["pid"] == before["pid"]:
        return "it was not restarted"
    if version and now["version"] != version:
        return f"version {now['version']} runs, not {version}"
    if now["silenced"]:
        return "it is silenced"
    served = {each["name"]: each for each in now["zones"]}
    for each in before["zones"]:
        zone = served.get(each["name"], {"served": None, "lease_seconds": None})
        if each["served"] is None:
            continue
        if zone["served"] is None or serial_is_newer(each["served"], zone["served"]):
            return f"zone {each['name']}: serial {zone['served']} is served, it was {each['served']}"
        if zone["lease_seconds"] is None or zone["lease_seconds"] <= 0:
            return f"zone {each['name']}: its lease is over"
    behind = [each["slot"] for each in now["workers"] if each["active"] != now["generation"]]
    if behind or not now["workers"]:
        return f"workers {', '.join(map(str, behind))} do not answer yet" if behind else "there are no workers"
    return ""


def point(link: Path, to: Path) -> None:
    """Have *link* name *to*, in one step."""
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(to)
    beside.replace(link)
