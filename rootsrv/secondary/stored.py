"""The versions of one zone in the state directory: read, marked, forgotten, and told apart from one another."""

from collections.abc import Sequence
from dataclasses import replace

from rootsrv.process.child import in_child
from rootsrv.store.store import Provenance, Store, StoreFailed
from rootsrv.wire.name import to_text
from rootsrv.wire.record import ZoneMalformed
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.delivery import Delivery, Origin
from rootsrv.zone.life import Held
from rootsrv.zone.transfer import difference
from rootsrv.zone.transfer_out import Difference


class StoredVersions:
    """What is kept of one zone; the KeptVersions of an OfferedZone."""

    def __init__(self, store: Store, apex: bytes) -> None:
        self._store = store
        self._apex = apex

    def versions(self) -> list[Provenance]:
        """All of them, oldest received first."""
        return self._store.versions(self._apex)

    def serials(self) -> Sequence[int]:
        """See KeptVersions."""
        return [each.serial for each in self.versions()]

    def read(self, serial: int) -> tuple[Provenance, ZoneContents]:
        """One of them, parsed.  StoreFailed if it is not there or damaged."""
        provenance, text = self._store.version(self._apex, serial)
        try:
            return provenance, presentation.from_text(text, self._apex)
        except ZoneMalformed as error:
            raise StoreFailed(f"kept zone {to_text(self._apex)} {serial}: {error}") from error

    def held(self, serial: int, reasons: tuple[str, ...]) -> Held:
        """One that waits for a decision, because of *reasons*.  StoreFailed."""
        return replace(held_of(self._store.version(self._apex, serial)[0]), reasons=reasons)

    def mark(self, serial: int, verdict: str, reason: str) -> None:
        """Note what became of one.  StoreFailed."""
        self._store.mark_version(self._apex, serial, verdict, reason)

    def forget(self, serial: int) -> None:
        """Remove one.  StoreFailed."""
        self._store.forget_version(self._apex, serial)

    async def differences(self, serials: Sequence[int], contents: ZoneContents) -> Sequence[Difference]:
        """In a process of its own: to read a root takes most of a second.  StoreFailed, ChildFailed or TimeoutError."""

        def work() -> list[Difference]:
            chain = [self.read(serial)[1] for serial in serials]
            return [
                Difference(older.serial, newer.serial, *difference(older, newer))
                for older, newer in zip(chain, [*chain[1:], contents], strict=True)
            ]

        return await in_child(work, self._store, expected=(StoreFailed,))


def delivery_of(
    provenance: Provenance, contents: ZoneContents, confirmed_boottime: float, *, approved: bool
) -> Delivery:
    """A kept version.  It verified when it was kept, by the rule for its source."""
    origin = Origin(provenance.source, provenance.how, provenance.received_at, confirmed_boottime)
    return Delivery(contents, origin, provenance.expire_seconds, authenticated=True, approved=approved, kept=True)


def held_of(provenance: Provenance) -> Held:
    """A kept version as one that waits for a decision."""
    return Held(
        provenance.serial, provenance.reasons, provenance.source, provenance.received_at, zonemd=provenance.zonemd
    )
