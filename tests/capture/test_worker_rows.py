"""What workers tell a capture, over the rings that the role serve hands out."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.capture import facts, formats, messages, offer, rings
from rootsrv.capture.cdns import Collection
from rootsrv.capture.collector import Collector
from rootsrv.capture.compression import compressors
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.messages import CapturedMessage
from rootsrv.capture.wanted import WantedCapture
from rootsrv.process import accepting
from tests.process.listening import Listening
from tests.server.live import Instance, serving, wait_until


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One that may be captured."""
    with serving(tmp_path_factory.mktemp("instance"), service="[capture]\nbuffer_megabytes = 1\n") as served:
        yield served


@pytest.fixture
def taken(instance: Instance) -> Iterator[offer.Taken]:
    found = offer.take(instance.directory / "run" / offer.NAME)
    for ring in found.rings:
        ring.want(rings.OFF)
        drain(ring)
    yield found
    for ring in found.rings:
        ring.want(rings.OFF)
    found.close()


def drain(ring: rings.Ring) -> bytes:
    ring.take()
    octets = b"".join(bytes(piece) for piece in ring.take())
    ring.done(len(octets) // rings.ROW_OCTETS)
    return octets


def told(found: offer.Taken) -> list[CapturedMessage]:
    return [message for ring in found.rings for message in messages.read(drain(ring))]


def query(name: bytes, ident: int = 7, padding: int = 0) -> bytes:
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0x8000, padding + 4) + struct.pack("!HH", 12, padding) + bytes(padding)
    return struct.pack("!6H", ident, 0, 1, 0, 0, 1) + name + struct.pack("!HH", 2, 1) + opt


def wanted(found: offer.Taken, every: int = 1, which: int = rings.EVERYTHING) -> rings.Counts:
    for ring in found.rings:
        ring.want(rings.FACTS, every, which)
    return counts(found)


def counts(found: offer.Taken) -> rings.Counts:
    return sum((ring.counts() for ring in found.rings), rings.Counts())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_datagrams_are_told_with_their_ends_and_what_was_answered(
    instance: Instance, taken: offer.Taken, address: str
) -> None:
    start = wanted(taken)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    asked = [
        query(b"\3com\0", 1),
        query(b"\1x" * 100 + b"\0", 2, padding=300),
        b"\0\1\0\0\0\2" + bytes(6),
        b"short",
        b"",
    ]
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((address, instance.port))
        port = client.getsockname()[1]
        answers = []
        for octets in asked[:3]:
            client.send(octets)
            answers.append(client.recv(4096))
        for octets in asked[3:]:
            client.send(octets)
        wait_until(lambda: (counts(taken) - start).items == 5, "all are told")
        client.send(bytes(5000))
        wait_until(lambda: counts(taken) - start == rings.Counts(5, 1), "what was too long is counted")
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    found = told(taken)

    assert [each.octets for each in found] == asked
    packed = socket.inet_pton(family, address).ljust(16, b"\0")
    for message, answer in zip(found, [*answers, b"", b""], strict=True):
        assert (message.source, message.source_port) == (packed, port)
        assert (message.destination, message.destination_port) == (packed, instance.port)
        assert (message.family, message.transport) == (6 if ":" in address else 4, 0)
        assert message.response_octets == len(answer)
        assert message.response == answer[2:18].ljust(16, b"\0")
        assert before <= message.time <= after
    kinds = [messages.fact_of(message).kind for message in found]
    assert kinds == [facts.Kind.QUERY] * 2 + [facts.Kind.MALFORMED] * 3


def test_messages_over_tcp_are_told_however_long(instance: Instance, taken: offer.Taken) -> None:
    wanted(taken)
    asked = [query(b"\3org\0", 3), query(b"\3net\0", 4, padding=60_000), query(b"\3com\0", 5)]
    with socket.create_connection(("127.0.0.1", instance.port), timeout=5) as client:
        port = client.getsockname()[1]
        client.sendall(b"".join(struct.pack("!H", len(each)) + each for each in asked))
        stream = client.makefile("rb")
        answers = [stream.read(int.from_bytes(stream.read(2), "big")) for _ in asked]

    found = told(taken)

    assert [each.octets for each in found] == asked
    assert [each.response_octets for each in found] == [len(each) for each in answers]
    assert {(each.transport, each.source_port, each.destination_port) for each in found} == {(1, port, instance.port)}
    assert {each.source[:4] for each in found} == {socket.inet_aton("127.0.0.1")}


