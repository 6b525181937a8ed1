"""What the load generator says that was answered = metrics = RSSAC002, whoever answered: workers or kernel.

On a wire between two network namespaces, with dnsperf at the client's end.
"""

import contextlib
import datetime
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rootsrv.fastpath.owner import DUTY_SECONDS
from rootsrv.page.layout import KERNEL_SLOT
from rootsrv.server.udp import BATCH_SIZE
from rootsrv.telemetry.daybook import find_record
from rootsrv.telemetry.rssac002 import SIZE_KEYS, SOURCE_KEYS, VOLUME_KEYS, DayRecord
from rootsrv.telemetry.rssac002_file import Scalars, parse
from tests.fastpath.conftest import require_program
from tests.fastpath.site import SERVICE, WIRE, Site, site, start_server
from tests.needs import require_tool
from tests.server.live import SERIALS, put, wait_until
from tests.telemetry.shifted_clock import DAY_SECONDS, ShiftedClock
from tests.telemetry.watched import samples, total

REPORT_PORT = 9353
REPORT = f"""
[report]
addresses = ["127.0.0.1"]
port = {REPORT_PORT}
"""

NAMES = """\
. SOA
. NS
com. NS
www.example. A
no-such-tld. A
a.root-servers.net. A
_ta-4f66. NULL
version.bind. TXT
"""

_SCRAPE = f"""
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:{REPORT_PORT}/metrics", timeout=10).read().decode())
"""


