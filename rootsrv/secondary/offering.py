"""What an instance gives out of the zones it keeps: the versions in service, and differences from the kept ones.

In a mesh a version is given out from when it is staged: all members need it before the set time.
"""

from collections.abc import Iterable, Sequence

from rootsrv.config.zones import PrimaryConfig
from rootsrv.distribution.offered import OfferedZone, State
from rootsrv.distribution.primaries import Notifier, notified_by
from rootsrv.distribution.requests import Asker
from rootsrv.process import log
from rootsrv.process.child import in_child
from rootsrv.process.security import SecurityEvents
from rootsrv.secondary.delivery import Version
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.preparation import read_version
from rootsrv.secondary.zones import Zones
from rootsrv.store.store import StoreFailed
from rootsrv.wire import name as names
from rootsrv.wire.codes import NOERROR, REFUSED
from rootsrv.wire.tsig import Key
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import difference
from rootsrv.zone.transfer_out import Difference


class StoredVersions:
    """The KeptVersions of one keeper: in the state directory."""

    def __init__(self, zones: Zones, keeper: ZoneKeeper) -> None:
        self._zones = zones
        self._keeper = keeper

    def serials(self) -> Sequence[int]:
        """See KeptVersions."""
        return [each.serial for each in self._zones.store.versions(self._keeper.policy.apex)]

    async def differences(self, serials: Sequence[int], contents: ZoneContents) -> Sequence[Difference]:
        """In a process of its own: to read a root takes most of a second.  StoreFailed, ChildFailed or TimeoutError."""
        store, policy = self._zones.store, self._keeper.policy

        def work() -> list[Difference]:
            chain = [read_version(store, policy, serial)[1] for serial in serials]
            return [
                Difference(older.serial, newer.serial, *difference(older, newer))
                for older, newer in zip(chain, [*chain[1:], contents], strict=True)
            ]

        return await in_child(work, store, expected=(StoreFailed,))


class Offering:
    """The zones that an instance gives out, and who tells it of new ones."""

    def __init__(self, zones: Zones, security: SecurityEvents) -> None:
        self._zones = zones
        self._security = security
        self._notifiers: tuple[Notifier, ...] = ()
        self._keepers = {each.policy.apex: each for each in zones.keepers.values()}
        self._offered = {apex: self._make(keeper) for apex, keeper in self._keepers.items()}

    def _make(self, keeper: ZoneKeeper) -> OfferedZone:
        def failed(error: Exception) -> None:
            log.alarm("no difference from a kept zone", zone=keeper.name, reason=f"{type(error).__name__}: {error}")

        return OfferedZone(keeper.policy.apex, StoredVersions(self._zones, keeper), failed)

    def configure(self, primaries: Iterable[PrimaryConfig]) -> None:
        """From now on these notify."""
        self._notifiers = tuple(map(Notifier.from_config, primaries))

    def zone(self, apex: bytes) -> OfferedZone | None:
        """What is given out of the zone now."""
        offered, keeper = self._offered.get(apex), self._keepers.get(apex)
        if offered is None or keeper is None:
            return None
        waits = keeper.scheduled if self._zones.membership is not None else None
        version, state = (keeper.serving, State.IN_SERVICE) if waits is None else (waits, State.SCHEDULED)
        if version is None:
            if offered.offer is not None:
                offered.withdraw()
        elif offered.contents is not version.contents or (offered.offer and offered.offer.state is not state):
            offered.put(version.contents, state, lambda: self._left(keeper, version))
        return offered

    def _left(self, keeper: ZoneKeeper, version: Version) -> float:
        if version is keeper.serving:
            deadline = keeper.deadline()
            return 0.0 if deadline is None else deadline - self._zones.boottime()
        now = self._zones.boottime()
        return version.lease.deadline(self._zones.clock, now) - now

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
