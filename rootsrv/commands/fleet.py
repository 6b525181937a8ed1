"""`rootsrv mesh status` and an operator's orders to all members."""

import argparse
import asyncio
import json
import math
from pathlib import Path
from typing import Any

from rootsrv.commands import numbers
from rootsrv.commands.asking import add_config
from rootsrv.commands.printing import complain, say, table
from rootsrv.config import file as config_file
from rootsrv.control.client import NoAnswer, ask, ask_for_octets
from rootsrv.engine import signing_key
from rootsrv.engine.signing_key import SigningKeyUnusable
from rootsrv.mesh.envelope import Envelope, seal
from rootsrv.mesh.orders import Decision, OperatorVerdict, Subject
from rootsrv.mesh.roster import public_text
from rootsrv.zone import instant

_DIGEST_DIGITS = 96  # SHA-384

EMERGENCY_SECONDS = 5.0
"""Between an emergency order and its T: everybody has heard of it by then."""

_ORDERS = {
    Decision.HOLD: "nobody goes into service with this serial, for a day",
    Decision.APPROVE: "it is as it should be: ends a hold, here and at every member that holds it (D23)",
    Decision.REJECT: "nobody wants this serial",
    Decision.EMERGENCY: "everybody goes into service with it in five seconds (RFC 2870 §3.3.8)",
    Decision.CANARY: "the canaries go into service with it in five seconds, nobody else before an approval",
}


def add_arguments(commands: Any) -> None:
    """The sub-commands, into `rootsrv mesh`'s *commands*."""
    status = commands.add_parser("status", help="members, serials, routes, tokens, orders, as this member sees them")
    add_config(status)
    status.set_defaults(command=run_status)
    for decision, text in _ORDERS.items():
        order = commands.add_parser(decision.value, help=text)
        order.add_argument("serial", type=numbers.serial, metavar="SERIAL")
        order.add_argument("--zone", default=".", help='default "."')
        order.add_argument("--key", type=Path, required=True, metavar="FILE", help="an operator's signing key")
        order.add_argument("--reason", required=True, metavar="TEXT", help="what all logs will say")
        order.add_argument("--digest", default="", metavar="HEX", help="where two versions have this serial: which")
        add_config(order)
        order.set_defaults(command=run_order, decision=decision)
    publish = commands.add_parser("publish", help="put a signed roster on the board, for all members")
    publish.add_argument("file", type=Path, metavar="FILE", help="the signed roster")
    add_config(publish)
    publish.set_defaults(command=run_publish)


def _failed(reason: object) -> int:
    complain(reason)
    return 1


def _runtime(arguments: argparse.Namespace) -> Path:
    return Path(config_file.load(arguments.config).state.runtime_directory)


def _ask_mesh(runtime: Path, octets: bytes = b"", **request: Any) -> dict[str, Any]:
    return asyncio.run(ask_for_octets(runtime / "mesh.sock", request, 10.0, octets))[0]


