"""`rootsrv mesh maintenance add | list | remove`: what is planned, announced before it happens (RFC 2870 §4.1)."""

import argparse
import json
from pathlib import Path
from typing import Any

from rootsrv.commands.asking import add_config, ask, failed
from rootsrv.commands.printing import say, table
from rootsrv.config import file as config_file
from rootsrv.control.client import NoAnswer
from rootsrv.engine import signing_key
from rootsrv.engine.signing_key import SigningKeyUnusable
from rootsrv.mesh.envelope import Envelope, seal
from rootsrv.mesh.maintenance import Maintenance, board_key, is_id
from rootsrv.mesh.roster import public_text
from rootsrv.zone import instant

_ASK_SECONDS = 10.0


def add_arguments(commands: Any) -> None:
    """`maintenance` with its verbs, into `rootsrv mesh`'s *commands*."""
    verbs = commands.add_parser(
        "maintenance", help="planned maintenance, announced to everybody before it happens"
    ).add_subparsers(required=True, metavar="COMMAND")
    add = verbs.add_parser("add", help="announce one; refused if more than k of a group would be away at one time")
    add.add_argument("id", metavar="ID", help="a-z, 0-9, hyphens; one that exists is replaced")
    add.add_argument("--member", action="append", default=[], metavar="NAME", help="who will be away; can be repeated")
    add.add_argument("--site", action="append", default=[], metavar="NAME", help="all members of a site")
    add.add_argument("--start", required=True, metavar="INSTANT", help="2026-11-21T17:00:00Z")
    add.add_argument("--end", required=True, metavar="INSTANT")
    remove = verbs.add_parser("remove", help="cancel one")
    remove.add_argument("id", metavar="ID")
    for verb in (add, remove):
        verb.add_argument("--key", type=Path, required=True, metavar="FILE", help="an operator's signing key")
        verb.add_argument("--reason", required=True, metavar="TEXT", help="what page, calendar and logs will say")
    listing = verbs.add_parser("list", help="what is to come")
    for verb, run in ((add, run_add), (remove, run_remove), (listing, run_list)):
        add_config(verb)
        verb.set_defaults(command=run)


def run_add(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh maintenance add`."""
    try:
        start, end = instant.from_text(arguments.start), instant.from_text(arguments.end)
    except ValueError as error:
        return failed(arguments, error)
    if not is_id(arguments.id):
        return failed(arguments, f"{arguments.id!r}: an id has a-z, 0-9 and hyphens, at most 63")

    def made(status: dict[str, Any]) -> Maintenance:
        names = {each["name"]: each["site"] for each in status["members"]}
        if missing := sorted(set(arguments.site) - set(names.values())):
            raise LookupError(f"no member is at {', '.join(missing)}")
        members = {*arguments.member, *(name for name, site in names.items() if site in arguments.site)}
        if not members:
            raise LookupError("say who will be away: --member or --site")
        return Maintenance(arguments.id, tuple(sorted(members)), start, end, arguments.reason)

    return _order(arguments, made)


def run_remove(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh maintenance remove`."""

    def made(status: dict[str, Any]) -> Maintenance:
        for each in status["maintenance"]:
            if each["id"] == arguments.id:
                members = tuple(each["members"])
                return Maintenance(each["id"], members, each["start"], each["end"], arguments.reason, cancelled=True)
        raise LookupError(f"there is no maintenance {arguments.id} to come")

    return _order(arguments, made)


def _order(arguments: argparse.Namespace, made: Any) -> int:
    loaded = config_file.load(arguments.config)
    try:
        key = signing_key.load(arguments.key)
        status, _ = ask(loaded, "mesh", {"command": "status"}, _ASK_SECONDS)
        name = status["operators"].get(public_text(key))
        if name is None:
            return failed(arguments, f"{arguments.key}: the roster in force lists no operator with this key")
        wanted: Maintenance = made(status)
        now, where = instant.from_text(status["now"]), board_key(wanted.id)
        envelope = Envelope(where, name, now, 0, now, 2.0**52, wanted.to_content())
        request = {"command": "order", "key": where}
        told, _ = ask(loaded, "mesh", request, _ASK_SECONDS, seal(envelope, status["service"], key))
    except LookupError as error:
        return failed(arguments, error.args[0])
    except (NoAnswer, SigningKeyUnusable) as error:
        return failed(arguments, error)
    done = "cancelled" if wanted.cancelled else "announced"
    print(json.dumps(told) if arguments.json else f"{done} {wanted.id}: {', '.join(wanted.members)}, by {name}")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh maintenance list`."""
    loaded = config_file.load(arguments.config)
    try:
        status, _ = ask(loaded, "mesh", {"command": "status"}, _ASK_SECONDS)
    except NoAnswer as error:
        return failed(arguments, f"the role mesh cannot be asked: {error}")
    if arguments.json:
        print(json.dumps(status["maintenance"], indent=2))
    elif not status["maintenance"]:
        say("no maintenance is announced")
    else:
        table(
            ("id", "from", "to", "members", "by", "why"),
            (
                (each["id"], instant.to_text(each["start"]), instant.to_text(each["end"]), ", ".join(each["members"]),
                 each["by"], each["reason"])
                for each in status["maintenance"]
            ),
        )  # fmt: skip
    return 0
