"""What an instance gives out of the zones it keeps: the versions in service, and differences from the kept ones.

In a mesh a version is given out from when it is staged: all members need it before the set time.
"""

from collections.abc import Iterable

from rootsrv.config.zones import PrimaryConfig
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.distribution.primaries import Notifier, notified_by
from rootsrv.distribution.requests import Asker
from rootsrv.process import log
from rootsrv.process.clocks import Timekeeper
from rootsrv.process.security import SecurityEvents
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.wire import name as names
from rootsrv.wire.codes import NOERROR, REFUSED
from rootsrv.wire.tsig import Key
from rootsrv.zone.delivery import Version


class Offering:
    """The zones that an instance gives out, and who tells it of new ones."""

    def __init__(
        self,
        zones: Iterable[ZoneKeeper],
        time: Timekeeper,
        security: SecurityEvents,
        *,
        from_staging: bool = False,
        state: OfferState = OfferState.IN_SERVICE,
    ) -> None:
        """*from_staging*: in a mesh, a version is given out from when it is staged; *state*: of what is in service."""
        self._state = state
        self._time = time
        self._from_staging = from_staging
        self._security = security
        self._notifiers: tuple[Notifier, ...] = ()
        self._keepers = {each.policy.apex: each for each in zones}
        self._offered = {apex: self._make(keeper) for apex, keeper in self._keepers.items()}

    def _make(self, keeper: ZoneKeeper) -> OfferedZone:
        def failed(error: Exception) -> None:
            log.alarm("no difference from a kept zone", zone=keeper.name, reason=f"{type(error).__name__}: {error}")

        return OfferedZone(keeper.policy.apex, keeper.stored, failed)

    def configure(self, primaries: Iterable[PrimaryConfig]) -> None:
        """From now on these notify."""
        self._notifiers = tuple(map(Notifier.from_config, primaries))

    def zone(self, apex: bytes) -> OfferedZone | None:
        """What is given out of the zone now."""
        offered, keeper = self._offered.get(apex), self._keepers.get(apex)
        if offered is None or keeper is None:
            return None
        waits = keeper.life.scheduled if self._from_staging else None
        version, state = (keeper.life.serving, self._state) if waits is None else (waits, OfferState.SCHEDULED)
        if version is None:
            if offered.offer is not None:
                offered.withdraw()
        elif offered.contents is not version.contents or offered.state is not state:
            offered.put(version.contents, state, lambda: self._left(keeper, version))
        return offered

    def _left(self, keeper: ZoneKeeper, version: Version) -> float:
        if version is keeper.life.serving:
            deadline = keeper.deadline()
            return 0.0 if deadline is None else deadline - self._time.boottime()
        now = self._time.boottime()
        return version.lease.deadline(self._time.trusted, now) - now

    def notified(self, apex: bytes, asker: Asker, key: Key | None, serial: int | None) -> int:
        """A NOTIFY came (RFC 1996): have whoever sent it asked; the rcode for the answer."""
        keeper = self._keepers[apex]
        key_name = key.name if key else b""
        found, proved = notified_by(self._notifiers, apex, asker.address, key_name)
        found = tuple(each for each in found if each.name in keeper.sources)
        if not found:
            used = names.to_text(key_name) if key_name else "none"
            self._security.note("notify_spoofed", asker.address, f"zone {keeper.name} key={used}")
            return REFUSED
        for each in found:
            keeper.notified(each.name, serial if proved else None)
        return NOERROR
