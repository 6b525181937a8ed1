"""`rootsrv localroot …`: the console of whoever runs a LocalRoot service: accounts, servers, keys, zones."""
# It works on the register itself, beside the process of the pages or without it.

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootsrv.commands.printing import complain, say, table
from rootsrv.config import file as config_file
from rootsrv.config.file import Config
from rootsrv.config.portal import PortalConfig
from rootsrv.process import privileges

if TYPE_CHECKING:
    from rootsrv.localroot.register import Register


def add_arguments(commands: Any) -> None:
    """The sub-commands, into `rootsrv localroot`'s *commands*."""
    for name, run, text in (
        ("users", _users, "who signed up"),
        ("servers", _servers, "their servers, and how they fare"),
        ("keys", _keys, "names of TSIG keys, and until when each is live"),
        ("zones", _zones, "what is given out, and how soon subscribers had it"),
        ("mails", _mails, "what waits for the mail server"),
    ):
        listing = commands.add_parser(name, help=text)
        _add_config(listing)
        listing.add_argument("--json", action="store_true", help="for programs")
        listing.set_defaults(command=_command(run))
    for name, run, text, arguments in (
        ("invite", _invite, "a link with which somebody begins an account, without a mail", ("EMAIL",)),
        ("suspend", _suspend, "let a user and their servers in no more, until restored", ("EMAIL", "REASON")),
        ("restore", _restore, "end a suspension", ("EMAIL",)),
        ("delete-user", _delete_user, "an account, with its servers and keys", ("EMAIL",)),
        ("revoke", _revoke, "a key: what it signs is refused at once", ("KEY",)),
    ):
        doing = commands.add_parser(name, help=text)
        _add_config(doing)
        for each in arguments:
            doing.add_argument(each.lower(), metavar=each)
        doing.set_defaults(command=_command(run))


DEFAULT_CONFIG = Path("/etc/rootsrv/localroot.toml")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default {DEFAULT_CONFIG}")


class _Service:
    """The register and what was observed."""

    def __init__(self, config: Config, settings: PortalConfig) -> None:
        from rootsrv.localroot import observations
        from rootsrv.localroot.observations import Observed
        from rootsrv.localroot.servers import Servers
        from rootsrv.portal.accounts import Accounts

        state = Path(config.state.directory)
        self.settings = settings
        self.register = _register(state)
        self.accounts = Accounts(self.register)
        self.servers = Servers(self.register, settings.key_domain or settings.host, settings.zones)
        self.observed = Observed(state / observations.FILE)
        self.now = time.time()


def _register(state: Path) -> "Register":
    """That in the *state* directory; made by root it is of the account that has the state, as if the pages had."""
    from rootsrv.localroot import register
    from rootsrv.localroot.register import Register

    directory = state / register.DIRECTORY
    is_new = not directory.exists()
    made = Register(directory)
    if is_new and os.geteuid() == 0 and (owner := state.stat().st_uid):
        privileges.hand_over(directory, owner)
    return made


Run = Callable[[_Service, argparse.Namespace], None]


def _command(run: Run) -> Callable[[argparse.Namespace], int]:
    def command(arguments: argparse.Namespace) -> int:
        from rootsrv.localroot.observations import ObservationsUnusable
        from rootsrv.localroot.register import RegisterUnusable
        from rootsrv.localroot.servers import NotAccepted, NotFound
        from rootsrv.portal.settings import settings_of

        config = config_file.load(arguments.config)
        settings = settings_of(config)
        try:
            service = _Service(config, settings)
            try:
                run(service, arguments)
            finally:
                service.register.close()
        except (RegisterUnusable, ObservationsUnusable, NotAccepted, NotFound) as error:
            complain(error)
            return 1
        return 0

    return command


def _users(service: _Service, arguments: argparse.Namespace) -> None:
    rows = [
        {
            "id": each.id,
            "email": each.email,
            "name": each.name,
            "created": _when(each.created),
            "servers": len(service.servers.of_user(each.id)),
            "passkeys": len(service.accounts.passkeys(each.id)),
            "password": each.has_password,
            "suspended": each.suspended,
        }
        for each in service.accounts.all()
    ]
    _show(arguments, ("id", "email", "name", "created", "servers", "passkeys", "password", "suspended"), rows)


