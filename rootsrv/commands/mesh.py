"""`rootsrv mesh`: keys, the roster, joining."""

import argparse
import contextlib
import json
import os
import pwd
import time
import tomllib
from pathlib import Path
from typing import Any

from rootsrv.commands.printing import complain
from rootsrv.config.checks import ConfigError
from rootsrv.engine import signing_key
from rootsrv.engine.signing_key import SigningKeyUnusable
from rootsrv.mesh import roster as rosters
from rootsrv.mesh.envelope import EnvelopeRefused
from rootsrv.mesh.roster import Roster, public_text
from rootsrv.process import whole_file


def add_arguments(commands: Any) -> None:
    """The sub-commands, into `rootsrv mesh`'s *commands*."""
    init = commands.add_parser("init", help="make two signing keys for a roster, and a roster to fill in")
    init.add_argument("directory", type=Path, metavar="DIRECTORY", help="on a machine that stays off the network")
    init.add_argument("--service", required=True, metavar="NAME", help="name of the service: x-root")
    init.set_defaults(command=run_init)

    key = commands.add_parser("key", help="make a member's or an operator's signing key; its public half is printed")
    key.add_argument("file", type=Path, metavar="FILE", help="where the private half goes; must not exist")
    key.add_argument("--public", action="store_true", help="make none: print the public half of the one at FILE")
    _add_json(key)
    key.set_defaults(command=run_key)

    roster = commands.add_parser("roster", help="sign or check a roster").add_subparsers(
        required=True, metavar="COMMAND"
    )
    sign = roster.add_parser("sign", help="check a roster and sign it")
    sign.add_argument("file", type=Path, metavar="FILE", help="the roster as TOML (docs/mesh.md)")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="one of its signing keys")
    sign.add_argument("--output", type=Path, required=True, metavar="FILE", help="where the signed roster goes")
    _add_json(sign)
    sign.set_defaults(command=run_sign)
    check = roster.add_parser("check", help="say who is in a roster, and whether it is signed as it should be")
    check.add_argument("file", type=Path, metavar="FILE", help="signed, or as TOML (name.toml)")
    check.add_argument("--service", default="", metavar="NAME", help="of a signed roster: the service it is for")
    check.add_argument(
        "--roster-key",
        action="append",
        default=[],
        metavar="HEX",
        help="of a signed roster: public key; can be given again",
    )
    _add_json(check)
    check.set_defaults(command=run_check)

    join = commands.add_parser("join", help="print the [mesh] section of a member's configuration")
    join.add_argument("--roster", type=Path, required=True, metavar="FILE", help="the signed roster")
    join.add_argument("--roster-key", required=True, metavar="HEX", help="public key that has signed it")
    join.add_argument("--service", required=True, metavar="NAME", help="the service it is for")
    join.add_argument("--member", required=True, metavar="NAME", help="name of this member in it")
    join.add_argument("--key", type=Path, required=True, metavar="FILE", help="this member's signing key")
    join.add_argument(
        "--endpoint", action="append", required=True, metavar="URL", help="a node of the engine; can be given again"
    )
    join.add_argument("--certificates", type=Path, default=Path("/etc/rootsrv/mesh"), metavar="DIRECTORY",
                      help="where ca.pem, member.pem and member.key are (default /etc/rootsrv/mesh)")  # fmt: skip
    join.set_defaults(command=run_join)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _failed(reason: object) -> int:
    complain(reason)
    return 1


