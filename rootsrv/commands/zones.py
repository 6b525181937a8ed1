"""The operator's commands to the role maintain: `rootsrv status`, `rootsrv zone …`, `rootsrv reload`."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootsrv.config import file as config_file
from rootsrv.control import status_socket

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_CONFIG = Path("/etc/rootsrv/rootsrv.toml")

_TIMEOUT_SECONDS = 300.0  # an import without --now may wait for a transfer that is being prepared


async def ask(path: Path, request: dict[str, Any], timeout_seconds: float = _TIMEOUT_SECONDS) -> dict[str, Any]:
    """One request over the control socket at *path*, one response."""
    return await status_socket.exchange(path, request, timeout_seconds)


def add_zone_commands(zone: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`rootsrv zone list|show|refresh|approve|reject|import|export`."""
    for verb, text in (
        ("list", "the versions that are kept, and what became of each"),
        ("show", "where a version came from and what was found"),
        ("refresh", "ask all primaries now, back-off or not"),
        ("approve", "put a held zone into service and make it the new yardstick"),
        ("reject", "drop a held zone; it is not fetched again"),
        ("import", "load a zone from a file, verified like any other"),
        ("export", "write a version to a file"),
    ):
        parser = zone.add_parser(verb, help=text)
        if verb in {"approve", "reject"}:
            parser.add_argument("serial", type=int, metavar="SERIAL")
        if verb in {"show", "export"}:
            parser.add_argument("--serial", type=int, help="default: the one in service")
        if verb in {"import", "export"}:
            parser.add_argument("file", type=Path, metavar="FILE")
        if verb == "import":
            parser.add_argument("--now", action="store_true", help="do not wait for the set time")
        parser.add_argument("--zone", default="", help="default: the root (list, refresh: all)")
        _add_common(parser)
        parser.set_defaults(command=run, verb=f"zone-{verb}")


