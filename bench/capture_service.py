"""`python -m bench.capture --only service`: what a capture costs those who ask: answered share, latency, on and off.

A whole instance answers on a wire of two namespaces, as in `bench compare`: its worker, the kernel's thread that
answers for it and all of its other processes, the role capture among them, have one core, the generator has the other.
That is less than capture.md asks for (a core of its own), and so the harsher case.  It is offered a fixed share of what
it does under overload; in turns nothing is captured, C-DNS with gzip, pcap, and pcap onto a disk that gets full in the
middle of the turn, or C-DNS onto one that takes nothing for as long as it lasts.

A disk that gets full costs what is behind the last whole member of a file.  So that one of them is before that, and
the file is not cut back to nothing, that turn is as long as it takes to write six, and the disk takes a quarter of it:
what a role writes that shares its core with all else differs by a factor of two from turn to turn.
"""

import contextlib
import ctypes
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import network, subjects
from bench.compare import Comparison, Options
from bench.load import Load
from bench.subjects import FAILURES, Subject
from bench.zones import Zones
from rootsrv.capture.output_file import MEMBER_OCTETS
from rootsrv.capture.room import LEAST_FREE_OCTETS
from rootsrv.commands import asking
from rootsrv.config import file as config_file
from rootsrv.control import client

SUBJECTS = ("rootsrv XDP", "rootsrv tc", "rootsrv")
TURNS = ("off", "cdns", "pcap", "pcap, full disk", "cdns, stuck disk")
ROUNDS = 3
SECONDS = 2.0
SHARE = 0.5
"""Of what the instance answers under overload."""

FULL_MEMBERS = 6
"""So many members would be written while the disk gets full; it has room for a quarter of them."""

PERCENTILES = 0.5, 0.99, 0.999

_DISK_OCTETS = 512 << 20
_ORDER_SECONDS = 30.0
_POLL_SECONDS = 0.05
_CLONE_NEWNS = 0x20000


class _Disk:
    """A file system of its own, which can be full, or take nothing (fsfreeze(8))."""

    def __init__(self, directory: Path) -> None:
        self._place = directory / "disk"
        self._ballast = self._place / "ballast"
        image = directory / "image"
        self._place.mkdir()
        with image.open("wb") as file:
            file.truncate(_DISK_OCTETS)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)  # no room that only root has
        # Seen by this process and by what it starts, and gone with them, whatever ends us.
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "a mount namespace cannot be made")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-o", "loop", image, self._place], check=True)

    @property
    def files(self) -> Path:
        """Where a capture makes its files."""
        return self._place / "files"

    def empty(self) -> None:
        """Take away what was captured."""
        for path in self.files.glob("*"):
            path.unlink()

    @contextlib.contextmanager
    def in_state(self, turn: str, octets: int) -> Iterator[None]:
        """As the *turn* wants it, in which some *octets* would be written onto a disk that has room for them."""
        if turn.endswith("full disk"):
            # With less the role begins nothing: that disk is full from the start, and no writing fails.
            kept = LEAST_FREE_OCTETS + octets // 4
            free = int(subprocess.check_output(["df", "--output=avail", "-B1", self._place]).split()[1])
            subprocess.run(["fallocate", "-l", str(free - kept), self._ballast], check=True)
        elif turn.endswith("stuck disk"):
            subprocess.run(["fsfreeze", "--freeze", self._place], check=True)
        try:
            yield
        finally:
            if turn.endswith("stuck disk"):
                subprocess.run(["fsfreeze", "--unfreeze", self._place], check=True)
            self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount it."""
        subprocess.run(["umount", "--lazy", self._place], check=True)


@dataclass(frozen=True)
class _Capture:
    """The role capture of the instance under test."""

    config: config_file.Config
    disk: _Disk

    def order(self, command: str, **request: object) -> dict[str, Any]:
        return dict(asking.ask(self.config, "capture", {"command": command} | request, _ORDER_SECONDS)[0])

    def start(self, turn: str) -> None:
        """Begin what the *turn* wants captured, and wait until the rings are there."""
        form = turn.partition(",")[0]
        self.order("capture-start", format=form, compression="gzip" if form == "cdns" else "none")
        deadline = time.monotonic() + _ORDER_SECONDS
        while why := self.order("status")["why"]:
            if time.monotonic() > deadline:
                raise subjects.SubjectUnavailable(f"the role capture: {why}")
            time.sleep(_POLL_SECONDS)

    def wait_until_there(self) -> None:
        """Until it takes orders; SubjectUnavailable when it never does."""
        deadline = time.monotonic() + _ORDER_SECONDS
        while True:
            try:
                self.order("status")
            except client.NoAnswer as error:
                if time.monotonic() > deadline:
                    raise subjects.SubjectUnavailable(f"the role capture: {error}") from error
                time.sleep(_POLL_SECONDS)
            else:
                return


def run(zones: Zones, *, seconds: float = SECONDS, rounds: int = ROUNDS, share: float = SHARE) -> list[dict[str, Any]]:
    """For each way to answer and each turn: rates, shares, latencies and losses by round."""
    rows: list[dict[str, Any]] = []
    for name in SUBJECTS:
        with contextlib.ExitStack() as stack:
            try:
                rows += _measure(zones, name, stack, seconds=seconds, rounds=rounds, share=share)
            except (*FAILURES, client.NoAnswer, client.NotDone) as error:
                rows.append({"subject": name, "left_out": str(error)})
    return rows


def _measure(
    zones: Zones, name: str, stack: contextlib.ExitStack, *, seconds: float, rounds: int, share: float
) -> list[dict[str, Any]]:
    comparison = Comparison(zones, Options(subjects=(name,)), stack)
    mode = {"rootsrv": "", "rootsrv tc": "tc", "rootsrv XDP": "xdp"}[name]
    made: list[_Capture] = []

    @contextlib.contextmanager
    def start(bench: subjects.Bench) -> Iterator[subjects.Running]:
        with contextlib.closing(_Disk(bench.workdir)) as disk:
            section = f'[capture]\ndirectory = "{disk.files}"\nkeep_free_gigabytes = 0\nrotation_seconds = 86400\n'
            with subjects.instance(bench, mode, section) as (running, configuration):
                made.append(_Capture(configuration, disk))
                yield running

    subject = Subject(name, start, "rootsrv", in_kernel=bool(mode))
    stack.enter_context(comparison.serving(subject, comparison.mean_reply_octets()))
    capture = made[0]
    capture.wait_until_there()
    peak = statistics.median(comparison.generator.run(subject.overload, 0.5).answer_rate for _ in range(3))
    rate = share * peak
    found: dict[str, list[dict[str, Any]]] = {turn: [] for turn in TURNS}
    for _ in range(rounds):
        for turn in TURNS:
            octets = found["pcap"][-1]["octets"] if turn.endswith("full disk") else 0
            longer = full_factor(octets) if octets else 1.0
            found[turn].append(_turn(comparison, capture, turn, rate, longer * seconds, round(longer * octets)))
    return [{"subject": name, "turn": turn, "rate": rate, "rounds": each} for turn, each in found.items()]


def full_factor(octets: int) -> float:
    """How many times as long the disk's turn is as one in which *octets* are written."""
    return max(1.0, FULL_MEMBERS * MEMBER_OCTETS / octets)


