"""What an instance used of its machine: counted between samples, by day, over restarts of anything."""

import datetime
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.telemetry import utilisation
from rootsrv.telemetry.host import Machine, Process, read_machine
from rootsrv.telemetry.utilisation import NotUtilisation, Utilisation, UtilisationBook, UtilisationSample, add

DAY = datetime.date(2026, 11, 21)
NOON = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.UTC).timestamp()
MIDNIGHT = NOON + 43_200
MACHINE = Machine(
    processors=2,
    processor_ticks=1_000_000,
    idle_ticks=900_000,
    memory_octets=8_000,
    memory_available_octets=6_000,
    disk_octets=100,
    disk_used_octets=40,
    received_octets=5_000,
    sent_octets=7_000,
)
SERVICE = "x.root-servers.net"


def sample(at: float, machine: Machine = MACHINE, **used: float) -> UtilisationSample:
    processes = [Process(name, 100, seconds, pid) for pid, (name, seconds) in enumerate(used.items(), 10)]
    return UtilisationSample.of(at, machine, processes)


def test_what_was_used_between_two_samples_is_added() -> None:
    later = replace(
        MACHINE, processor_ticks=1_002_000, idle_ticks=901_500, memory_available_octets=2_000, disk_used_octets=50,
        received_octets=15_000, sent_octets=107_000,
    )  # fmt: skip
    before = sample(NOON, serve=100.0, maintain=7.0)
    used = add(Utilisation(), before, sample(NOON + 10, later, serve=103.0, maintain=7.5))

    assert used == Utilisation(
        covered_seconds=10,
        processor_seconds=3.5,
        processor_percent=25,
        processor_percent_peak=25,
        processors=2,
        memory_octets_peak=200,
        memory_percent_peak=75,
        memory_octets_total=8_000,
        disk_octets_used=50,
        disk_octets_total=100,
        network_octets_received=10_000,
        network_octets_sent=100_000,
        network_bits_per_second_peak=80_000,
    )
    idle = replace(later, processor_ticks=1_008_000, idle_ticks=907_500, disk_used_octets=10)
    more = add(used, sample(NOON + 10, later), sample(NOON + 40, idle))
    assert (more.processor_percent, more.processor_percent_peak, more.disk_octets_used) == (6.25, 25, 50)
    assert more.network_octets_sent == 100_000


def test_counters_that_begin_anew_count_from_nothing() -> None:
    again = replace(MACHINE, received_octets=100, sent_octets=0)
    used = add(Utilisation(), sample(NOON, serve=100.0), sample(NOON + 10, again, serve=2.0))
    assert (used.processor_seconds, used.network_octets_received, used.network_octets_sent) == (2.0, 100, 0)


def test_a_process_that_is_seen_for_the_first_time_counts_what_it_can_have_used_since() -> None:
    used = add(Utilisation(), sample(NOON), sample(NOON + 10, serve=86_400.0))
    assert used.processor_seconds == 20.0


@pytest.mark.parametrize("step", [-3600.0, 0.0, 7200.0])
def test_a_clock_that_steps_loses_no_sum_and_makes_no_peak(step: float) -> None:
    later = replace(MACHINE, sent_octets=8_000, processor_ticks=1_000_100)
    used = add(Utilisation(covered_seconds=60, processor_percent=5), sample(NOON), sample(NOON + step, later))
    assert used.network_octets_sent == 1_000
    assert (used.covered_seconds, used.processor_percent, used.network_bits_per_second_peak) == (60, 5, 0)


def test_a_day_goes_on_after_a_restart_and_the_next_one_begins_with_nothing(tmp_path: Path) -> None:
    def book() -> UtilisationBook:
        return UtilisationBook(tmp_path, SERVICE, "zrh1-a")

    def sent(octets: int) -> Machine:
        return replace(MACHINE, sent_octets=octets)

    first = book()
    assert first.is_due(NOON)
    first.note(sample(NOON, sent(0)))
    assert not first.is_due(NOON + 9)
    assert first.is_due(NOON + 10)
    assert first.is_due(NOON - 1)
    first.note(sample(NOON + 10, sent(100)))
    first.write()
    second = book()
    second.note(sample(NOON + 60, sent(5_000)))  # what was sent meanwhile, nobody has seen
    second.note(sample(NOON + 70, sent(5_010)))
    second.note(sample(MIDNIGHT + 1, sent(5_030)))
    second.write()

    (day,) = utilisation.read(tmp_path, SERVICE, DAY).values()
    assert (day.network_octets_sent, day.covered_seconds) == (110, 20)
    (next_day,) = utilisation.read(tmp_path, SERVICE, DAY + datetime.timedelta(1)).values()
    assert next_day.network_octets_sent == 20
    document = json.loads((tmp_path / "utilisation/2026/11/x-root-20261121-utilisation.json").read_bytes())
    assert (document["start-period"], document["metric"]) == ("2026-11-21T00:00:00Z", "utilisation")


@pytest.mark.parametrize("wrong", ["", "[]", "{}", '{"instances": {"a": {"processors": -1}}}', "\xff"])
def test_a_file_that_cannot_be_read_is_a_day_that_begins_anew(tmp_path: Path, wrong: str) -> None:
    path = utilisation.file_of(tmp_path, SERVICE, DAY)
    path.parent.mkdir(parents=True)
    path.write_bytes(wrong.encode("latin-1"))
    assert utilisation.read(tmp_path, SERVICE, DAY) == {}
    book = UtilisationBook(tmp_path, SERVICE, "zrh1-a")
    book.note(sample(NOON))
    assert (book.today.covered_seconds, book.today.processor_seconds, book.today.processors) == (0, 0, 2)


@pytest.mark.parametrize("value", ["1", True, -1, 2**63, float("inf"), None, []])
def test_what_an_instance_cannot_have_used_is_refused(value: object) -> None:
    with pytest.raises(NotUtilisation, match="processors"):
        Utilisation.from_document({"processors": value})
    assert Utilisation.from_document({"of a later version": 1}) == Utilisation()


def test_this_machine_has_processors_memory_and_a_disk(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine.processors >= 1
    assert 0 < machine.idle_ticks < machine.processor_ticks
    assert 0 < machine.memory_available_octets < machine.memory_octets
    assert 0 < machine.disk_used_octets < machine.disk_octets
    assert read_machine(tmp_path / "gone").disk_octets == 0