def test_only_what_is_wanted_and_one_of_so_many(instance: Instance, taken: offer.Taken) -> None:
    before = wanted(taken, every=3, which=rings.UDP | rings.IPV4)
    for address in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect((address, instance.port))
            for _ in range(9):
                client.send(query(b"\3com\0"))
                client.recv(4096)

    wait_until(lambda: (counts(taken) - before) == rings.Counts(3, 0, 15), f"{counts(taken) - before}")
    assert len(told(taken)) == 3


def test_a_full_ring_costs_nobody_his_answer(instance: Instance, taken: offer.Taken) -> None:
    before = wanted(taken)
    room = sum(ring.capacity for ring in taken.rings)
    large = query(b"\3com\0", padding=60_000)
    amount = room // (60_000 // 112) + 6
    with socket.create_connection(("127.0.0.1", instance.port), timeout=5) as client:
        stream = client.makefile("rb")
        for _ in range(amount):
            client.sendall(struct.pack("!H", len(large)) + large)
            stream.read(int.from_bytes(stream.read(2), "big"))

    counted = counts(taken) - before

    assert counted.lost >= 5
    assert counted.items + counted.lost == amount
    assert [len(each.octets) for each in told(taken)] == [len(large)] * counted.items


def test_a_reader_that_comes_again_goes_on_where_the_last_one_was(instance: Instance, taken: offer.Taken) -> None:
    before = wanted(taken)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("127.0.0.1", instance.port))
        client.send(query(b"\3com\0", 9))
        client.recv(4096)
    wait_until(lambda: (counts(taken) - before).items == 1, "it is told")

    path: Path = instance.directory / "run" / offer.NAME
    with contextlib.closing(offer.take(path)) as second:
        wait_until(lambda: not taken.is_current, "the first one is told")
        assert second.is_current
        assert [each.octets[:2] for each in told(second)] == [b"\0\x09"]


@pytest.mark.parametrize("word", [rings.READ, rings.PASSED_OVER, rings.ITEMS, rings.LOST])
def test_a_ring_that_its_reader_spoilt_costs_the_capture_and_no_answer(
    word: int, caplog: pytest.LogCaptureFixture
) -> None:
    memory = rings.make_memory(rings.CHUNK_ROWS * 4)
    ring = rings.open_memory(memory)
    writer = messages.MessageWriter(rings.RingWriter(memory))
    os.close(memory)
    ring.want(rings.FACTS, 1, 0 if word == rings.PASSED_OVER else rings.EVERYTHING)
    ring._words[word] = 2**64 - 1
    long = bytes(65_535)
    for _ in range(20):
        writer.write(1, 0, (bytes(4), 53), [long] * 20, [bytes(4)] * 20, [4000] * 20, [None] * 20)
    if word == rings.LOST:
        assert not writer.is_on
        assert "capture ring is not written to any more" in caplog.text
    else:
        assert writer.is_on
        assert caplog.text.count("capture lost queries to an error") == 1
        counted = ring.counts()
        if word == rings.READ:  # what it holds, and each of the others: a message of 65,535 octets is 586 rows
            assert counted.items + counted.lost == 20 * 20
        else:
            assert counted.lost == 20 * 20


