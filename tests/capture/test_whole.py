"""What a client asked is what the files hold and everybody counts: kernel and workers, UDP and TCP, a switchover."""

import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.page import counts
from tests.capture.test_role import packets
from tests.control.asking import ask
from tests.fastpath.conftest import message, opt, require_program, wire
from tests.fastpath.site import SERVICE, WIRE, Site, site, socket_in
from tests.needs import require_tool
from tests.server.live import START_SECONDS, wait_until

CAPTURE = """
[capture]
buffer_megabytes = 1
rotation_seconds = 1
compression = "none"
keep_free_gigabytes = 0
"""


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The kernel answers at tc (veth), beside two workers."""
    require_program()
    with site(tmp_path_factory.mktemp("captured"), CAPTURE, workers=2) as made:
        wait_until((made.directory / "run" / "capture.sock").exists, "the role capture listens", START_SECONDS)
        yield made


def order(made: Site, command: str, **request: object) -> dict[str, object]:
    told: dict[str, object] = ask(made.directory / "run" / "capture.sock", command, **request)
    return told


def counted(made: Site) -> tuple[int, int]:
    """What the instance has counted: all, and of it the kernel's."""
    made.ask_serve("fastpath-count")
    words = counts.total(made.page)
    kernel = sum(made.kernel_replies(family) for family in (4, 6))
    return sum(words[counts.QUERIES : counts.QUERIES + 4]) + sum(words[counts.MALFORMED : counts.MALFORMED + 4]), kernel


QUERIES = (
    message(wire(b"com"), opt=opt()),
    message(wire(b"www", b"nosuch"), 28),
    message(wire(b"a" * 60, b"b" * 60, b"org"), opt=opt(4096)),
    message(wire(b"id", b"server"), 16, qclass=3),  # CHAOS: the workers
    b"\0\1\0\0\0\2" + bytes(6),  # not understood: the workers
)


