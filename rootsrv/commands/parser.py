"""The commands an operator types.

Each command is a function that takes the parsed arguments and returns the exit status: 0 done, 1 it did not work (a
zone is bad, a host lacks something), 2 the command or the configuration is wrong.
"""

import argparse
import asyncio
import difflib
import json
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from rootsrv import __version__
from rootsrv.commands.printing import complain
from rootsrv.config import file as config_file
from rootsrv.config import text
from rootsrv.process import clock, log

# What the commands need is imported by `parser`: the processes of `rootsrv run` do without it, and start sooner,
# and the one of `rootsrv hyperlocal` stays small.


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `rootsrv`; returns the exit status."""
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # now, and not when the interpreter ends: then nobody could catch what happens
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        return _READER_GONE


_READER_GONE = 128 + signal.SIGPIPE
"""What the shell makes of a program that SIGPIPE ended, as it does with others in `rootsrv … | head`."""


def _output_is_closed() -> bool:
    """Whether nobody reads what we print; then nothing is printed any more, at the end of the interpreter either."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            pass
        else:
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if not any(event & select.POLLERR for _, event in poll.poll(0)):  # a pipe without reader (poll(2))
                continue
        closed = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return closed


def _run(arguments: Sequence[str] | None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    alone = {"run": _add_run, "hyperlocal": _add_hyperlocal}.get(given[0] if given else "")
    parsed = (_parser_of(alone) if alone else parser()).parse_args(given)
    try:
        status: int = parsed.command(parsed)
    except (config_file.ConfigError, clock.ClockUnusable) as error:
        complain(error)
        return 2
    return status


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class _Parser(argparse.ArgumentParser):
    """One that says which command was meant; its sub-commands' parsers are of the same class."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with what was typed; exit status 2."""
        wrong = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong and (meant := difflib.get_close_matches(wrong[2], re.findall(r"[\w-]+", wrong[3]), 1)):
            message = f"argument {wrong[1]}: there is no {wrong[2]!r}; did you mean {meant[0]}? (--help lists all)"
        super().error(message)


def _parser_of(add: Callable[[Commands], None]) -> argparse.ArgumentParser:
    """One command alone, as `parser` has it."""
    top: argparse.ArgumentParser = _Parser(prog="rootsrv")
    add(top.add_subparsers(required=True, metavar="COMMAND"))
    return top


def _add_hyperlocal(commands: Commands) -> None:
    from rootsrv.commands import hyperlocal

    beside = commands.add_parser("hyperlocal", help="the root, verified, for the resolver on this host (RFC 8806)")
    hyperlocal.add_arguments(beside)
    beside.set_defaults(command=hyperlocal.run)


def _add_run(commands: Commands) -> None:
    running = commands.add_parser("run", help="serve the configured zones")
    running.add_argument("--config", type=Path, required=True, metavar="FILE")
    running.add_argument(
        "--role",
        choices=("serve", "maintain", "advertise", "report", "mesh", "capture", "localroot", "portal"),
        help="only this one (default: all, supervised)",
    )
    running.set_defaults(command=run)


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    from rootsrv.commands import (
        blocks,
        capture,
        capture_files,
        doctor,
        fastpath,
        fleet,
        floor_reset,
        localroot,
        maintenance,
        mesh,
        probe,
        resolver,
        restart,
        security_events,
        setup,
        shed,
        tables,
        zone_files,
        zones,
    )
    from rootsrv.commands import routes as route
    from rootsrv.commands import rssac002 as report_command

    top: argparse.ArgumentParser = _Parser(
        prog="rootsrv", description="An anycast, authoritative DNS root server instance."
    )
    top.add_argument("--version", action="version", version=f"rootsrv {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check-config", help="print the effective configuration")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument(
        "--live", action="store_true", help="also compare it with this host and its BIRD; changes nothing"
    )
    check.set_defaults(command=check_config)

    zone = commands.add_parser("zone", help="look at zone files").add_subparsers(required=True, metavar="COMMAND")
    verify = zone.add_parser("verify", help="say whether a zone can be believed, and why not")
    zone_files.add_verify_arguments(verify)
    verify.set_defaults(command=zone_files.run_verify)

    floor_reset.add_arguments(
        zone.add_parser("reset-floor", help="after a serial that nobody meant: start anew (of a stopped instance)")
    )

    compiling = zone.add_parser("compile", help="verify zone files and write their answer table")
    tables.add_compile_arguments(compiling)
    compiling.set_defaults(command=tables.run_compile)

    _add_run(commands)

    for verb, what in (
        ("drain", "announce the prefixes as shutting down (RFC 8326), then withdraw them"),
        ("undrain", "take drain or withdraw back"),
        ("withdraw", "withdraw the prefixes at once, until undrain"),
    ):
        ordering = commands.add_parser(verb, help=what)
        route.add_arguments(ordering, verb)
        ordering.set_defaults(command=route.run, verb=verb)

    restart.add_arguments(
        commands.add_parser("restart", help="restart this box without loss; in a mesh when the others allow it")
    )
    zones.add_zone_commands(zone)
    telling = commands.add_parser("status", help="zones, leases, primaries, workers; what is announced, and why")
    zones.add_status(telling)
    telling.set_defaults(command=status)
    zones.add_reload(commands.add_parser("reload", help="read the configuration again, without losing a query"))
    for verb, what in (
        ("block", "drop queries from a prefix, for a while"),
        ("unblock", "end a block"),
        ("blocks", "what is blocked, by whom, why and until when"),
    ):
        blocking = commands.add_parser(verb, help=what)
        blocks.add_arguments(blocking, verb)
        blocking.set_defaults(command=blocks.run, verb=verb)
    for verb, what in (
        ("shed", "TC, or no answer, for some UDP queries, for a while"),
        ("unshed", "end a shed rule"),
        ("sheds", "what is shed, by whom, why and until when, and what it hits"),
        ("top", "who floods: prefixes, names, types, ports and sizes of the last minute"),
    ):
        shedding = commands.add_parser(verb, help=what)
        shed.add_arguments(shedding, verb)
        shedding.set_defaults(command=shed.run, verb=verb)

    kernel = commands.add_parser("fastpath", help="the kernel fast path: where it answers, and how much")
    fastpath.add_arguments(kernel)
    kernel.set_defaults(command=fastpath.run)

    doctor.add_arguments(commands.add_parser("doctor", help="is this host fit for it, and if not, what to mend"))

    setup.add_arguments(
        commands.add_parser("setup", help="ask what differs from site to site, show the differences, check, write")
    )

    statistics = commands.add_parser("rssac002", help="statistics of a day (RSSAC002v5)")
    report_command.add_arguments(statistics.add_subparsers(required=True, metavar="COMMAND"))

    captured = commands.add_parser("capture", help="what was asked: files of queries")
    in_capture = captured.add_subparsers(required=True, metavar="COMMAND")
    capture.add_arguments(in_capture)
    capture_files.add_arguments(in_capture)

    many = commands.add_parser("mesh", help="many instances, one set time: keys, roster, status, orders")
    in_mesh = many.add_subparsers(required=True, metavar="COMMAND")
    mesh.add_arguments(in_mesh)
    fleet.add_arguments(in_mesh)
    maintenance.add_arguments(in_mesh)

    _add_hyperlocal(commands)

    service = commands.add_parser("localroot", help="a LocalRoot service: who signed up, servers, keys, zones")
    localroot.add_arguments(service.add_subparsers(required=True, metavar="COMMAND"))

    told = commands.add_parser(
        "resolver", help="print a resolver's configuration: the root from a publisher (RFC 8806)"
    )
    resolver.add_arguments(told)
    told.set_defaults(command=resolver.run)

    probe.add_arguments(
        commands.add_parser("probe", help="root server identities, measured from here as RSSAC047 measures them")
    )

    security_events.add_arguments(
        commands.add_parser("security-events", help="a day's security events, as one signed file")
    )

    trial = commands.add_parser("demo", help="generate, sign, verify and serve a root zone on this host")
    trial.add_argument("--port", type=int, default=5300, help="UDP and TCP port on 127.0.0.1 and ::1 (default 5300)")
    trial.add_argument("--tlds", type=int, default=1440, help="delegations in the generated zone (default 1440)")
    trial.add_argument("--workers", type=int, default=0, help="worker processes (default: one per core)")
    trial.add_argument(
        "--rate", type=int, default=50, help="queries a second that it asks itself, so that there is something to see"
    )
    trial.add_argument(
        "--tour", type=float, nargs="?", const=30.0, default=0.0, metavar="SECONDS",
        help="a new version of the zone every 30 seconds (or SECONDS): good ones, one refused, one held",
    )  # fmt: skip
    trial.add_argument(
        "--localroot", action="store_true", help="instead: a LocalRoot service, with an Unbound and a BIND that use it"
    )
    trial.add_argument("--once", action="store_true", help="with --localroot: end when all has been shown")
    trial.set_defaults(command=demo)
    return top


def check_config(arguments: argparse.Namespace) -> int:
    """`rootsrv check-config [--live] FILE`."""
    from rootsrv.store import sources_key, zone_file

    loaded = config_file.load(arguments.file)
    print(text.to_toml(loaded), end="")
    missing = [each for each in loaded.zone if each.trust_anchors and not Path(each.trust_anchors).exists()]
    told = [f"zone.trust_anchors: {each.trust_anchors}: is not there" for each in missing]
    for line in (*told, *zone_file.check_trust_anchors(each for each in loaded.zone if each not in missing)):
        complain(line)
    if loaded.report.sources_key_file:
        try:
            sources_key.read(Path(loaded.report.sources_key_file))
        except sources_key.SourcesKeyUnusable as error:
            raise config_file.ConfigError(f"report.sources_key_file: {error}") from error
    if not arguments.live or loaded.anycast is None:
        return 0
    from rootsrv.anycast import live_check

    problems = asyncio.run(live_check.problems(loaded))
    for problem in problems:
        complain(problem)
    return 1 if problems else 0


def status(arguments: argparse.Namespace) -> int:
    """`rootsrv status [--json]`: what the roles that run tell; 1 if maintain does not."""
    from rootsrv.commands import routes as route
    from rootsrv.commands import zones

    told = zones.gather(config_file.load(arguments.config))
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        zones.render_status(told["maintain"])
        if "error" not in told["advertise"]:
            print()
            route.render(told["advertise"])
    return 1 if "error" in told["maintain"] else 0


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
