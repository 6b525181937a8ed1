"""A capture of a running instance: what was asked is in its files, or counted as lost, and in nobody's way."""

import datetime
import gzip
import hashlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rootsrv.control.client import NoAnswer
from rootsrv.page import counts
from tests.control.asking import ask
from tests.needs import REPOSITORY, require_tool
from tests.server.live import START_SECONDS, Instance, running, wait_until

CAPTURE = """
[capture]
buffer_megabytes = 1
rotation_seconds = 86400
keep_free_gigabytes = 0
"""


@dataclass
class Captured:
    """An instance, and the role's socket and files."""

    instance: Instance

    @property
    def directory(self) -> Path:
        return self.instance.directory / "state" / "capture"

    def order(self, command: str, **request: Any) -> dict[str, Any]:
        return ask(self.instance.directory / "run" / "capture.sock", command, **request)

    def files(self, suffix: str = "") -> list[Path]:
        found = [each for each in self.directory.iterdir() if ".pcap" in each.name or ".cdns" in each.name]
        return sorted(
            each for each in found if not each.name.endswith((".json", ".md5")) and each.name.endswith(suffix)
        )

    def counted(self) -> int:
        words = counts.total(self.instance.page)
        return sum(words[counts.QUERIES : counts.QUERIES + 4]) + sum(words[counts.MALFORMED : counts.MALFORMED + 4])

    def start(self, **request: Any) -> None:
        for each in self.directory.iterdir():
            each.unlink()
        self.begin(**request)

    def begin(self, **request: Any) -> None:
        assert self.order("capture-start", **request)["state"] == "capturing"
        wait_until(lambda: self.order("status")["why"] == "", "it has the rings", START_SECONDS)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    with running(tmp_path_factory.mktemp("captured"), workers=2, service=CAPTURE) as instance:
        found = Captured(instance)
        wait_until(lambda: is_there(found), "the role capture answers", START_SECONDS)
        yield found


def is_there(found: Captured) -> bool:
    try:
        return found.order("status")["state"] == "idle"
    except (OSError, NoAnswer):
        return False


def query(number: int, name: bytes = b"\3com\0") -> bytes:
    return struct.pack("!6H", number, 0, 1, 0, 0, 0) + name + b"\0\1\0\1"


