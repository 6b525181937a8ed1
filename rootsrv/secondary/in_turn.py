"""Many publishers of one zone, of which one is asked at a time: in random order, and the next when one is no use."""
# An instance asks all its primaries at each refresh: they are its operator's own.  Publishers serve everybody, so one
# is asked, and each time another (draft-ietf-dnsop-localroot-bcp): a list that all work off from the top would have
# every host ask the first.
#
# One that fails, stalls in the transfer, or names a serial that is neither ours nor newer, is passed over at once (of
# two that are 2^31 apart neither is newer: such an answer confirms nothing and offers nothing).  One whose zone does
# not verify is found out later: the keeper backs off, asks again, and that is the next one's turn.

import random
from collections.abc import Callable, Sequence

from rootsrv.process import log
from rootsrv.secondary.primary import SerialAnswer, Transferred, Unreachable
from rootsrv.secondary.sources import ZoneSource
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import TransferFailed

Shuffle = Callable[[list[ZoneSource]], None]


class InTurn:
    """All of *sources* as one."""

    name = "publishers"

    authenticated = False
    """What nobody is trusted for must verify as a whole."""

    def __init__(
        self,
        sources: Sequence[ZoneSource],
        ours: Callable[[], int | None],
        answered: Callable[[], None] = lambda: None,
        shuffle: Shuffle = random.shuffle,
    ) -> None:
        """*ours*: the newest serial that was accepted; *answered* is told when one gave a useful answer."""
        self._sources = list(sources)
        self._ours = ours
        self._answered = answered
        self._shuffle = shuffle
        self._queue: list[ZoneSource] = []
        self._asked: ZoneSource | None = None

    @property
    def where(self) -> str:
        """Who was asked last."""
        return f"one of {len(self._sources)}" if self._asked is None else f"{self._asked.name} ({self._asked.where})"

    async def ask(self, zone: bytes) -> SerialAnswer | Transferred:
        """What the first that is of use answers, beginning with the one after whom was asked last."""
        reasons = []
        for _ in self._sources:
            source = self._asked = self._next()
            try:
                answer = await source.ask(zone)
            except TransferFailed as error:
                reason = f"{type(error).__name__}: {error}"
            else:
                ours = self._ours()
                if ours is None or answer.serial == ours or serial_is_newer(answer.serial, ours):
                    self._answered()
                    return answer
                how = "older than" if serial_is_newer(ours, answer.serial) else "not to be compared with"
                reason = f"has {answer.serial}, which is {how} {ours}"
            reasons.append(f"{source.name}: {reason}")
            log.event("publisher passed over", publisher=source.name, at=source.where, reason=reason)
        raise Unreachable(f"no publisher of {len(self._sources)} is of use; the last: {reasons[-1]}")

    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
        """From the one that named *wanted*, or from the next that has it or a newer one."""
        assert self._asked is not None, "nobody was asked"
        failed: TransferFailed | None = None
        for _ in self._sources:
            source = self._asked
            try:
                return await source.fetch(zone, base, wanted)
            except TransferFailed as error:
                failed = error
                log.event("publisher passed over", publisher=source.name, at=source.where, reason=error)
            answer = await self.ask(zone)
            if wanted is not None and serial_is_newer(wanted, answer.serial):
                break  # what was promised nobody else knows of
            if isinstance(answer, Transferred):
                return answer
        assert failed is not None
        raise failed

    def _next(self) -> ZoneSource:
        if not self._queue:
            self._queue = list(self._sources)
            self._shuffle(self._queue)
            if self._queue[0] is self._asked:
                self._queue.append(self._queue.pop(0))  # not the same one twice running
        return self._queue.pop(0)
