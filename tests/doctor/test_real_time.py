"""What doctor says of workers that go before ordinary processes, or are to."""

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rootsrv.config.file import Config
from rootsrv.control.client import NoAnswer
from rootsrv.doctor import real_time
from rootsrv.doctor.finding import Finding, Grade

ORDINARY = {"pid": 7, "policy": "ordinary", "priority": 0}
FIFO = {"pid": 8, "policy": "fifo", "priority": 2}


class Host:
    """What is looked at, in a directory."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.workers: list[dict[str, Any]] | None = None
        self.unit: dict[str, str] = {}
        self.system, self.network = directory / "kernel", directory / "net"
        self.system.mkdir()
        (self.network / "eth0").mkdir(parents=True)
        monkeypatch.setattr(real_time, "_SYSTEM", self.system)
        monkeypatch.setattr(real_time, "_NETWORK", self.network)
        monkeypatch.setattr(real_time, "_GROUPS", directory / "groups")
        monkeypatch.setattr(real_time, "_of_the_unit", lambda *_: self.unit)
        monkeypatch.setattr(real_time.client, "ask", self._ask)
        self.groups(False)
        self.linux("6.1.0-28-amd64")
        self.limit(950_000)
        self.slice(4)
        self.card("1", {})

    async def _ask(self, *_: object) -> dict[str, Any]:
        if self.workers is None:
            raise NoAnswer("no answer")
        return {"workers": self.workers}

    def linux(self, release: str) -> None:
        uname = os.uname()
        self._monkeypatch.setattr(os, "uname", lambda: os.uname_result((*uname[:2], release, *uname[3:])))

    def groups(self, there: bool) -> None:
        self._monkeypatch.setattr(real_time, "has_groups", lambda: there)

    def limit(self, microseconds: int) -> None:
        (self.system / "sched_rt_runtime_us").write_text(f"{microseconds}\n")
        (self.system / "sched_rt_period_us").write_text("1000000\n")

    def slice(self, milliseconds: int) -> None:
        (self.system / "sched_rr_timeslice_ms").write_text(f"{milliseconds}\n")

    def card(self, threaded: str, threads: dict[int, dict[str, Any]]) -> None:
        (self.network / "eth0" / "threaded").write_text(f"{threaded}\n")
        self._monkeypatch.setattr(real_time, "threads_of", lambda _: threads)

    def findings(self, wanted: int) -> dict[str, Finding]:
        config = Config()
        config = replace(
            config,
            service=replace(config.service, real_time_priority=wanted),
            fastpath=replace(config.fastpath, interfaces=("eth0",)),
        )
        return {each.about: each for each in real_time.checks(config)}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_where_nobody_goes_first_or_shall_there_is_nothing_to_say(host: Host) -> None:
    assert host.findings(0) == {}
    host.workers = [ORDINARY]
    assert host.findings(0) == {}


def test_a_priority_that_all_have_is_good(host: Host) -> None:
    host.workers = [FIFO, FIFO, {"pid": 0}]
    assert host.findings(2)["real-time priority"] == Finding(
        "real-time priority", Grade.GOOD, "2 of 2 processes that answer go before ordinary ones (fifo 2)"
    )


def test_one_that_a_unit_gave_is_worth_a_word(host: Host) -> None:
    host.workers = [FIFO]
    found = host.findings(0)["real-time priority"]
    assert found.grade is Grade.REMARK
    assert "service.real_time_priority is 0" in found.found


def test_another_than_the_one_configured_is_worth_a_word(host: Host) -> None:
    host.workers = [FIFO]
    found = host.findings(3)["real-time priority"]
    assert (found.grade, "with fifo 2 where fifo 3 is configured" in found.found) == (Grade.REMARK, True)


LOADED = {"LoadState": "loaded", "RestrictRealtime": "no", "LimitRTPRIO": "49"}
IN_THE_WAY = {
    "nothing known": (LOADED, False, "the log of serve says why"),
    "the unit's sandbox": (
        LOADED | {"RestrictRealtime": "yes"},
        False,
        "RestrictRealtime=yes in rootsrv-serve.service",
    ),
    "the unit's limit": (LOADED | {"LimitRTPRIO": "1"}, False, "LimitRTPRIO=1 in rootsrv-serve.service"),
    "no time for its group": (LOADED, True, "CONFIG_RT_GROUP_SCHED"),
}


@pytest.mark.parametrize("case", IN_THE_WAY)
def test_what_is_in_the_way_is_named(case: str, host: Host) -> None:
    unit, groups, reason = IN_THE_WAY[case]
    host.unit, host.workers = unit, [FIFO, ORDINARY]
    host.groups(groups)
    found = host.findings(2)["real-time priority"]
    assert (found.grade, found.remedy != "") == (Grade.BAD, True)
    assert found.found.startswith("1 of 2 processes")
    assert reason in found.found


def test_before_serve_runs_its_unit_is_asked(host: Host) -> None:
    host.unit = LOADED
    assert host.findings(2)["real-time priority"].grade is Grade.GOOD
    host.unit = LOADED | {"RestrictRealtime": "yes"}
    assert host.findings(2)["real-time priority"].grade is Grade.BAD


LEFT = {
    "Debian 12": ("6.1.0-28-amd64", False, 950_000, "stopped for up to 50 ms of each second"),
    "ten milliseconds": ("6.1.0-28-amd64", False, 990_000, "stopped for up to 10 ms of each second"),
    "unlimited": ("6.1.0-28-amd64", False, -1, "nothing is kept for them"),
    "Linux 6.12": ("6.12.0", False, 950_000, "let in for 5 %"),
    "Linux 6.12, unlimited": ("6.12.0", False, -1, "let in for 5 %"),
    "Linux 6.12 with groups": ("6.12.0", True, 950_000, "stopped for up to 50 ms of each second"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_linux_leaves_to_others_is_told(case: str, host: Host) -> None:
    release, groups, limit, told = LEFT[case]
    host.linux(release)
    host.groups(groups)
    host.limit(limit)
    found = host.findings(2)["time of ordinary processes"]
    assert told in found.found
    assert ("sysctl" in found.remedy) == (bool(found.remedy) and not groups)


@pytest.mark.parametrize(("milliseconds", "grade"), [(1, Grade.GOOD), (10, Grade.GOOD), (100, Grade.REMARK)])
def test_turns_of_a_tenth_of_a_second_are_worth_a_word(milliseconds: int, grade: Grade, host: Host) -> None:
    host.slice(milliseconds)
    found = host.findings(2)["turns of the card's threads"]
    assert (found.grade, f"{milliseconds} ms" in found.found) == (grade, True)


CARDS = {
    "in interrupts": ("0", {}, Grade.REMARK, "in interrupts"),
    "no thread": ("1", {}, Grade.REMARK, "none is there"),
    "ordinary": ("1", {5: ORDINARY}, Grade.REMARK, "not in step with workers of fifo 2: 5 ordinary 0"),
    "before workers": ("1", {5: {"policy": "rr", "priority": 3}}, Grade.REMARK, "5 rr 3"),
    "in turns": ("1", {5: {"policy": "rr", "priority": 2}}, Grade.GOOD, "1 take turns with the workers (rr 2)"),
}


@pytest.mark.parametrize("case", CARDS)
def test_whether_the_threads_of_the_card_keep_step_is_told(case: str, host: Host) -> None:
    threaded, threads, grade, told = CARDS[case]
    host.card(threaded, threads)
    found = host.findings(2)["threads of eth0"]
    assert (found.grade, told in found.found) == (grade, True), found


def test_of_an_interface_that_is_not_there_that_is_told(host: Host) -> None:
    (host.network / "eth0" / "threaded").unlink()
    assert "No such file" in host.findings(2)["threads of eth0"].found


def test_this_kernel_can_be_looked_at() -> None:
    share = real_time.stopped_share()
    assert share is None or 0 <= share <= 1
    assert real_time.release() > (5, 0)
    with contextlib.suppress(StopIteration):
        number, said = next(iter(real_time.threads_of("eth0").items()))
        assert (number > 0, set(said)) == (True, {"policy", "priority"})
