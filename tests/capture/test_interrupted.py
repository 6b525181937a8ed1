"""Killed at any instant, a role leaves an account by which the next one counts what it had in hand, exactly once."""

import contextlib
import gzip
import hashlib
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import cbor2
import pytest
import zstandard

from rootsrv.capture import (
    account,
    file_names,
    file_writer,
    files,
    formats,
    hand,
    handed_over,
    left_behind,
    open_files,
    output_file,
    pcap,
    rings,
)
from rootsrv.capture import collector as collecting
from rootsrv.capture.cdns import Collection
from rootsrv.capture.collector import Collector
from rootsrv.capture.compression import SUFFIXES, compressors
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.hand import Hand
from rootsrv.capture.messages import CapturedMessage, MessageWriter, fact_of
from rootsrv.capture.offer import Taken
from rootsrv.capture.output_file import OutputFile
from rootsrv.capture.wanted import WantedCapture
from rootsrv.process import clocks
from rootsrv.process.clock import boottime_ns
from tests.capture.test_role import packets, query

BY_INSTRUCTION = {hand.__file__, rings.__file__}
BY_LINE = {
    each.__file__
    for each in (account, collecting, file_writer, files, handed_over, left_behind, open_files, output_file)
}
SECOND = 10**9


class Machine:
    """What outlives a role: two workers' rings, the directory, the hand."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.memories = [rings.make_memory(rings.CHUNK_ROWS) for _ in range(2)]
        self.writers = [MessageWriter(rings.RingWriter(each)) for each in self.memories]
        for each in self.memories:
            rings.open_memory(each).want(rings.FACTS, every=2)

    def ask(self, seconds_ago: float, amount: int, worker: int) -> None:
        time = boottime_ns() - int(seconds_ago * SECOND)
        query = struct.pack("!6H", 1, 0, 1, 0, 0, 0) + b"\3com\0\0\1\0\1"
        self.writers[worker].write(
            time, 0, (bytes(4), 53), [query] * amount, [b"\x7f\0\0\1"] * amount, [4000] * amount, [bytes(40)] * amount
        )

    def ask_all(self) -> None:
        """Of several windows, more than there is room for, one of two passed over."""
        for number in range(6):
            self.ask(30 - number * 4, 90, number % 2)
        self.ask(1, 700, 0)

    def role(self) -> Collector:
        kept = Hand.open(self.path / hand.NAME)
        directory = CaptureDirectory(
            self.path / "files",
            quota_octets=1 << 40,
            keep_free_octets=0,
            retention_seconds=0,
            removes_oldest=False,
            hand=kept,
        )
        made = Collector(self.path / "nowhere", directory, Finisher("none", kept))
        ours, _ = self.sockets = socket.socketpair()
        ours.setblocking(False)
        found = Taken([rings.open_memory(each) for each in self.memories], ours)
        made.account.hand.resume(found.rings)
        made.adopt(found)
        return made

    def start(self) -> Collector:
        """A role that captures."""
        made = self.role()
        made.start(
            WantedCapture(
                make_format=lambda: formats.make(self.kind, Collection()),
                begin_member=compressors("none"),
                compression="none",
                name="test",
                rotation_seconds=5,
                every=2,
                about={"format": "whatever"},
            ),
            resumed=True,
        )
        return made

    def work(self) -> Collector:
        """A role's life, to its end."""
        made = self.start()
        for _ in range(4):
            made.turn()
        made.close()
        self.sockets[1].close()
        return made

    def killed_at(self, instant: int, *, within_a_step: bool = False) -> bool:
        """Have a role work in a child that is killed at its so many-th instant; False: it has not as many.

        *within_a_step*: of the instants in hand.py, and between two of its instructions.
        """
        by_line = set() if within_a_step else BY_LINE
        by_instruction = {hand.__file__} if within_a_step else BY_INSTRUCTION
        pid = os.fork()
        if pid == 0:
            status = 1
            with contextlib.suppress(BaseException):
                left = [instant]

                def trace(frame: FrameType, event: str, _: Any) -> Any:
                    name = frame.f_code.co_filename
                    if name not in by_instruction and name not in by_line:
                        return None
                    frame.f_trace_opcodes = name in by_instruction
                    if event == ("opcode" if name in by_instruction else "line"):
                        left[0] -= 1
                        if not left[0]:
                            os.kill(os.getpid(), signal.SIGKILL)
                    return trace

                threading.settrace(trace)
                sys.settrace(trace)
                self.work()
                status = 0
            os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return os.WIFSIGNALED(status)

    def told(self) -> tuple[int, int]:
        """Queries in files and lost, and passed over, by the metadata of whole files."""
        found = [
            json.loads(each.read_text())
            for each in (self.path / "files").glob("*.json")
            if each.with_suffix("").exists()
        ]
        return sum(each["items"] + each["lost"] for each in found), sum(each["passed_over"] for each in found)

    def check_files(self) -> int:
        """Whoever reads them reads what their metadata say; how many were finished for one that was killed."""
        recovered = 0
        for path in (self.path / "files").glob(f"*.{self.kind}"):
            about = json.loads(path.with_name(path.name + ".json").read_text())
            octets = path.read_bytes()
            assert about["octets"] == len(octets)
            assert about["md5"] == hashlib.md5(octets).hexdigest()
            assert (about["format"], about["every"]) == ("whatever", 2)
            recovered += any("killed" in note for note in about["notes"])
            if self.kind == "pcap":
                assert len(times := [at for at, _ in packets(octets)]) == about["items"]
                assert (about["first"], about["last"]) == (min(times, default=None), max(times, default=None))
                continue
            blocks = cbor2.loads(octets)[2]
            assert sum(len(block.get(3, ())) + len(block.get(5, ())) for block in blocks) == about["items"]
            assert sum(block[1][-7] for block in blocks) == about["lost"]
            assert sum(block[1][-8] for block in blocks) == about["passed_over"]
        return recovered

    def asked(self) -> tuple[int, int]:
        counted = sum((rings.open_memory(each).counts() for each in self.memories), rings.Counts())
        return counted.items + counted.lost, counted.passed_over

    def close(self) -> None:
        for each in self.memories:
            os.close(each)