def _servers(service: _Service, arguments: argparse.Namespace) -> None:
    from rootsrv.portal import findings

    users = {each.id: each.email for each in service.accounts.all()}
    rows = []
    for each in service.servers.all():
        seen = findings.seen(service.observed, each)
        check = findings.check(each, seen, service.now)
        proved = {found.address for found in seen.proved}
        rows.append(
            {
                "id": each.id,
                "user": users.get(each.user, ""),
                "name": each.name,
                "software": each.software,
                "addresses": [
                    f"{address} ({'proved' if address in proved else 'not proved'})" for address in each.addresses
                ],
                "zones": [f"{zone.zone} {zone.state} {zone.serial or '-'}" for zone in check.zones],
                "state": check.state,
            }
        )
    _show(arguments, ("id", "user", "name", "software", "addresses", "zones", "state"), rows)


def _keys(service: _Service, arguments: argparse.Namespace) -> None:
    rows = [
        {
            "key": key.name,
            "server": server.id,
            "algorithm": key.algorithm,
            "created": _when(key.created),
            "ends": _when(key.ends) if key.ends else "",
        }
        for server in service.servers.all()
        for key in server.keys
    ]
    _show(arguments, ("key", "server", "algorithm", "created", "ends"), rows)


def _zones(service: _Service, arguments: argparse.Namespace) -> None:
    rows = []
    for zone in service.settings.zones:
        fresh = next(iter(service.observed.fresh(zone, 1)), None)
        rows.append(
            {
                "zone": zone,
                "serial": fresh.serial if fresh else "",
                "since": _when(fresh.at) if fresh else "",
                "servers": sum(zone in each.zones for each in service.servers.all()),
                "had it before": fresh.subscribers if fresh else "",
                "after 1 min": _count(fresh.after_1 if fresh else None),
                "after 10 min": _count(fresh.after_10 if fresh else None),
                "after 60 min": _count(fresh.after_60 if fresh else None),
            }
        )
    columns = ("zone", "serial", "since", "servers", "had it before", "after 1 min", "after 10 min", "after 60 min")
    _show(arguments, columns, rows)


def _mails(service: _Service, arguments: argparse.Namespace) -> None:
    rows = [
        {
            "to": row["recipient"],
            "subject": row["subject"],
            "since": _when(row["created"]),
            "tries": row["tries"],
            "next": _when(row["next"]),
        }
        for row in service.register.rows("SELECT * FROM mails ORDER BY created")
    ]
    _show(arguments, ("to", "subject", "since", "tries", "next"), rows)


def _invite(service: _Service, arguments: argparse.Namespace) -> None:
    from rootsrv.localroot.servers import NotAccepted
    from rootsrv.portal.accounts import checked_email

    email = checked_email(arguments.email)
    known = service.accounts.by_email(email)
    if known is not None and known.suspended:
        raise NotAccepted("email", f"{email} is suspended: {known.suspended}")
    link = service.accounts.links.new("recover" if known else "begin", email, known.id if known else None, service.now)
    say(f"{service.settings.url}/link/{link}")


def _suspend(service: _Service, arguments: argparse.Namespace) -> None:
    from rootsrv.localroot.servers import NotAccepted

    if not arguments.reason.strip():
        raise NotAccepted("reason", "a reason is needed: it is shown to them")
    service.accounts.suspend(_user(service, arguments), arguments.reason)


def _restore(service: _Service, arguments: argparse.Namespace) -> None:
    service.accounts.suspend(_user(service, arguments), "")


def _delete_user(service: _Service, arguments: argparse.Namespace) -> None:
    from rootsrv.portal import letters
    from rootsrv.portal.counting import Happenings
    from rootsrv.portal.mails import Mails

    user = _user(service, arguments)
    told = service.accounts.delete(user, service.now)
    mails = Mails(service.register, service.settings, Happenings())
    if hindered := mails.put_what_can_be(told, letters.deleted(service.settings), service.now):
        complain(f"it is deleted, but not all of {', '.join(told)} can be told by mail: {hindered}")


def _revoke(service: _Service, arguments: argparse.Namespace) -> None:
    from rootsrv.localroot.servers import NotFound

    name = arguments.key.lower().rstrip(".") + "."
    for server in service.servers.all():
        if name in {each.name for each in server.keys}:
            service.servers.delete_key(server.user, server.id, name)
            return
    raise NotFound(f"there is no key {name}")


def _user(service: _Service, arguments: argparse.Namespace) -> int:
    from rootsrv.localroot.servers import NotFound

    user = service.accounts.by_email(arguments.email)
    if user is None:
        raise NotFound(f"there is no account with the address {arguments.email}")
    return user.id


def _show(arguments: argparse.Namespace, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    table(columns, [[_cell(row[each]) for each in columns] for row in rows])


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _count(value: int | None) -> str:
    return "" if value is None else str(value)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
