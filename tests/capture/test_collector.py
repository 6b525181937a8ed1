"""From rings to files: rotation, midnight, steps of the clock, full disks; every query is in a file or counted."""

import errno
import gzip
import io
import itertools
import json
import os
import random
import socket
import struct
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zstandard

from rootsrv.capture import formats, messages, offer, output_file, pcap, rings, sequence
from rootsrv.capture.cdns import Collection
from rootsrv.capture.collector import Collector, CollectorState
from rootsrv.capture.compression import compressors
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.hand import Hand
from rootsrv.capture.messages import MessageWriter
from rootsrv.capture.output_file import OutputFile
from rootsrv.capture.tally import Tally
from rootsrv.capture.wanted import WantedCapture
from rootsrv.process.clock import boottime_ns
from tests.capture.test_role import packets
from tests.needs import require_root, require_tool
from tests.server.live import wait_until

MIDNIGHT = 1_795_824_000  # 2026-11-28T00:00:00Z
SECOND = 10**9


@dataclass
class Bench:
    """A collector on rings of ours, at a wall time of ours."""

    directory: Path
    wall: int = (MIDNIGHT - 30) * SECOND
    workers: int = 2
    quota_octets: int = 1 << 40
    keep_free_octets: int = 0
    removes_oldest: bool = False
    writers: list[MessageWriter] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self.wall_offset = self.wall - boottime_ns()
        self.place = CaptureDirectory(
            self.directory,
            quota_octets=self.quota_octets,
            keep_free_octets=self.keep_free_octets,
            retention_seconds=0,
            removes_oldest=self.removes_oldest,
        )
        self.finisher = Finisher("none")
        self.collector = Collector(Path("nowhere"), self.place, self.finisher, lambda: boottime_ns() + self.wall_offset)
        self.rings: list[rings.Ring] = []
        for _ in range(self.workers):
            memory = rings.make_memory(rings.CHUNK_ROWS * 4)
            self.rings.append(rings.open_memory(memory))
            self.writers.append(MessageWriter(rings.RingWriter(memory)))
            os.close(memory)
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.collector.adopt(offer.Taken(self.rings, ours))

    def start(
        self, kind: str = "pcap", compression: str = "none", rotation: int = 60, waited: bool = False, **more: object
    ) -> None:
        self.collector.start(
            WantedCapture(
                make_format=lambda: formats.make(kind, Collection()),
                begin_member=compressors(compression),
                compression=compression,
                name="test",
                rotation_seconds=rotation,
                **more,  # type: ignore[arg-type]
            ),
            waited=waited,
        )

    def ask(self, at: float, amount: int = 1, worker: int = 0, padding: int = 0) -> None:
        """*amount* queries of wall time *at*, seconds."""
        time = int(at * SECOND) - self.wall_offset
        for _ in range(amount):
            self.sent += 1
            query = (
                struct.pack("!6H", self.sent & 0xFFFF, 0, 1, 0, 0, 0) + b"\3com\0\0\1\0\1" + random.randbytes(padding)
            )
            own = (bytes(4), 53)
            self.writers[worker].write(time, 0, own, [query], [b"\x7f\0\0\1"], [4000], [query[:2] + bytes(40)])

    def turn(self) -> None:
        """Two rounds: the first sees what has been written, the second takes it."""
        self.collector.turn()
        self.collector.turn()

    def stop(self) -> None:
        self.collector.stop()
        self.finisher.wait()

    def times(self) -> dict[str, list[int]]:
        """By file: the wall times in it."""
        found = {}
        for path in self.place.files():
            octets = path.read_bytes()
            octets = gzip.decompress(octets) if path.suffix == ".gz" else octets
            found[path.name] = [at for at, _ in packets(octets)]
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "files")
    yield made
    made.collector.close()
    made.theirs.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_each_query_is_in_the_file_of_its_time_across_midnight(bench: Bench, compression: str) -> None:
    bench.start(compression=compression)
    for number, at in enumerate((-40.0, -20.5, -0.001, 0.001, 0.5, 59.999, 60.001, 70.0)):
        bench.ask(MIDNIGHT + at, amount=3, worker=number % 2)
    bench.turn()
    bench.stop()

    found = bench.times()

    first, second, third = sorted(found)
    assert first.startswith("test.20261127.2359")
    assert second.startswith("test.20261128.000000.000000.pcap")
    assert third.startswith("test.20261128.000100.000000.pcap")
    assert sum(map(len, found.values())) == bench.sent == bench.collector.totals.items
    sizes = [path.stat().st_size for path in bench.place.files()]
    assert bench.collector.totals.written_octets == sum(sizes)
    for times in found.values():
        assert times == sorted(times)
        assert len({at // SECOND // 60 for at in times}) == 1


def test_a_file_that_continues_the_one_before_it_bears_its_window_and_any_other_its_first_query(bench: Bench) -> None:
    bench.start(rotation=60)
    bench.ask(MIDNIGHT - 99.9995)
    bench.ask(MIDNIGHT - 59.9995)
    bench.turn()
    bench.stop()
    bench.start(rotation=60)
    bench.ask(MIDNIGHT - 30.9995)
    bench.turn()
    bench.stop()
    names = sorted(each.name.removeprefix("test.20261127.") for each in bench.place.files())
    assert [each[:10] for each in names] == ["235820.000", "235900.000", "235929.000"]
    assert [each[10:] == "000.pcap" for each in names] == [False, True, False]


def test_rows_of_many_rings_are_put_in_one_order(bench: Bench) -> None:
    bench.start(rotation=86_400)
    for number in range(200):
        bench.ask(MIDNIGHT - 3600 + number * 0.001, worker=random.randrange(2), padding=random.choice((0, 0, 300)))
    bench.turn()
    bench.stop()

    ((_, times),) = bench.times().items()
    assert len(times) == 200
    assert times == sorted(times)
    assert bench.collector.totals.late == 0


def test_what_comes_late_is_kept_and_counted(bench: Bench) -> None:
    bench.start(rotation=86_400)
    bench.ask(MIDNIGHT - 100)
    bench.turn()
    bench.ask(MIDNIGHT - 200, amount=2)
    bench.turn()
    bench.ask(MIDNIGHT - 90)
    bench.turn()
    bench.stop()

    assert bench.collector.totals.late == 2
    (path,) = bench.place.files()
    about = json.loads(path.with_name(path.name + ".json").read_text())
    assert about["late"] == 2
    assert [round(about[each] / SECOND - MIDNIGHT, 3) for each in ("first", "last")] == [-200, -90]
    assert sum(map(len, bench.times().values())) == 4


def test_a_step_of_the_clock_ends_the_file_and_the_next_one_says_the_new_time(bench: Bench) -> None:
    bench.start(rotation=86_400)
    bench.ask(MIDNIGHT - 31)
    bench.turn()
    for step in (-7200, 9000):
        bench.wall_offset += step * SECOND
        bench.turn()
        bench.ask(MIDNIGHT - 31 + step)
        bench.turn()
    bench.stop()

    found = bench.times()
    assert [len(times) for times in found.values()] == [1, 1, 1]
    assert bench.collector.totals.clock_steps == 2
    notes = [json.loads(each.read_text())["notes"] for each in sorted(bench.directory.glob("*.json"))]
    assert sorted(itertools.chain(*notes)) == ["the clock stepped by -7200.000 s", "the clock stepped by 9000.000 s"]


def test_it_ends_when_its_time_is_over(bench: Bench) -> None:
    bench.start(until=MIDNIGHT - 30 + 0.2)
    bench.ask(MIDNIGHT - 31)
    wait_until(lambda: bench.turn() or bench.collector.state is CollectorState.IDLE, "its time is over")
    bench.finisher.wait()

    assert bench.collector.state is CollectorState.IDLE
    assert sum(map(len, bench.times().values())) == 1
    assert [ring.shape for ring in bench.rings] == [rings.OFF, rings.OFF]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    require_root()
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


KINDS = [(kind, compression) for kind in ("pcap", "cdns") for compression in ("none", "gzip", "zstd")]


@pytest.mark.parametrize(
    ("kind", "compression"),
    [
        ("pcap", "none"),
        ("cdns", "gzip"),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in KINDS
            if each not in {("pcap", "none"), ("cdns", "gzip")}
        ),
    ],
)
def test_a_disk_that_gets_full_leaves_whole_files_and_every_query_in_them_or_counted(
    small_disk: Path, kind: str, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "MEMBER_OCTETS", 100_000)
    bench = Bench(small_disk / "files")
    bench.start(kind, compression, rotation=86_400)
    while bench.collector.state is CollectorState.CAPTURING:
        # What is asked with padding is raw in C-DNS, and a block of it larger than the disk.
        amount, padding = (100, 400) if kind == "pcap" else (1000, 0)
        bench.ask(MIDNIGHT - 3600 + bench.sent / 1000, amount=amount, padding=padding)
        bench.turn()
    bench.ask(MIDNIGHT - 31, amount=5)
    bench.turn()
    bench.stop()

    totals = bench.collector.totals
    assert totals.items + sum(totals.lost.values()) == bench.sent
    assert totals.lost["disk"] > 0
    assert totals.items > 0
    told = sum(json.loads(each.read_text())["items"] for each in bench.directory.glob("*.json"))
    assert told == totals.items
    path = bench.place.files()[0]
    if kind == "pcap" and len(bench.place.files()) == 1:
        octets = path.read_bytes()
        if compression == "zstd":
            whole = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(octets), read_across_frames=True)
            octets = whole.read()
        elif compression == "gzip":
            octets = gzip.decompress(octets)
        assert len(packets(octets)) == totals.items
    assert not list(small_disk.rglob("*.part"))
    bench.collector.close()
    bench.theirs.close()


