"""What an instance used of its machine, by UTC day: processors, memory, disk, network (RFC 2870 §4)."""
# Theory of operation
# -------------------
# The kernel's counters only grow, and begin anew when a process or the machine does.  So what counts is the difference
# of two samples some seconds apart, added to the day of the later one; a counter that is lower than before began anew,
# and what it says is all since then.  What was used before the first sample of this process is not known, and not
# counted: `covered_seconds` says how much of the day the figures are about.
#
# The day's file is written anew as the day goes on: a restart goes on from there.  One file has one instance, or all of
# a fleet that a distribution host has heard of; what a machine is used for besides us is in its percentages.

import datetime
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from rootsrv.process import json_text, whole_file
from rootsrv.telemetry.host import Machine, Process

FORMAT = 1

SAMPLE_SECONDS = 10.0
"""Peaks are of so long."""

_LONGEST_GAP_SECONDS = 120.0
"""Samples that are further apart (the machine slept, the clock stepped) say nothing of a peak."""


class NotUtilisation(ValueError):
    """This is not what an instance used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """Of one instance on one day."""

    covered_seconds: float = 0.0
    """Of the day, that the sums are about."""

    processor_seconds: float = 0.0
    """Of our processes."""

    processor_percent: float = 0.0
    """Of all the machine's processors, by whomever: the mean."""

    processor_percent_peak: float = 0.0
    processors: int = 0
    memory_octets_peak: int = 0
    """Resident, of our processes together; what several share counts for each."""

    memory_percent_peak: float = 0.0
    """Of the machine's memory that was not available for more."""

    memory_octets_total: int = 0
    disk_octets_used: int = 0
    """Of the file system that has the statistics: the most."""

    disk_octets_total: int = 0
    network_octets_received: int = 0
    """By all interfaces but loopback."""

    network_octets_sent: int = 0
    network_bits_per_second_peak: int = 0
    """Received or sent, whichever was more."""

    @classmethod
    def from_document(cls, document: Any) -> "Utilisation":
        """What `asdict` makes of one; NotUtilisation.  A key that is missing counts as 0, an unknown one not at all."""
        values: dict[str, Any] = {}
        if not isinstance(document, Mapping):
            raise NotUtilisation("not an object")
        for each in fields(cls):
            value = document.get(each.name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
                raise NotUtilisation(f"{each.name}: {value!r:.40}")
            values[each.name] = float(value) if isinstance(each.default, float) else int(value)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class UtilisationSample:
    """What the kernel says at one moment."""

    at: float
    """Seconds since 1970."""

    machine: Machine
    processor_seconds: Mapping[int, float] = field(default_factory=dict)
    """By process id, of our processes."""

    resident_octets: int = 0

    @classmethod
    def of(cls, at: float, machine: Machine, processes: Iterable[Process]) -> "UtilisationSample":
        """From what host.py reads."""
        ours = list(processes)
        used = {each.pid: each.cpu_seconds for each in ours}
        return cls(at, machine, used, sum(each.resident_octets for each in ours))


def add(day: Utilisation, before: UtilisationSample, now: UtilisationSample) -> Utilisation:
    """*day* with what was used between two samples."""
    old, new = before.machine, now.machine
    seconds = now.at - before.at
    # A process that is seen for the first time may have run for long: no more than it can have used since.
    most = max(seconds, 0.0) * max(new.processors, 1)
    used = sum(min(most, _grown(before.processor_seconds.get(pid, 0.0), n)) for pid, n in now.processor_seconds.items())
    total, idle = _grown(old.processor_ticks, new.processor_ticks), _grown(old.idle_ticks, new.idle_ticks)
    busy = 100 * max(0.0, 1 - idle / total) if total else 0.0
    received, sent = _grown(old.received_octets, new.received_octets), _grown(old.sent_octets, new.sent_octets)
    known = 0 < seconds <= _LONGEST_GAP_SECONDS
    covered = day.covered_seconds + (seconds if known else 0.0)
    bits = math.ceil(8 * max(received, sent) / seconds) if known else 0
    memory = 100 * (1 - new.memory_available_octets / new.memory_octets) if new.memory_octets else 0.0
    return replace(
        day,
        covered_seconds=covered,
        processor_seconds=day.processor_seconds + used,
        processor_percent=(
            (day.processor_percent * day.covered_seconds + busy * seconds) / covered if known else day.processor_percent
        ),
        processor_percent_peak=max(day.processor_percent_peak, busy if known else 0.0),
        processors=new.processors,
        memory_octets_peak=max(day.memory_octets_peak, now.resident_octets),
        memory_percent_peak=max(day.memory_percent_peak, memory),
        memory_octets_total=new.memory_octets,
        disk_octets_used=max(day.disk_octets_used, new.disk_used_octets),
        disk_octets_total=new.disk_octets,
        network_octets_received=day.network_octets_received + received,
        network_octets_sent=day.network_octets_sent + sent,
        network_bits_per_second_peak=max(day.network_bits_per_second_peak, bits),
    )


def _grown(before: Any, now: Any) -> Any:
    return now - before if now >= before else now


def file_of(directory: Path, service: str, day: datetime.date) -> Path:
    """Where a day's file is, below the statistics' *directory*."""
    stem = f"{service.split('.', maxsplit=1)[0]}-root-{day:%Y%m%d}"
    return directory / "utilisation" / f"{day:%Y/%m}" / f"{stem}-utilisation.json"


def write(
    directory: Path,
    service: str,
    day: datetime.date,
    instances: Mapping[str, Utilisation],
    missing: Iterable[str] = (),
) -> None:
    """The day's file of *instances*, by name; OSError."""
    path = file_of(directory, service, day)
    document = {
        "format": FORMAT,
        "service": service,
        "start-period": f"{day.isoformat()}T00:00:00Z",
        "metric": "utilisation",
        "instances": {name: _rounded(each) for name, each in sorted(instances.items())},
        "missing": sorted(missing),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    whole_file.replace(path, json.dumps(document, indent=1).encode() + b"\n", mode=0o644)


def read(directory: Path, service: str, day: datetime.date) -> dict[str, Utilisation]:
    """What there is of *day*, by instance: empty if nothing, or nothing that can be read."""
    try:
        document = json_text.parse(file_of(directory, service, day).read_bytes())
        return {str(name): Utilisation.from_document(each) for name, each in document["instances"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _rounded(each: Utilisation) -> dict[str, Any]:
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(each).items()}


class UtilisationBook:
    """The days of this instance."""

    def __init__(self, directory: Path, service: str, instance: str) -> None:
        self._directory = directory
        self._service = service
        self._instance = instance
        self._before: UtilisationSample | None = None
        self._day: datetime.date | None = None
        self.today = Utilisation()

    def is_due(self, now: float) -> bool:
        """Whether a sample should be taken; *now*: seconds since 1970."""
        return self._before is None or not 0 <= now - self._before.at < SAMPLE_SECONDS

    def note(self, sample: UtilisationSample) -> None:
        """Count what was used since the sample before."""
        day = datetime.datetime.fromtimestamp(sample.at, datetime.UTC).date()
        if day != self._day:
            self.write()
            kept = read(self._directory, self._service, day)
            self._day, self.today = day, kept.get(self._instance, Utilisation())
        self.today = add(self.today, self._before or sample, sample)
        self._before = sample

    def write(self) -> None:
        """Have it on disk; OSError."""
        if self._day is not None:
            write(self._directory, self._service, self._day, {self._instance: self.today})
