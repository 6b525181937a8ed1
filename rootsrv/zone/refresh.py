"""When to ask which primary what: SOA timers, NOTIFY and what the primaries say → the next thing to do."""
# Theory of operation
# -------------------
# One Refresh per zone.  It is told what happened and answers with what should happen next; it owns no socket and no
# clock (times are seconds on a clock that never steps: CLOCK_BOOTTIME).
#
# Each primary is a small machine of its own, so that one that fails, lies or hangs cannot hold up another:
#
#             refresh due / notified                names a serial newer than ours
#      IDLE ────────────────────────▶ ASKING ───────────────────────────────────────▶ TRANSFERRING
#        ▲ ◀────── answered: nothing newer ┘ │                                            │    │
#        │                                   │ failed                failed, rejected     │    │ delivered
#        │         back-off over             ▼                                            │    │
#        └────────────────────────────── BACKED OFF ◀─────────────────────────────────────┘    │
#        └─────────────────────────────────────────────────────────────────────────────────────┘
#
# Law 1  `serial` never goes back (RFC 1982): an offer that is not newer than it is never fetched.
# Law 2  While a transfer of serial N runs, another primary that offers N is asked for it too only when the first has
#        not delivered within `hedge_seconds`; one that offers a newer serial is asked at once.
# Law 3  A primary that failed or whose zone was rejected is left alone for a back-off that doubles with each failure in
#        a row.  Only its own NOTIFY of a serial that it has not failed with ends the back-off early, so that a primary
#        that was repaired is heard at once and one that repeats itself is not.
#        A NOTIFY that tells nothing by itself – not signed, without a serial, or with one that is known – asks that
#        primary every NOTIFY_SECONDS at most (after NOTIFY_BURST at once), however many come: who floods us must not
#        make us flood our primaries.
# Law 4  A primary that names a newer serial and never delivers it changes nothing for the others.
# Law 5  A signed NOTIFY is a promise: who then answers with something older, or fails, is asked again after each of
#        AGAIN_SECONDS, and only then after SOA retry or its back-off.  The NOTIFY of several servers at one address,
#        or of one that reloads, can be faster than the zone: NSD's old processes still answer, and reset connections,
#        when its new ones have begun.  A NOTIFY that names nothing, or proves nothing, may come too early as well: who
#        then has nothing newer is asked again after each of HINT_SECONDS, within what Law 3 allows.
#
# `confirmed` in an answer means: this primary says that what we hold is current, so the lease may be renewed
# (RFC 1034 §4.3.5: expire counts from the last successful refresh).

from collections.abc import Sequence
from dataclasses import dataclass, field

from rootsrv.wire.serial import serial_is_newer


@dataclass(frozen=True, slots=True)
class Timers:
    """How often to ask; seconds.  The zone's SOA gives the first two, the operator bounds them."""

    refresh: float
    retry: float

    def bounded(self, lowest: float, highest: float) -> "Timers":
        """The same with both intervals within *lowest* … *highest*."""
        return Timers(min(max(self.refresh, lowest), highest), min(max(self.retry, lowest), highest))


