"""An order that was kept, and cannot be carried out any more, ends nothing: the role goes on and listens."""

import asyncio
import errno
import os
import time
from pathlib import Path

import pytest

from rootsrv.capture import file_names, wall_clock
from rootsrv.config.file import load
from rootsrv.process import clocks
from rootsrv.process.clock import boottime_ns
from rootsrv.roles import capture as role
from tests.capture.test_role_alone import made
from tests.secondary.maintained import configure


@pytest.mark.parametrize(
    ("kept", "begin"),
    [
        ('["a list"]', "by-order"),
        ('{"until": "tomorrow"}', "by-order"),
        ('{"format": 7}', "by-order"),
        ('{"until": 1', "by-order"),
        ('{"compression": "gzip", "begun": []}', "by-order"),
        ('{"rotation_seconds": 7}', "by-order"),
        (None, "at-once"),
    ],
)
def test_it_goes_on_whatever_was_kept(
    tmp_path: Path, kept: str | None, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    section = f'[capture]\nbegin = "{begin}"\n'
    config = load(configure(tmp_path, section, service=("127.0.0.2", 5300), admin=("127.0.0.1", 5301)))
    assert config.capture is not None
    if kept is None:

        def none_of_it(_: str) -> None:
            raise role.CompressionUnavailable("compression: zstd is not installed")

        monkeypatch.setattr(role, "compressors", none_of_it)
    working = role._Capture(config, config.capture)
    if kept is not None:
        (Path(config.capture.directory) / file_names.ORDER).write_text(kept)
    stop = asyncio.Event()
    stop.set()
    asyncio.run(working.run(stop))


def test_an_order_whose_time_has_come_is_tried_until_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty hours of a collection must not go for what goes wrong in one instant."""
    working = made(tmp_path)
    now = time.time()
    working._start(role.StartOrder(at=now + 3600, until=now + 7200, format="pcap"))
    monkeypatch.setattr(time, "time", lambda: now + 3601)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as failing:
        failing.setattr(working._collector, "start", no_memory)
        for _ in range(2):
            with pytest.raises(MemoryError):
                working._turn()
    assert working.status()["state"] == "idle"
    assert (tmp_path / "files" / file_names.ORDER).exists()
    working._turn()
    told = working.status()
    assert (told["state"], told["format"], told["begins"], told["until"]) == ("capturing", "pcap", 0.0, now + 7200)
    working._close()


YEAR = 365 * 86_400.0


class Machine:
    """Roles of one directory after another, by a clock and in boots of ours."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.ahead = 0.0
        self.boot = "a boot"
        self.is_synchronised = False
        self.true = time.time() - boottime_ns() / 1e9
        monkeypatch.setattr(time, "time", self.wall)
        monkeypatch.setattr(time, "time_ns", lambda: int(self.wall() * 1e9))
        monkeypatch.setattr(clocks, "boot_id", lambda: self.boot)
        monkeypatch.setattr(clocks, "kernel_says_synchronised", lambda: self.is_synchronised)
        self.role = self.begins()

    def wall(self) -> float:
        return self.true + boottime_ns() / 1e9 + self.ahead

    def begins(self) -> role._Capture:
        made_anew = made(self.path)
        made_anew._collector._clock.now = lambda: int(self.wall() * 1e9)
        return made_anew

    def starts_anew(self, ahead: float, *, boot: str | None = None, away: float = 0.0) -> dict[str, object]:
        """The role, and if *boot* is said the machine, with a clock that is so much *ahead*; what the role says.

        *away*: for how long the machine was not there.
        """
        self.role._close()
        self.true += away
        self.ahead, self.boot = ahead, boot or self.boot
        self.role = self.begins()
        self.role._resume()
        self.role._turn()
        return self.role.status()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.mark.parametrize("boot", [None, "another boot"])
@pytest.mark.parametrize("has_begun", [True, False])
def test_an_order_is_not_forgotten_for_a_clock_that_is_set_wrong_when_the_role_starts(
    machine: Machine, boot: str | None, has_begun: bool
) -> None:
    at = machine.wall() + (-1000 if has_begun else 500)
    machine.role._start(role.StartOrder(at=at, until=at + 2000))
    told = machine.starts_anew(YEAR, boot=boot)
    assert told["state"] == "capturing"
    assert "by a clock that may be set wrong" in str(told["why"])
    told = machine.starts_anew(YEAR)
    assert told["state"] == "capturing", "nor by the next role"
    machine.ahead = 0.0
    machine.role._turn()
    assert (machine.role.status()["state"], machine.role.status()["until"]) == ("capturing", at + 2000)
    assert "wrong" not in machine.role.status()["why"]
    assert (machine.path / "files" / file_names.ORDER).exists()
    machine.role._close()


def test_a_clock_that_was_ahead_at_a_start_and_is_set_is_believed_at_once(machine: Machine) -> None:
    """That it is kept right need not be awaited: else a collection goes on for as long as the machine was away."""
    machine.role._start(role.StartOrder(until=machine.wall() + 2000))
    machine.starts_anew(YEAR, boot="another boot", away=300.0)
    believed, wall = machine.role._collector.clock
    assert believed < wall - YEAR
    machine.ahead = 0.0
    machine.role._turn()
    believed, wall = machine.role._collector.clock
    assert believed == pytest.approx(wall, abs=0.1)
    machine.role._close()


@pytest.mark.parametrize(
    "proof", ["it stood for ten minutes", "somebody keeps it right", "then somebody keeps it right"]
)
def test_an_order_whose_time_is_over_is_forgotten_when_the_clock_can_be_believed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, proof: str
) -> None:
    machine.role._start(role.StartOrder(until=machine.wall() + 1000))
    if proof == "it stood for ten minutes":
        monkeypatch.setattr(wall_clock, "STEADY_SECONDS", 0.0)
    machine.is_synchronised = proof == "somebody keeps it right"
    told = machine.starts_anew(1001.0, boot="another boot")
    if proof == "then somebody keeps it right":
        assert told["state"] == "capturing"
        machine.is_synchronised = True
        machine.role._turn()
    assert machine.role.status()["state"] == "idle"
    assert not (machine.path / "files" / file_names.ORDER).exists()
    machine.role._close()