def kill(path: Path, kind: str, *instants: int, within_a_step: bool = False) -> tuple[bool, int, int]:
    """Whether the last of the roles that are to be killed was, how many queries were interrupted, files recovered."""
    path.mkdir()
    machine = Machine(path, kind)
    machine.ask_all()
    was_killed = False
    for instant in instants:
        was_killed = machine.killed_at(instant, within_a_step=within_a_step)
        machine.ask(0.5, 20, 1)
    last = machine.work()
    try:
        assert machine.told() == machine.asked(), instants
        assert last.account.hand.held == rings.Counts()
        return was_killed, last.totals.lost["interrupted"], machine.check_files()
    finally:
        machine.close()


def instants(path: Path, kind: str, *, within_a_step: bool = False) -> int:
    """How many a role's life has, about."""
    count = 64
    while kill(path / f"{count} {within_a_step}", kind, count, within_a_step=within_a_step)[0]:
        count += count // 4
    return count


@pytest.mark.parametrize("kind", ["pcap", "cdns"])
def test_whenever_a_role_is_killed_what_it_had_in_hand_is_counted_once(tmp_path: Path, kind: str) -> None:
    count = instants(tmp_path, kind)
    interrupted = recovered = 0
    for number in range(25):
        draw = random.Random(number)
        killed = draw.randrange(1, count), draw.randrange(1, count)
        _, lost, finished = kill(tmp_path / f"again {number}", kind, *killed)
        interrupted, recovered = interrupted + lost, recovered + finished
    assert count > 500
    assert interrupted > 0
    assert recovered or kind == "cdns"  # of which a block is as long as what is asked here; the next test has both


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of several members, most of which are whole when a role is killed."""
    monkeypatch.setattr(output_file, "MEMBER_OCTETS", 1_500)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["pcap", "cdns"])
def test_what_a_role_that_is_killed_had_written_whole_is_in_a_file_that_everybody_reads(
    tmp_path: Path, kind: str, compression: str
) -> None:
    """Two members and a part of a third; killed once more in the middle of its recovery, no more is lost."""
    place = tmp_path / "files"
    kept = Hand.in_memory()
    directory(place, kept)
    path = place / ("test.20261128.000000.000000.pcap" if kind == "pcap" else "20261128-000000.000000_test.cdns")
    path = path.with_name(path.name + SUFFIXES[compression])
    made = formats.make(kind, Collection())
    begin_member = compressors(compression)
    about = {"format": "whatever", "every": 2}
    file = OutputFile.begin(path, begin_member, made.begin(), made.end, open_files=kept.files, about=about)
    for number in range(3):
        asked = [
            CapturedMessage(number + 1, 4, 0, bytes(16), 4000, bytes(16), 53, 0, b"", query(each)) for each in range(7)
        ]
        rows = b"".join(pcap.rows_of(each) if kind == "pcap" else fact_of(each).to_rows() for each in asked)
        file.contents.counts += rings.Counts(7, 1, 2)
        file.contents.first, file.contents.last = 1, number + 1
        file.write(made.add(rows, 0, 1, 2) + made.flush())
        if number < 2:
            file.end_member()
    file._put(b"torn" * 50)

    with pytest.MonkeyPatch.context() as failing:
        failing.setattr(os, "rename", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        pid = os.fork()
        if pid == 0:
            directory(place, kept)
        os.waitpid(pid, 0)
    assert not path.exists()
    directory(place, kept)

    octets = path.read_bytes()
    plain = {
        "none": bytes,
        "gzip": gzip.decompress,
        "zstd": lambda some: zstandard.ZstdDecompressor().stream_reader(some, read_across_frames=True).read(),
    }[compression](octets)
    told = json.loads(path.with_name(path.name + ".json").read_text())
    assert (told["items"], told["lost"], told["passed_over"], told["last"]) == (14, 2, 4, 2)
    assert (told["octets"], told["every"]) == (len(octets), 2)
    if kind == "pcap":
        assert len(packets(plain)) == 14
    else:
        assert sum(len(block[3]) for block in cbor2.loads(plain)[2]) == 14
    assert kept.settled == rings.Counts(14, 2, 4)
    assert sorted(each.name for each in place.iterdir()) == [f"{path.name}{end}" for end in ("", ".json", ".md5")]
    assert list(kept.files.left()) == []


def directory(place: Path, kept: Hand) -> CaptureDirectory:
    return CaptureDirectory(
        place, quota_octets=1 << 40, keep_free_octets=0, retention_seconds=0, removes_oldest=False, hand=kept
    )  # fmt: skip


@pytest.mark.parametrize("what", ["another start of the machine", "a link", "shorter", "its name is taken", "no text"])
def test_of_what_cannot_be_the_file_that_was_written_nothing_is_made(tmp_path: Path, what: str) -> None:
    place = tmp_path / "files"
    kept = Hand.in_memory()
    directory(place, kept)
    path = place / "test.20261128.000000.000000.pcap"
    if what == "another start of the machine":
        kept.files._boot = "another"
    file = OutputFile.begin(path, compressors("none"), pcap.HEAD, b"", open_files=kept.files)
    kept.files._boot = clocks.boot_id()
    file.contents.counts += rings.Counts(1)
    file.write(bytes(500))
    file.end_member()
    part = path.with_name(path.name + ".part")
    if what == "a link":
        part.rename(tmp_path / "outside")
        part.symlink_to(tmp_path / "outside")
    elif what == "shorter":
        os.truncate(part, 300)
    elif what == "its name is taken":
        path.write_bytes(b"theirs")
    elif what == "no text":
        kept.files._areas[0]._text[0] = 0
    directory(place, kept)
    assert kept.settled == rings.Counts()
    assert path.exists() == (what == "its name is taken")
    assert not path.with_name(path.name + ".json").exists()
    assert list(kept.files.left()) == []


def test_open_files_of_anything_end_no_role(tmp_path: Path) -> None:
    for number in range(300):
        draw = random.Random(number)
        path = tmp_path / str(number)
        words = [draw.choice((0, 1, 5, draw.getrandbits(64), (1 << 64) - 1)) for _ in range(2048)]
        path.write_bytes(struct.pack("<2048Q", *words))
        found = open_files.OpenFiles.open(path)
        assert list(found.left()) == []
        assert [area.is_free for area in found._areas] == [True] * 4


@pytest.mark.parametrize("kind", ["pcap", "cdns"])
def test_where_little_is_asked_a_role_that_is_killed_loses_what_came_in_seconds_and_not_since_the_file_began(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_file, "MEMBER_OCTETS", 8 << 20)
    monkeypatch.setattr(output_file, "MEMBER_SECONDS", 3600.0)
    machine = Machine(tmp_path, kind)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            made = machine.start()
            machine.ask(1, 40, 0)
            for _ in range(3):
                made.turn()
            monkeypatch.setattr(output_file, "MEMBER_SECONDS", 0.0)
            made.turn()  # though nothing more comes
            monkeypatch.setattr(output_file, "MEMBER_SECONDS", 3600.0)
            machine.ask(1, 14, 1)
            for _ in range(3):
                made.turn()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    last = machine.work()
    assert last.totals.lost["interrupted"] == 7  # one of two is passed over
    assert machine.told() == machine.asked()
    assert machine.check_files() == 1
    machine.close()


def test_whenever_a_role_is_killed_within_a_step_of_its_account(tmp_path: Path) -> None:
    count = instants(tmp_path, "pcap", within_a_step=True)
    assert count > 500
    for instant in range(1, count, count // 80):
        kill(tmp_path / f"again {instant}", "pcap", instant, within_a_step=True)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["pcap", "cdns"])
def test_whenever_a_role_is_killed_at_each_instant_and_again(tmp_path: Path, kind: str) -> None:
    for instant in range(1, instants(tmp_path, kind, within_a_step=True), 2):
        kill(tmp_path / f"step {instant}", kind, instant, within_a_step=True)
    draw = random.Random(kind)
    for first in range(1, count := instants(tmp_path, kind), 13):
        kill(tmp_path / f"again {first}", kind, first, draw.randrange(1, count))


def test_a_hand_of_anything_costs_a_wrong_count_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / hand.NAME
    for number in range(400):
        draw = random.Random(number)
        words = [draw.choice((0, 1, 5, draw.getrandbits(64), (1 << 64) - 1)) for _ in range(512)]
        octets = bytearray(struct.pack("<512Q", *words))
        if number % 4:
            octets[:8] = b"rootsrv1"
        path.write_bytes(octets)
        found = Hand.open(path)
        lost = found.recover(lambda name: len(name) % 2 == 0)
        assert 0 <= lost.lost <= rings.MOST_LOST
        assert 0 <= lost.passed_over <= rings.MOST_LOST
        memory = rings.make_memory(rings.CHUNK_ROWS)
        ring = rings.open_memory(memory)
        os.close(memory)
        found.resume([ring])
        assert ring.waiting == 0
        found.take(ring, 0, 7)
        with found.settling("a file", rings.Counts(7, 0, 0)):
            pass
        found.forget(lost)
        assert found.held.items == 0
    path.write_bytes(b"short")
    assert Hand.open(path).recover(lambda name: True) == rings.Counts()


def test_what_a_worker_gone_wrong_says_it_lost_is_not_believed_and_what_was_there_before_is_taken() -> None:
    memory = rings.make_memory(rings.CHUNK_ROWS)
    ring, writer = rings.open_memory(memory), rings.RingWriter(memory)
    os.close(memory)
    writer.append([b"\1" * rings.ROW_OCTETS] * 5)
    assert ring.take() == []
    for word, value in ((rings.WRITTEN, 1 << 50), (rings.LOST, (1 << 64) - 1), (rings.PASSED_OVER, 1 << 63)):
        writer._words[word] = value

    (piece,) = ring.take()
    assert len(piece) == 5 * rings.ROW_OCTETS
    ring.done(5)
    assert ring.news() == rings.Counts()
    assert ring.take() == []
    assert ring.damaged == 2


def test_a_file_that_cannot_be_recovered_costs_no_start_of_the_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*_: object) -> OutputFile:
        raise RuntimeError("nobody expected that")

    place, kept = tmp_path / "files", Hand.in_memory()
    directory(place, kept)
    path = place / "test.20261128.000000.000000.pcap"
    made = formats.make("pcap", Collection())
    file = OutputFile.begin(path, compressors("none"), made.begin(), made.end, open_files=kept.files, about={})
    file.contents.counts += rings.Counts(0, 1)
    file.end_member()
    monkeypatch.setattr(OutputFile, "found_again", unexpected)

    for _ in range(2):  # nor does it come again
        directory(place, kept)
        assert [each.name for each in place.iterdir()] == [path.name + file_names.INCOMPLETE]
    assert not list(kept.files.left())