@dataclass(frozen=True, slots=True)
class AskSerial:
    """Ask *primary* for its SOA."""

    primary: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Transfer the zone from *primary*, which named *serial*."""

    primary: str
    serial: int


Action = AskSerial | Fetch


@dataclass(slots=True)
class Primary:
    """What is known of one primary."""

    name: str
    named: int | None = None
    """The serial that it named last, by SOA or NOTIFY."""

    asking: bool = False
    due: bool = False
    """Its SOA is to be asked for (again, if a NOTIFY came meanwhile), once it is idle and its back-off is over."""

    fetching: int | None = None
    """The serial whose transfer runs."""

    fetching_since: float = 0.0
    failures: int = 0
    """In a row."""

    not_before: float = 0.0
    failed_with: int | None = None
    """The newest serial that it failed to deliver or that did not verify."""

    last_error: str = ""
    notified_at: float | None = None
    """When its last NOTIFY of something new came."""

    last_success: float | None = None
    """When it last answered or delivered."""

    notify_paid: float = 0.0
    """Until when those NOTIFYs that tell nothing by themselves, and had it asked, are paid for."""

    due_at: float | None = None
    """When it is `due` because of one that came before that."""

    promised: int | None = None
    """The serial that a signed NOTIFY of it named, until it delivers that or a newer one."""

    after_promise: list[float] = field(default_factory=list)
    """What is left of AGAIN_SECONDS since that promise: it answers with an older one, or fails."""

    after_hint: list[float] = field(default_factory=list)
    """What is left of HINT_SECONDS since its last NOTIFY that promised nothing, as long as it has nothing newer."""

    again_at: float | None = None
    """When it is `due` because of that, or of what it promised."""

    delivered: set[int] = field(default_factory=set)
    """Serials newer than ours that it has delivered already (they wait: held, or to be scheduled)."""


class Refresh:
    """The refresh of one zone from its primaries.

    Events (`notified`, `answered`, `delivered`, `failed`, `rejected`, `accepted`, `demand`) are told as they happen;
    `decide` says what to start now and `wakeup` when to call it again at the latest.
    """

    HEDGE_SECONDS = 2.0  # an AXFR of the root takes well under a second on a good path

    NOTIFY_SECONDS = 5.0  # a lost NOTIFY costs as much (RFC 1996 §3.6: retried after seconds)

    NOTIFY_BURST = 3
    """So many come at once from an honest primary: repeated, or of two versions soon after one another."""

    AGAIN_SECONDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    """After each of these a primary is asked again whose NOTIFY named more than it then had or delivered."""

    HINT_SECONDS = (1.0, 4.0)
    """After each of these one is asked again that had nothing newer after a NOTIFY that promises nothing."""

    def __init__(
        self,
        primaries: Sequence[str],
        timers: Timers,
        now: float,
        serial: int | None = None,
        backoff_seconds: float = 10.0,
    ) -> None:
        self.serial = serial
        """The newest serial that was accepted; None before the first."""
        self.primaries = {name: Primary(name) for name in primaries}
        self.timers = timers
        self.next_refresh = now
        self._backoff_seconds = backoff_seconds
        self._dropped: set[int] = set()

    # What happened.

    def notified(self, primary: str, serial: int | None, now: float, *, expired: bool = False) -> None:
        """A NOTIFY of *primary*; *serial* only if it carried the SOA (RFC 1996 §3.7) and was signed with its key.

        *expired*: what we hold must not be answered from until it is confirmed, so that our own serial is news too.
        """
        peer = self.primaries[primary]
        if expired and serial == self.serial:
            serial = None
        news = False
        if serial is not None:
            if not self._wanted(serial):
                return
            news = serial != peer.named and (peer.promised is None or serial_is_newer(serial, peer.promised))
            peer.named = serial
            if news:
                peer.promised, peer.after_promise, peer.again_at = serial, [*self.AGAIN_SECONDS], None
        if now < peer.not_before and (not expired if serial is None else serial == peer.failed_with):
            return
        if not news:
            peer.after_hint = [*self.HINT_SECONDS]
            if peer.promised is None:
                peer.again_at = None
            if now < (earliest := self._paid_until(peer)):
                peer.due_at = earliest
                return
            self._pay(peer, now)
        peer.due_at = None
        peer.not_before = now
        peer.notified_at = now
        peer.due = True

    def demand(self, now: float) -> None:
        """Somebody wants all primaries asked now, back-off or not."""
        for peer in self.primaries.values():
            peer.not_before = now
        self.next_refresh = now

    def ask_others(self, primary: str) -> None:
        """*primary* is no use at present: ask the SOA of all others, those in back-off when that is over."""
        for peer in self.primaries.values():
            peer.due |= peer.name != primary

    def answered(self, primary: str, serial: int, now: float) -> bool:
        """*primary* named *serial* in its SOA; True = it confirms that what we hold is current."""
        peer = self.primaries[primary]
        peer.asking = False
        peer.named = serial
        peer.last_success = now
        if not self._wanted(serial):
            self._well(peer)
        self._expect(peer, serial, now)
        return serial == self.serial

    def delivered(self, primary: str, serial: int, now: float) -> None:
        """A transfer from *primary* is complete: *serial*.  Whether it can be believed is told later."""
        peer = self.primaries[primary]
        peer.asking = False
        peer.fetching = None
        peer.last_success = now
        peer.named = serial
        if peer.promised is not None and not serial_is_newer(peer.promised, serial):
            peer.promised = None
        if self._wanted(serial):
            peer.delivered.add(serial)
        else:
            self._well(peer)
        self._expect(peer, serial, now)

    def failed(self, primary: str, reason: str, now: float) -> None:
        """Asking or fetching failed."""
        peer = self.primaries[primary]
        if peer.fetching is not None:
            peer.failed_with = peer.named
        self._back_off(peer, reason, now)
        wait = self._until_again(peer)
        if wait is None and peer.failures == 1:
            wait = self._until_hinted(peer)
        if wait is not None:
            peer.not_before = min(peer.not_before, now + wait)

    def rejected(self, primary: str, serial: int, reason: str, now: float) -> None:
        """What *primary* delivered as *serial* did not verify."""
        peer = self.primaries[primary]
        peer.delivered.discard(serial)
        peer.failed_with = serial
        self._back_off(peer, reason, now)

    def lost(self, serial: int) -> None:
        """What was delivered of *serial* cannot be had any more: whoever names it is asked for it again."""
        for peer in self.primaries.values():
            peer.delivered.discard(serial)

    def accepted(self, serial: int, timers: Timers, now: float) -> None:
        """*serial* verified and is, or will be, in service; its SOA gives *timers*."""
        if self.serial is not None and not serial_is_newer(serial, self.serial) and serial != self.serial:
            raise ValueError(f"serial {serial} is older than {self.serial}")
        self.serial = serial
        self.timers = timers
        self.next_refresh = now + timers.refresh
        for peer in self.primaries.values():
            peer.delivered = {each for each in peer.delivered if self._wanted(each)}
            peer.promised = None if peer.promised is None or not self._wanted(peer.promised) else peer.promised
            if peer.named == serial:
                self._well(peer)
        self._dropped = {each for each in self._dropped if serial_is_newer(each, serial)}

    def dropped(self, serial: int) -> None:
        """The operator does not want *serial*: do not fetch it again."""
        self._dropped.add(serial)

    def undropped(self, serial: int) -> None:
        """The operator's decision does not count."""
        self._dropped.discard(serial)

    @property
    def dropped_serials(self) -> frozenset[int]:
        """What was told to `dropped` and is newer than `serial`."""
        return frozenset(self._dropped)

    # What to do.

    def decide(self, now: float) -> list[Action]:
        """Everything to start at *now*; the caller starts each and tells how it ended."""
        if now >= self.next_refresh:
            self.next_refresh = now + (self.timers.refresh if self.serial is not None else self.timers.retry)
            for peer in self.primaries.values():
                peer.due = True
        actions: list[Action] = []
        for peer in self.primaries.values():
            if peer.due_at is not None and now >= peer.due_at:
                peer.due, peer.due_at = True, None
                self._pay(peer, now)
            if peer.again_at is not None and now >= peer.again_at:
                peer.again_at = None
                if peer.promised is not None:
                    peer.due = True
                elif now >= self._paid_until(peer):
                    peer.due = True
                    self._pay(peer, now)
            if now < peer.not_before or peer.asking or peer.fetching is not None:
                continue
            if peer.due:
                peer.due = False
                peer.asking = True
                actions.append(AskSerial(peer.name))
            elif peer.named is not None and self._worth_fetching(peer, now):
                peer.fetching = peer.named
                peer.fetching_since = now
                actions.append(Fetch(peer.name, peer.named))
        return actions

    @property
    def wakeup(self) -> float:
        """When `decide` has to be called again if nothing happens before."""
        times = [self.next_refresh]
        for peer in self.primaries.values():
            times += [at for at in (peer.due_at, peer.again_at) if at is not None]
            if peer.due and not peer.asking and peer.fetching is None:
                times.append(peer.not_before)
            if peer.fetching is not None:
                times.append(peer.fetching_since + self.HEDGE_SECONDS)
        return min(times)

    @property
    def known(self) -> int | None:
        """The newest serial that two primaries – or the only one – name, or that was accepted here."""
        named = [peer.named for peer in self.primaries.values() if peer.named is not None]
        needed = min(2, len(self.primaries))
        newest = self.serial
        for serial in named:
            if named.count(serial) >= needed and (newest is None or serial_is_newer(serial, newest)):
                newest = serial
        return newest

    def _wanted(self, serial: int) -> bool:
        return (self.serial is None or serial_is_newer(serial, self.serial)) and serial not in self._dropped

    def _worth_fetching(self, peer: Primary, now: float) -> bool:
        serial = peer.named
        if serial is None or not self._wanted(serial):
            return False
        for other in self.primaries.values():
            if any(serial == each or serial_is_newer(each, serial) for each in other.delivered):
                return False  # it is being verified, or held
            if other.fetching is None or serial_is_newer(serial, other.fetching):
                continue
            if now < other.fetching_since + self.HEDGE_SECONDS:
                return False
        return True

    def _paid_until(self, peer: Primary) -> float:
        """From when on a NOTIFY that promises nothing has *peer* asked at once."""
        return peer.notify_paid - (self.NOTIFY_BURST - 1) * self.NOTIFY_SECONDS

    def _pay(self, peer: Primary, now: float) -> None:
        peer.notify_paid = max(peer.notify_paid, now) + self.NOTIFY_SECONDS

    def _expect(self, peer: Primary, serial: int, now: float) -> None:
        """*peer* has *serial*: ask it again if it promised a newer one, or hinted that there is one."""
        if peer.promised is None:
            wait = None if self._wanted(serial) else self._until_hinted(peer)
            if wait is not None and now + wait >= self._paid_until(peer):
                peer.again_at = now + wait
        elif not serial_is_newer(peer.promised, serial):
            return
        elif (wait := self._until_again(peer)) is not None:
            peer.again_at = now + wait
        elif self._wanted(peer.promised):
            self.next_refresh = min(self.next_refresh, now + self.timers.retry)

    def _until_again(self, peer: Primary) -> float | None:
        """Seconds until *peer* is asked again because of what it promised; None: it was asked often enough."""
        return _next(peer.after_promise) if peer.promised is not None and self._wanted(peer.promised) else None

    def _until_hinted(self, peer: Primary) -> float | None:
        """Seconds until *peer* is asked again because of a NOTIFY that promised nothing; None: often enough."""
        return _next(peer.after_hint)

    def _well(self, peer: Primary) -> None:
        peer.failures = 0
        peer.failed_with = None
        peer.last_error = ""

    def _back_off(self, peer: Primary, reason: str, now: float) -> None:
        peer.asking = False
        peer.fetching = None
        peer.due = True
        peer.failures += 1
        peer.last_error = reason
        # Doubling from `backoff_seconds` up to the refresh interval; never beyond SOA retry for a primary that merely
        # did not answer would be RFC 1035's rule, but a root's retry (900 s) is long for a lost packet.
        wait = self._backoff_seconds * 2 ** min(peer.failures - 1, 16)
        peer.not_before = now + min(wait, max(self.timers.retry, self._backoff_seconds))


def _next(left: list[float]) -> float | None:
    """The next step of a ladder of which *left* is left, taken from it; None: it is at its end."""
    return left.pop(0) if left else None