def test_a_capture_for_so_long_lasts_as_long_over_a_step_of_the_clock_while_the_role_was_away(machine: Machine) -> None:
    machine.role._start(role.StartOrder(seconds=1000))
    until = machine.role.status()["until"]
    for ahead in (7200.0, -3600.0):
        assert machine.starts_anew(ahead)["until"] == pytest.approx(until + ahead, abs=1)
    machine.role._close()


def test_a_capture_for_so_long_ends_when_it_should_though_the_machine_was_started_without_a_clock(
    machine: Machine,
) -> None:
    """It begins in 1970 and is set: that must not move the end by half a century."""
    machine.role._start(role.StartOrder(seconds=1000))
    until = machine.role.status()["until"]
    assert machine.starts_anew(-56 * YEAR, boot="another boot")["state"] == "capturing"
    machine.ahead = 0.0
    machine.role._turn()
    assert machine.role.status()["until"] == until
    assert machine.starts_anew(0.0)["until"] == until
    machine.role._close()


@pytest.mark.parametrize("kept", ["{", '{"clocks": 7, "until": 1}', '{"clocks": [1, 2, 3, 4], "until": 1}',
                                  '{"clocks": [1, [], 3, "x"], "until": 1}'])  # fmt: skip
def test_why_an_order_does_not_go_on_is_said_until_somebody_ends_or_begins_one(
    tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "kernel_says_synchronised", lambda: True)
    working = made(tmp_path)
    (tmp_path / "files" / file_names.ORDER).write_text(kept)
    working._resume()
    for _ in range(3):
        working._turn()
    told = working.status()
    if kept != "{":
        assert "cannot be read" not in told["why"], "it is over"
        working._close()
        return
    assert "order.json cannot be read" in told["why"]
    assert "order.json cannot be read" in told["order_error"]
    working._stop()
    assert "order.json" not in working.status()["why"]
    assert not (tmp_path / "files" / file_names.ORDER).exists()
    with pytest.raises(role.Refused, match="nothing is captured"):
        working._stop()
    working._close()


@pytest.mark.parametrize("begin", ["by-order", "at-once"])
def test_what_cannot_be_kept_of_an_order_is_said_and_tried_again(
    tmp_path: Path, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full, or takes nothing: what was started would end with the role, what was stopped go on."""
    kept = tmp_path / "files" / file_names.ORDER
    monkeypatch.setattr(role, "_KEPT_SECONDS", 0.0)
    working = made(tmp_path, begin=begin)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for what, state in ((lambda: working._start(role.StartOrder()), "capturing"), (working._stop, "idle")):
        before = kept.read_bytes() if kept.exists() else None
        with monkeypatch.context() as failing:
            failing.setattr(role.whole_file, "replace", full)
            failing.setattr(Path, "unlink", full)
            what()
            working._turn()
            assert "No space left" in working.status()["order_error"]
            assert (kept.read_bytes() if kept.exists() else None) == before
        working._turn()
        assert working.status()["order_error"] == ""
        assert working.status()["state"] == state
        assert kept.exists() is (state == "capturing" or begin == "at-once")
    working._close()
    again = made(tmp_path, begin=begin)
    again._resume()
    assert again.status()["state"] == "idle", "nor does it go on"
    again._close()
