"""What the generator asked = what the files hold + what was counted as lost = RSSAC002 = metrics, to the query.

Kernel (XDP and tc) and workers, UDP, TCP and TLS, CHAOS and what cannot be understood, over a switchover, rotations and
midnight; with columns and without numpy.
"""

import contextlib
import datetime
import itertools
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from rootsrv.telemetry.daybook import find_record
from rootsrv.telemetry.rssac002 import VOLUME_KEYS
from tests.capture.cdns_decoder import decode
from tests.capture.test_whole import CAPTURE, QUERIES, order
from tests.fastpath.conftest import require_program
from tests.fastpath.site import SERVICE, Site, site, socket_in
from tests.needs import require_tool
from tests.server.live import START_SECONDS, put, wait_until
from tests.telemetry.shifted_clock import ShiftedClock
from tests.telemetry.test_sums import NAMES, REPORT, Load, receive_what_xdp_sends, scrape
from tests.telemetry.watched import total


@pytest.mark.parametrize(
    ("mode", "has_columns"), [("xdp", True), pytest.param("tc", False, marks=pytest.mark.long)], ids=str
)
def test_generator_files_losses_rssac002_and_metrics_agree(tmp_path: Path, mode: str, has_columns: bool) -> None:
    require_program()
    require_tool("dnsperf")
    clock = ShiftedClock(tmp_path)
    clock.set_before_midnight(1800)
    names = tmp_path / "names"
    names.write_text(NAMES)
    launcher = [*clock.launcher]
    if not has_columns:
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "numpy.py").write_text("raise ImportError")
        launcher += ["env", f"PYTHONPATH={tmp_path / 'hidden'}"]
    with site(tmp_path, REPORT + CAPTURE + "[dot]\n", mode=mode, workers=2, launcher=launcher) as made:
        if mode == "xdp":
            receive_what_xdp_sends(made)
        wait_until(lambda: "reporting addresses" in made.log, "reporting", START_SECONDS)
        wait_until((made.directory / "run" / "capture.sock").exists, "the role capture listens", START_SECONDS)
        assert made.hook().lower().startswith(mode)  # tcx, where the kernel has it
        load = Load(made, names)
        order(made, "capture-start", format="cdns", compression="none")
        wait_until(lambda: order(made, "status")["why"] == "", "it has the rings", START_SECONDS)
        clock.set_before_midnight(3)  # a step, too: it ends a file

        running = load.start(4, "udp", "-l", "6", "-Q", "1500")
        active = made.page.active
        put(made.directory / "root.zone", made.zones.versions[1])
        made.process.send_signal(signal.SIGHUP)
        wait_until(lambda: made.page.active > active, "the switchover", START_SECONDS)
        assert load.finish(running, 4, "udp") == 0
        assert clock.now() > clock.midnight
        load.run(times=20)
        for family in (4, 6):
            assert load.finish(load.start(family, "dot", "-n", "20", "-c", "2"), family, "dot") == 0
        over_tls = load.answered["dot-ipv4"] + load.answered["dot-ipv6"]
        odd = ask_what_is_odd(made, 30)
        lose(made, load)
        asked = load.sent + odd["CHAOS"] + odd["malformed"]
        wait_until(lambda: order(made, "status")["queries_counted"] == asked, "the instance counted as many", 5)
        told = order(made, "capture-stop")

        assert told["columns"] is has_columns
        assert over_tls > 0
        answered = sum(load.answered.values()) + odd["CHAOS"]
        lost = sum(told["lost"].values())  # type: ignore[attr-defined]
        assert lost > 0
        assert told["items"] + lost == answered + odd["malformed"] == asked
        assert in_files(made) == {"items": told["items"], "lost": lost}
        agree(
            made,
            {
                "rootsrv_responses_total": answered + odd["malformed"] - over_tls,
                "rootsrv_queries_total": answered - over_tls,
                "rootsrv_tls_queries_total": over_tls,
                "rootsrv_malformed_queries_total": odd["malformed"],
                "rootsrv_capture_queries_total": told["items"],
                "rootsrv_capture_lost_queries_total": lost,
            },
        )
        made.process.terminate()
        assert made.process.wait(20) == 0, made.log
    assert recorded(made, clock) == answered - over_tls


def agree(made: Site, expected: dict[str, Any]) -> None:
    """The metrics become what is *expected*."""

    def found() -> dict[str, Any]:
        scraped = scrape(made)
        return {name: total(scraped, name) for name in expected}

    with contextlib.suppress(AssertionError):
        wait_until(lambda: found() == expected, "report has heard of all", START_SECONDS)
    assert found() == expected


def ask_what_is_odd(made: Site, rounds: int) -> dict[str, int]:
    """Over UDP and both families: CHAOS, and what cannot be understood; how many of each."""
    *_, chaos, malformed = QUERIES
    for family, octets, _ in itertools.product((4, 6), (chaos, malformed), range(rounds)):
        with socket_in(made.client, socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect((SERVICE[family], 53))
            client.send(octets)
            client.recv(4096)
    return {"CHAOS": 2 * rounds, "malformed": 2 * rounds}


def lose(made: Site, load: Load) -> None:
    """Ask more than the rings hold while the role capture does not run."""
    pid: Any = order(made, "status")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        # A ring of each of two CPUs holds 65,536 units: of some four or five a query, and two CPUs may share these.
        running = load.start(6, "udp", "-n", str(50_000 // len(NAMES.splitlines())), "-Q", "15000")
        assert load.finish(running, 6, "udp") == 0
    finally:
        os.kill(pid, signal.SIGCONT)


def in_files(made: Site) -> dict[str, int]:
    found = {"items": 0, "lost": 0}
    for path in (made.directory / "state" / "capture").glob("*.cdns"):
        for block in decode(path.read_bytes()).blocks:
            found["items"] += block[1][1] + block[1][5]
            found["lost"] += block[1][-7]
    return found


def recorded(made: Site, clock: ShiftedClock) -> int:
    """Queries in RSSAC002's records of both days, of which neither is without any."""
    counted = []
    for shift in (-1, 0):
        day = datetime.datetime.fromtimestamp(clock.midnight + shift, datetime.UTC).date()
        record = find_record(made.directory / "state" / "statistics", day)
        assert record is not None
        counted.append(sum(record.volume[key] for key in VOLUME_KEYS if "queries" in key))
    assert all(counted), counted
    return sum(counted)
