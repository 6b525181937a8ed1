"""The failure process (D25) on real workers: one that does not follow is replaced, silence is the last resort."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.exception
import dns.rcode
import pytest

from tests.secondary import versions
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version

NEXT = FIRST + 1

# The set time is far away; an import with --now brings it about, so that no test depends on how fast the machine is.
SWITCHOVER = "align_seconds = 3600\nlead_seconds = 60\ngrace_seconds = 0.5\n"


@contextmanager
def scheduled(
    directory: Path, *, workers: int, policy: str = "silence"
) -> Iterator[tuple[Maintained, ScriptedPrimary]]:
    """An instance that serves FIRST, and has verified, examined and staged NEXT for a set time."""
    settings = SWITCHOVER + f'on_failed_switchover = "{policy}"'
    with scripted(version(FIRST)) as primary:
        section = primary_section(primary, "scripted")
        with maintained(directory, section, workers=workers, switchover=settings) as instance:
            instance.wait_for_serial(FIRST)
            instance.wait(lambda: len(active(instance)) == workers and all(active(instance)), "all workers answer")
            primary.publish(version(NEXT))
            instance.notify(NEXT)
            instance.wait(lambda: instance.status()["switchover"]["state"] == "scheduled", "scheduled")
            assert all(each["staged"] > each["active"] for each in instance.status()["workers"])
            yield instance, primary


def active(instance: Maintained) -> list[int]:
    return [each["active"] for each in instance.status().get("workers", []) if each["pid"]]


def pids(instance: Maintained) -> list[int]:
    return [each["pid"] for each in instance.status()["workers"]]


def stop(*workers: int) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)


def reach_the_set_time(instance: Maintained) -> None:
    """Have T now; back when the page has been flipped."""
    path = instance.directory / "next"
    path.write_bytes(versions.text(version(NEXT)))
    assert instance.order("zone-import", path.read_bytes(), now=True)["ok"]


def damage_the_table(instance: Maintained) -> tuple[Path, bytes]:
    """Whoever has it mapped keeps it; nobody else can use it.  The path, and the octets that it had."""
    path = instance.directory / "state" / "tables" / f"{instance.status()['switchover']['generation']}.table"
    octets = path.read_bytes()
    beside = path.with_suffix(".damaged")
    beside.write_bytes(octets[:-8] + b"damaged!")
    beside.replace(path)
    return path, octets


@pytest.mark.parametrize(("workers", "stopped"), [(2, 1), (2, 2)])
def test_a_worker_that_does_not_answer_the_new_zone_is_started_anew_from_its_table(
    tmp_path: Path, workers: int, stopped: int
) -> None:
    with scheduled(tmp_path, workers=workers) as (instance, _):
        before = pids(instance)
        generation = instance.status()["switchover"]["generation"]
        stop(*before[:stopped])
        reach_the_set_time(instance)
        instance.wait(lambda: "switchover confirmed" in instance.log.split("worker does not switch")[-1], "confirmed")
        instance.wait(lambda: active(instance) == [generation] * workers, "all workers answer the new zone")
        after = pids(instance)
        assert [old != new for old, new in zip(before, after, strict=True)] == [n < stopped for n in range(workers)]
        assert {instance.serial() for _ in range(30)} == {NEXT}  # each from another port: both workers' turn
        status = instance.status()
        assert (status["silenced"], status["switchover"]["state"]) == (False, "none")
        assert instance.log.count("worker does not switch") == stopped
        assert "switchover failed" not in instance.log


def test_when_no_worker_can_be_brought_to_it_the_instance_is_silent_until_the_next_zone_heals_it(
    tmp_path: Path,
) -> None:
    with scheduled(tmp_path, workers=2) as (instance, primary):
        stop(*pids(instance))
        damage_the_table(instance)
        reach_the_set_time(instance)
        instance.wait(lambda: instance.status()["silenced"], "silenced")
        instance.wait(lambda: all(pids(instance)), "the workers are there again")
        for tcp in (False, True):
            with pytest.raises(dns.exception.DNSException):
                instance.ask(tcp=tcp)
        status = instance.status()
        assert status["health"]["switchover_failed"]
        assert any("switchover failed: no worker answers from generation" in each for each in status["alarms"])
        assert "table unusable" in instance.log
        assert [each["event"] for each in instance.journal()][-1] == "switchover failed"
        # Nobody has to be asked, and no set time is waited for while nothing is answered.
        primary.publish(version(NEXT + 1))
        instance.notify(NEXT + 1)
        instance.wait_for_serial(NEXT + 1)
        instance.wait(lambda: instance.status()["switchover"]["state"] == "none", "over")
        assert not instance.status()["silenced"]


def test_with_keep_it_answers_servfail_and_never_the_old_zone_and_a_mended_table_heals_it(tmp_path: Path) -> None:
    with scheduled(tmp_path, workers=1, policy="keep") as (instance, _):
        stop(*pids(instance))
        path, octets = damage_the_table(instance)
        reach_the_set_time(instance)
        instance.wait(lambda: instance.status()["switchover"]["state"] == "failed", "failed")
        instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "SERVFAIL")
        assert not instance.status()["silenced"]
        path.write_bytes(octets)
        instance.wait_for_serial(NEXT)
        instance.wait(lambda: instance.status()["switchover"]["state"] == "none", "over")
        assert "switchover healed" in instance.log


@pytest.mark.long
def test_an_instance_that_was_silenced_and_ends_is_healed_by_its_start(tmp_path: Path) -> None:
    with scheduled(tmp_path, workers=1) as (instance, primary):
        stop(*pids(instance))
        damage_the_table(instance)
        reach_the_set_time(instance)
        instance.wait(lambda: instance.status()["silenced"], "silenced")
        primary.rcode = primary.ixfr_rcode = dns.rcode.REFUSED
        instance.kill()
        instance.start()
        instance.wait_for_serial(NEXT)
        instance.wait(lambda: not instance.status()["silenced"], "answering")
