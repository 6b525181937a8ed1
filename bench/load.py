"""What a load run found: the one result type of all engines, and its latency histogram."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

# Latency is kept in 16 bins per power of two of nanoseconds (error below 6.25 %), up to 2^40 ns; the sink program
# (bench/bpf/sink.bpf.c) fills the same bins.
SUB_BINS = 16
BINS = 41 * SUB_BINS


def bin_of(nanoseconds: int) -> int:
    """The histogram bin of a latency."""
    if nanoseconds < SUB_BINS:
        return max(0, nanoseconds)
    exponent = nanoseconds.bit_length() - 1
    return min(BINS - 1, (exponent - 3) * SUB_BINS + ((nanoseconds >> (exponent - 4)) & (SUB_BINS - 1)))


def nanoseconds_of(number: int) -> float:
    """The middle of a histogram bin."""
    if number < SUB_BINS:
        return float(number)
    exponent, sub = number // SUB_BINS + 3, number % SUB_BINS
    return float(1 << (exponent - 4)) * (SUB_BINS + sub + 0.5)


@dataclass(slots=True)
class Load:
    """One run of load.  sent = answered + lost; what is wrong about answers is counted besides."""

    seconds: float
    asked_rate: float | None
    """Queries per second that were to be offered; None = as many as the generator could."""

    sent: int
    answered: int
    lost: int
    octets: int = 0
    """Of all responses, DNS message only."""

    rcodes: dict[int, int] = field(default_factory=dict)
    truncated: int = 0
    wrong: dict[str, int] = field(default_factory=dict)
    """Responses that were not right, by what was wrong: id, rcode, size, content, duplicate."""

    compared: int = 0
    """Whole responses compared octet for octet."""

    ring_drops: int = 0
    """Of those lost: frames that found the receiver's ring full, as a network card drops them (veth: 256 frames)."""

    latency: Sequence[int] = field(default=(), repr=False)
    """Histogram, see `bin_of`."""

    remarks: list[str] = field(default_factory=list)

    @property
    def offered_rate(self) -> float:
        """Queries per second that really went out."""
        return self.sent / self.seconds

    @property
    def answer_rate(self) -> float:
        """Responses per second."""
        return self.answered / self.seconds

    @property
    def answered_share(self) -> float:
        """Of those sent, 0 … 1."""
        return self.answered / self.sent if self.sent else 0.0

    @property
    def wrong_count(self) -> int:
        """Responses with anything wrong."""
        return sum(self.wrong.values())

    def latency_at(self, quantile: float) -> float:
        """Seconds below which *quantile* of the measured latencies lie; NaN without any."""
        total = sum(self.latency)
        if not total:
            return float("nan")
        left = quantile * total
        for number, count in enumerate(self.latency):
            left -= count
            if left <= 0 and count:
                return nanoseconds_of(number) / 1e9
        return nanoseconds_of(len(self.latency) - 1) / 1e9


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask; None = not over this family."""

    ipv4: str | None
    ipv6: str | None
    port: int = 53


class Engine(Protocol):
    """Something that offers load to its target and judges what comes back."""

    def run(self, rate: float | None, seconds: float) -> Load:
        """Offer *rate* queries per second (None: all it can) for *seconds*."""

    def close(self) -> None:
        """Give back sockets, programs and maps."""
