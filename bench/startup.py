"""`python -m bench startup`: from a zone file to answers, from a table file to answers, and what a worker occupies."""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench import machine, report
from bench.engine_process import stand_apart
from bench.responder import make_settings
from bench.zones import Zones
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.responder import Responder, Transport
from rootsrv.store.table_file import open_table
from rootsrv.wire import name
from rootsrv.zone import presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts

_PRIMING = bytes.fromhex("1234 0000 0001 0000 0000 0000 00 0002 0001")
_CONTEXT = multiprocessing.get_context("spawn")


def run(zones: Zones, *, repeats: int = 5) -> dict[str, Any]:
    """Medians of *repeats*, each in a fresh process: seconds and octets."""
    with tempfile.TemporaryDirectory(prefix="rs-bench-startup-") as directory:
        table = Path(directory) / "1.table"
        table.write_bytes(compile_table(*zones.verified()))
        files = replace(zones, made=None)  # keys cannot be handed over
        result: dict[str, Any] = {"machine": machine.describe(), "zones": zones.origin}
        cold: list[dict[str, float]] = []
        warm: list[dict[str, float]] = []
        with report.kept(result):
            for _ in range(repeats):
                cold.append(_in_fresh_process(_from_zone, files))
                warm.append(_in_fresh_process(_from_table, table))
        octets = table.stat().st_size
    return result | {
        "repeats": len(warm),
        "from_zone": _medians(cold[: len(warm)]),
        "from_table": _medians(warm),
        "table_octets": octets,
    }


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {step: statistics.median(run[step] for run in runs) for step in (runs[0] if runs else ())}


def _in_fresh_process(work: Callable[[Any], dict[str, float]], argument: Any) -> dict[str, float]:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_child, args=(theirs, work, argument), daemon=True)
    process.start()
    theirs.close()
    try:
        found: dict[str, float] = ours.recv()
    finally:
        process.join(10)
        ours.close()
    return found


def _child(connection: Connection, work: Callable[[Any], dict[str, float]], argument: Any) -> None:
    stand_apart()
    connection.send(work(argument))


def _from_zone(zones: Zones) -> dict[str, float]:
    times, clock = {}, time.perf_counter
    root_text, hosts_text = zones.root.read_bytes(), zones.hosts.read_bytes()
    anchors = TrustAnchors.from_text(zones.anchors.read_text())
    start = clock()
    contents = presentation.from_text(root_text, name.ROOT)
    hosts_contents = presentation.from_text(hosts_text, name.from_text("root-servers.net."))
    times["read"] = clock() - start
    root = verify(contents, anchors, zones.now)
    hosts = verify_hosts(hosts_contents, root, zones.now)
    times["verify"] = clock() - start - times["read"]
    compile_table(root, hosts)
    times["total"] = clock() - start
    times["compile"] = times["total"] - times["verify"] - times["read"]
    return times


def _from_table(path: Path) -> dict[str, float]:
    start = time.perf_counter()
    responder = Responder(open_table(path), make_settings())
    responder.respond(_PRIMING, bytes(4), Transport.UDP, 0.0)
    return {"total": time.perf_counter() - start}


def to_markdown(figures: dict[str, Any]) -> str:
    """The table for the report."""
    cold, warm = figures["from_zone"], figures["from_table"]
    lines = ["| step | seconds |", "|---|--:|"]
    lines += [f"| {step} | {cold[step]:.3f} |" for step in ("read", "verify", "compile")]
    lines += [f"| **read + verify + compile** | **{cold['total']:.3f}** |"]
    lines += [f"| **from a table file to the first answer** | **{warm['total']:.3f}** |"]
    return "\n".join(lines) + f"\n\nTable file: {figures['table_octets'] / 2**20:.1f} MiB; zones: {figures['zones']}.\n"
