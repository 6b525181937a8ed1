"""Killed at any instant, a role leaves an account by which the next one counts what it had in hand, exactly once."""

import contextlib
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

import pytest

from rootsrv.capture import account, file_writer, files, formats, hand, handed_over, rings
from rootsrv.capture import collector as collecting
from rootsrv.capture.cdns import Collection
from rootsrv.capture.collector import Collector
from rootsrv.capture.compression import compressors
from rootsrv.capture.files import CaptureDirectory, Finisher
from rootsrv.capture.hand import Hand
from rootsrv.capture.messages import MessageWriter
from rootsrv.capture.offer import Taken
from rootsrv.capture.wanted import WantedCapture
from rootsrv.process.clock import boottime_ns

BY_INSTRUCTION = {hand.__file__, rings.__file__}
BY_LINE = {each.__file__ for each in (account, collecting, file_writer, files, handed_over)}
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
        directory = CaptureDirectory(
            self.path / "files", quota_octets=1 << 40, keep_free_octets=0, retention_seconds=0, removes_oldest=False
        )
        made = Collector(self.path / "nowhere", directory, Finisher("none", Hand.open(self.path / hand.NAME)))
        ours, _ = self.sockets = socket.socketpair()
        ours.setblocking(False)
        found = Taken([rings.open_memory(each) for each in self.memories], ours)
        made.account.hand.resume(found.rings)
        made.adopt(found)
        return made

    def work(self) -> Collector:
        """A role's life, to its end."""
        made = self.role()
        made.start(
            WantedCapture(
                make_format=lambda: formats.make(self.kind, Collection()),
                begin_member=compressors("none"),
                compression="none",
                name="test",
                rotation_seconds=5,
                every=2,
            ),
            resumed=True,
        )
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

    def asked(self) -> tuple[int, int]:
        counted = sum((rings.open_memory(each).counts() for each in self.memories), rings.Counts())
        return counted.items + counted.lost, counted.passed_over

    def close(self) -> None:
        for each in self.memories:
            os.close(each)


def kill(path: Path, kind: str, *instants: int, within_a_step: bool = False) -> tuple[bool, int]:
    """Whether the last of the roles that are to be killed was, and how many queries were interrupted."""
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
        return was_killed, last.totals.lost["interrupted"]
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
    interrupted = 0
    for number in range(15):
        draw = random.Random(number)
        killed = draw.randrange(1, count), draw.randrange(1, count)
        interrupted += kill(tmp_path / f"again {number}", kind, *killed)[1]
    assert count > 500
    assert interrupted > 0


def test_whenever_a_role_is_killed_within_a_step_of_its_account(tmp_path: Path) -> None:
    count = instants(tmp_path, "pcap", within_a_step=True)
    assert count > 500
    for instant in range(1, count, count // 80):
        kill(tmp_path / f"again {instant}", "pcap", instant, within_a_step=True)


@pytest.mark.long
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