def test_a_disk_that_gets_full_costs_a_member_however_much_is_taken_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "MEMBER_OCTETS", 10_000)
    known = OutputFile._put

    def put(file: OutputFile, octets: bytes) -> None:
        if file.octets + len(octets) > 20_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        known(file, octets)

    bench.start(rotation=86_400)
    monkeypatch.setattr(OutputFile, "_put", put)
    bench.ask(MIDNIGHT - 100, amount=600)
    bench.turn()
    bench.stop()
    totals = bench.collector.totals
    assert totals.items + totals.lost["disk"] == bench.sent
    (path,) = bench.place.files()
    assert path.stat().st_size >= 8_000
    assert totals.items >= 75


@pytest.mark.parametrize("has_nameless", [True, False])
def test_a_disk_full_to_its_last_block_takes_the_end_of_a_file_and_what_is_beside_it(
    small_disk: Path, has_nameless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = os.open

    def nothing_nameless(path: str | Path, flags: int, *more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return known(path, flags, *more)

    if not has_nameless:
        monkeypatch.setattr(output_file.os, "open", nothing_nameless)
    file = OutputFile.begin(small_disk / "test.20261128.000000.000000.pcap", compressors("none"), pcap.HEAD, b"")

    def fill() -> None:
        while True:
            file.contents.items += 1
            file.write(bytes(4096))
            file.end_member()

    with pytest.raises(OSError, match="No space"):
        fill()

    assert file.cut_back() == rings.Counts(items=1)
    file.end()
    file.finish({}, Hand.in_memory())

    about = json.loads((small_disk / "test.20261128.000000.000000.pcap.json").read_text())
    assert about["octets"] == file.path.stat().st_size == 24 + 4096 * about["items"]
    assert len(list(small_disk.iterdir())) == 3, "nothing else is left"


def test_a_writer_gone_wrong_is_not_believed(bench: Bench) -> None:
    bench.start(rotation=86_400)
    bench.ask(MIDNIGHT - 100, worker=1)
    bench.rings[0]._words[rings.WRITTEN] = 1 << 50
    bench.turn()
    bench.ask(MIDNIGHT - 99, worker=0)
    bench.turn()
    bench.stop()

    assert bench.rings[0].damaged == 1
    assert sum(map(len, bench.times().values())) == 2


def test_what_a_killed_role_left_is_set_aside(tmp_path: Path) -> None:
    place = tmp_path / "files"
    place.mkdir()
    (place / "test.20261128.000000.000000.pcap.part").write_bytes(b"begun")
    (place / "test.20261128.000001.000000.pcap.part").write_bytes(b"")

    bench = Bench(place)
    bench.collector.close()
    bench.theirs.close()

    assert [each.name for each in place.iterdir()] == ["test.20261128.000000.000000.pcap.incomplete"]


def test_columns_and_plain_python_make_the_same_records(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(17)
    rows = b""
    for number in range(300):
        octets = generator.randbytes(generator.choice((12, 30, 84, 85, 112, 113, 400)))
        source = generator.randbytes(16)
        family = generator.choice((4, 6))
        end = source[:4].ljust(16, b"\0") if family == 4 else source
        message = messages.CapturedMessage(
            number * 1000, family, generator.choice((0, 1)), end, 4000, end, 53, 0, b"", octets
        )
        rows += pcap.rows_of(message)
        if number % 50 == 0:
            rows += messages.fact_of(message).to_rows()
            if len(octets) > 112:
                rows += messages.fact_of(message).to_rows()[128:]  # what continues nothing of ours
    offset = 1_795_824_000 * SECOND + 999_999_900

    by_columns, _ = pcap.records(rows, offset)
    monkeypatch.setattr(pcap, "numpy", None)

    assert pcap.records(rows, offset) == (by_columns, 0)
    assert len(packets(pcap.HEAD + by_columns)) == 300


def test_messages_of_a_connection_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap, "_MAX_STREAMS", 2)
    streams, sizes = pcap.Streams(), (17, 65_535, 40)

    def message(port: int, size: int, at: int) -> messages.CapturedMessage:
        return messages.CapturedMessage(at * SECOND, 4, 1, bytes(16), port, bytes(16), 53, 0, b"", bytes(size))

    first, second, third = (streams.place(message(4000, size, 4294)) for size in sizes)
    assert (second - first, third - second) == (19, 65_537)
    segments = pcap.packets_of(message(4000, 65_535, 0), 0xFFFF_FFFF)
    assert [int.from_bytes(each[24:28], "big") for each in segments] == [0xFFFF_FFFF, 64_999]
    for port in (4001, 4002):
        streams.place(message(port, 17, 4294))
    assert (streams.place(message(4000, 17, 4295)) - first) % 2**32 == 1_000_000, "forgotten, and later all the same"


def test_rows_are_put_in_order_with_and_without_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(5)
    taken = []
    for _ in range(3):
        times = sorted(generator.randrange(50) for _ in range(40))
        rows = [struct.pack("<QB", at, 0).ljust(rings.ROW_OCTETS, bytes([number])) for number, at in enumerate(times)]
        taken.append(b"".join(rows))

    by_columns, waiting = sequence.merge([], taken, 30)
    later, nothing = sequence.merge(waiting, [], 1 << 63)
    at_ten = sequence.before(by_columns, 10)
    monkeypatch.setattr(sequence, "numpy", None)

    plainly, waiting = sequence.merge([], taken, 30)
    assert plainly == by_columns
    assert sequence.merge(waiting, [], 1 << 63) == (later, nothing) == (later, [])
    assert sequence.before(by_columns, 10) == at_ten > 0
    assert sorted(b"".join(taken)) == sorted(by_columns + later)
    times = [struct.unpack_from("<Q", by_columns + later, at)[0] for at in range(0, 120 * 128, 128)]
    assert times == sorted(times)


def test_gzip_is_made_without_isal_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "isal", None)
    member = compressors("gzip")()
    assert zlib.decompress(member.compress(b"x" * 1000) + member.flush(), 31) == b"x" * 1000


@pytest.mark.parametrize(("kind", "compression"), KINDS)
def test_who_follows_a_live_file_reads_what_it_is_in_the_end(
    bench: Bench, tmp_path: Path, kind: str, compression: str
) -> None:
    """What was written never changes, whole queries are there before the end, and nothing else is seen in between."""
    bench.wall_offset += 100 * SECOND  # all that is asked is old enough to be written
    bench.start(kind, compression, rotation=86_400)
    seen = b""
    follower = None
    for number in range(55):  # more than a block of C-DNS
        bench.ask(MIDNIGHT + 1 + number, amount=200)
        bench.turn()
        if follower is None and (found := list(bench.directory.glob("*.part"))):
            follower = found[0].open("rb")
        if follower is not None:
            seen += follower.read()
    assert follower is not None
    so_far = tmp_path / f"so-far.{kind}{ {'none': '', 'gzip': '.gz', 'zstd': '.zst'}[compression] }"
    so_far.write_bytes(seen)
    live, done = Tally(), Tally()
    live.read(so_far)
    bench.stop()
    with follower:
        seen += follower.read()

    (whole,) = bench.place.files()
    assert seen == whole.read_bytes()
    assert not list(bench.directory.glob("*.part"))
    done.read(whole)
    assert (done.queries, done.cut_off) == (bench.sent, [])
    # A compressor holds back what it has not filled a block with.
    assert (10_000 if compression == "none" else 0) <= live.queries <= bench.sent
    if compression == "none":
        assert live.cut_off == ([so_far] if kind == "cdns" else [])


def test_tcpdump_follows_a_live_file(bench: Bench) -> None:
    tool = require_tool("tcpdump")
    bench.wall_offset += 100 * SECOND
    bench.start("pcap", "none", rotation=86_400)
    tcpdump = subprocess.Popen(
        [tool, "-n", "-l", "-r", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert tcpdump.stdin is not None
    follower = None
    for number in range(5):
        bench.ask(MIDNIGHT + 1 + number, amount=40)
        bench.turn()
        if follower is None and (found := list(bench.directory.glob("*.part"))):
            follower = found[0].open("rb")
        if follower is not None:
            tcpdump.stdin.write(follower.read())
            tcpdump.stdin.flush()
    assert follower is not None
    bench.stop()
    with follower:
        shown, said = tcpdump.communicate(follower.read(), timeout=30)
    assert tcpdump.returncode == 0, said
    assert shown.count(b"A? com.") == bench.sent
