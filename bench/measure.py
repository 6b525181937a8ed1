"""One server's figures: the highest rate that it answers, its peak, what a reply costs, latency at half of that."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bench import processes
from bench.load import Load
from bench.subjects import Running

GOOD_SHARE = 0.999
"""Of the queries that must be answered for a rate to count as answered."""

# The walk, in parts of what came back under overload (which costs a server some of its peak).
_WALK = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2)
_DOWN = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01)  # only where none of those was answered: the machine is busy otherwise
_FAILURES_TO_STOP = 3  # a single hiccup of the machine is not the end of the walk
STEPS = len(_WALK) + 3
"""Runs of load in one measurement, at most."""


class Generator(Protocol):
    """An engine, wherever it runs."""

    def run(self, rate: float | None, seconds: float) -> Load:
        """As `load.Engine.run`."""


@dataclass
class Figures:
    """One measurement of one server; rates per second, times in seconds."""

    version: str
    answered_rate: float = 0.0
    """Highest rate of which ≥ 99.9 % was answered."""

    peak_rate: float = 0.0
    """Most replies, whatever was offered."""

    cpu_per_reply: float = 0.0
    """Processor seconds of the server's processes (or kernel thread) per reply at half of its peak under overload."""

    cpu_per_reply_at_peak: float = 0.0
    memory_octets: int = 0
    """Proportional set size of all of the server's processes."""

    worker_octets: int = 0
    """Resident set of the process that works most: the worker."""

    latency_p50: float = 0.0
    latency_p99: float = 0.0
    walk: list[tuple[float, float, float, float]] = field(default_factory=list)
    """(offered per second, answered per second, p50, p99), step by step."""

    wrong: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    answered: int = 0
    lost: int = 0
    interface_received: int = 0
    """Packets that the server's interface counted meanwhile, those dropped for want of room included."""

    generator_bound: bool = False
    remarks: list[str] = field(default_factory=list)

    def count(self, load: Load) -> None:
        """Add a run to the sums."""
        self.sent += load.sent
        self.answered += load.answered
        self.lost += load.lost
        for what, count in load.wrong.items():
            self.wrong[what] = self.wrong.get(what, 0) + count
        for remark in load.remarks:
            if remark not in self.remarks:
                self.remarks.append(remark)


def measure(
    running: Running,
    generator: Generator,
    *,
    overload: float | None,
    ceiling: float | None,
    step_seconds: float = 1.0,
    step_done: Callable[[], None] = lambda: None,
) -> Figures:
    """Walk the rate up to where *running* no longer answers: `STEPS` runs of *step_seconds*.

    *overload* is a rate that is more than the server can (None: all that the generator can); *ceiling* the generator's
    own limit.
    """
    figures = Figures(running.version)

    def offer(rate: float | None, seconds: float) -> Load:
        load = generator.run(rate, seconds)
        figures.count(load)
        step_done()
        return load

    offer((overload or 400_000) / 10, step_seconds / 2)
    used = cpu_seconds(running)
    peak = offer(overload, step_seconds)
    figures.cpu_per_reply_at_peak = (cpu_seconds(running) - used) / max(1, peak.answered)
    figures.peak_rate = peak.answer_rate
    failures = 0
    for share in _WALK:
        rate = share * peak.answer_rate
        load = offer(rate, step_seconds)
        figures.walk.append((load.offered_rate, load.answer_rate, load.latency_at(0.5), load.latency_at(0.99)))
        figures.peak_rate = max(figures.peak_rate, load.answer_rate)
        # A generator that cannot keep its schedule offers less: what was really sent counts.
        if load.answered_share >= GOOD_SHARE:
            figures.answered_rate = max(figures.answered_rate, load.answer_rate)
            failures = 0
        elif (failures := failures + 1) >= _FAILURES_TO_STOP:
            break
    for share in _DOWN:
        if figures.answered_rate:
            break
        load = offer(share * peak.answer_rate, step_seconds)
        figures.walk.append((load.offered_rate, load.answer_rate, load.latency_at(0.5), load.latency_at(0.99)))
        if load.answered_share >= GOOD_SHARE:
            figures.answered_rate = load.answer_rate
    # A fixed share of what is steady: the highest rate of which all was answered is not.
    used = cpu_seconds(running)
    load = offer(peak.answer_rate / 2, step_seconds)
    figures.cpu_per_reply = (cpu_seconds(running) - used) / max(1, load.answered)
    figures.latency_p50, figures.latency_p99 = load.latency_at(0.5), load.latency_at(0.99)
    figures.memory_octets = memory_octets(running)
    figures.worker_octets = worker_octets(running)
    figures.generator_bound = generator_bound(figures.peak_rate, ceiling)
    return figures


def generator_bound(rate: float, ceiling: float | None) -> bool:
    """Whether *rate* is within 10 % of what the generator itself can do (None: not known), or above."""
    return ceiling is not None and rate > 0.9 * ceiling


def cpu_seconds(running: Running) -> float:
    """Processor time that the server has used, to the nanosecond."""
    return sum(map(processes.cpu_nanoseconds, (*processes.of_session(running.session), *running.threads))) / 1e9


def memory_octets(running: Running) -> int:
    """Proportional set size of the server's processes."""
    return sum(map(processes.memory_octets, processes.of_session(running.session)))


def worker_octets(running: Running) -> int:
    """Resident set of the busiest of the server's processes."""
    busiest = max(processes.of_session(running.session), key=processes.cpu_nanoseconds, default=None)
    return 0 if busiest is None else processes.memory_octets(busiest, "VmRSS")


def median(values: list[float]) -> float:
    """The median; 0 of nothing."""
    return statistics.median(values) if values else 0.0


def spread(values: list[float]) -> float:
    """(largest − smallest) / median; 0 of nothing."""
    middle = median(values)
    return (max(values) - min(values)) / middle if middle else 0.0