def add_status(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv status`."""
    _add_common(parser)


def add_reload(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv reload`."""
    _add_common(parser)
    parser.set_defaults(command=reload)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default {DEFAULT_CONFIG}")
    parser.add_argument("--json", action="store_true", help="print the response as JSON")


def run(arguments: argparse.Namespace) -> int:
    """One command; returns the exit status: 0 done, 1 refused or no answer."""
    loaded = config_file.load(arguments.config)
    path = Path(loaded.state.runtime_directory) / "maintain.sock"
    request: dict[str, Any] = {"command": arguments.verb}
    for key in ("zone", "serial", "now"):
        if getattr(arguments, key, None):
            request[key] = getattr(arguments, key)
    if getattr(arguments, "file", None) is not None:
        request["file"] = str(arguments.file.absolute())
    try:
        response = asyncio.run(ask(path, request))
    except status_socket.NoAnswer as error:
        return _fail(arguments, str(error))
    if "error" in response:
        return _fail(arguments, response["error"])
    _tell(arguments, response, _RENDER.get(arguments.verb, _render_done))
    return 0


def reload(arguments: argparse.Namespace) -> int:
    """`rootsrv reload`: maintain reads all of the configuration, serve what is its own.  The exit status."""
    runtime = Path(config_file.load(arguments.config).state.runtime_directory)
    responses = []
    for role in ("maintain", "serve"):
        try:
            responses.append(asyncio.run(ask(runtime / f"{role}.sock", {"command": "reload"})))
        except status_socket.NoAnswer as error:
            return _fail(arguments, str(error))
        if "error" in responses[-1]:
            return _fail(arguments, responses[-1]["error"])
    _tell(arguments, responses[0], _render_done)
    return 0


def gather(runtime_directory: Path) -> dict[str, dict[str, Any]]:
    """The status of each role, by its name; {"error": …} for one that does not answer."""
    told = {}
    for role in ("maintain", "serve", "advertise"):
        try:
            told[role] = asyncio.run(ask(runtime_directory / f"{role}.sock", {"command": "status"}, 5.0))
        except status_socket.NoAnswer as error:
            told[role] = {"error": str(error)}
    return told


def _tell(arguments: argparse.Namespace, response: dict[str, Any], render: Callable[[dict[str, Any]], None]) -> None:
    if arguments.json:
        print(json.dumps(response, indent=2))
    else:
        render(response)


def _fail(arguments: argparse.Namespace, reason: str) -> int:
    if arguments.json:
        print(json.dumps({"ok": False, "error": reason}))
    print(f"rootsrv: {reason}", file=sys.stderr)
    return 1


def _render_done(response: dict[str, Any]) -> None:
    told = [f"{key.replace('_', ' ')}: {_text(value)}" for key, value in response.items() if key != "ok" and value]
    print("done" + (f" ({'; '.join(told)})" if told else ""))


def _render_show(response: dict[str, Any]) -> None:
    width = max(map(len, response))
    for key, value in response.items():
        if key != "ok":
            print(f"{key.replace('_', ' '):{width}}  {_text(value)}")


def _render_list(response: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("zone", "serial", "state", "from", "how", "records", "why held"):
        table.add_column(column, no_wrap=column not in {"trouble", "why held", "last transfer"})
    for each in response["versions"]:
        row = (each["zone"], each["serial"], each["state"], each["source"], each["how"], each["records"])
        table.add_row(*map(str, row), "; ".join(each["reasons"]))
    _console().print(table)


def render_status(status: dict[str, Any]) -> None:
    """Print the document of the role maintain as a person wants to read it."""
    from rich.table import Table

    if "error" in status:
        print(f"rootsrv: {status['error']}", file=sys.stderr)
        return
    console = _console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    say(f"rootsrv {status['version']}, configuration {status['configuration_digest']}, {status['now']}")
    say(f"clock {status['clock']}, {status['clock_distance_seconds']} s from the time that is trusted")
    if status["test_clock_offset_seconds"]:
        say(f"TEST CLOCK: validity is judged {status['test_clock_offset_seconds']:.0f} s off the real time")
    turn = status["switchover"]
    set_time = f", set for {turn['activate_at']}" if turn["activate_at"] else ""
    say(f"generation {status['generation']}, switchover {turn['state']}{set_time} {turn['reason']}".rstrip())
    if status["silenced"]:
        say("SILENCED: this instance does not answer")
    say("")
    table = Table(box=None, pad_edge=False)
    serials = ("known", "received", "scheduled", "served")
    for column in ("zone", *serials, "age", "confirmed", "lease", "refresh in", "from"):
        table.add_column(column, no_wrap=column not in {"trouble", "why held", "last transfer"})
    for zone in status["zones"]:
        table.add_row(
            zone["name"],
            *(_text(zone[key]) for key in serials),
            *(_span(zone[key]) for key in ("served_age_seconds", "confirmed_age_seconds", "lease_seconds")),
            _span(zone["refresh_in_seconds"]),
            zone["source"],
        )
    console.print(table)
    say("")
    table = Table(box=None, pad_edge=False)
    for column in ("primary", "zone", "where", "names", "last answer", "failures", "trouble"):
        table.add_column(column, no_wrap=column not in {"trouble", "why held", "last transfer"})
    for zone in status["zones"]:
        for each in zone["primaries"]:
            trouble = f"{each['last_error']} (again in {_span(each['backoff_seconds'])})" if each["last_error"] else ""
            answered = _span(each["last_success_seconds"])
            row = (each["name"], zone["name"], each["where"], _text(each["serial"]), answered, str(each["failures"]))
            table.add_row(*row, trouble)
    console.print(table)
    if status["peers"]:
        say("")
        table = Table(box=None, pad_edge=False)
        for column in ("peer", "address", "last transfer", "notify"):
            table.add_column(column, no_wrap=column not in {"trouble", "why held", "last transfer"})
        for each in status["peers"]:
            when = f"{each['last_transfer_at']} {each['last_transfer']}" if each["last_transfer_at"] else "-"
            table.add_row(each["name"], each["address"], when, each["notify"] or "-")
        console.print(table)
    say("")
    workers = ", ".join(f"{each['slot']}: generation {each['active']}" for each in status["workers"])
    say(f"workers: {workers or 'none'}; replaced {status['workers_replaced']}")
    events = ", ".join(f"{kind} {count}" for kind, count in status["security_events"].items() if count)
    say(f"security events: {events or 'none'}")
    for alarm in status["alarms"]:
        say(f"alarm: {alarm}")


def _console() -> "Console":
    """As wide as the terminal; into a pipe or a file nothing is folded."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _span(seconds: float | None) -> str:
    """A duration as a person says it."""
    if seconds is None:
        return "-"
    if seconds <= 0:
        return "over" if seconds < 0 else "0s"
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f}{unit}"
    return f"{seconds:.1f}s"


_RENDER = {"zone-list": _render_list, "zone-show": _render_show}
