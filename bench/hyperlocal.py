"""`python -m bench hyperlocal`: how soon `rootsrv hyperlocal` gives the root out, and what memory it takes."""

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode

from bench import machine, processes, report
from bench.peers.daemon import free_port, running
from bench.peers.primaries import hidden_primary
from bench.zones import Zones
from rootsrv.process.clock import VARIABLE

SETTLE_SECONDS = 8.0
"""After the zone is given: memory that is not needed goes back within this (roles/hyperlocal.py)."""

_GIVEN_AT, _ANSWERS_AT = "127.0.0.1", "127.0.0.2"

WAYS: dict[str, list[str]] = {"as a primary": [], "as a server": [f"--serve={_ANSWERS_AT}@{{port}}"]}


def run(zones: Zones, *, repeats: int = 3) -> dict[str, Any]:
    """Medians of *repeats*: seconds until the zone is given out, octets of memory."""
    result: dict[str, Any] = {"machine": machine.describe(), "zones": zones.origin}
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with (
        report.kept(result),
        tempfile.TemporaryDirectory(prefix="rs-bench-hyperlocal-") as directory,
        hidden_primary("NSD", {".": zones.root.read_bytes()}, Path(directory) / "publisher", tsig=False) as publisher,
        _clock(zones),
    ):
        (Path(directory) / "publishers.toml").write_text(
            f'[[publisher]]\nname = "one"\naddresses = ["{publisher.address}"]\nport = {publisher.port}\n'
        )
        for number in range(repeats):
            for way, options in WAYS.items():
                measured[way].append(_once(zones, Path(directory), f"{number}-{way.replace(' ', '-')}", options))
    return result | {
        "repeats": min(map(len, measured.values())),
        "ways": {
            way: {key: statistics.median(each[key] for each in found) for key in found[0]}
            for way, found in measured.items()
            if found
        },
    }


def _once(zones: Zones, directory: Path, name: str, options: list[str]) -> dict[str, float]:
    """A first start, which transfers and verifies, and a second from what is kept."""
    own = directory / name
    own.mkdir()
    port, serving = free_port(_GIVEN_AT), free_port(_ANSWERS_AT)
    command = [
        sys.executable, "-m", "rootsrv", "hyperlocal", f"--address={_GIVEN_AT}", f"--port={port}", "--https-port=0",
        f"--notify={_GIVEN_AT}@9", f"--state={own}/state", f"--runtime={own}/run",
        f"--publishers={directory}/publishers.toml", f"--trust-anchors={zones.anchors}",
        *(each.format(port=serving) for each in options),
    ]  # fmt: skip
    found: dict[str, float] = {}
    for start in ("first", "kept"):
        peak = 0

        def given() -> bool:
            nonlocal peak
            peak = max(peak, _of_all(f"--state={own}/state"))
            return _is_given(port)

        began = time.monotonic()
        with running("rootsrv", command, own / "log", given) as pid:
            found[f"{start}_seconds"] = time.monotonic() - began
            if options:  # the answers are made ready for the first query
                dns.query.udp(dns.message.make_query(".", "NS"), _ANSWERS_AT, port=serving, timeout=5)
            time.sleep(SETTLE_SECONDS)
            found[f"{start}_octets"] = processes.memory_octets(pid, "VmRSS")
            # Samples miss what is short; the kernel remembers at least the role's own peak.
            found[f"{start}_peak_octets"] = max(peak, processes.memory_octets(pid, "VmHWM"))
    return found


def _is_given(port: int) -> bool:
    with contextlib.suppress(Exception):
        response = dns.query.udp(dns.message.make_query(".", "SOA"), _GIVEN_AT, port=port, timeout=1)
        return response.rcode() == dns.rcode.NOERROR
    return False


def _of_all(argument: str) -> int:
    """Memory of the process with *argument* and of its children, pages that they share counted once (PSS)."""
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                total += processes.memory_octets(int(process.name))
    return total


@contextlib.contextmanager
def _clock(zones: Zones) -> Iterator[None]:
    """Where the zones verify at another time than now."""
    before = os.environ.get(VARIABLE)
    try:
        if zones.clock is not None:
            os.environ[VARIABLE] = zones.clock
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def to_markdown(figures: dict[str, Any]) -> str:
    """The table for the report."""
    lines = ["| way | start | seconds until it gives the zone | peak, children included (MB) | at rest (MB) |",
             "|---|---|--:|--:|--:|"]  # fmt: skip
    for way, found in figures.get("ways", {}).items():
        for start, called in (("first", "transfers and verifies"), ("kept", "from the kept zone")):
            peak, rest = (found[f"{start}{what}_octets"] / 1e6 for what in ("_peak", ""))
            lines.append(f"| {way} | {called} | {found[f'{start}_seconds']:.2f} | {peak:.0f} | {rest:.1f} |")
    return (
        "\n".join(lines) + f"\n\nPeak: PSS of all processes, at least what the role itself had;"
        f" at rest: RSS.  Zones: {figures['zones']}.\n"
    )