def run_init(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh init DIRECTORY --service NAME`."""
    directory: Path = arguments.directory
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys = [signing_key.make(directory / f"roster-{number}.key") for number in (1, 2)]
        template = directory / "roster.toml"
        with template.open("x", encoding="utf-8") as stream:
            stream.write(
                _TEMPLATE.format(service=arguments.service, first=public_text(keys[0]), second=public_text(keys[1]))
            )
    except FileExistsError:
        return _failed(f"{directory / 'roster.toml'}: exists")
    except (OSError, SigningKeyUnusable) as error:
        return _failed(error)
    print(f"two signing keys and {template}: fill it in, keep roster-2.key elsewhere, then")
    print(f"    rootsrv mesh roster sign {template} --key {directory / 'roster-1.key'} --output {directory / 'roster'}")
    return 0


_TEMPLATE = """\
# Who is in the mesh, and what must be the same everywhere (docs/mesh.md).
service = "{service}"
version = 1                      # raise it with every change

# One of these signs the next roster.  The second one is for when the first is lost: keep it somewhere else.
signing_keys = [
    "{first}",
    "{second}",
]

# [timing]                       # seconds; these are the defaults
# align = 60
# lead = 60
# wait = 600
# offer = 60
# notice = 5
# soak = 120
# max_delay = 600
# void = 3000
# hold = 86400
# stale_soft = 3900
# token = 30

# [[operator]]                   # who may hold, approve, reject and order in an emergency, besides the keys above
# name = "alice"
# public_key = "..."

[[group]]
name = "all"
k = 1                            # at most max(1, members / 4)

# [[site]]
# name = "zrh1"
# city = "Zürich"
# country = "CH"
# latitude = 47.4
# longitude = 8.5

# [[member]]
# name = "zrh1-a"
# public_key = "..."             # of `rootsrv mesh key` on that machine
# site = "zrh1"
# group = "all"
# canary = true                  # two or more go first
# distribution_host = true       # one or more offer zones and order set times
# transfers = "192.0.2.1:53"     # its [admin] address and port: zones go round by the roster
"""


def run_key(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh key [--public] FILE`."""
    try:
        if arguments.public:
            public = public_text(signing_key.load(arguments.file))
        else:
            public = public_text(signing_key.make(arguments.file))
            _give_to_account(arguments.file)
    except SigningKeyUnusable as error:
        return _failed(error)
    print(json.dumps({"file": str(arguments.file), "public_key": public}) if arguments.json else public)
    return 0


def _give_to_account(path: Path) -> None:
    """Have the role mesh read a key that root has made for it: one in a directory of the account's own group."""
    with contextlib.suppress(KeyError):
        account = pwd.getpwnam("rootsrv")
        if os.geteuid() == 0 and path.absolute().parent.stat().st_gid == account.pw_gid:
            os.chown(path, account.pw_uid, account.pw_gid)


def _written(path: Path) -> Roster:
    """A roster as TOML; ConfigError names the file."""
    try:
        with path.open("rb") as stream:
            document = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return rosters.from_document(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def run_sign(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh roster sign FILE --key FILE --output FILE`."""
    roster = _written(arguments.file)
    try:
        octets = rosters.sign(roster, signing_key.load(arguments.key), time.time())
        whole_file.put(arguments.output, octets, mode=0o644)
    except SigningKeyUnusable as error:
        return _failed(error)
    except OSError as error:
        return _failed(f"{arguments.output}: {error.strerror}")
    _tell(roster, arguments.json)
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh roster check FILE`."""
    if arguments.file.suffix == ".toml":
        roster = _written(arguments.file)
    elif not arguments.roster_key or not arguments.service:
        raise ConfigError(f"{arguments.file}: a signed roster is checked with --service and --roster-key")
    else:
        try:
            roster = _signed(arguments.file, arguments.service, tuple(arguments.roster_key))
        except EnvelopeRefused as error:
            return _failed(f"{arguments.file}: {error}")
    _tell(roster, arguments.json)
    return 0


def _signed(path: Path, service: str, keys: tuple[str, ...]) -> Roster:
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return rosters.read(octets, service, keys)


def _tell(roster: Roster, as_json: bool) -> None:
    if as_json:
        print(json.dumps(rosters.document_of(roster), indent=2))
        return
    print(
        f"service {roster.service}, version {roster.version}: {len(roster.member)} members at {len(roster.site)} sites"
    )
    for group in roster.group:
        members = roster.members_of(group.name)
        print(f"    group {group.name}: {len(members)} members, at most {group.k} withdrawn for a cause that can wait")
    print(f"    canaries: {', '.join(sorted(roster.canaries))}")
    print(f"    distribution hosts: {', '.join(roster.distribution_hosts)}")
    if len(roster.distribution_hosts) < 2:
        print("    one distribution host alone: without it every member goes by its own rule, ten minutes later")
    if len(roster.signing_keys) < 2:
        print("    one signing key alone: if it is lost, no roster can follow but by hand on every member")


def run_join(arguments: argparse.Namespace) -> int:
    """`rootsrv mesh join`: the section, once roster and key fit each other."""
    try:
        roster = _signed(arguments.roster, arguments.service, (arguments.roster_key,))
        own = public_text(signing_key.load(arguments.key))
    except (EnvelopeRefused, SigningKeyUnusable) as error:
        return _failed(error)
    member = roster.find(arguments.member)
    if member is None:
        return _failed(f"{arguments.roster}: lists no member {arguments.member}")
    if member.public_key.lower() != own:
        return _failed(
            f"{arguments.roster}: {member.name} has the public key {member.public_key}, {arguments.key} is {own}"
        )
    quoted = ", ".join(json.dumps(each) for each in arguments.endpoint)
    directory: Path = arguments.certificates
    print("[mesh]")
    for name, value in (
        ("service", roster.service),
        ("member", member.name),
        ("key", str(arguments.key.absolute())),
        ("roster", str(arguments.roster.absolute())),
    ):
        print(f"{name} = {json.dumps(value)}")
    print(f"roster_keys = [{', '.join(json.dumps(each) for each in roster.signing_keys)}]")
    print(f"endpoints = [{quoted}]")
    for name, file in (("tls_ca", "ca.pem"), ("tls_certificate", "member.pem"), ("tls_key", "member.key")):
        print(f"{name} = {json.dumps(str(directory / file))}")
    return 0
