"""`python -m bench notify`: from the primary's NOTIFY until the new root is answered, on loopback.

NSD is the hidden primary; the secondaries are rootsrv (which verifies every signature and ZONEMD before it serves),
NSD and Knot (which do not).
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.opcode
import dns.query
import dns.rdata
import dns.rrset

from bench import machine, report
from bench.instance import instance
from bench.peers import PeerFailed
from bench.peers.daemon import free_port
from bench.peers.primaries import KEY, KEY_NAME, HiddenPrimary, hidden_primary
from bench.peers.secondaries import secondary
from bench.zones import Zones, generated
from rootsrv.wire import rdata as rdatas

_PATIENCE_SECONDS = 60.0
Address = tuple[str, int]


class NotServed(Exception):
    """The new serial was not answered in time."""


def run(*, repeats: int = 5, tlds: int = 1440, kinds: tuple[str, ...] = ("rootsrv", "NSD", "Knot")) -> dict[str, Any]:
    """Seconds from NOTIFY to the first answer with the new serial, for each kind of secondary."""
    result: dict[str, Any] = {"machine": machine.describe(), "seconds": {}, "left_out": {}}
    with report.kept(result), tempfile.TemporaryDirectory(prefix="rs-bench-notify-") as directory:
        versions = [generated(Path(directory), tlds)]
        result["zones"] = versions[0].origin
        for _ in range(repeats):
            versions.append(versions[-1].successor(Path(directory)))
        for kind in kinds:
            try:
                for seconds in _times(kind, Path(directory) / kind, versions):
                    result["seconds"].setdefault(kind, []).append(seconds)
            except (PeerFailed, NotServed, OSError, AssertionError) as error:
                result["left_out"][kind] = str(error)[-300:]
    return result


def _times(kind: str, directory: Path, versions: list[Zones]) -> Iterator[float]:
    first = versions[0]
    zones = {".": first.root.read_bytes()}
    with hidden_primary("NSD", zones, directory / "primary") as primary:
        with _secondary(kind, directory, first, primary) as (service, notified):
            _await(service, first.contents.serial)
            for version in versions[1:]:
                primary.publish(version.root.read_bytes())
                _await((primary.address, primary.port), version.contents.serial)
                start = time.monotonic()
                _notify(notified, version)
                _await(service, version.contents.serial)
                yield time.monotonic() - start


@contextlib.contextmanager
def _secondary(kind: str, directory: Path, first: Zones, primary: HiddenPrimary) -> Iterator[tuple[Address, Address]]:
    """Where it answers, and where it takes NOTIFY."""
    if kind != "rootsrv":
        port = free_port()
        with secondary(kind, port, primary.port, directory / "secondary"):
            yield ("127.0.0.1", port), ("127.0.0.1", port)
        return
    sections = (
        f'[[primary]]\nname = "hidden"\naddress = "{primary.address}"\nport = {primary.port}\n'
        f'zones = ["."]\nkey = "{KEY_NAME}"\n'
    )
    with instance(directory / "secondary", sections, first.anchors.read_text()) as addresses:
        yield addresses


def _notify(address: Address, version: Zones) -> None:
    """As primaries do it, with the new SOA (RFC 1996 §3.7).

    Without it a NOTIFY tells nothing, and beyond three in a row rootsrv asks once in 5 s (`Refresh.NOTIFY_SECONDS`).
    """
    message = dns.message.make_query(".", "SOA")
    message.set_opcode(dns.opcode.NOTIFY)
    message.flags = (message.flags & ~0x0100) | 0x0400
    soa = version.contents.rrsets[version.contents.apex, rdatas.SOA]
    record = dns.rdata.from_wire("IN", "SOA", soa.rdatas[0], 0, len(soa.rdatas[0]))
    message.answer.append(dns.rrset.from_rdata(dns.name.root, soa.ttl, record))
    message.use_tsig(KEY)
    dns.query.udp(message, address[0], port=address[1], timeout=5)


def _await(address: Address, serial: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    query = dns.message.make_query(".", "SOA")
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, dns.exception.DNSException, IndexError):
            response = dns.query.udp(query, address[0], port=address[1], timeout=1)
            if response.answer[0][0].serial == serial:
                return
        time.sleep(0.005)
    raise NotServed(f"serial {serial} was not answered within {_PATIENCE_SECONDS:.0f} s")


def to_markdown(result: dict[str, Any]) -> str:
    """The table for the report."""
    lines = ["| secondary | median s | fastest | slowest |", "|---|--:|--:|--:|"]
    for kind, seconds in result["seconds"].items():
        lines.append(f"| {kind} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")
    lines += [f"\n{kind} was left out: {reason}" for kind, reason in result["left_out"].items()]
    return "\n".join(lines) + f"\n\nZones: {result['zones']}; the secondary is told by NOTIFY and uses IXFR or AXFR.\n"
