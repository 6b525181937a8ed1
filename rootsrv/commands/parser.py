"""The commands an operator types.

Each command is a function that takes the parsed arguments and returns the exit status: 0 done, 1 it did not work (a
zone is bad, a host lacks something), 2 the command or the configuration is wrong.
"""

import argparse
import errno
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from rootsrv import __version__
from rootsrv.commands import numbers
from rootsrv.commands.mistyped import CommandParser
from rootsrv.commands.printing import complain, output_is_lost, prepare_streams
from rootsrv.config import file as config_file
from rootsrv.process import clock, json_text, log

# What a command needs is imported when that command is asked for: all forty together take three times as long as the
# start of one, and the process of `rootsrv hyperlocal` stays small.


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `rootsrv`; returns the exit status."""
    prepare_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # now, and not when the interpreter ends: then nobody could catch what happens
    except OSError as error:
        if not output_is_lost() and error.errno not in _NO_ROOM:
            raise
        if isinstance(error, BrokenPipeError):
            return _READER_GONE
        complain(f"what is to be said cannot be written: {error.strerror}")
        return 1


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_READER_GONE = 128 + signal.SIGPIPE
"""What the shell makes of a program that SIGPIPE ended, as it does with others in `rootsrv … | head`."""


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    parsed = parser(given).parse_args(given)
    try:
        status: int = parsed.command(parsed)
    except (config_file.ConfigError, clock.ClockUnusable) as error:
        complain(error)
        return 2
    except json_text.Lacking as error:
        complain(error)
        return 1
    return status


def parser(asked: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The commands with their options: all of them, or only the one that *asked* begins with."""
    top: argparse.ArgumentParser = CommandParser(
        prog="rootsrv", description="An anycast, authoritative DNS root server instance."
    )
    top.add_argument("--version", action="version", version=f"rootsrv {__version__}")
    _add(top.add_subparsers(required=True, metavar="COMMAND"), _COMMANDS, asked)
    return top


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
_Adding: TypeAlias = Callable[[Commands, Sequence[str]], None]


def _add(commands: Commands, known: Mapping[str, _Adding], asked: Sequence[str]) -> None:
    """Add the first word of *asked*, or, where it is none of them, each that is *known*; the rest goes on to it."""
    word, *rest = asked or ("",)
    for each in (known[word],) if word in known else dict.fromkeys(known.values()):
        each(commands, rest)


