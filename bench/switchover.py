"""From NOTIFY to the new serial answered by all workers, and what a running load notices of it.

    python -m bench.switchover GENUINE_ZONES

BIND is the hidden primary, `align_seconds` is 0.  First the October pair by IXFR, then by AXFR (the primary refuses
IXFR).  A steady client (steady.py) asks 2,000 times a second all the while; memory is watched in runs of their own,
since watching it holds up what is watched.  Prints one JSON document.
"""

import argparse
import contextlib
import gzip
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import processes, steady
from bench.arguments import positive
from bench.guardian import guarded
from bench.peers import bind
from bench.peers.daemon import free_port
from rootsrv.page.layout import Page, PageUnusable

SERIALS = (2025103001, 2025103100)
CLOCK = "2025-11-01T12:00:00Z"
KEY, SECRET = "transfer.example.", "YmVuY2gga2V5LCBub3QgYSBzZWNyZXQuLi4="
QUERIES_A_SECOND = 2000
_SETTLE_SECONDS = 3.0
_AFTER_SECONDS = 0.5
_LONGEST_SECONDS = 60.0

Events = list[tuple[float, str]]
"""What a process logged, with when (CLOCK_MONOTONIC)."""


@contextlib.contextmanager
def _bind(directory: Path, zone: bytes, notify_port: int, *, ixfr: bool) -> Iterator[tuple[int, int, Events]]:
    """BIND with *zone*: its port, process id and what it logs."""
    directory.mkdir()
    (directory / "root.zone").write_bytes(zone)
    port = free_port()
    options = (
        "notify-delay 0",
        "startup-notify-rate 1000",
        f"provide-ixfr {'yes' if ixfr else 'no'}",
    )
    clauses = f"""key "{KEY}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
zone "." {{ type primary; file "{directory}/root.zone"; check-names ignore; ixfr-from-differences yes;
    max-ixfr-ratio unlimited; journal "{directory}/journal"; notify explicit;
    also-notify {{ 127.0.0.1 port {notify_port} key "{KEY}"; }}; allow-transfer {{ key "{KEY}"; }}; }};
"""
    bind.configuration("named", directory, ("127.0.0.1",), port, options, clauses)
    process = subprocess.Popen(["named", "-g", "-n", "1", "-c", str(directory / "named.conf")], stderr=subprocess.PIPE)
    try:
        yield port, process.pid, _events_of(process, str.strip)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _rootsrv(directory: Path, zones: Path, primary: int, admin: int, service: int) -> Iterator[list[tuple[float, str]]]:
    """A running instance; gives what it logs, with when (CLOCK_MONOTONIC)."""
    configuration = directory / "rootsrv.toml"
    configuration.write_text(
        f"""
[service]
addresses = ["127.0.0.2"]
port = {service}
workers = 2
[admin]
addresses = ["127.0.0.1"]
port = {admin}
[report]
port = {free_port()}
[[zone]]
name = "."
trust_anchors = "{zones / "root-anchors.xml"}"
[state]
directory = "{directory}/state"
runtime_directory = "{directory}/run"
[[key]]
name = "{KEY}"
secret = "{SECRET}"
[[primary]]
name = "hidden"
address = "127.0.0.1"
port = {primary}
key = "{KEY}"
[switchover]
align_seconds = 0
[clock]
source = "trusted"
"""
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "rootsrv", "run", "--config", str(configuration)],
        env={**os.environ, "ROOTSRV_TEST_CLOCK": CLOCK},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield _events_of(process, _our_event)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _events_of(process: "subprocess.Popen[bytes]", event: Callable[[str], str]) -> Events:
    """What *process* writes to standard error from now on, by *event* of each line."""
    events: Events = []

    def note() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            events.append((time.monotonic(), event(line.decode())))

    threading.Thread(target=note, daemon=True).start()
    return events


def _our_event(line: str) -> str:
    """What happened, and the steps of a preparation if it tells them."""
    what = " ".join(itertools.takewhile(lambda word: "=" not in word, line.split()[1:]))
    return what + (f" ({line.partition('steps=')[2].strip()})" if "steps=" in line else "")


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


class _Memory:
    """The largest memory of the role maintain, and of it with its children, while it runs."""

    def __init__(self, pid: int) -> None:
        self.role = self.together = 0
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.03):
            role, *children = map(processes.memory_octets, processes.tree(self._pid))
            self.role = max(self.role, role)
            self.together = max(self.together, role + sum(children))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _ask(path: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b'{"command": "status"}\n')
        with connection.makefile() as stream:
            document: dict[str, Any] = json.loads(stream.readline())
            return document