def ask_all(made: Site, rounds: int) -> list[bytes]:
    """Ask over UDP and TCP, over both families; the queries, each with an id of its own."""
    asked = []
    numbers = itertools.count(1)
    for family in (4, 6):
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        udp, tcp = (socket_in(made.client, kind, each) for each in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
        with udp, tcp:
            for each in (udp, tcp):
                each.settimeout(10)
                each.connect((SERVICE[family], 53))
            stream = tcp.makefile("rb")
            for _ in range(rounds):
                for query in QUERIES:
                    octets = next(numbers).to_bytes(2, "big") + query[2:]
                    udp.send(octets)
                    udp.recv(4096)
                    asked.append(octets)
                octets = next(numbers).to_bytes(2, "big") + QUERIES[0][2:]
                tcp.sendall(struct.pack("!H", len(octets)) + octets)
                stream.read(int.from_bytes(stream.read(2), "big"))
                asked.append(octets)
    return asked


def files(made: Site, suffix: str) -> list[Path]:
    return sorted((made.directory / "state" / "capture").glob(f"*{suffix}"))


def message_of(packet: bytes) -> bytes:
    at, protocol = (20, packet[9]) if packet[0] >> 4 == 4 else (40, packet[6])
    return packet[at + 8 :] if protocol == 17 else packet[at + 22 :]


def test_sums_agree_over_rotations_and_a_switchover(captured: Site) -> None:
    before = counted(captured)
    active = captured.page.active
    assert order(captured, "capture-start", format="pcap")["state"] == "capturing"
    wait_until(lambda: order(captured, "status")["why"] == "", "it has the rings", START_SECONDS)
    asked = ask_all(captured, 40)
    done = captured.order("zone-import", octets=captured.zones.versions[1], now=True)
    assert done.get("state") == "served"
    wait_until(
        lambda: captured.page.active != active and captured.is_ready(), "the next generation answers", START_SECONDS
    )
    asked += ask_all(captured, 40)
    second = int(time.time())
    wait_until(lambda: int(time.time()) > second, "the time of another file")
    asked += ask_all(captured, 5)
    told = order(captured, "capture-stop")
    after = counted(captured)

    found = [packet for path in files(captured, ".pcap") for _, packet in packets(path.read_bytes())]

    assert set(told["lost"].values()) == {0}
    assert len(found) == len(asked) == after[0] - before[0] == told["items"]
    assert after[1] - before[1] >= len(asked) // 3, "the kernel answered its share"
    assert sorted(map(message_of, found)) == sorted(asked)
    assert len(files(captured, ".pcap")) >= 2
    for path in files(captured, ".pcap"):
        about = json.loads(path.with_name(f"{path.name}.json").read_text())
        times = [at for at, _ in packets(path.read_bytes())]
        assert about["items"] == len(times)
        assert about["late"] or times == sorted(times)


def test_the_clients_end_of_the_wire_saw_the_same_packets(captured: Site, tmp_path: Path) -> None:
    tcpdump = require_tool("tcpdump")
    there = tmp_path / "there.pcap"
    for path in (captured.directory / "state" / "capture").iterdir():
        path.unlink()
    with subprocess.Popen(
        [*captured.client.prefix, tcpdump, "-i", WIRE, "-U", "-w", there, "udp dst port 53"],
        stderr=subprocess.PIPE, text=True,
    ) as listening:  # fmt: skip
        assert listening.stderr is not None
        assert "listening on" in listening.stderr.readline()
        order(captured, "capture-start", format="pcap")
        wait_until(lambda: order(captured, "status")["why"] == "", "it has the rings", START_SECONDS)
        asked = ask_all(captured, 20)
        datagrams = len(asked) * len(QUERIES) // (len(QUERIES) + 1)
        order(captured, "capture-stop")
        wait_until(lambda: len(frames(there)) == datagrams, "tcpdump has written", START_SECONDS)
        listening.send_signal(signal.SIGINT)

    seen = sorted(frame[14:] for frame in frames(there))
    ours = [packet for path in files(captured, ".pcap") for _, packet in packets(path.read_bytes())]
    udp = [packet for packet in ours if (packet[9] if packet[0] >> 4 == 4 else packet[6]) == 17]
    true = sorted(packet for packet in udp if (packet[8] if packet[0] >> 4 == 4 else packet[7]))

    assert sorted(map(message_of, udp)) == sorted(map(message_of, seen))
    assert len(true) >= datagrams // 2, "the kernel's"
    remaining = list(seen)
    for packet in true:
        remaining.remove(packet)  # to the octet: hop limit, identification, checksum


MARK = message(wire(b"dnscap-is-there"))


def test_dnscap_at_the_clients_end_saw_the_same_queries(captured: Site, tmp_path: Path) -> None:
    """It says when it listens, and what it has seen, by its file alone: packet by packet (-D, -1).

    Its socket is there before its filter is, which lets go of what came meanwhile; of a connection of which it has not
    seen the SYN it takes nothing.
    """
    dnscap = require_tool("dnscap")

    def seen() -> list[tuple[bytes, bytes, bytes]]:
        packets = (packet for path in tmp_path.glob("there.2*") for _, packet in raw_packets(path.read_bytes()))
        return sorted(each for packet in packets if (each := asked_by(packet)) is not None)

    def is_there() -> bool:
        with socket_in(captured.client, socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(MARK, (SERVICE[4], 53))
        return seen() != []

    for path in (captured.directory / "state" / "capture").iterdir():
        path.unlink()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*captured.client.prefix, dnscap, "-N", "-T", "-D", "-1", "-i", WIRE, "-s", "i", "-w", tmp_path / "there"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_until(is_there, "dnscap listens", START_SECONDS)
        order(captured, "capture-start", format="pcap")
        wait_until(lambda: order(captured, "status")["why"] == "", "it has the rings", START_SECONDS)
        asked = ask_all(captured, 20)
        order(captured, "capture-stop")
        wait_until(lambda: len(without_mark(seen())) >= len(asked), "dnscap has seen them", START_SECONDS)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait()
    ours = [packet for path in files(captured, ".pcap") for _, packet in packets(path.read_bytes())]

    assert len(ours) == len(asked)
    assert sorted(map(asked_by, ours)) == without_mark(seen())


def without_mark(seen: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, bytes, bytes]]:
    return [each for each in seen if each[2] != MARK]


def asked_by(packet: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Addresses, ports and message of a query's packet; None for one without a message."""
    at, addresses, protocol = (20, packet[12:20], packet[9]) if packet[0] >> 4 == 4 else (40, packet[8:40], packet[6])
    ports = packet[at : at + 4]
    if protocol == 17:
        return addresses, ports, packet[at + 8 :]
    octets = packet[at + 4 * (packet[at + 12] >> 4) :]
    return (addresses, ports, octets[2:]) if octets[2:] else None


def is_captured(made: Site) -> bool:
    """Whether somebody has a packet socket at the client's end."""
    return len(made.client.run("cat", "/proc/net/packet").splitlines()) > 1


def raw_packets(octets: bytes) -> list[tuple[int, bytes]]:
    """(microseconds, packet) of each record of dnscap's file, which has no link headers; or Ethernet's taken away.

    As far as it has been written.
    """
    if len(octets) < 24:
        return []
    magic, link = struct.unpack_from("<I16xI", octets)
    assert magic == 0xA1B2C3D4
    found, at = [], 24
    while at + 16 <= len(octets):
        seconds, rest, size = struct.unpack_from("<3I", octets, at)
        if at + 16 + size > len(octets):
            break
        found.append((seconds * 10**6 + rest, octets[at + (30 if link == 1 else 16) : at + 16 + size]))
        at += 16 + size
    return found


def test_serve_that_is_killed_under_a_capture_costs_none_of_what_is_answered(captured: Site) -> None:
    for path in (captured.directory / "state" / "capture").iterdir():
        path.unlink()
    order(captured, "capture-start", format="pcap")
    wait_until(lambda: order(captured, "status")["why"] == "", "it has the rings", START_SECONDS)
    before = order(captured, "status")["items"]
    asked = ask_all(captured, 10)
    owner = captured.serve_pid()
    os.kill(owner, signal.SIGKILL)
    wait_until(lambda: is_replaced(captured, owner), "another one serves", START_SECONDS)
    # At once, whether or not the role capture has come for the new rings.
    asked += ask_all(captured, 10)
    wait_until(lambda: order(captured, "status")["items"] - before == len(asked), "all are written", START_SECONDS)  # type: ignore[operator]
    told = order(captured, "capture-stop")

    found = [packet for path in files(captured, ".pcap") for _, packet in packets(path.read_bytes())]
    assert sorted(map(message_of, found)) == sorted(asked)
    assert set(told["lost"].values()) == {0}
    assert not (captured.directory / "run" / "capture-wanted.json").exists()


def is_replaced(made: Site, owner: int) -> bool:
    try:
        return made.serve_pid() != owner and made.is_ready()
    except OSError:
        return False


def frames(path: Path) -> list[bytes]:
    """What a capture file of tcpdump holds (microseconds, Ethernet), as far as it is written."""
    octets = path.read_bytes() if path.exists() else b""
    found, at = [], 24
    while at + 16 <= len(octets):
        size = struct.unpack_from("<I", octets, at + 8)[0]
        found.append(octets[at + 16 : at + 16 + size])
        at += 16 + size
    return found
