"""`rootsrv zone verify`: whether a zone file can be believed, a line for each check."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import dns.exception

from rootsrv.commands.printing import complain, say
from rootsrv.store.zone_file import FileUnusable, read_octets, read_trust_anchors
from rootsrv.wire import name
from rootsrv.wire.record import ZoneMalformed
from rootsrv.zone import instant, presentation
from rootsrv.zone.anchors import AnchorsMalformed, TrustAnchors
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.verify import VerifiedZone, ZoneRejected, verify, verify_hosts


def add_verify_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `rootsrv zone verify`."""
    command.add_argument("file", type=Path, metavar="FILE", help="zone file, may be gzipped")
    command.add_argument("--name", type=zone_name, default=".", help="the zone's name (default: .)")
    add_judging_arguments(command)
    command.add_argument(
        "--root", type=Path, metavar="FILE", help="the root zone by which the zone of its hosts is judged"
    )


def add_judging_arguments(command: argparse.ArgumentParser) -> None:
    """By what and as of when a root zone is judged: --anchors, --at, --zonemd."""
    command.add_argument(
        "--anchors", type=Path, required=True, metavar="FILE", help="root-anchors.xml, or DS or DNSKEY records"
    )
    command.add_argument(
        "--at", type=_instant, metavar="INSTANT", help="judge validity as of then: 2025-09-20T12:00:00Z (default: now)"
    )
    command.add_argument(
        "--hosts-anchors",
        type=Path,
        metavar="FILE",
        help="DS or DNSKEY records by which the zone of the hosts is signed",
    )
    command.add_argument("--zonemd", choices=("required", "if-supported", "off"), default="if-supported")


def run_verify(arguments: argparse.Namespace) -> int:
    """`rootsrv zone verify`: a line for each check; 0 verified, 1 rejected or held, 2 the arguments are wrong."""
    if (arguments.name == name.ROOT) != (arguments.root is None):
        what = "needed to verify any zone but the root" if arguments.root is None else "is for any zone but the root"
        complain(f"--root: {what}")
        return 2
    now = time.time() if arguments.at is None else arguments.at
    try:
        trust_anchors = read_trust_anchors(arguments.anchors)
        hosts_anchors = read_hosts_anchors(arguments)
        root = report(
            arguments.root or arguments.file,
            name.ROOT,
            lambda contents: verify(contents, trust_anchors, now, zonemd=arguments.zonemd),
        )
        if root is None or arguments.root is None:
            return 0 if root and not root.limits else 1
        hosts = report(
            arguments.file,
            arguments.name,
            lambda contents: verify_hosts(contents, root, now, zonemd=arguments.zonemd, trust_anchors=hosts_anchors),
        )
        return 0 if hosts and not hosts.limits else 1
    except AnchorsMalformed as error:
        complain(error)
    except FileUnusable as error:
        complain(error)
    return 2


def read_hosts_anchors(arguments: argparse.Namespace) -> TrustAnchors | None:
    """What --hosts-anchors names; FileUnusable or AnchorsMalformed say why not."""
    return None if arguments.hosts_anchors is None else read_trust_anchors(arguments.hosts_anchors)


def report(path: Path, apex: bytes, judge: Callable[[ZoneContents], VerifiedZone]) -> VerifiedZone | None:
    """Read and judge one zone, and print what comes of it; None when it is rejected."""
    started = time.perf_counter()
    octets = read_octets(path)
    try:
        contents = presentation.from_text(octets, apex)
        read = time.perf_counter()
        zone = judge(contents)
    except ZoneMalformed as error:
        say(f"FAIL  zone file: {error}")
        say(f"{path}: not a zone, took {time.perf_counter() - started:.2f} s")
        return None
    except ZoneRejected as error:
        for line in error.passed:
            say(f"ok    {line}")
        say(f"FAIL  {type(error).__name__}: {error}")
        say(f"{path}: rejected, took {time.perf_counter() - started:.2f} s")
        return None
    for line in zone.checks:
        say(f"ok    {line}")
    for line in zone.alarms:
        say(f"ALARM {line}")
    verified = time.perf_counter()
    for line in zone.limits:
        say(f"HELD  {line}")
    seconds = f"{verified - started:.2f} s (reading {read - started:.2f}, checks {verified - read:.2f})"
    say(f"{path}: verified, took {seconds}")
    return zone


def zone_name(text: str) -> bytes:
    """A zone's name, as an argument."""
    try:
        return name.from_text(text)
    except dns.exception.DNSException as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a domain name: {error}") from None


def _instant(text: str) -> float:
    try:
        return instant.from_text(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an instant such as 2025-09-20T12:00:00Z") from None