def ask_over_udp(port: int, queries: list[bytes], address: str = "127.0.0.1") -> int:
    """Ask one after the other, as many as get no answer in between; the client's port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect((address, port))
        for octets in queries:
            client.send(octets)
            client.recv(4096)
        own: int = client.getsockname()[1]
        return own


def ask_over_tcp(port: int, queries: list[bytes]) -> None:
    with socket.create_connection(("::1", port), timeout=10) as client:
        client.sendall(b"".join(struct.pack("!H", len(octets)) + octets for octets in queries))
        stream = client.makefile("rb")
        for _ in queries:
            stream.read(int.from_bytes(stream.read(2), "big"))


def packets(octets: bytes) -> list[tuple[int, bytes]]:
    """(time in nanoseconds, packet) of each record; AssertionError for what is no whole pcap file."""
    magic, _, _, _, _, _, link = struct.unpack_from("<IHHiIII", octets)
    assert (magic, link) == (0xA1B23C4D, 101)
    found, at = [], 24
    while at < len(octets):
        seconds, rest, captured, length = struct.unpack_from("<IIII", octets, at)
        assert captured == length
        assert rest < 10**9
        found.append((seconds * 10**9 + rest, octets[at + 16 : at + 16 + length]))
        at += 16 + length
    assert at == len(octets)
    return found


def test_every_query_is_in_the_file_in_order_of_time(captured: Captured) -> None:
    before = captured.counted()
    captured.start(format="pcap", compression="gzip")
    asked = [query(number) for number in range(400)]
    for address in ("127.0.0.1", "::1"):
        ask_over_udp(captured.instance.port, asked, address)
    ask_over_tcp(captured.instance.port, asked)
    told = captured.order("capture-stop")

    (file,) = captured.files()
    found = packets(gzip.decompress(file.read_bytes()))

    assert told["queries_counted"] is None or told["state"] == "idle"
    assert len(found) == 3 * len(asked) == captured.counted() - before
    times = [at for at, _ in found]
    about = json.loads(file.with_name(f"{file.name}.json").read_text())
    assert about["items"] == len(found)
    assert about["late"] or times == sorted(times)
    assert (about["first"], about["last"]) == (min(times), max(times))
    assert about["md5"] == hashlib.md5(file.read_bytes()).hexdigest()
    udp = [packet for _, packet in found if packet[0] >> 4 == 4 or packet[6] == 17]
    assert sorted(packet[28 if packet[0] >> 4 == 4 else 48 :] for packet in udp) == sorted(2 * asked)
    tcp = b"".join(packet[60:] for _, packet in found if packet[0] >> 4 == 6 and packet[6] == 6)
    assert tcp == b"".join(struct.pack("!H", len(octets)) + octets for octets in asked)
    assert not list(captured.directory.glob("*.part"))


@pytest.mark.parametrize("tool", ["tcpdump", "tshark"])
def test_others_read_it(captured: Captured, tool: str) -> None:
    require_tool(tool)
    captured.start(format="pcap", compression="none")
    asked = [query(number, b"\7example\3org\0") for number in range(40)]
    port = ask_over_udp(captured.instance.port, asked)
    ask_over_tcp(captured.instance.port, asked)
    captured.order("capture-stop")
    (file,) = captured.files()
    as_dns = ["-d", f"udp.port=={captured.instance.port},dns", "-d", f"tcp.port=={captured.instance.port},dns"]
    command = {
        "tcpdump": [tool, "-nr", file, "udp"],
        "tshark": [tool, "-r", file, *as_dns, "-T", "fields", "-e", "dns.qry.name", "-e", "dns.id"],
    }[tool]

    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()

    if tool == "tcpdump":
        assert len(printed) == len(asked)
        assert all(f"127.0.0.1.{port} > 127.0.0.1.{captured.instance.port}" in line for line in printed)
    else:
        assert sorted(printed) == sorted(f"example.org\t0x{number:04x}" for number in 2 * list(range(40)))


def test_c_dns_has_them_too(captured: Captured) -> None:
    captured.start(format="cdns", compression="zstd")
    ask_over_udp(captured.instance.port, [query(number) for number in range(300)])
    captured.order("capture-stop")

    (file,) = captured.files(".cdns.zst")
    import cbor2
    import zstandard

    whole = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(file.read_bytes()), read_across_frames=True)
    kind, _, blocks = cbor2.loads(whole.read())
    assert kind == "C-DNS"
    assert sum(len(block.get(3, ())) for block in blocks) == 300


def test_killed_at_any_instant_it_leaves_no_broken_file_and_goes_on(captured: Captured) -> None:
    captured.start(format="pcap", compression="gzip", seconds=600.0)
    before = captured.order("status")["items"]
    ask_over_udp(captured.instance.port, [query(number) for number in range(100)])
    wait_until(lambda: captured.order("status")["items"] - before >= 100, "all are written", START_SECONDS)
    os.kill(captured.order("status")["pid"], signal.SIGKILL)
    # Nobody reads now: what comes waits in the rings.
    ask_over_udp(captured.instance.port, [query(number) for number in range(100, 200)])
    wait_until(lambda: is_capturing(captured), "it goes on", START_SECONDS)
    wait_until(lambda: captured.order("status")["items"] >= 100, "what waited is written", START_SECONDS)

    told = captured.order("capture-stop")

    # What it had in hand is told by the next one, in the metadata too.
    assert {where: lost for where, lost in told["lost"].items() if lost} == {"interrupted": 100}
    assert told["capture"] == {"items": 100, "lost": 100, "passed_over": 0}
    (file,) = captured.files(".pcap.gz")
    found = packets(gzip.decompress(file.read_bytes()))
    assert sorted(packet[28:] for _, packet in found) == [query(number) for number in range(100, 200)]
    assert json.loads(file.with_name(file.name + ".json").read_text())["lost"] == 100
    (left,) = captured.files(".incomplete")
    assert left.name.removesuffix(".incomplete") != file.name


def is_capturing(found: Captured) -> bool:
    try:
        return found.order("status")["state"] == "capturing"
    except (OSError, NoAnswer):
        return False


def test_whoever_answers_goes_first_where_they_share_a_core(captured: Captured) -> None:
    role = captured.order("status")["pid"]

    assert os.getpriority(os.PRIO_PROCESS, role) == 10
    assert all(os.getpriority(os.PRIO_PROCESS, each) < 10 for each in captured.instance.worker_pids())


def test_it_ends_by_itself_when_its_time_is_over(captured: Captured) -> None:
    captured.start(format="pcap", compression="none", seconds=5.0)
    ask_over_udp(captured.instance.port, [query(1)])
    wait_until(lambda: not (captured.directory / "order.json").exists(), "its time is over", 30)

    assert [len(packets(each.read_bytes())) for each in captured.files()] == [1]
    assert captured.order("status")["state"] == "idle"


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"format": "csv"}, "format: must be one of"),
        ({"seconds": -1.0}, "seconds: must be"),
        ({"until": 1.0}, "over already"),
        ({"until": 1e308}, "until: must be seconds since 1970"),
        ({"at": 1e308}, "at: must be seconds since 1970"),
        ({"at": -1.0}, "at: must be seconds since 1970"),
        ({"at": time.time() + 200_000, "until": time.time() + 100_000}, "before it begins"),
        ({"rotation_seconds": 7}, "must divide a day"),
        ({"name": "../up"}, "capture.name"),
    ],
    ids=lambda each: each if isinstance(each, str) else "+".join(each),
)
def test_what_cannot_be_is_refused(captured: Captured, wanted: dict[str, Any], why: str) -> None:
    assert why in captured.order("capture-start", **wanted)["error"]
    assert captured.order("status")["state"] == "idle"


def test_any_year_that_can_be_shown_will_do(captured: Captured) -> None:
    last = 253_402_300_799.0
    assert captured.order("capture-start", at=last)["begins"] == last
    captured.order("capture-stop")
    captured.start(until=last)
    assert captured.order("status")["until"] == last
    captured.order("capture-stop")


def command(captured: Captured, *arguments: str) -> "subprocess.CompletedProcess[str]":
    config = str(captured.instance.directory / "rootsrv.toml")
    return subprocess.run(
        [sys.executable, "-m", "rootsrv", "capture", *arguments, "--config", config],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_an_operator_starts_looks_and_stops(captured: Captured) -> None:
    for each in captured.directory.iterdir():
        each.unlink()
    started = command(captured, "start", "--for", "50h", "--format", "pcap", "--compression", "none")
    assert started.returncode == 0, started.stderr
    assert "capturing as pcap, until " in started.stdout
    ask_over_udp(captured.instance.port, [query(number) for number in range(10)])
    wait_until(lambda: captured.order("status")["items"] >= 10, "they are written", START_SECONDS)

    told = json.loads(command(captured, "status", "--json").stdout)
    assert told["queries_counted"] == 10
    assert command(captured, "start").stderr.startswith("rootsrv: a capture is under way")
    stopped = command(captured, "stop")

    assert stopped.returncode == 0
    assert [len(packets(each.read_bytes())) for each in captured.files()] == [10]


def test_a_collection_is_checked_before_it_begins(captured: Captured) -> None:
    refused = command(captured, "ditl", "--rate", "1000000")

    assert refused.returncode == 1
    assert "the clock is not synchronised" in refused.stderr or "off by up to" not in refused.stderr
    assert "50 hours of 1000000 queries a second take some 9180 GB" in refused.stderr
    assert captured.order("status")["state"] == "idle"


@pytest.mark.long
def test_a_whole_collection_ends_by_itself_and_is_brought_away(tmp_path: Path) -> None:
    """`capture ditl` from its check to files with their checksums elsewhere: an hour that is over within a minute."""
    rsync = require_tool("rsync")
    config = f'{CAPTURE}[clock]\nsource = "trusted"\n'
    with running(tmp_path, workers=2, service=config) as instance:
        captured = Captured(instance)
        wait_until(lambda: is_there(captured), "the role capture answers", START_SECONDS)
        ends = (int(time.time()) + 20) // 60 * 60 + 60
        window = (
            "--begin",
            f"{datetime.datetime.fromtimestamp(ends - 3600, datetime.UTC):%Y-%m-%dT%H:%M}",
            "--hours",
            "1",
        )
        away = tmp_path / "away"
        checked = command(captured, "ditl", *window, "--check")
        assert (checked.returncode, captured.order("status")["state"]) == (0, "idle"), checked.stderr
        assert window[1] not in checked.stdout, "what has been is not collected any more"
        begun = command(captured, "ditl", *window, "--to", str(away), "--compression", "gzip", "--json")
        assert begun.returncode == 0, begun.stderr
        wait_until(lambda: captured.order("status")["why"] == "", "it has the rings", START_SECONDS)
        again = command(captured, "ditl", *window)
        assert (again.returncode, "a capture is under way" in again.stderr) == (1, True)
        asked = [query(number) for number in range(500)]
        before = captured.counted()
        ask_over_udp(instance.port, asked)
        wait_until(lambda: captured.order("status")["state"] == "idle", "its time is over", 100)
        assert time.time() >= ends
        ask_over_udp(instance.port, asked[:10])  # nobody wants to know any more
        upload = json.loads(begun.stdout)["upload"]
        for _ in range(2):  # the second time there is nothing to do
            subprocess.run(upload.replace("rsync", rsync, 1), shell=True, check=True, timeout=60)
        assert captured.counted() - before == 510
        brought = sorted(each.name for each in away.iterdir())
        (file,) = [each for each in captured.files() if each.suffix == ".gz"]
        assert brought == [file.name, f"{file.name}.json", f"{file.name}.md5"]
        subprocess.run(["md5sum", "--check", "--quiet", f"{file.name}.md5"], cwd=away, check=True, timeout=60)
        found = [packet[28:] for _, packet in packets(gzip.decompress((away / file.name).read_bytes()))]
        assert sorted(found) == sorted(asked)
        assert json.loads((away / f"{file.name}.json").read_text())["lost"] == 0


def test_of_each_capture_the_status_has_what_the_instance_counted_over_a_restart(captured: Captured) -> None:
    """A second one, whose role ends in between and is started again: its numbers are its own, and whole."""
    captured.start(format="pcap")
    ask_over_udp(captured.instance.port, [query(number) for number in range(30)])
    captured.order("capture-stop")
    captured.start(format="cdns")
    ask_over_udp(captured.instance.port, [query(number) for number in range(50)])
    wait_until(lambda: captured.order("status")["capture"]["items"] == 50, "they are written", START_SECONDS)
    role = captured.order("status")["pid"]
    os.kill(role, signal.SIGTERM)
    ask_over_udp(captured.instance.port, [query(number) for number in range(20)])
    wait_until(lambda: is_capturing(captured) and captured.order("status")["pid"] != role, "it goes on", START_SECONDS)
    wait_until(lambda: captured.order("status")["capture"]["items"] == 70, "what waited is written", START_SECONDS)

    told = captured.order("status")
    shown = command(captured, "status").stdout
    captured.order("capture-stop")

    assert told["capture"] == {"items": 70, "lost": 0, "passed_over": 0}
    assert told["queries_counted"] == 70
    assert "this capture: 70 in files or on their way, 0 lost" in shown