def _all_workers_at(directory: Path) -> Callable[[int], bool]:
    """Whether all workers answer from a generation: asked every few milliseconds, beside what is measured.

    To open the page takes half a millisecond of a core, for which a worker on it waits; to look into it, a hundredth.
    """
    page: Page | None = None

    def are_at(generation: int) -> bool:
        nonlocal page
        try:
            page = page or Page.open(directory / "run" / "page", writable=False)
            slots = [page.worker(slot) for slot in range(page.workers)]
        except PageUnusable:
            return False
        return bool(slots) and all(slot.pid and slot.active == generation for slot in slots)

    return are_at


def _wait(condition: Callable[[], bool], what: str, events: Events) -> float:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {_LONGEST_SECONDS} s: {what}; the instance told {events[-5:]}")
        time.sleep(0.002)
    return time.monotonic()


def measure(zones: Path, *, ixfr: bool, watch_memory: bool = False) -> dict[str, Any]:
    """One update, under load or with memory watched."""
    texts = [gzip.decompress((zones / f"root.zone.{serial}.gz").read_bytes()) for serial in SERIALS]
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        admin, service = free_port(), free_port()
        primary, named, bind_events = stack.enter_context(_bind(directory / "bind", texts[0], admin, ixfr=ixfr))
        events = stack.enter_context(_rootsrv(directory, zones, primary, admin, service))
        all_workers_at = _all_workers_at(directory)
        _wait(lambda: all_workers_at(1), "the first zone", events)
        maintain = int(_ask(directory / "run" / "maintain.sock")["pid"])
        if watch_memory:
            memory = _Memory(maintain)
        else:
            load = stack.enter_context(steady.asking(("127.0.0.2", service), QUERIES_A_SECOND))
            time.sleep(_SETTLE_SECONDS)
        cpu_before = processes.cpu_seconds_with_ended(maintain)
        (directory / "bind" / "root.zone").write_bytes(texts[1])
        asked = time.monotonic()
        os.kill(named, signal.SIGHUP)
        done = _wait(lambda: all_workers_at(2), "the update", events)
        if watch_memory:
            memory.stop()
            return {"maintain_octets": memory.role, "maintain_with_children_octets": memory.together}
        time.sleep(_AFTER_SECONDS)
        cpu = processes.cpu_seconds_with_ended(maintain) - cpu_before
        server, reflector, client_first = load.stop()
        status = _ask(directory / "run" / "maintain.sock")
    began = next(at for at, what in bind_events if at > asked and "zone ./IN: sending notifies" in what)
    steps = {what: round(at - began, 3) for at, what in events if at > began}
    return {
        "transfer": status["zones"][0]["source"],
        "seconds_from_notify_to_all_workers": round(done - began, 3),
        "seconds_from_notify_to": steps,
        "maintain_cpu_seconds": round(cpu, 2),
        "client_runs_first": client_first,
        "lost": sum(each.seconds is None for each in server),
        "server": _latencies(server, began, done),
        "reflector": _latencies(reflector, began, done),
    }


def _latencies(samples: list[steady.Sample], began: float, done: float) -> dict[str, dict[str, float]]:
    """Milliseconds before and during the update; *during* ends when the workers have put the old table away."""
    parts = {
        "before": [each.seconds for each in samples if each.at < began - 0.2 and each.seconds is not None],
        "during": [
            each.seconds for each in samples if began <= each.at <= done + _AFTER_SECONDS and each.seconds is not None
        ],
    }
    return {
        name: {
            "queries": len(found),
            **{f"p{share:g}": round(1000 * _percentile(found, share / 100), 3) for share in (50, 90, 99, 99.9, 100)},
        }
        for name, found in parts.items()
    }


def main() -> None:
    """Measure both kinds of transfer and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("zones", type=Path, help="directory of genuine zones")
    parser.add_argument("--runs", type=positive, default=1)
    arguments = parser.parse_args()
    for serial in SERIALS:
        if not (needed := arguments.zones / f"root.zone.{serial}.gz").exists():
            parser.error(f"zones: there is no {needed}")
    results = [measure(arguments.zones, ixfr=ixfr) for _ in range(arguments.runs) for ixfr in (True, False)]
    memory = {
        name: measure(arguments.zones, ixfr=ixfr, watch_memory=True) for name, ixfr in (("ixfr", True), ("axfr", False))
    }
    found = {"load_queries_a_second": QUERIES_A_SECOND, "cores": os.cpu_count(), "results": results, "memory": memory}
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    with guarded("ROOTSRV_BENCH_RUN"):
        main()
