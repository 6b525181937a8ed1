"""What is measured of a root server identity, and what the figures of a period are (RSSAC047v2 §5)."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rootsrv.wire.serial import serial_is_newer

TIMEOUT_SECONDS = 4.0
"""A response that comes later is none (§5.1, §5.2)."""

INTERVAL_SECONDS = 300.0
"""Between two measurements of one kind (§4.3)."""

Transport = Literal["udp", "tcp"]
TRANSPORTS: tuple[Transport, ...] = ("udp", "tcp")


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a root server identity."""

    name: str
    address: str
    port: int = 53

    @property
    def family(self) -> str:
        """ipv4 or ipv6."""
        return "ipv6" if ":" in self.address else "ipv4"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question and what came of it."""

    at: float
    """Seconds since 1970."""

    target: str
    address: str
    family: str
    transport: str
    question: str
    seconds: float | None = None
    """From sending (TCP: from connecting) to the response; None = none came in time."""

    rcode: str = ""
    serial: int | None = None
    """Of the SOA, where that was asked for."""

    fault: str = ""
    """Why it is not correct, or why nothing came; empty: it is, or was not judged."""

    judged: bool = False
    """Whether it was compared with a zone."""

    @property
    def available(self) -> bool:
        """Whether a response came in time (§5.2)."""
        return self.seconds is not None

    def to_document(self) -> dict[str, Any]:
        """For a line of JSON."""
        return {**asdict(self), "available": self.available}


@dataclass
class PublicationLatency:
    """When serials were seen first, and how much later each identity served them (§5.4)."""

    first: dict[int, float] = field(default_factory=dict)
    """By serial, when any target served it first."""

    served: dict[tuple[str, int], float] = field(default_factory=dict)
    """By target and serial: when it served that, or a newer one."""

    def note(self, sample: Sample) -> None:
        """A target serves what *sample* says."""
        if sample.serial is None:
            return
        if sample.serial not in self.first:
            # What it serves when the measurement begins, or long after others, was published at a time not seen.
            self.first[sample.serial] = sample.at
        for serial in self.first:
            if serial == sample.serial or serial_is_newer(sample.serial, serial):
                self.served.setdefault((sample.target, serial), sample.at)

    def latencies(self, target: str) -> list[float]:
        """Seconds, by serial that came after the first one that was ever seen."""
        serials = sorted(self.first, key=lambda serial: self.first[serial])[1:]
        return [
            self.served[target, serial] - self.first[serial] for serial in serials if (target, serial) in self.served
        ]


def median(values: Sequence[float]) -> float | None:
    """The middle one, or the mean of the two in the middle; None without any."""
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def summary(samples: Iterable[Sample], publication: PublicationLatency) -> list[dict[str, Any]]:
    """The four figures for each target, transport and family, as RSSAC047v2 §5 defines them."""
    grouped: dict[tuple[str, str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        grouped[sample.target, sample.transport, sample.family].append(sample)
    figures = []
    for (target, transport, family), of_kind in sorted(grouped.items()):
        soa = [each for each in of_kind if each.question == "./SOA"]
        took = [each.seconds for each in soa if each.seconds is not None]
        judged = [each for each in of_kind if each.judged]
        latency = median(took)
        published = median(publication.latencies(target))
        figures.append(
            {
                "target": target,
                "transport": transport,
                "family": family,
                "measurements": len(soa),
                "availability_percent": _percent(len(took), len(soa)),
                "response_latency_ms": None if latency is None else round(1000 * latency, 2),
                "correctness_percent": _percent(sum(not each.fault for each in judged), len(judged)),
                "judged": len(judged),
                "publication_latency_seconds": None if published is None else round(published, 1),
            }
        )
    return figures


def _percent(part: int, whole: int) -> float | None:
    """Rounded down: 100 is all of them."""
    return math.floor(100_000 * part / whole) / 1000 if whole else None
