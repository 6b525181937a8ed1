"""The operator's commands to the role maintain: `rootsrv status`, `rootsrv zone …`, `rootsrv reload`."""

import argparse
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rootsrv.commands import numbers, routes
from rootsrv.commands.asking import add_config, ask, failed
from rootsrv.commands.printing import complain, say, table
from rootsrv.config import file as config_file
from rootsrv.control.client import NoAnswer
from rootsrv.process import real_time, whole_file

_TIMEOUT_SECONDS = 300.0  # an import without --now may wait for a transfer that is being prepared
_STATUS_SECONDS = 5.0


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
            parser.add_argument("serial", type=numbers.serial, metavar="SERIAL")
        if verb in {"show", "export"}:
            parser.add_argument("--serial", type=numbers.serial, help="default: the one in service")
        if verb in {"import", "export"}:
            parser.add_argument("file", type=Path, metavar="FILE")
        if verb == "import":
            parser.add_argument("--now", action="store_true", help="do not wait for the set time")
        parser.add_argument("--zone", default="", help="default: the root (list, refresh: all)")
        add_config(parser, "print the response as JSON")
        parser.set_defaults(command=run, verb=f"zone-{verb}")


def add_status(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv status`."""
    add_config(parser, "print the response as JSON")
    parser.set_defaults(command=status)


def add_reload(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv reload`."""
    add_config(parser, "print the response as JSON")
    parser.set_defaults(command=reload)


def status(arguments: argparse.Namespace) -> int:
    """`rootsrv status [--json]`: what the roles that run tell; 1 if maintain does not."""
    told = gather(config_file.load(arguments.config))
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        render_status(told["maintain"])
        render_priorities(told["serve"])
        if "error" not in told["advertise"]:
            print()
            routes.render(told["advertise"])
    return 1 if "error" in told["maintain"] else 0


def run(arguments: argparse.Namespace) -> int:
    """One command; returns the exit status: 0 done, 1 refused or no answer."""
    loaded = config_file.load(arguments.config)
    request: dict[str, Any] = {"command": arguments.verb}
    for key in ("zone", "serial", "now"):
        if getattr(arguments, key, None):
            request[key] = getattr(arguments, key)
    octets = b""
    try:
        # Files are read and written here: a role in its unit sees neither /root nor /tmp.
        if arguments.verb == "zone-import":
            request["name"] = str(arguments.file.absolute())
            octets = _read(arguments.file)
        response, given = ask(loaded, "maintain", request, _TIMEOUT_SECONDS, octets)
        if arguments.verb == "zone-export":
            whole_file.put(arguments.file.absolute(), given, mode=0o644)
    except OSError as error:
        return failed(arguments, f"{error.filename or arguments.file}: {error.strerror or error}")
    except NoAnswer as error:
        return failed(arguments, error)
    _tell(arguments, response, _RENDER.get(arguments.verb, _render_done))
    return 0


def _read(path: Path) -> bytes:
    from rootsrv.store.zone_file import MAX_ZONE_FILE_OCTETS

    with path.open("rb") as file:
        octets = file.read(MAX_ZONE_FILE_OCTETS + 1)
    if len(octets) > MAX_ZONE_FILE_OCTETS:
        raise OSError(errno.EFBIG, f"larger than {MAX_ZONE_FILE_OCTETS} octets", str(path))
    if not octets:
        raise OSError(errno.EINVAL, "is empty", str(path))
    return octets


def reload(arguments: argparse.Namespace) -> int:
    """`rootsrv reload`: maintain reads all of the configuration, serve what is its own.  The exit status."""
    loaded = config_file.load(arguments.config)
    try:
        told = [ask(loaded, role, {"command": "reload"}, _TIMEOUT_SECONDS)[0] for role in ("maintain", "serve")]
    except NoAnswer as error:
        return failed(arguments, error)
    _tell(arguments, told[0], _render_done)
    if problem := told[1].get("certificate_problem"):
        return failed(arguments, f"{problem}; the old certificate stays, all else is reloaded")
    return 0


def gather(loaded: config_file.Config) -> dict[str, dict[str, Any]]:
    """The status of each role, by its name; {"error": …} for one that does not answer."""
    told = {}
    for role in ("maintain", "serve", "advertise"):
        try:
            told[role], _ = ask(loaded, role, {"command": "status"}, _STATUS_SECONDS)
        except NoAnswer as error:
            told[role] = {"error": str(error)}
    return told


def _tell(arguments: argparse.Namespace, response: dict[str, Any], render: Callable[[dict[str, Any]], None]) -> None:
    if arguments.json:
        print(json.dumps(response, indent=2))
    else:
        render(response)


def _render_done(response: dict[str, Any]) -> None:
    told = [f"{key.replace('_', ' ')}: {_text(value)}" for key, value in response.items() if key != "ok" and value]
    say("done" + (f" ({'; '.join(told)})" if told else ""))


def _render_show(response: dict[str, Any]) -> None:
    width = max(map(len, response))
    for key, value in response.items():
        if key != "ok":
            say(f"{key.replace('_', ' '):{width}}  {_text(value)}")


def _render_list(response: dict[str, Any]) -> None:
    table(
        ("zone", "serial", "state", "from", "how", "records", "why held"),
        (
            (each["zone"], each["serial"], each["state"], each["source"], each["how"], each["records"],
             "; ".join(each["reasons"]))
            for each in response["versions"]
        ),
    )  # fmt: skip


def render_status(status: dict[str, Any]) -> None:
    """Print the document of the role maintain as a person wants to read it."""
    if "error" in status:
        complain(status["error"])
        return
    digest = status["configuration_digest"]  # of an instance; a LocalRoot service has none
    say(", ".join((f"rootsrv {status['version']}", *([f"configuration {digest}"] if digest else []), status["now"])))
    by = " (clock.source)" if status["clock"] == "believed" else ""
    say(f"clock {status['clock']}{by}, {status['clock_distance_seconds']} s from the time that is trusted")
    if status["test_clock_offset_seconds"]:
        say(f"TEST CLOCK: validity is judged {status['test_clock_offset_seconds']:.0f} s off the real time")
    turn = status["switchover"]
    set_time = f", set for {turn['activate_at']}" if turn["activate_at"] else ""
    say(f"generation {status['generation']}, switchover {turn['state']}{set_time} {turn['reason']}".rstrip())
    if status["silenced"]:
        say("SILENCED: this instance does not answer")
    say("")
    serials = ("known", "received", "scheduled", "served")
    spans = ("served_age_seconds", "confirmed_age_seconds", "lease_seconds", "refresh_in_seconds")
    table(
        ("zone", *serials, "age", "confirmed", "lease", "refresh in", "from"),
        (
            (zone["name"], *(_text(zone[key]) for key in serials), *(_span(zone[key]) for key in spans), zone["source"])
            for zone in status["zones"]
        ),
    )
    say("")
    table(
        ("primary", "zone", "where", "names", "last answer", "failures", "trouble"),
        (_primary_row(zone["name"], each) for zone in status["zones"] for each in zone["primaries"]),
    )
    if status["peers"]:
        say("")
        table(("peer", "address", "last transfer", "notify"), map(_peer_row, status["peers"]))
    say("")
    workers = ", ".join(f"{each['slot']}: generation {each['active']}" for each in status["workers"])
    say(f"workers: {workers or 'none'}; replaced {status['workers_replaced']}")
    events = ", ".join(f"{kind} {count}" for kind, count in status["security_events"].items() if count)
    say(f"security events: {events or 'none'}")
    for alarm in status["alarms"]:
        say(f"alarm: {alarm}")


def render_priorities(serve: dict[str, Any]) -> None:
    """Print who of the role serve goes before ordinary processes, where somebody does or shall."""
    processes = {str(each["slot"]): each for each in serve.get("workers", ())}
    if dot := serve.get("dot"):
        processes["DNS over TLS"] = dot
    wanted = serve.get("real_time_priority", 0)
    first = {who: each for who, each in processes.items() if real_time.is_real_time(each.get("policy"))}
    if not wanted and not first:
        return
    have = ", ".join(f"{who}: {each['policy']} {each['priority']}" for who, each in first.items())
    missing = f"; NOT HAD by {', '.join(who for who in processes if who not in first)} (rootsrv doctor says why)"
    say(f"real-time priority {wanted}: {have or 'none'}{missing if wanted and len(first) < len(processes) else ''}")


def _primary_row(zone: str, each: dict[str, Any]) -> tuple[Any, ...]:
    trouble = f"{each['last_error']} (again in {_span(each['backoff_seconds'])})" if each["last_error"] else ""
    answered = _span(each["last_success_seconds"])
    return each["name"], zone, each["where"], _text(each["serial"]), answered, each["failures"], trouble


def _peer_row(each: dict[str, Any]) -> tuple[Any, ...]:
    when = f"{each['last_transfer_at']} {each['last_transfer']}" if each["last_transfer_at"] else "-"
    return each["name"], each["address"], when, each["notify"] or "-"


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
