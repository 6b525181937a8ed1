"""Who answers asks for a short slice of time, and for nothing else."""

import ctypes
import os
import platform
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rootsrv.process import time_slice

GETATTR = {"x86_64": 315, "aarch64": 275}
KNOWS_SLICES = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12)


def attributes(pid: int) -> tuple[int, int, int]:
    """Policy, nice value and slice (nanoseconds) of *pid*."""
    octets = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(GETATTR[platform.machine()], pid, octets, 48, 0) == 0
    _, policy, _, nice, _, runtime, _, _ = struct.unpack("<IIQiIQQQ", octets.raw[:48])
    return policy, nice, runtime


def test_a_slice_is_asked_for_and_neither_policy_nor_niceness_is_changed() -> None:
    program = (
        "import os; from rootsrv.process import time_slice; from tests.process.test_time_slice import attributes\n"
        "os.nice(3); print(time_slice.ask_for(0.0005), *attributes(0))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert said == ["True", "0", str(3 + os.nice(0)), "500000"] or not KNOWS_SLICES
    assert said[:3] == ["True", "0", str(3 + os.nice(0))]


def test_who_is_scheduled_in_another_way_is_left_alone() -> None:
    program = (
        "import os; from rootsrv.process import time_slice\n"
        "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))\n"
        "print(time_slice.ask_for(0.0005), os.sched_getscheduler(0) == os.SCHED_BATCH)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"False True\n"


def test_where_the_system_call_is_not_known_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slice, "_SETATTR", {})
    assert not time_slice.ask_for(0.0005)


def test_who_can_wait_gives_way_after_a_piece_of_time_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []
    now = 2.0**30  # later than whoever else gave way in this process
    monkeypatch.setattr(time_slice, "PIECE_SECONDS", 0.25)
    monkeypatch.setattr(time_slice, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(time_slice, "os", SimpleNamespace(sched_yield=lambda: given.append(now)))
    time_slice.give_way()
    given.clear()

    for _ in range(10):
        now += 0.0625
        time_slice.give_way()

    assert given == [2.0**30 + 0.25, 2.0**30 + 0.5]


@pytest.fixture(autouse=True)
def nobody_gave_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of it is put back."""
    monkeypatch.setattr(time_slice, "_had_since", [0.0])
