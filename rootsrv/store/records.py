"""What one instance writes down of itself, ledger and journal, and whether it could: a full disk stops nothing."""

from collections.abc import Mapping
from typing import Any

from rootsrv.process import log
from rootsrv.process.clocks import Clocks, Timekeeper, boot_id
from rootsrv.store.ledger import Ledger, Served, check, trusted_offset
from rootsrv.store.store import Store, StoreFailed
from rootsrv.zone import instant
from rootsrv.zone.lease import Lease

WRITE_AGAIN_SECONDS = 5.0
"""How soon a ledger that could not be written is tried again; what waits for that, at twice the time each time."""

LAST_SEEN_SECONDS = 600.0
"""How often the ledger notes that time has passed, if nothing else does: what a reboot with a wrong clock costs."""


class Records:
    """The ledger and the journal; the time goes on from what the ledger knows to have passed."""

    def __init__(self, store: Store, clocks: Clocks) -> None:
        """StoreFailed if what is kept cannot be read."""
        record = store.read_ledger(check)
        last_seen = record.get("last_seen_wall", 0.0)
        self._boot = boot_id()
        not_before = last_seen if isinstance(last_seen, float) else 0.0
        self.time = Timekeeper(clocks, not_before, trusted_offset(record, self._boot))
        self._store = store
        self._ended = False
        boottime = self.time.boottime()
        self.ledger = Ledger.from_record(record, self._boot, self.time.trusted, boottime)
        self.error = ""
        """Why the state directory could not be written last; empty = it could."""

        self.unwritten = False
        """Whether what is on disk is not the ledger, because it could not be written last."""

        self._highest = self.ledger.highest
        """Of the ledger on disk."""

        self._written = boottime
        """When the ledger was written last, CLOCK_BOOTTIME."""

    def write(
        self,
        leases: Mapping[str, Lease],
        served: Mapping[str, Served],
        dropped: Mapping[str, list[int]],
        seen_wall: float,
    ) -> bool:
        """Write down what is in service and since when, and what the operator rejected, by zone.

        *seen_wall*: a moment that has passed, seconds since 1970.
        Whether it is on disk when this returns; a disk that cannot be written is an alarm and stops nothing.
        """
        self.ledger.leases |= leases
        self.ledger.served |= served
        self.ledger.last_seen_wall = max(self.ledger.last_seen_wall, seen_wall)
        self.ledger.dropped = dict(dropped)
        return self.save()

    def save(self) -> bool:
        """Write the ledger as it is."""
        self._written = self.time.boottime()
        self.ledger.trusted_offset = None if self._ended else self.time.trusted.offset
        try:
            self._store.write_ledger(self.ledger.to_record(self._boot))
        except StoreFailed as error:
            self.unwritten = True
            self.failed(error)
            return False
        self.error, self.unwritten = "", False
        self._highest = self.ledger.highest
        return True

    def end(self) -> None:
        """Somebody has this run end: who starts next takes the wall clock's word, as somebody may want it to."""
        self._ended = True

    def next_generation(self, active: int) -> int:
        """A number for an answer table that none has had; *active*: the one that is answered from."""
        return 1 + max([self.ledger.generation, self.ledger.highest, active, *self._store.generations()])

    def remember_generations(self) -> bool:
        """Have the numbers of the tables that are there on disk, so that they may go; whether they are."""
        self.ledger.highest = max([self.ledger.highest, *self._store.generations()])
        return self.ledger.highest == self._highest or self.save()

    def is_due(self) -> bool:
        """Whether the ledger is to be written again: it could not be, or it does not say what time it is."""
        wait = WRITE_AGAIN_SECONDS if self.unwritten else LAST_SEEN_SECONDS
        is_news = self.ledger.trusted_offset is None and self.time.trusted.offset is not None
        if is_news and self.ledger.generation and not self.unwritten:
            return True
        return self.time.boottime() >= self._written + wait

    def journal(self, event: str, **facts: Any) -> None:
        """Note a decision."""
        try:
            self._store.journal(instant.to_text(self.time.now()), event, **facts)
        except StoreFailed as error:
            self.failed(error)

    def failed(self, error: StoreFailed) -> None:
        """The state directory could not be written."""
        if str(error) != self.error:
            log.alarm("state cannot be written", reason=error)
        self.error = str(error)
