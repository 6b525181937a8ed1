"""A zone that is given out: which version, ready to send, from which older ones a difference can be had, until when."""
# Theory of operation
# -------------------
# Whoever has a verified zone – an instance that answers from it, the distribution host of a mesh, a LocalRoot service –
# puts it into an OfferedZone.  What gives out (requests.py, notify.py) knows nothing else.
#
#                put(contents, state, left)                 put(newer)
#      NOTHING ─────────────────────────────▶ OFFERED ───────────────────▶ OFFERED (newer)
#         ▲                                      │ withdraw()
#         └──────────────────────────────────────┘
#
# Law 1  A transfer is of one version, whatever is put while it runs: its messages are never changed.
# Law 2  The messages of a version are made once, and those of a difference once for each base, however many ask at the
#        same time; nobody forks or packs records for a request.  They are made in slices of about a millisecond.
# Law 3  The smaller is sent: a difference that would be larger than the whole zone is given up while it is made
#        (consecutive genuine roots: 1.6 MB against 1.3, since every signature changes).
# Law 4  What `left` says is what EXPIRE says (RFC 7314), and when it is over nothing is given out any more.

import asyncio
import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rootsrv.process.aside import aside
from rootsrv.wire import name as names
from rootsrv.wire.record import Record
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import difference
from rootsrv.zone.transfer_out import Difference, ReadyMessage, ready_messages, soa_record, transfer_records, wire

MAX_DIFFERENCES = 7
"""The longest chain of differences that is kept; beyond it the whole zone is smaller anyway."""


class OfferState(enum.StrEnum):
    """How the version that is given out stands with whoever gives it."""

    IN_SERVICE = "in service"
    SCHEDULED = "scheduled"
    """Verified; it will be in service."""

    HELD = "held"
    """Verified, but its owner waits for a human; others have their own judgement (a hold must not starve a mesh)."""

    DISTRIBUTE_ONLY = "distribute-only"
    """Never in an answer table here."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The version that is given out."""

    contents: ZoneContents = field(repr=False)
    state: OfferState
    left: Callable[[], float]
    """How long it may be used from now on, seconds; what EXPIRE says."""

    @property
    def serial(self) -> int:
        """The SOA serial."""
        return self.contents.serial


@dataclass(frozen=True, slots=True)
class ReadyTransfer:
    """The messages of one transfer, for everybody who asks for it."""

    serial: int
    base: int | None
    """The serial from which a difference starts; None: the whole zone."""

    messages: tuple[ReadyMessage, ...] = field(repr=False)
    octets: int
    """Of all messages, without what is added for one peer."""


class KeptVersions(Protocol):
    """Older versions that are kept somewhere: for differences after a restart, when none is in memory."""

    def serials(self) -> Sequence[int]:
        """Which are there, in any order."""
        ...

    async def differences(self, serials: Sequence[int], contents: ZoneContents) -> Sequence[Difference]:
        """From each of *serials* (oldest first) to the next, the last to *contents*.  Raises whatever hinders."""
        ...


