"""The start: go on from what is kept, else from files."""

from dataclasses import replace
from pathlib import Path

from rootsrv.answer.table import TableUnusable
from rootsrv.page.layout import MAX_ZONES
from rootsrv.process import log
from rootsrv.process.child import ChildFailed, in_child
from rootsrv.secondary.keeper import Version, ZoneKeeper
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.pipeline import Pipeline
from rootsrv.secondary.preparation import is_beyond_us, read_version
from rootsrv.secondary.sources import FileSource
from rootsrv.store.store import StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.transfer import TransferFailed


def _why_held(keeper: ZoneKeeper) -> str:
    reasons = [reason for each in keeper.held.values() for reason in each.reasons]
    return "; ".join(reasons) or "it was not accepted"


class Resumption:
    """Brings one instance to where it was when it ended."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.zones = pipeline.zones
        self._pipeline = pipeline
        self._was_next: dict[str, int] = {}

    def _finish_next(self) -> None:
        """What was staged for T when we ended goes into service now if T has passed or it is there already."""
        following = self.zones.ledger.next
        if following is None:
            return
        reached = following.activate_at is None or following.activate_at <= self.zones.now()
        if self.zones.page.active == following.generation or (
            reached and self.zones.store.table(following.generation).exists()
        ):
            self.zones.ledger.generation, self.zones.ledger.leases = following.generation, following.leases
        else:
            self._was_next = {name: lease.serial for name, lease in following.leases.items()}
        self.zones.ledger.next = None
        self.zones.save_ledger()

    def _answer_from_table(self) -> bool:
        """Until the kept zones have been read: answer from their table, within the leases that were written down."""
        page, ledger = self.zones.page, self.zones.ledger
        if page.active or self.zones.root.name not in ledger.leases:
            return False
        try:
            table = self.zones.store.open_table(ledger.generation)
        except (OSError, TableUnusable):  # told by `_adopt_table`
            return False
        leases = [ledger.leases[name] for name in self.zones.keepers if name in ledger.leases][: len(table.zones)]
        if [lease.serial for lease in leases] != [info.serial for info in table.zones]:
            return False
        for number, lease in enumerate(leases):
            deadline = lease.deadline(self.zones.clock, self.zones.boottime())
            page.set_deadline(number, max(0, int(deadline * 1e9)))
        page.active = ledger.generation
        log.event("stored table answers", generation=ledger.generation, until="the kept zones have been read")
        return True

    def _recall(self, keeper: ZoneKeeper) -> None:
        """The version in service, and those that were kept but not (yet) served."""
        lease = self.zones.ledger.leases.get(keeper.name)
        for serial in self.zones.ledger.dropped.get(keeper.name, []):
            keeper.refresh.dropped(serial)
        if lease is not None:
            keeper.floor = lease.serial
            try:
                provenance, contents = read_version(self.zones.store, keeper.policy, lease.serial)
            except StoreFailed as error:
                log.alarm("kept zone unusable", zone=keeper.name, serial=lease.serial, reason=error)
                # Nothing older may be served: only what is newer will do, or the same again from a primary.
            else:
                keeper.serving = Version(contents, lease, provenance.source, provenance.how, provenance.alarms)
                keeper.serving.served_since = self.zones.boottime()
                keeper.set_sources(keeper.sources)
                for serial in self.zones.ledger.dropped.get(keeper.name, []):
                    keeper.refresh.dropped(serial)
        for provenance in self.zones.store.versions(keeper.policy.apex):
            newer = lease is None or serial_is_newer(provenance.serial, lease.serial)
            if not newer or provenance.serial in self.zones.ledger.dropped.get(keeper.name, []):
                continue
            if self._was_next.get(keeper.name) == provenance.serial:
                self.zones.redeliver(
                    keeper, provenance.serial, approved=True
                )  # it was staged: nobody need decide again
            elif provenance.verdict == "held" and not is_beyond_us(provenance.reasons):  # this software may be newer
                keeper.held[provenance.serial] = provenance
            else:
                self.zones.redeliver(keeper, provenance.serial, approved=False)

    def _adopt_table(self) -> bool:
        """Go on with the table of the last run, if it is there and is of the zones that were kept."""
        generation = self.zones.ledger.generation
        try:
            table = self.zones.store.open_table(generation)
        except (OSError, TableUnusable) as error:
            log.alarm("table unusable", generation=generation, reason=error)
            return False
        serials = tuple(info.serial for info in table.zones)
        kept = [each.serving.serial for each in self.zones.keepers.values() if each.serving is not None]
        if list(serials) != kept[: len(serials)]:
            log.alarm("table is of other zones", generation=generation, serials=serials, kept=kept)
            return False
        self.zones.has_hosts = len(serials) > 1
        if self.zones.page.active != generation:
            self.zones.switchover.flip(generation, self.zones.grant)
        self.zones.grant()
        log.event("zones in service", generation=generation, serials=self.zones.serials(), source="stored table")
        return True

    async def _verify_kept(self) -> None:
        """Verify what is in service again, and make its table again.

        A zone that does not verify any more is not answered from, and a table that comes out otherwise is replaced.
        """
        assert self.zones.root.serving is not None
        generation = self.zones.ledger.generation
        preparation = replace(self._pipeline.preparation(None, None, generation=generation), keep_only=True)
        try:
            policy = replace(preparation, new_root=True)
            prepared = await in_child(policy.run, self.zones.store)
        except (ChildFailed, StoreFailed, TimeoutError) as error:
            log.alarm("kept zone could not be verified again", reason=error)
            return
        if prepared.differs:
            log.alarm("stored table is replaced", generation=generation, reason="the kept zones make another one")
            await self._rebuild_table()
        if prepared.root is not None and prepared.root.outcome == "rejected":
            lease = self.zones.root.serving.lease
            over = lease.signatures_until is not None and lease.signatures_until <= self.zones.now()
            self.zones.root.last_rejection = f"kept {self.zones.root.serving.serial}: {prepared.root.reasons[0]}"
            log.alarm("kept zone does not verify", zone=self.zones.root.name, reason=self.zones.root.last_rejection)
            if not over:
                # Its lease ends it in the ordinary way when its time is over; anything else is new knowledge.
                self.zones.root.distrusted = self.zones.root.last_rejection
                self.zones.grant()

    async def _rebuild_table(self) -> None:
        """Compile the kept zones again: their table is gone."""
        assert self.zones.root.serving is not None
        root = self.zones.delivery_of(self.zones.root.serving)
        await self._pipeline.prepare_and_activate(self.zones.root, root, at_once=True)

    async def _load_file(self, keeper: ZoneKeeper) -> None:
        """At start: a zone from a file, if it has no primary or nothing is kept yet."""
        zone = next(each for each in self.zones.config.zone if each.name == keeper.name)
        if not zone.file or ("file" not in keeper.sources and (keeper.serving is not None or keeper.deliveries)):
            return
        source = keeper.sources.get("file") or FileSource(Path(zone.file), self.zones.store)
        try:
            read = await source.fetch(keeper.policy.apex, None)
        except TransferFailed as error:
            keeper.last_rejection = f"file: {error}"
            log.alarm("zone file unusable", zone=keeper.name, reason=error)
            return
        self.zones.offer_file(keeper, read, "file")

    async def run(self) -> None:
        """Go on from what is kept: the table at once, the zones verified anew; else from files."""
        self._finish_next()
        answers = self._answer_from_table()
        for keeper in self.zones.keepers.values():
            self._recall(keeper)
        adopted = self.zones.root.serving is not None and self._adopt_table()
        if answers and not adopted:
            log.alarm("stored table is not answered from any more", generation=self.zones.page.active)
            for number in range(MAX_ZONES):
                self.zones.page.set_deadline(number, 0)
        if adopted:
            await self._verify_kept()
        elif self.zones.root.serving is not None:
            await self._rebuild_table()
        for keeper in self.zones.keepers.values():
            await self._load_file(keeper)
        root = self.zones.root
        only_files = set(root.sources) <= {"file"}
        if root.serving is None and not root.deliveries and only_files:
            raise LoadingFailed(f"zone {root.name}: {root.last_rejection or 'there is nothing to load'}")
        while root.serving is None and root.deliveries:
            await self._pipeline.take(root, root.deliveries.pop(0), at_once=True)
            if root.serving is None and not root.deliveries and only_files:
                raise LoadingFailed(f"zone {root.name}: {root.last_rejection or _why_held(root)}")
