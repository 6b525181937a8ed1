"""`rootsrv demo` in a network of its own: what it shows, what its tour does, and what it leaves behind: nothing."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench.peers.daemon import free_port
from rootsrv.commands import demo, demo_watch
from rootsrv.page import counts
from rootsrv.page.layout import COUNTER_WORDS
from tests.needs import REPOSITORY, require_tool
from tests.network import network
from tests.server.live import wait_until

PORT = 5300
OBJECT = REPOSITORY / "rootsrv/fastpath/bpf/rootsrv.bpf.o"


def test_a_line_says_what_was_answered_and_by_whom() -> None:
    everybody, kernel = [0] * COUNTER_WORDS, [0] * COUNTER_WORDS
    everybody[counts.QUERIES : counts.QUERIES + 4] = [40, 50, 6, 4]
    kernel[counts.QUERIES : counts.QUERIES + 4] = [40, 30, 0, 0]
    everybody[counts.RCODES + 3] = 20
    everybody[counts.RCODES + counts.RCODES_PER_PATH + counts.TRUNCATED_BIT + 3] = 2
    told = demo_watch.line(7, 2.0, everybody, kernel, kernel_is_there=True)
    assert told == "serial 7  50 queries/s (kernel 35, workers 15)  IPv6 27  TCP 5  NXDOMAIN 11"
    assert "(by workers)" in demo_watch.line(7, 2.0, everybody, [0] * COUNTER_WORDS, kernel_is_there=False)


@pytest.mark.parametrize("wrong", [{"port": 0}, {"tlds": 2}, {"workers": 65}, {"rate": -1}, {"tour_seconds": -1.0}])
def test_what_cannot_be_is_refused(wrong: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    good = {"port": PORT, "tlds": 40, "workers": 1, "rate": 0, "tour_seconds": 0.0}
    assert demo.run(demo.DemoWanted(**{**good, **wrong})) == 2  # type: ignore[arg-type]
    assert next(iter(wrong)).split("_")[0] in capsys.readouterr().err


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_who_presses_ctrl_c_twice_interrupts_no_clearing_up(first: signal.Signals) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    cleared = False
    with demo.ended_by_signals():
        try:
            signal.raise_signal(first)
        except KeyboardInterrupt:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            cleared = True
    assert cleared
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_commands_are_shown_as_they_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    ours = tmp_path / ".venv/bin/rootsrv"
    ours.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(ours.with_name("python")))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.chdir(tmp_path)
    assert demo.typed_name() == ".venv/bin/rootsrv"
    monkeypatch.chdir("/")
    assert demo.typed_name() == str(ours)
    monkeypatch.setenv("PATH", str(ours.parent))
    assert demo.typed_name() == "rootsrv"


def test_of_two_demos_each_has_a_status_page_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that the second one prints is not the page of the first."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.2", 0))) for _ in range(2)]
        ports = [each.getsockname()[1] for each in taken]
        free = free_port("127.0.0.2")
        monkeypatch.setattr(demo, "REPORT_PORTS", (*ports, free))
        assert demo._free_report_port() == free


def test_where_the_port_is_taken_a_free_one_is_shown_in_a_line_that_can_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    ours = tmp_path / ".venv/bin/rootsrv"
    ours.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(ours.with_name("python")))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.chdir("/")
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        taken = listener.getsockname()[1]
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", taken + 1)))
        assert demo.run(demo.DemoWanted(port=taken, tlds=40, workers=1, rate=0, tour_seconds=0.0)) == 1
        told = re.fullmatch(
            rf"rootsrv: 127\.0\.0\.1 port {taken} \(TCP\): the port is in use\. "
            rf"Another one: {re.escape(str(ours))} demo --port (\d+)\n",
            capsys.readouterr().err,
        )
        assert told
        with socket.create_server(("127.0.0.1", int(told[1]))):
            pass


def test_where_there_is_no_room_the_directory_is_named(tmp_path: Path) -> None:
    """It was said that what is to be said cannot be written."""
    limited = [require_tool("prlimit"), "--fsize=10000"]
    command = [sys.executable, "-m", "rootsrv", "demo", "--tlds", "40", "--port", str(free_port("127.0.0.1"))]
    done = subprocess.run(
        [*limited, *command],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    told = rf"rootsrv: {re.escape(str(tmp_path))}/rootsrv-demo-\S+ cannot be written: File too large; TMPDIR names"
    assert re.search(told, done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_in_place_of_a_port_that_wants_privilege_one_is_shown_that_wants_none() -> None:
    assert demo._another_port(("127.0.0.1",), 53) >= 1024
    assert 1024 <= demo._another_port(("127.0.0.1",), 65_535) < 65_535


def test_what_is_shown_of_the_first_steps_fits_into_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    """The seconds at its end, too."""
    console = Console(stderr=True, markup=False, width=80)
    with demo._progress(console) as progress:
        for step in (demo.GENERATING.format(tlds=20_000), demo.STARTING):
            progress.update(progress.add_task(step), completed=1, total=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "…" in line] == []
    assert all(re.search(r"\d:\d\d:\d\d$", line.rstrip()) for line in lines if line.strip())


@pytest.mark.long
def test_the_tour_shows_a_new_version_a_refusal_and_a_hold_and_raises_no_alarm_of_a_laboratory(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with network() as net:
        host = net.host("demo")
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*host.prefix, sys.executable, "-m", "rootsrv", "demo", "--tlds", "60", "--workers", "1",
                 "--tour", "3", "--rate", "100"],
                cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
                env={**os.environ, "TMPDIR": str(tmp_path)},
            )  # fmt: skip
        try:

            def told(text: str) -> bool:
                assert process.poll() is None, log.read_text()
                return text in log.read_text()

            wait_until(lambda: told("queries/s"), "a line of what is answered", 60)
            look = "import urllib.request as r; print(r.urlopen('http://%s:%d/').read().decode())"
            look %= demo.REPORT_ADDRESS, demo.REPORT_PORTS[0]
            wait_until(lambda: "Somebody should look" not in host.run(sys.executable, "-c", look), "no alarm", 30)
            wait_until(lambda: told("tour: held: "), "a version is held", 60)
            wait_until(lambda: told("is rejected"), "nobody decided", 60)
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, log.read_text()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text()
    assert "Traceback" not in text
    serials = re.findall(r"tour: serial (\d+) is served", text)
    assert serials == sorted(serials)
    assert len(serials) >= 2
    assert re.search(r"tour: refused: .*ZONEMD", text)
    assert f"tour: serial {serials[1]} is answered on" in text
    assert re.search(r"tour: held: .*TLDs", text)
    assert re.search(rf"tour: decide: {re.escape(demo.typed_name())} zone approve \d+ --config /", text)
    rates = [int(each) for each in re.findall(r"(\d+) queries/s", text)]
    assert max(rates) > 10
    if OBJECT.exists():
        assert max(map(int, re.findall(r"kernel (\d+)", text))) > 0
    assert text.count('The clock is believed, synchronised or not (clock.source = "trusted").') == 1
    assert list(tmp_path.glob("rootsrv-demo-*")) == []