class OfferedZone:
    """One zone that is given out.

    *failed* is told of an exception that a difference from kept versions ended with (the whole zone is sent instead).
    """

    def __init__(
        self, apex: bytes, kept: KeptVersions | None = None, failed: Callable[[Exception], None] = lambda _: None
    ) -> None:
        self.apex = apex
        self.name = names.to_text(apex)
        self.kept = kept
        self._failed = failed
        self._offer: Offer | None = None
        self._soa = b""
        self._differences: list[Difference] = []
        """Oldest first; each leads to the next, the last to what is offered."""

        self._made: dict[int | None, asyncio.Task[ReadyTransfer | None]] = {}
        """By base; None the whole zone.  A task that gave None: there is no difference, or it is larger."""

        self._chaining: asyncio.Task[None] | None = None

    # What is offered.

    @property
    def offer(self) -> Offer | None:
        """What is given out now; None: nothing, or its time is over (RFC 1034 §4.3.5)."""
        return self._offer if self._offer is not None and self._offer.left() > 0 else None

    @property
    def contents(self) -> ZoneContents | None:
        """What was put last, also when its time is over."""
        return self._offer.contents if self._offer is not None else None

    @property
    def state(self) -> OfferState | None:
        """How what was put last stands, also when its time is over."""
        return self._offer.state if self._offer is not None else None

    @property
    def expire_seconds(self) -> int:
        """What EXPIRE says (RFC 7314)."""
        return max(0, int(self._offer.left())) if self._offer is not None else 0

    @property
    def soa(self) -> bytes:
        """The SOA record of what is offered, in wire format."""
        return self._soa

    def put(self, contents: ZoneContents, state: OfferState, left: Callable[[], float]) -> None:
        """From now on give out *contents*; *left* says for how many seconds it may be used.

        The same contents again only change what is said of them.
        """
        before = self._offer
        self._offer = Offer(contents, state, left)
        if before is not None and before.contents is contents:
            return
        self._soa = wire(soa_record(contents))
        self._made = {}  # whoever waits for one of them has it, and gets the version that he asked for
        if before is None or not serial_is_newer(contents.serial, before.serial):
            self._differences, self._chaining = [], None
            return
        work = self._chain(self._chaining, self._differences, before.contents, contents)
        self._chaining = asyncio.get_running_loop().create_task(work, name=f"difference of {self.name}")

    def withdraw(self) -> None:
        """Give out nothing any more."""
        self._offer, self._soa, self._made, self._differences, self._chaining = None, b"", {}, [], None

    async def _chain(
        self,
        earlier: "asyncio.Task[None] | None",
        differences: list[Difference],
        older: ZoneContents,
        newer: ZoneContents,
    ) -> None:
        """Add the difference from *older* to *newer* to the chain *differences*, behind the *earlier* one."""
        if earlier is not None:
            await asyncio.wait((earlier,))
        removed, added = await aside(lambda: difference(older, newer))
        differences.append(Difference(older.serial, newer.serial, removed, added))
        del differences[:-MAX_DIFFERENCES]
        if self._offer is None or self._offer.contents is not newer:
            return
        whole = await self.whole()
        octets = 0
        for at in range(len(differences) - 1, -1, -1):
            octets += differences[at].octets
            # Compression spares less than half; what is larger than that will never be sent.
            if octets > 2 * whole.octets:
                del differences[: at + 1]
                break

    # What is sent.

    async def whole(self) -> ReadyTransfer:
        """AXFR of what is offered, which must be something."""
        ready = await asyncio.shield(self._task(None))
        assert ready is not None
        return ready

    async def since(self, serial: int) -> ReadyTransfer:
        """What brings somebody who has *serial* to what is offered: a difference, or the whole zone where smaller."""
        whole = await self.whole()
        if self._chaining is not None:
            await asyncio.wait((self._chaining,))
        if self._offer is None or serial not in self._bases():
            return whole
        return await asyncio.shield(self._task(serial, whole.octets)) or whole

    def _bases(self) -> set[int]:
        bases = {each.older for each in self._differences}
        if self.kept is not None and self._offer is not None:
            bases |= {each for each in self.kept.serials() if serial_is_newer(self._offer.serial, each)}
        return bases

    def _task(self, base: int | None, at_most: int | None = None) -> "asyncio.Task[ReadyTransfer | None]":
        """What makes the transfer from *base*; a difference of *at_most* octets, those of the whole zone."""
        task = self._made.get(base)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            assert self._offer is not None
            contents = self._offer.contents
            work = self._make_whole(contents) if base is None else self._make_difference(base, contents, at_most)
            task = self._made[base] = asyncio.get_running_loop().create_task(work, name=f"transfer of {self.name}")
        return task

    async def _make_whole(self, contents: ZoneContents) -> ReadyTransfer | None:
        return await self._pack(contents, None, transfer_records(contents), None)

    async def _make_difference(self, base: int, contents: ZoneContents, at_most: int | None) -> ReadyTransfer | None:
        # Meanwhile something newer may be offered, or nothing any more: *contents* are what was asked for.
        chain: Sequence[Difference] = self._differences
        at = next((at for at, each in enumerate(chain) if each.older == base), None)
        if at is not None and chain[-1].newer == contents.serial:
            chain = chain[at:]
        else:
            chain = await self._kept_chain(base, contents)
        if not chain:
            return None
        return await self._pack(contents, base, transfer_records(contents, chain), at_most)

    async def _kept_chain(self, base: int, contents: ZoneContents) -> Sequence[Difference]:
        if self.kept is None:
            return ()
        newest = contents.serial
        between = [
            each
            for each in self.kept.serials()
            if each == base or (serial_is_newer(each, base) and serial_is_newer(newest, each))
        ]
        if base not in between or len(between) > MAX_DIFFERENCES:
            return ()
        # A version that was only held never was in service, but its difference leads on all the same.
        between.sort(key=lambda each: (each - base) % 2**32)
        try:
            return await self.kept.differences(between, contents)
        except Exception as error:  # a kept version is not worth a transfer that fails
            self._failed(error)
            return ()

    async def _pack(
        self, contents: ZoneContents, base: int | None, records: Iterable[Record], at_most: int | None
    ) -> ReadyTransfer | None:
        messages: list[ReadyMessage] = []
        octets = 0
        for message in ready_messages(self.apex, records, ordered=base is not None):
            messages.append(message)
            octets += 12 + len(message.octets)
            if at_most is not None and octets >= at_most:
                return None
            await asyncio.sleep(0)  # others first: a NOTIFY, a lease, a switchover
        return ReadyTransfer(contents.serial, base, tuple(messages), octets + len(self.apex) + 4)