@dataclass
class Load:
    """What dnsperf has sent in all its runs of a test."""

    site: Site
    names: Path
    answered: dict[str, int] = field(default_factory=dict)
    """By transport and family: udp-ipv4 …"""

    sent: int = 0
    rcodes: dict[str, int] = field(default_factory=dict)

    def start(self, family: int, transport: str, *limits: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [
                *self.site.client.prefix, require_tool("dnsperf"), "-s", SERVICE[family], "-m", transport,
                "-d", str(self.names), "-e", "-D", *limits,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def finish(self, process: "subprocess.Popen[str]", family: int, transport: str) -> int:
        """Add what *process* reports when it has ended; its lost queries."""
        output, _ = process.communicate(timeout=60)
        assert "Queries lost" in output, f"dnsperf ended with {process.returncode}: {output}"
        sent, completed, lost = (
            int(re.search(rf"Queries {what}: +(\d+)", output)[1])  # type: ignore[index]
            for what in ("sent", "completed", "lost")
        )
        path = f"{transport}-ipv{family}"
        self.sent += sent
        self.answered[path] = self.answered.get(path, 0) + completed
        codes = re.search(r"Response codes: +(.*)", output)
        for rcode, amount in re.findall(r"([A-Z0-9]+) (\d+) \(", codes[1] if codes else ""):
            self.rcodes[rcode] = self.rcodes.get(rcode, 0) + int(amount)
        return lost

    def run(self, *, times: int = 200, rate: int = 10_000) -> None:
        """All families and transports, every name *times* over UDP, a quarter over TCP; nothing may be lost."""
        for family in (4, 6):
            for transport in ("udp", "tcp"):
                # Over TCP one query at a time, which dnscap needs: it does not see all that is pipelined.
                limits = ("-n", str(times)) if transport == "udp" else ("-n", str(times // 4), "-q", "1", "-c", "1")
                process = self.start(family, transport, "-Q", str(rate), *limits)
                assert self.finish(process, family, transport) == 0


@contextlib.contextmanager
def loaded(directory: Path, mode: str, launcher: Sequence[str] = ()) -> Iterator[Load]:
    require_tool("dnsperf")
    if mode != "off":
        require_program()
    names = directory / "names"
    names.write_text(NAMES)
    with site(directory, REPORT, mode=mode, launcher=launcher) as made:
        if mode == "xdp":
            receive_what_xdp_sends(made)
        wait_until(lambda: "reporting addresses" in made.log, "reporting", 20)
        yield Load(made, names)


_PASSES_ALL = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("xdp") int pass_all(struct xdp_md *packet) { return XDP_PASS; }
char _license[] SEC("license") = "GPL";
"""


def receive_what_xdp_sends(made: Site) -> None:
    """A veth takes what XDP sends at its other end only while it has an XDP program of its own."""
    source, built = made.directory / "pass.bpf.c", made.directory / "pass.bpf.o"
    source.write_text(_PASSES_ALL)
    headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
    subprocess.run(
        [require_tool("clang"), "-O2", "-g", "-target", "bpfel", headers, "-c", source, "-o", built], check=True
    )
    made.client.ip("link", "set", "dev", WIRE, "xdp", "obj", str(built), "sec", "xdp")


def scrape(made: Site) -> dict[str, float]:
    return samples(made.server.run(sys.executable, "-c", _SCRAPE))


def today(made: Site) -> DayRecord:
    """Today's record, as far as it is written."""
    day = datetime.datetime.fromtimestamp(time.time(), datetime.UTC).date()
    return find_record(made.directory / "state" / "statistics", day) or DayRecord(day)


def assert_metrics_agree(load: Load) -> dict[str, float]:
    # What the kernel answered is in the page within a second, also when its owner is too busy to answer a scrape.
    everything = sum(load.answered.values())
    wait_until(lambda: total(scrape(load.site), "rootsrv_responses_total") >= everything, "all in the page", 5)
    metrics = scrape(load.site)
    for path, answered in load.answered.items():
        transport, family = path.split("-")
        for name in ("rootsrv_queries_total", "rootsrv_responses_total"):
            assert (path, total(metrics, name, transport=transport, family=family)) == (path, answered)
    for rcode, amount in load.rcodes.items():
        assert (rcode, total(metrics, "rootsrv_responses_total", rcode=rcode)) == (rcode, amount)
    return metrics


def assert_record_agrees(load: Load, record: DayRecord) -> None:
    for key in VOLUME_KEYS:
        _, transport, *_, family = key.split("-")
        assert (key, record.volume[key]) == (key, load.answered[f"{transport}-{family}"])
    everything = sum(load.answered.values())
    assert sum(record.rcodes.values()) == everything
    for what in ("request", "response"):
        assert (
            sum(sum(record.sizes[f"{transport}-{what}-sizes"].values()) for transport in ("udp", "tcp")) == everything
        )
    assert record.unique_sources() == {
        "num-sources-ipv4": 1, "num-sources-ipv6": 1, "num-sources-ipv6-aggregate": 1,
    }  # fmt: skip


@contextlib.contextmanager
def captured(made: Site) -> Iterator[dict[str, dict[str, str | Scalars]]]:
    """What dnscap's rssm plugin counts at the client's end of the wire during the block, by metric.

    What the kernel answers is invisible to a capture on the server's host.  The plugin writes RSSAC002v3.
    """
    plugin = next(Path("/usr/lib").glob("*/dnscap/rssm.so"), None)
    assert plugin is not None, "dnscap without its rssm plugin"
    output = made.directory / "capture"
    found: dict[str, dict[str, str | Scalars]] = {}
    with output.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [
                *made.client.prefix, require_tool("dnscap"), "-N", "-T", "-i", WIRE, "-s", "ir",
                "-o", "reassemble_tcp=yes", "-o", "parse_ongoing_tcp=yes", "-P", plugin,
                "-w", output, "-Y", "-n", "x.root-servers.net", "-D",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: is_capturing(made), "capturing", 10)
        yield found
        made.client.run("sleep", "2")  # it looks at what it has captured when its buffer is full, or once a second
        process.send_signal(signal.SIGINT)
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    (written,) = output.parent.glob("capture.2*")
    for text in written.read_text().split("---\n")[1:]:
        document = parse(text)
        found[str(document["metric"])] = document


def is_capturing(made: Site) -> bool:
    """Whether somebody has a packet socket at the client's end."""
    return len(made.client.run("cat", "/proc/net/packet").splitlines()) > 1


MISSED = 4
"""So many of 2,000 queries and their responses the capture may miss on a busy machine; it never sees too many."""


def assert_capture_agrees(seen: dict[str, dict[str, str | Scalars]], record: DayRecord) -> None:
    assert_hardly_missed({key: seen["traffic-volume"][key] for key in VOLUME_KEYS}, record.volume)
    ours = parse(record.text("traffic-sizes", "x.root-servers.net"))
    for key in SIZE_KEYS:
        assert_hardly_missed(seen["traffic-sizes"][key], ours[key])
    rcodes = {int(key): n for key, n in seen["rcode-volume"].items() if key.isdigit()}
    assert_hardly_missed(rcodes, {rcode: number for rcode, number in record.rcodes.items() if number})
    sources = {key: int(str(seen["unique-sources"][key])) for key in SOURCE_KEYS}
    assert sources == record.unique_sources()


def assert_hardly_missed(seen: Mapping[Any, Any], ours: Mapping[Any, Any]) -> None:
    """Counts, by whatever they are of: the capture's and *ours*."""
    missed = {key: int(str(ours.get(key, 0))) - int(str(seen.get(key, 0))) for key in {*seen, *ours}}
    assert all(0 <= number <= MISSED for number in missed.values()), missed


def stop(made: Site) -> None:
    made.process.terminate()
    assert made.process.wait(20) == 0, made.log


@pytest.fixture(autouse=True)
def not_at_midnight() -> None:
    """A test that runs over midnight would look for today's numbers in yesterday's record."""
    left = 86_400 - time.time() % 86_400
    if left < 90:
        time.sleep(left)


@pytest.mark.parametrize("mode", [*(pytest.param(mode, marks=pytest.mark.long) for mode in ("off", "tc")), "xdp"])
def test_load_metrics_and_rssac002_agree_over_a_switchover_and_a_restart(tmp_path: Path, mode: str) -> None:
    with loaded(tmp_path, mode) as load:
        if mode == "tc":
            with captured(load.site) as seen:
                load.run(times=100, rate=500)  # as much as dnscap surely takes
        else:
            load.run()
        metrics = assert_metrics_agree(load)
        if mode == "tc":
            wait_until(lambda: sum(today(load.site).rcodes.values()) == sum(load.answered.values()), "the book", 20)
            assert_capture_agrees(seen, today(load.site))
        if mode != "off":
            name = "rootsrv_fastpath_responses_total"  # as the kernel's owner says, once a second
            wait_until(lambda: total(scrape(load.site), name) > 0, "answers of the kernel")

        # A switchover under load.
        running = load.start(4, "udp", "-l", "4", "-Q", "2000")
        before = load.site.page.active
        put(load.site.directory / "root.zone", load.site.zones.versions[1])
        load.site.process.send_signal(signal.SIGHUP)
        wait_until(lambda: load.site.page.active > before, "the switchover", 20)
        assert load.finish(running, 4, "udp") == 0
        metrics = assert_metrics_agree(load)
        signals = total(metrics, "rootsrv_trust_anchor_signals_total", key_tag="20326")
        assert abs(signals - load.sent / len(NAMES.splitlines())) < 1  # one name of all, in turn

        wait_until(lambda: f"root zone loaded serial={SERIALS[1]}" in load.site.log, "report has heard of it", 20)

        # An orderly restart.
        stop(load.site)
        assert_record_agrees(load, today(load.site))
        start_server(load.site)
        wait_until(load.site.is_ready, "ready again", 40)
        load.run(times=50)
        wait_until(lambda: load.site.log.count("reporting addresses") == 2, "reporting again", 20)
        assert_metrics_agree(load)
        stop(load.site)
        record = today(load.site)
        assert_record_agrees(load, record)
        (serial,) = record.load_times  # the zone of the switchover, and no other
        assert serial == SERIALS[1]


@pytest.mark.parametrize("transport", ["udp", pytest.param("tcp", marks=pytest.mark.long)])
def test_a_worker_that_is_killed_under_load_loses_at_most_one_batch(tmp_path: Path, transport: str) -> None:
    with loaded(tmp_path, "off") as load:
        # Over TCP a batch is a turn of the event loop (server/turns.py): no more than is being asked at a time.
        running = load.start(4, transport, "-l", "4", "-Q", "20000", "-q", str(BATCH_SIZE), "-t", "1")
        wait_until(lambda: sum(load.site.page.worker(0).counters[4:8]) > 5_000, "load", 10)
        os.kill(load.site.page.worker(0).pid, signal.SIGKILL)
        late = load.finish(running, 4, transport)  # answered after a second, or never: the client has given up
        wait_until(load.site.is_ready, "replaced", 20)

        counted = total(scrape(load.site), "rootsrv_responses_total")
        answered = sum(load.answered.values())
        assert "worker replaced" in load.site.log
        assert -late <= answered - counted <= BATCH_SIZE
        stop(load.site)
        assert sum(today(load.site).rcodes.values()) == counted


def test_midnight_splits_what_kernel_and_workers_count_under_load(tmp_path: Path) -> None:
    clock = ShiftedClock(tmp_path)
    clock.set_before_midnight(1800)
    with loaded(tmp_path, "tc", clock.launcher) as load:
        load.run(times=50)
        before = dict(load.answered)
        by_kernel = load.site.kernel_replies(6)
        assert by_kernel > 0
        clock.set_before_midnight(1.5)
        running = load.start(4, "udp", "-l", "4", "-Q", "2000")
        assert load.finish(running, 4, "udp") == 0
        today_number = int(clock.midnight // DAY_SECONDS)
        slots = [load.site.page.worker(number) for number in (0, KERNEL_SLOT)]
        wait_until(lambda: all(slot.day == today_number for slot in slots), "both have turned the day", 10)
        over_midnight = load.answered["udp-ipv4"] - before["udp-ipv4"]
        load.run(times=30)
        after = {path: load.answered[path] - before[path] for path in before}
        assert load.site.kernel_replies(6) > by_kernel

        # Asked again, the metrics have counted on: no midnight in them.
        assert_metrics_agree(load)
        clock.set_before_midnight(-60)
        date, yesterday = (
            datetime.datetime.fromtimestamp(clock.midnight + shift, datetime.UTC).date() for shift in (0, -1)
        )
        statistics = load.site.directory / "state" / "statistics"
        written = (
            statistics / f"rssac002/{yesterday:%Y/%m}/traffic-volume/x-root-{yesterday:%Y%m%d}-traffic-volume.yaml"
        )
        wait_until(written.exists, "the files of the day", 20)
        stop(load.site)

        volume = {key: int(str(value)) for key, value in parse(written.read_text()).items() if key in VOLUME_KEYS}
        records = [find_record(statistics, day) for day in (yesterday, date)]
        assert records[0] is not None
        assert records[1] is not None
        assert volume == records[0].volume
        for key in VOLUME_KEYS:
            _, transport, *_, family = key.split("-")
            path = f"{transport}-{family}"
            counted = tuple(record.volume[key] for record in records if record)
            if path != "udp-ipv4":  # nobody asked there at midnight: there is no room for doubt
                assert (key, *counted) == (key, before[path], after[path])
            else:
                assert sum(counted) == load.answered[path]
                assert 0 < counted[0] - before[path] < over_midnight
        for record in records:
            assert record is not None
            responses = sum(number for key, number in record.volume.items() if "responses" in key)
            assert sum(record.rcodes.values()) == responses
            sizes = sum(sum(record.sizes[f"{transport}-response-sizes"].values()) for transport in ("udp", "tcp"))
            assert sizes == responses
            assert record.unique_sources()["num-sources-ipv6"] == 1


def test_when_the_kernels_owner_is_killed_a_second_of_what_it_counted_is_lost_at_most(tmp_path: Path) -> None:
    rate = 1000
    with loaded(tmp_path, "tc") as load:
        running = load.start(4, "udp", "-l", "8", "-Q", str(rate), "-t", "1")
        kernel = load.site.page.worker(KERNEL_SLOT)
        wait_until(lambda: kernel.counters[4] > 2 * rate, "counted by the kernel", 20)
        owner = load.site.serve_pid()
        os.kill(owner, signal.SIGKILL)
        late = load.finish(running, 4, "udp")  # answered after a second, or never: the client has given up
        wait_until(lambda: load.site.is_ready() and load.site.serve_pid() != owner, "another owner", 40)

        load.run(times=20)
        counted = lambda: total(scrape(load.site), "rootsrv_responses_total", transport="udp", family="ipv6")  # noqa: E731
        wait_until(lambda: counted() == load.answered["udp-ipv6"], "the new owner has counted", 5)
        lost = load.answered["udp-ipv4"] - total(
            scrape(load.site), "rootsrv_responses_total", transport="udp", family="ipv4"
        )
        # Its timer may be late by half of it on a busy machine; the workers lose a batch.
        assert -late <= lost <= 1.5 * DUTY_SECONDS * rate + BATCH_SIZE
        stop(load.site)