def _turn(
    comparison: Comparison, capture: _Capture, turn: str, rate: float, seconds: float, octets: int
) -> dict[str, Any]:
    if turn == "off":
        return _figures(comparison.generator.run(rate, seconds))
    before = capture.order("status")
    capture.start(turn)
    with capture.disk.in_state(turn, octets):
        load = comparison.generator.run(rate, seconds)
        # A disk that takes nothing would let it wait; one that is full has no room for what is behind, either.
        after = capture.order("capture-stop") if turn.endswith("full disk") else {}
    after = after or capture.order("capture-stop")
    capture.disk.empty()
    lost = {where: count - before["lost"][where] for where, count in after["lost"].items()}
    items, written = (after[key] - before[key] for key in ("items", "written_octets"))
    if turn.endswith("full disk") and not (items and lost["disk"]):
        raise subjects.SubjectUnavailable(f"the disk did not get full in the middle: {items} written, lost {lost}")
    return _figures(load) | {"items": items, "octets": written, "rows_lost": lost}


def _figures(load: Load) -> dict[str, Any]:
    return {
        "sent": load.sent,
        "answered": load.answered,
        "offered": load.offered_rate,
        "in_ring": load.ring_drops,
        "microseconds": {f"{at}": load.latency_at(at) * 1e6 for at in PERCENTILES},
    }


def to_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table, and whose core is whose."""
    lines = [
        "| answers | capture | offered/s | answered | least | p50 µs | p99 µs | p99 by round | p99.9 µs | written"
        " | not written |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        if "left_out" in row:
            lines.append(f"| {row['subject']} | left out: {row['left_out']} |" + " |" * 9)
            continue
        rounds = row["rounds"]
        sent, answered = (sum(each[what] for each in rounds) for what in ("sent", "answered"))
        least = min(each["answered"] / max(1, each["sent"]) for each in rounds)
        p50, p99, p999 = (statistics.median(each["microseconds"][f"{at}"] for each in rounds) for at in PERCENTILES)
        ends = sorted(each["microseconds"]["0.99"] for each in rounds)
        lines.append(
            f"| {row['subject']} | {row['turn']} | {statistics.median(each['offered'] for each in rounds):,.0f}"
            f" | {answered / max(1, sent):.3%} | {least:.3%} | {p50:.0f} | {p99:.0f} | {ends[0]:.0f} … {ends[-1]:.0f}"
            f" | {p999:.0f} | {_written(rounds)} |"
        )
    return [
        *lines,
        "",
        f"Each instance is offered {SHARE:.0%} of what it answered under overload, in turns: medians of the rounds"
        " (least: of the share answered), latencies of every 16th response.  The server's core has its worker, the"
        " kernel's thread that answers (before all others, as a card's interrupts) and the role capture; the"
        " generator has the other.  Files on a disk of their own (ext4, loop); one that gets full has room for a"
        f" quarter of what is asked while {FULL_MEMBERS} members of {MEMBER_OCTETS >> 20} MiB would be written."
        f"  {network.SERVER_INTERFACE} is a veth.",
    ]


def _written(rounds: list[dict[str, Any]]) -> str:
    if "items" not in rounds[0]:
        return "– | –"
    lost: dict[str, int] = {}
    for each in rounds:
        for where, count in each["rows_lost"].items():
            lost[where] = lost.get(where, 0) + count
    items = sum(each["items"] for each in rounds)
    said = ", ".join(f"{where} {count:,}" for where, count in lost.items() if count)
    return f"{items:,} | {said or '0'}"
