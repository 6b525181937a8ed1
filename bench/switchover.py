"""From NOTIFY to the new serial answered by all workers, and what a running load notices of it.

    python -m bench.switchover GENUINE_ZONES

BIND is the hidden primary, `align_seconds` is 0.  First the October pair by IXFR, then by AXFR (the primary refuses
IXFR).  A client asks 2,000 times a second all the while.  Prints one JSON document.
"""

import argparse
import contextlib
import gzip
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rootsrv.page import Page, PageUnusable

SERIALS = (2025103001, 2025103100)
CLOCK = "2025-11-01T12:00:00Z"
KEY, SECRET = "transfer.example.", "YmVuY2gga2V5LCBub3QgYSBzZWNyZXQuLi4="
QUERIES_A_SECOND = 2000
_SETTLE_SECONDS = 3.0
_LONGEST_SECONDS = 60.0


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _bind(directory: Path, zone: bytes, notify_port: int, *, ixfr: bool) -> Iterator[tuple[int, int]]:
    """BIND with *zone*: its port and process id."""
    directory.mkdir()
    (directory / "root.zone").write_bytes(zone)
    port = _free_port()
    (directory / "named.conf").write_text(
        f"""
key "{KEY}" {{ algorithm hmac-sha256; secret "{SECRET}"; }};
options {{
    directory "{directory}"; pid-file "{directory}/pid"; lock-file none; session-keyfile "{directory}/session";
    managed-keys-directory "{directory}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    recursion no; dnssec-validation no; empty-zones-enable no; notify-delay 0; startup-notify-rate 1000;
    provide-ixfr {"yes" if ixfr else "no"};
}};
controls {{ }};
zone "." {{ type primary; file "{directory}/root.zone"; check-names ignore; ixfr-from-differences yes;
    max-ixfr-ratio unlimited; journal "{directory}/journal"; notify explicit;
    also-notify {{ 127.0.0.1 port {notify_port} key "{KEY}"; }}; allow-transfer {{ key "{KEY}"; }}; }};
"""
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["named", "-g", "-n", "1", "-c", str(directory / "named.conf")], stderr=log)
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _rootsrv(directory: Path, zones: Path, primary: int, admin: int, service: int) -> Iterator[int]:
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
port = {_free_port()}
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
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rootsrv", "run", "--config", str(configuration)],
            env={**os.environ, "ROOTSRV_TEST_CLOCK": CLOCK},
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _load(service: int, orders: Connection) -> None:
    """Ask at a fixed rate until told to stop; then send [(when, seconds or None if lost)]."""
    samples: list[tuple[float, float | None]] = []
    query = b"\0\0\0\0\0\1\0\0\0\0\0\1\x03www\x07example\x03org\0\0\1\0\1\0\0\x29\4\xd0\0\0\x80\0\0\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.2", service))
        client.settimeout(1.0)
        due = time.monotonic()
        number = 0
        while not orders.poll():
            due += 1 / QUERIES_A_SECOND
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            else:
                due = time.monotonic()
            number = (number + 1) & 0xFFFF
            began = time.monotonic()
            client.send(number.to_bytes(2, "big") + query[2:])
            try:
                while client.recv(4096)[:2] != number.to_bytes(2, "big"):
                    pass
            except (TimeoutError, OSError):
                samples.append((began, None))
                continue
            samples.append((began, time.monotonic() - began))
    orders.send(samples)


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else float("nan")


class _Memory:
    """The largest resident memory of the role maintain, and of it with its children, while it runs."""

    def __init__(self, directory: Path) -> None:
        self.role = self.together = 0
        self._socket = directory / "run" / "maintain.sock"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        pid = 0
        while not self._stop.wait(0.03):
            with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
                pid = pid or _ask(self._socket)["pid"]
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                role = _pss(pid)
                self.role = max(self.role, role)
                self.together = max(self.together, role + sum(_pss(int(child)) for child in children))

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _pss(pid: int) -> int:
    """Octets of memory that *pid* has, pages shared with others counted by share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def _cpu_seconds(pid: int) -> float:
    """User and system time of *pid* and of the children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _ask(path: Path) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(b'{"command": "status"}\n')
        with connection.makefile() as stream:
            document: dict[str, Any] = json.loads(stream.readline())
            return document