def test_who_has_the_rings_is_in_the_log_as_the_kernel_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They hold all that is asked, and so do their copies."""
    path = tmp_path / offer.NAME

    async def handed_over() -> None:
        offered = offer.BufferOffer(path)
        offered.listen()
        try:
            (await asyncio.to_thread(offer.take, path)).close()
        finally:
            offered.close()

    with caplog.at_level(logging.INFO, "rootsrv"):
        asyncio.run(handed_over())
    assert f'to="uid {os.getuid()}, pid {os.getpid()}"' in caplog.text


def test_who_is_not_served_is_told_why(tmp_path: Path) -> None:
    with pytest.raises(offer.NoRings, match="No such file"):
        offer.take(tmp_path / offer.NAME)


@pytest.mark.parametrize("rows", [offer.ROWS - 1, offer.ROWS + 1, None])
def test_rings_of_another_version_are_not_read(tmp_path: Path, rows: int | None) -> None:
    """What is in their rows stands elsewhere."""
    path, memory = tmp_path / offer.NAME, rings.make_memory(rings.CHUNK_ROWS)
    told = json.dumps({"rows": rows, "workers": [0]}).encode() + b"\n"

    def hand_over(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            socket.send_fds(connection, [told], [memory])

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        other = threading.Thread(target=hand_over, args=(listening,))
        other.start()
        with pytest.raises(offer.NoRings, match="of another version: restart serve and capture"):
            offer.take(path)
        other.join()
    os.close(memory)


def test_memory_that_is_no_ring_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        file.truncate(4096 + 512 * 128)
        with pytest.raises((ValueError, OSError)):
            rings.open_memory(file.fileno())


@pytest.mark.parametrize("error", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE], ids=errno.errorcode.get)
def test_a_reader_for_whom_the_host_has_nothing_gets_the_rings_when_it_has(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits at the socket meanwhile, and the role serve must not turn over it."""
    monkeypatch.setattr(accepting, "AGAIN_SECONDS", 0.02)
    made: list[Listening] = []
    genuine = offer.socket_for_the_group

    def listening(path: Path) -> Listening:
        made.append(Listening(genuine(path), [error] * 3))
        return made[-1]

    monkeypatch.setattr(offer, "socket_for_the_group", listening)
    memory = rings.make_memory(rings.CHUNK_ROWS)
    path = tmp_path / offer.NAME

    async def handed_over() -> None:
        offered = offer.BufferOffer(path)
        offered.set_workers({0: memory})
        offered.listen()
        try:
            with contextlib.closing(await asyncio.to_thread(offer.take, path)) as found:
                assert len(found.rings) == 1
                assert found.is_current
        finally:
            offered.close()

    asyncio.run(handed_over())
    os.close(memory)
    assert [each.tries for each in made] == [3 + 2], "each that succeeds is followed by one that finds nobody"


@pytest.mark.parametrize("is_begun", [False, True])
def test_rings_that_come_while_a_capture_begins_or_goes_on_are_written_at_once(tmp_path: Path, is_begun: bool) -> None:
    """Those of the kernel, say, which the role serve has a moment after those of its workers."""
    path = tmp_path / offer.NAME
    memories = [rings.make_memory(rings.CHUNK_ROWS) for _ in range(2)]
    place = CaptureDirectory(
        tmp_path / "files", quota_octets=1 << 30, keep_free_octets=0, retention_seconds=0, removes_oldest=False
    )
    wanted = WantedCapture(
        make_format=lambda: formats.make("pcap", Collection()), begin_member=compressors("none"), compression="none",
        name="test", rotation_seconds=60,
    )  # fmt: skip

    async def handed_over() -> None:
        offered = offer.BufferOffer(path)
        offered.set_workers({0: memories[0]})
        offered.listen()
        collector = Collector(path, place, Finisher("none"))
        try:
            await asyncio.to_thread(collector.turn)
            if is_begun:
                await asyncio.to_thread(collector.start, wanted)
            offered.set_workers(dict(enumerate(memories)))
            if is_begun:
                await asyncio.to_thread(collector.turn)
            else:
                await asyncio.to_thread(collector.start, wanted)
            assert collector.why == ""
            assert [rings.open_memory(each).shape for each in memories] == [rings.PACKETS] * 2
        finally:
            await asyncio.to_thread(collector.close)
            offered.close()

    asyncio.run(handed_over())
    for each in memories:
        os.close(each)