def run_status(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh status [--json]`; 1 if the role mesh does not answer."""
    try:
        told = _ask_mesh(_runtime(arguments), command="status")
    except NoAnswer as error:
        return _failed(f"the role mesh cannot be asked: {error}")
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        render(told)
    return 0


def run_publish(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh publish FILE`."""
    try:
        octets = arguments.file.read_bytes()
        told = _ask_mesh(_runtime(arguments), command="roster", octets=octets)
    except OSError as error:
        return _failed(f"{arguments.file}: {error.strerror}")
    except NoAnswer as error:
        return _failed(error)
    print(json.dumps(told) if arguments.json else f"version {told['version']} is in force")
    return 0


def run_order(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh hold | approve | reject | emergency SERIAL --key FILE --reason TEXT`."""
    runtime, decision = _runtime(arguments), arguments.decision
    try:
        key = signing_key.load(arguments.key)
        told = _ask_mesh(runtime, command="status")
        name = told["operators"].get(public_text(key))
        if name is None:
            return _failed(f"{arguments.key}: the roster in force lists no operator with this key")
        subject = _subject(arguments, runtime, told)
        now = instant.from_text(told["now"])
        at = now + EMERGENCY_SECONDS if decision in (Decision.EMERGENCY, Decision.CANARY) else 0.0
        verdict = OperatorVerdict(subject, decision, name, now, arguments.reason, at)
        where = f"zone/{subject.zone}/verdict/{subject.serial}/{decision.value}"
        envelope = Envelope(where, name, now, 0, now, now + told["hold_seconds"], verdict.to_content())
        octets = seal(envelope, told["service"], key)
        done = _ask_mesh(runtime, command="order", key=where, octets=octets)
    except (NoAnswer, SigningKeyUnusable, LookupError) as error:
        return _failed(error.args[0] if isinstance(error, LookupError) else error)
    print(
        json.dumps(done)
        if arguments.json
        else f"{decision.value} {subject.serial}, digest {subject.digest[:16]}…, by {name}"
    )
    return 0


def _subject(arguments: argparse.Namespace, runtime: Path, told: dict[str, Any]) -> Subject:
    """Which version is meant; LookupError with the reason if nobody knows, or two have the serial."""
    zone, serial = arguments.zone if arguments.zone.endswith(".") else f"{arguments.zone}.", arguments.serial
    found = {
        each["ready"]["digest"]
        for each in told["members"]
        if each["ready"] and (each["ready"]["zone"], each["ready"]["serial"]) == (zone, serial)
    }
    if len(arguments.digest) == _DIGEST_DIGITS:
        return Subject(zone, serial, arguments.digest.lower())  # one that is still to come
    try:
        request = {"command": "mesh-digest", "zone": zone, "serial": serial}
        found.add(asyncio.run(ask(runtime / "maintain.sock", request, timeout=30.0))["digest"])
    except NoAnswer as error:
        if not found:
            raise LookupError(f"serial {serial} of {zone} is known to nobody here: {error}") from error
    if arguments.digest:
        found = {each for each in found if each.startswith(arguments.digest.lower())}
    if len(found) != 1:
        listed = ", ".join(f"{each[:16]}…" for each in sorted(found)) or "none"
        raise LookupError(f"serial {serial} of {zone}: say which with --digest (there are: {listed})")
    return Subject(zone, serial, found.pop())


def render(told: dict[str, Any]) -> None:
    """Print what the role mesh tells as a person wants to read it."""
    engine = told["engine"]
    state = f"there ({engine['endpoint']}, {engine['keys']} keys)" if engine["there"] else f"GONE: {engine['reason']}"
    say(f"service {told['service']}, this is {told['member']}, roster version {told['roster_version']}")
    say(f"engine {state} since {engine['since_seconds']:.0f} s")
    for group in told["groups"]:
        held = sum(each["slot"].startswith(f"floor/{group['name']}/") for each in told["tokens"])
        say(f"group {group['name']}: {group['n']} members, {held} of {group['k']} tokens taken")
    for each in told["distribution"]:
        say(f"distribution of {each['zone']}: serial {each['serial']} {each['state']} {each['reason']}")
    for each in told["maintenance"]:
        span = f"{instant.to_text(each['start'])} to {instant.to_text(each['end'])}"
        say(f"maintenance {each['id']}: {', '.join(each['members'])}, {span}: {each['reason']}")
    if ahead := told["outside"]["ahead_seconds"]:
        say(f"other letters have served a newer root for {ahead:.0f} s")
    served = [serial for each in told["members"] for serial in each["status"].get("serials", {}).values() if serial]
    newest = max(served, default=None)
    table(
        ("member", "site", "as", "serial", "route", "clock", "ready", "done", "age", "alarms"),
        (_row(each, newest) for each in told["members"]),
    )


def _row(member: dict[str, Any], newest: int | None) -> list[str]:
    status = member["status"]
    marks = "".join(
        mark for mark, is_so in (("canary ", member["canary"]), ("host", member["distribution_host"])) if is_so
    )
    if not member["present"]:
        return [member["name"], member["site"], marks, "MISSING", "", "", "", "", "", ""]
    serials = ", ".join(
        f"{serial}{'' if serial == newest or zone != '.' else ' (behind)'}"
        for zone, serial in status.get("serials", {}).items()
    )
    done = member["done"]
    outcome = "" if done is None else f"{done['serial']} {'ok' if done['ok'] else 'FAILED'}"
    age = member["age_seconds"]
    return [
        member["name"],
        member["site"],
        marks,
        serials,
        ", ".join(f"v{version} {route}" for version, route in status.get("routes", {}).items()) or "–",
        str(status.get("clock", "?")),
        str(member["ready"]["serial"]) if member["ready"] else "",
        outcome,
        f"{age:.0f} s" if math.isfinite(age) else "?",
        str(len(status.get("alarms", [])) or ""),
    ]