def _all_workers_at(directory: Path, generation: int) -> bool:
    try:
        page = Page.open(directory / "run" / "page")
    except PageUnusable:
        return False
    slots = [page.worker(slot) for slot in range(page.workers)]
    return bool(slots) and all(slot.pid and slot.active == generation for slot in slots)


def _wait(condition: Any, what: str) -> float:
    deadline = time.monotonic() + _LONGEST_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {_LONGEST_SECONDS} s: {what}")
        time.sleep(0.002)
    return time.monotonic()


def measure(zones: Path, *, ixfr: bool) -> dict[str, Any]:
    """One update under load."""
    texts = [gzip.decompress((zones / f"root.zone.{serial}.gz").read_bytes()) for serial in SERIALS]
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        admin, service = _free_port(), _free_port()
        primary, named = stack.enter_context(_bind(directory / "bind", texts[0], admin, ixfr=ixfr))
        stack.enter_context(_rootsrv(directory, zones, primary, admin, service))
        _wait(lambda: _all_workers_at(directory, 1), "the first zone")
        memory = _Memory(directory)
        ours, theirs = multiprocessing.Pipe()
        load = multiprocessing.Process(target=_load, args=(service, theirs), daemon=True)
        load.start()
        time.sleep(_SETTLE_SECONDS)
        maintain = int(_ask(directory / "run" / "maintain.sock")["pid"])
        cpu_before = _cpu_seconds(maintain)
        (directory / "bind" / "root.zone").write_bytes(texts[1])
        os.kill(named, signal.SIGHUP)
        done = _wait(lambda: _all_workers_at(directory, 2), "the update")
        log = (directory / "bind" / "log").read_text()
        time.sleep(0.5)
        cpu = _cpu_seconds(maintain) - cpu_before
        ours.send(None)
        samples: list[tuple[float, float | None]] = ours.recv()
        load.join()
        memory.stop()
        began = done - _seconds_since_notify(directory, done)
        status = _ask(directory / "run" / "maintain.sock")
    during = [each for when, each in samples if began <= when <= done]
    before = [each for when, each in samples if when < began - 0.2]
    quiet, busy = [e for e in before if e is not None], [e for e in during if e is not None]
    return {
        "transfer": status["zones"][0]["source"],
        "seconds_from_notify_to_all_workers": round(done - began, 3),
        "maintain_cpu_seconds": round(cpu, 2),
        "queries_during": len(during),
        "lost": sum(each is None for _, each in samples),
        "p99_ms_before": round(1000 * _percentile(quiet, 0.99), 3),
        "p99_ms_during": round(1000 * _percentile(busy, 0.99), 3),
        "median_ms_before": round(1000 * _percentile(quiet, 0.5), 3),
        "median_ms_during": round(1000 * _percentile(busy, 0.5), 3),
        "maintain_octets": memory.role,
        "maintain_with_children_octets": memory.together,
        "notified": "sending notifies" in log,
    }


def _seconds_since_notify(directory: Path, done: float) -> float:
    """How long before *done* the NOTIFY came in, by what the role says of it."""
    zone = _ask(directory / "run" / "maintain.sock")["zones"][0]
    primary = zone["primaries"][0]
    return float(primary["notified_seconds"]) - (time.monotonic() - done)


def main() -> None:
    """Measure both kinds of transfer and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("zones", type=Path, help="directory of genuine zones")
    parser.add_argument("--runs", type=int, default=1)
    arguments = parser.parse_args()
    results = [measure(arguments.zones, ixfr=ixfr) for _ in range(arguments.runs) for ixfr in (True, False)]
    print(
        json.dumps({"load_queries_a_second": QUERIES_A_SECOND, "cores": os.cpu_count(), "results": results}, indent=2)
    )


if __name__ == "__main__":
    main()