def _add_check_config(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import check_config

    check = commands.add_parser("check-config", help="print the effective configuration")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument(
        "--live", action="store_true", help="also compare it with this host and its BIRD; changes nothing"
    )
    check.set_defaults(command=check_config.run)


def _add_zone(commands: Commands, asked: Sequence[str]) -> None:
    zone = commands.add_parser("zone", help="versions that are kept, and what to do with one; zone files")
    _add(zone.add_subparsers(required=True, metavar="COMMAND"), _ZONE_COMMANDS, asked)


def _add_zone_verify(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import zone_files

    verify = commands.add_parser("verify", help="say whether a zone can be believed, and why not")
    zone_files.add_verify_arguments(verify)
    verify.set_defaults(command=zone_files.run_verify)


def _add_zone_reset_floor(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import floor_reset

    floor_reset.add_arguments(
        commands.add_parser("reset-floor", help="after a serial that nobody meant: start anew (of a stopped instance)")
    )


def _add_zone_compile(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import tables

    compiling = commands.add_parser("compile", help="verify zone files and write their answer table")
    tables.add_compile_arguments(compiling)
    compiling.set_defaults(command=tables.run_compile)


def _add_zone_orders(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import zones

    zones.add_zone_commands(commands)


def _add_run(commands: Commands, _: Sequence[str]) -> None:
    running = commands.add_parser("run", help="serve the configured zones")
    running.add_argument("--config", type=Path, required=True, metavar="FILE")
    running.add_argument(
        "--role",
        choices=("serve", "maintain", "advertise", "report", "mesh", "capture", "localroot", "portal"),
        help="only this one (default: all, supervised)",
    )
    running.set_defaults(command=run)


def _add_routes(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import routes

    for verb, what in (
        ("drain", "announce the prefixes as shutting down (RFC 8326), then withdraw them"),
        ("undrain", "take drain or withdraw back"),
        ("withdraw", "withdraw the prefixes at once, until undrain"),
    ):
        ordering = commands.add_parser(verb, help=what)
        routes.add_arguments(ordering, verb)
        ordering.set_defaults(command=routes.run, verb=verb)


def _add_restart(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import restart

    restart.add_arguments(
        commands.add_parser("restart", help="restart this box without loss; in a mesh when the others allow it")
    )


def _add_status(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import zones

    telling = commands.add_parser("status", help="zones, leases, primaries, workers; what is announced, and why")
    zones.add_status(telling)


def _add_reload(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import zones

    zones.add_reload(commands.add_parser("reload", help="read the configuration again, without losing a query"))


def _add_blocks(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import blocks

    for verb, what in (
        ("block", "drop queries from a prefix, for a while"),
        ("unblock", "end a block"),
        ("blocks", "what is blocked, by whom, why and until when"),
    ):
        blocking = commands.add_parser(verb, help=what)
        blocks.add_arguments(blocking, verb)
        blocking.set_defaults(command=blocks.run, verb=verb)


def _add_sheds(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import shed

    for verb, what in (
        ("shed", "TC, or no answer, for some UDP queries, for a while"),
        ("unshed", "end a shed rule"),
        ("sheds", "what is shed, by whom, why and until when, and what it hits"),
        ("top", "who floods: prefixes, names, types, ports and sizes of the last minute"),
    ):
        shedding = commands.add_parser(verb, help=what)
        shed.add_arguments(shedding, verb)
        shedding.set_defaults(command=shed.run, verb=verb)


def _add_fastpath(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import fastpath

    kernel = commands.add_parser("fastpath", help="the kernel fast path: where it answers, and how much")
    fastpath.add_arguments(kernel)
    kernel.set_defaults(command=fastpath.run)


def _add_doctor(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import doctor

    doctor.add_arguments(commands.add_parser("doctor", help="is this host fit for it, and if not, what to mend"))


def _add_setup(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import setup

    setup.add_arguments(
        commands.add_parser("setup", help="ask what differs from site to site, show the differences, check, write")
    )


def _add_rssac002(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import rssac002

    statistics = commands.add_parser("rssac002", help="statistics of a day (RSSAC002v5)")
    rssac002.add_arguments(statistics.add_subparsers(required=True, metavar="COMMAND"))


def _add_capture(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import capture, capture_files

    captured = commands.add_parser("capture", help="what was asked: files of queries")
    in_capture = captured.add_subparsers(required=True, metavar="COMMAND")
    capture.add_arguments(in_capture)
    capture_files.add_arguments(in_capture)


def _add_mesh(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import fleet, maintenance, mesh

    many = commands.add_parser("mesh", help="many instances, one set time: keys, roster, status, orders")
    in_mesh = many.add_subparsers(required=True, metavar="COMMAND")
    mesh.add_arguments(in_mesh)
    fleet.add_arguments(in_mesh)
    maintenance.add_arguments(in_mesh)


def _add_hyperlocal(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import hyperlocal

    beside = commands.add_parser("hyperlocal", help="the root, verified, for the resolver on this host (RFC 8806)")
    hyperlocal.add_arguments(beside)
    beside.set_defaults(command=hyperlocal.run)


def _add_localroot(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import localroot, localroot_setup

    service = commands.add_parser(
        "localroot", help="a LocalRoot service: its setup, who signed up, servers, keys, zones"
    )
    in_service = service.add_subparsers(required=True, metavar="COMMAND")
    localroot_setup.add_arguments(
        in_service.add_parser("setup", help="ask what such a service needs, show the differences, check, write")
    )
    localroot.add_arguments(in_service)


def _add_resolver(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import resolver

    told = commands.add_parser(
        "resolver", help="print a resolver's configuration: the root from a publisher (RFC 8806)"
    )
    resolver.add_arguments(told)
    told.set_defaults(command=resolver.run)


def _add_probe(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import probe

    probe.add_arguments(
        commands.add_parser("probe", help="root server identities, measured from here as RSSAC047 measures them")
    )


def _add_security_events(commands: Commands, _: Sequence[str]) -> None:
    from rootsrv.commands import security_events

    security_events.add_arguments(
        commands.add_parser("security-events", help="a day's security events, as one signed file")
    )


def _add_demo(commands: Commands, _: Sequence[str]) -> None:
    trial = commands.add_parser("demo", help="generate, sign, verify and serve a root zone on this host")
    trial.add_argument(
        "--port", type=numbers.port, default=5300, help="UDP and TCP port on 127.0.0.1 and ::1 (default 5300)"
    )
    trial.add_argument(
        "--tlds", type=numbers.whole, default=1440, help="delegations in the generated zone (default 1440)"
    )
    trial.add_argument("--workers", type=numbers.whole, default=0, help="worker processes (default: one per core)")
    trial.add_argument(
        "--rate",
        type=numbers.whole,
        default=50,
        help="queries a second that it asks itself, so that there is something to see",
    )
    trial.add_argument(
        "--tour", type=numbers.decimal, nargs="?", const=30.0, default=0.0, metavar="SECONDS",
        help="a new version of the zone every 30 seconds (or SECONDS): good ones, one refused, one held",
    )  # fmt: skip
    trial.add_argument(
        "--localroot", action="store_true", help="instead: a LocalRoot service, with an Unbound and a BIND that use it"
    )
    trial.add_argument("--once", action="store_true", help="with --localroot: end when all has been shown")
    trial.set_defaults(command=demo)


_ZONE_COMMANDS: dict[str, _Adding] = {
    "verify": _add_zone_verify,
    "reset-floor": _add_zone_reset_floor,
    "compile": _add_zone_compile,
    **dict.fromkeys(("list", "show", "refresh", "approve", "reject", "import", "export"), _add_zone_orders),
}
_COMMANDS: dict[str, _Adding] = {
    "check-config": _add_check_config,
    "zone": _add_zone,
    "run": _add_run,
    **dict.fromkeys(("drain", "undrain", "withdraw"), _add_routes),
    "restart": _add_restart,
    "status": _add_status,
    "reload": _add_reload,
    **dict.fromkeys(("block", "unblock", "blocks"), _add_blocks),
    **dict.fromkeys(("shed", "unshed", "sheds", "top"), _add_sheds),
    "fastpath": _add_fastpath,
    "doctor": _add_doctor,
    "setup": _add_setup,
    "rssac002": _add_rssac002,
    "capture": _add_capture,
    "mesh": _add_mesh,
    "hyperlocal": _add_hyperlocal,
    "localroot": _add_localroot,
    "resolver": _add_resolver,
    "probe": _add_probe,
    "security-events": _add_security_events,
    "demo": _add_demo,
}
"""By name, in the order of the help; what adds several is named for each."""


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv run --config FILE [--role ROLE]`."""
    from rootsrv.roles import run

    log.to_standard_error()
    loaded = config_file.load(arguments.config)
    log.use_format(loaded.log.format)
    try:
        run.run(loaded, arguments.config, arguments.role)
    except run.CannotRun as error:
        log.failure("cannot run", reason=error)
        return 1
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """`rootsrv demo`."""
    if arguments.localroot:
        from rootsrv.commands import demo_localroot

        return demo_localroot.run(once=arguments.once)
    from rootsrv.commands import demo as trial

    return trial.run(
        trial.DemoWanted(
            port=arguments.port,
            tlds=arguments.tlds,
            workers=arguments.workers,
            rate=arguments.rate,
            tour_seconds=arguments.tour,
        )
    )
