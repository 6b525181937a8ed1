"""`python -m bench.scrape`: what a scrape of /metrics takes under full load, and what it takes from the load.

An instance on loopback with a worker per core, dnsperf as fast as it can, in turns with and without a scraper; and what
counting trust-anchor signals (RFC 8145) costs a batch.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.guardian import guarded
from rootsrv.commands import demo
from rootsrv.page.layout import Page
from rootsrv.process.children import environment
from rootsrv.process.clock import validity_now
from rootsrv.server import counters

SECONDS = 4.0
REPEATS = 4
SCRAPES_PER_SECOND = 4.0
REPORT = (demo.REPORT_ADDRESS, demo.REPORT_PORTS[0])
PORT = 15_300

NAMES = ". SOA\ncom. NS\nwww.example. A\nno-such-tld. A\nhost.no-such-tld. AAAA\na.root-servers.net. A\n"


@contextmanager
def instance(directory: Path) -> Iterator[None]:
    """A demo's instance that answers and reports."""
    zones = demo.generate_zones(1440, validity_now())
    path = demo.write_configuration(zones, directory, addresses=("127.0.0.1",), port=PORT, workers=0)
    # Workers alone: the kernel's answers on loopback would be those of the generator's core.
    path.write_text(path.read_text().replace('interfaces = ["lo"]', "interfaces = []"))
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            (sys.executable, "-m", "rootsrv", "run", "--config", path),
            stderr=log,
            env=environment(),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "reporting" not in (directory / "log").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((directory / "log").read_text())
            time.sleep(0.1)
        time.sleep(2)
        yield
    finally:
        process.terminate()
        process.wait(30)


def load(names: Path, seconds: float) -> float:
    """Answers per second that dnsperf got."""
    done = subprocess.run(
        [
            "dnsperf", "-s", "127.0.0.1", "-p", str(PORT), "-d", names, "-l", str(seconds), "-e", "-D", "-c", "4",
            "-q", "200",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"Queries per second: +([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def scrape() -> float:
    """Seconds that one scrape takes."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://{REPORT[0]}:{REPORT[1]}/metrics", timeout=10) as response:
        response.read()
    return time.perf_counter() - began


def loaded_and_scraped(names: Path) -> tuple[float, list[float]]:
    """Answers per second, and the scrapes meanwhile."""
    took: list[float] = []
    stop = threading.Event()

    def scraping() -> None:
        while not stop.wait(1 / SCRAPES_PER_SECOND):
            took.append(scrape())

    thread = threading.Thread(target=scraping)
    thread.start()
    try:
        return load(names, SECONDS), took
    finally:
        stop.set()
        thread.join()


def cost_of_signals(directory: Path) -> tuple[float, float]:
    """Seconds per query in batches of 64: as it is, and with nothing looked for; the page is in *directory*."""
    page = Page.create(directory / "page")
    counting = counters.Counters(page.worker(0))
    query = bytes.fromhex("00010000000100000000000103777777076578616d706c650000010001") + bytes(11)
    response = bytes.fromhex("00018403000100000001000103777777076578616d706c650000010001") + bytes(500)
    requests, responses = [query] * 64, [response] * 64

    def seconds(look: Any) -> float:
        best = 1.0
        for _ in range(200):
            began = time.perf_counter()
            for _ in range(20):
                look()
            best = min(best, time.perf_counter() - began)
        return best / 20 / 64

    whole = seconds(lambda: counting.count(0, requests, responses))
    search = seconds(lambda: b"_ta-" in b"".join(requests).lower())
    return whole, search


def run(arguments: Any = None) -> int:
    """Print the figures."""
    if shutil.which("dnsperf") is None:
        print("dnsperf is not installed")
        return 1
    with tempfile.TemporaryDirectory() as name:
        whole, search = cost_of_signals(Path(name))
    print(
        f"counting: {whole * 1e9:.0f} ns a query in batches of 64, of which looking for signals {search * 1e9:.0f} ns"
    )
    with tempfile.TemporaryDirectory() as name, instance(Path(name)):
        names = Path(name) / "names"
        names.write_text(NAMES)
        idle = [scrape() for _ in range(20)]
        alone, scraped, took = [], [], []
        for _ in range(REPEATS):
            alone.append(load(names, SECONDS))
            rate, more = loaded_and_scraped(names)
            scraped.append(rate)
            took += more
    took.sort()
    print(f"idle: a scrape takes {statistics.median(idle) * 1e3:.1f} ms (median of {len(idle)})")
    print(
        f"full load ({statistics.median(alone):,.0f} answers/s on {os.cpu_count()} cores with the generator): "
        f"{statistics.median(took) * 1e3:.1f} ms median, {took[int(0.95 * len(took))] * 1e3:.1f} ms 95 %, "
        f"{took[-1] * 1e3:.1f} ms worst of {len(took)}"
    )
    ratios = [with_it / without for with_it, without in zip(scraped, alone, strict=True)]
    print(f"{SCRAPES_PER_SECOND:.0f} scrapes a second leave {statistics.median(ratios):.3f} of the rate without them")
    print(f"of each turn: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")
    return 0


if __name__ == "__main__":
    with guarded("ROOTSRV_BENCH_RUN"):
        raise SystemExit(run())
