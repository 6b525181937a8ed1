"""The start: go on from what is kept, else from files."""
# Theory of operation
# -------------------
# The ledger says what was in service.  It may say too little: the disk was full when it was to be written, it was
# restored from an older copy, or moved away.  So the serial below which nothing is served comes from everything that
# was left: the page (what the workers answer from now), the tables, the kept versions.
#
#   page or a table beyond the ledger, of zones that are kept   that table goes on (one that the page does not name is
#                                                              verified and examined first)
#   page beyond the ledger, its table gone                      the newest zone that is kept is compiled anew
#   no ledger                                                   as with a table beyond it, else the newest kept zone
#
# A table for a set time that has not come is none of these.  Nothing here needs room on the disk: where none is left,
# what was in service goes on, and what would be new waits.

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.page.layout import MAX_ZONES, Page
from rootsrv.process import log
from rootsrv.process.child import ChildFailed, in_child
from rootsrv.secondary.activation import OUR_FAULT
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.pipeline import EXPECTED, Pipeline
from rootsrv.secondary.preparation import AnchorsUnreadable, is_beyond_us
from rootsrv.secondary.sources import FileSource
from rootsrv.secondary.stored import delivery_of, held_of
from rootsrv.secondary.switchover import Switchover
from rootsrv.store.records import Records
from rootsrv.store.store import Provenance, Store, StoreFailed
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.delivery import Version
from rootsrv.zone.lease import Lease
from rootsrv.zone.transfer import TransferFailed


def _why_held(keeper: ZoneKeeper) -> str:
    reasons = [reason for each in keeper.life.held.values() for reason in each.reasons]
    return "; ".join(reasons) or "it was not accepted"


def _version(provenance: Provenance, contents: ZoneContents, lease: Lease) -> Version:
    """A kept version that was accepted once, on the lease that it has."""
    delivery = delivery_of(provenance, contents, lease.confirmed_boottime, approved=True)
    return Version(delivery, lease, provenance.alarms)


def _is_void(provenance: Provenance) -> bool:
    """Whether this version of the software has found that it cannot make a table of it."""
    return provenance.verdict == "void" and any(each.startswith(f"{OUR_FAULT}: ") for each in provenance.reasons)


class Resumption:
    """Brings one instance to where it was when it ended."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        store: Store,
        records: Records,
        page: Page,
        switchover: Switchover,
        files: Mapping[str, str],
        others_may_come: bool = False,
    ) -> None:
        """*files*: where zones are loaded from if nothing is kept of them, by zone.

        *others_may_come*: whether sources will be named later, as in a mesh by the roster.
        """
        self.zones = pipeline.zones
        self._others_may_come = others_may_come
        self._pipeline = pipeline
        self._store = store
        self._records = records
        self._time = records.time
        self._page = page
        self._switchover = switchover
        self._files = files
        self._unrecorded: list[ZoneKeeper] = []
        """In service now, and not yet when the ledger was written last."""

        self._was_due = ""
        """When that was to be."""

        self._was_next: dict[str, int] = {}
        self._waits = 0
        """The generation that was staged for a set time which has not come; 0 = none."""

    def _finish_next(self) -> None:
        """What was staged for T when we ended goes into service now if T has passed or it is there already."""
        following = self._records.ledger.next
        if following is None:
            return
        reached = following.activate_at is None or following.activate_at <= self._time.now()
        # A table goes when another one is in service: whatever the clock says, this one was.
        before = self._records.ledger.generation
        reached |= before > 0 and not self._store.table(before).exists()
        if self._page.active == following.generation or (reached and self._store.table(following.generation).exists()):
            self._records.ledger.generation, self._records.ledger.leases = following.generation, following.leases
            self._was_due = "now" if following.activate_at is None else instant.to_text(following.activate_at)
        else:
            self._was_next = {name: lease.serial for name, lease in following.leases.items()}
            self._waits = following.generation
        self._records.ledger.next = None
        self._records.save()

    async def _catch_up(self) -> None:
        """Go on from a table beyond the ledger, if one was in service or can be."""
        ledger, page, store = self._records.ledger, self._page, self._store
        known = {*store.generations(), page.active} - {self._waits}
        for generation in sorted((each for each in known if each > ledger.generation), reverse=True):
            try:
                table = store.open_table(generation)
            except (OSError, TableUnusable) as error:
                log.alarm("table unusable", generation=generation, reason=error)
                continue
            served = generation == page.active
            versions = await self._versions_of(table, served=served)
            if versions is None:
                continue
            if not served and (wrong := await self._examine(generation, versions)):
                log.alarm("table unusable", generation=generation, reason=wrong)
                continue
            log.alarm("ledger was behind", generation=f"{ledger.generation}->{generation}", page=page.active)
            ledger.generation = generation
            ledger.leases |= {keeper.name: version.lease for keeper, version in versions.items()}
            self._records.save()
            return

    async def _versions_of(self, table: AnswerTable, *, served: bool) -> dict[ZoneKeeper, Version] | None:
        """The kept versions that *table* is of; None if they are not kept, or one is older than what was served.

        *served*: it is in service, so what it is of need not have been decided.
        """
        keepers = [each for each in (self.zones.root, self.zones.hosts) if each is not None]
        if [each.policy.apex for each in keepers[: len(table.zones)]] != [info.name for info in table.zones]:
            return None
        found = {}
        for keeper, info in zip(keepers, table.zones, strict=False):
            lease = self._records.ledger.leases.get(keeper.name)
            if lease is not None and lease.serial != info.serial and not serial_is_newer(info.serial, lease.serial):
                return None
            try:
                provenance, contents = await keeper.read_kept(info.serial)
            except StoreFailed as error:
                log.alarm("kept zone unusable", zone=keeper.name, serial=info.serial, reason=error)
                return None
            dropped = self._records.ledger.dropped.get(keeper.name, [])
            if not served and (provenance.verdict != "accepted" or info.serial in dropped):
                return None
            if lease is None or lease.serial != info.serial:
                lease = self._lease_of(keeper, provenance)
            found[keeper] = _version(provenance, contents, lease)
        return found

    def _lease_of(self, keeper: ZoneKeeper, provenance: Provenance) -> Lease:
        """From the refresh that brought a version; what confirmed it later is not known."""
        confirmed = self._time.boottime() - max(0.0, self._time.now() - provenance.received_at)
        seconds = float(provenance.expire_seconds)
        if keeper.life.max_serve_seconds:
            seconds = min(seconds, keeper.life.max_serve_seconds)
        until = provenance.signatures_until
        return Lease(provenance.serial, provenance.received_at, confirmed, seconds, until, by_wall=True)

    async def _examine(self, generation: int, versions: dict[ZoneKeeper, Version]) -> str:
        """Why a table that is there must not be answered from; empty if it may."""
        root = versions[self.zones.root].again()
        hosts = versions.get(self.zones.hosts) if self.zones.hosts is not None else None
        preparation = replace(
            self._pipeline.preparation(root, None, generation=generation),
            hosts=hosts.again() if hosts is not None else None,
            new_hosts=hosts is not None,
            existing=True,
        )
        try:
            prepared = await in_child(preparation.run, self._store, expected=EXPECTED)
        except (ChildFailed, StoreFailed, AnchorsUnreadable, TimeoutError) as error:
            return str(error) or type(error).__name__
        for verdict in (prepared.root, prepared.hosts):
            if verdict is not None and verdict.outcome != "accepted":
                return "; ".join(verdict.reasons)
        return prepared.void

    def _answer_from_table(self) -> bool:
        """Until the kept zones have been read: answer from their table, within the leases that were written down."""
        page, ledger = self._page, self._records.ledger
        if page.active or self.zones.root.name not in ledger.leases:
            return False
        try:
            table = self._store.open_table(ledger.generation)
        except (OSError, TableUnusable):  # told by `_adopt_table`
            return False
        leases = [ledger.leases[name] for name in self.zones.keepers if name in ledger.leases][: len(table.zones)]
        if [lease.serial for lease in leases] != [info.serial for info in table.zones]:
            return False
        for number, lease in enumerate(leases):
            deadline = lease.deadline(self._time.trusted, self._time.boottime())
            page.set_deadline(number, max(0, int(deadline * 1e9)))
        page.active = ledger.generation
        log.event("stored table answers", generation=ledger.generation, until="the kept zones have been read")
        return True

    async def _recall(self, keeper: ZoneKeeper) -> None:
        """The version in service, and those that were kept but not (yet) served."""
        lease = self._records.ledger.leases.get(keeper.name)
        kept = [each for each in keeper.stored.versions() if not _is_void(each)]
        accepted = [each.serial for each in kept if each.verdict == "accepted"]
        newest = next((s for s in accepted if not any(serial_is_newer(each, s) for each in accepted)), None)
        behind = self._page.active > self._records.ledger.generation
        if newest is not None and (lease is None or (behind and serial_is_newer(newest, lease.serial))):
            keeper.life.recall_floor(newest)
            lease = None
        for serial in self._records.ledger.dropped.get(keeper.name, []):
            keeper.refresh.dropped(serial)
        if lease is not None:
            keeper.life.recall_floor(lease.serial)
            try:
                provenance, contents = await keeper.read_kept(lease.serial)
            except StoreFailed as error:
                log.alarm("kept zone unusable", zone=keeper.name, serial=lease.serial, reason=error)
                # Nothing older may be served: only what is newer will do, or the same again from a primary.
            else:
                served = self._records.ledger.served.get(keeper.name)
                if served is not None and served.serial != lease.serial:
                    served = None
                    self._unrecorded.append(keeper)
                elif served is None and self._was_due:  # the first ever
                    self._unrecorded.append(keeper)
                keeper.life.recall(
                    _version(provenance, contents, lease),
                    self._time.boottime(),
                    served.served_at if served else None,
                    served.known_at if served else None,
                )
                keeper.set_sources(keeper.sources)
                for serial in self._records.ledger.dropped.get(keeper.name, []):
                    keeper.refresh.dropped(serial)
        for provenance in kept:
            newer = lease is None or serial_is_newer(provenance.serial, lease.serial)
            if not newer or provenance.serial in self._records.ledger.dropped.get(keeper.name, []):
                continue
            if self._was_next.get(keeper.name) == provenance.serial:
                await keeper.redeliver(provenance.serial, approved=True)  # it was staged: nobody need decide again
            elif provenance.verdict == "held" and not is_beyond_us(provenance.reasons):  # this software may be newer
                keeper.life.hold(held_of(provenance))
            else:
                await keeper.redeliver(provenance.serial, approved=False)

    def _adopt_table(self) -> bool:
        """Go on with the table of the last run, if it is there and is of the zones that were kept."""
        generation = self._records.ledger.generation
        try:
            table = self._store.open_table(generation)
        except (OSError, TableUnusable) as error:
            log.alarm("table unusable", generation=generation, reason=error)
            return False
        serials = tuple(info.serial for info in table.zones)
        kept = [each.life.serving.serial for each in self.zones if each.life.serving is not None]
        if list(serials) != kept[: len(serials)]:
            log.alarm("table is of other zones", generation=generation, serials=serials, kept=kept)
            return False
        self.zones.has_hosts = len(serials) > 1
        if self._page.active > generation:
            log.alarm("stored table is older than what is answered", generation=generation, page=self._page.active)
            return False
        if self._page.active != generation:
            self._switchover.flip(generation, self.zones.grant)
        self.zones.grant()
        told, source = self.zones.serials(), "stored table"
        if self._unrecorded:
            due, now = self._was_due or "unknown", f"{self._time.now():.3f}"
            log.event(
                "zones in service", generation=generation, serials=told, source=source, was_due=due, flipped_at=now
            )
        else:
            log.event("zones in service", generation=generation, serials=told, source=source)
        return True

    def _say_resumed(self) -> None:
        """An error that nobody expected is of the telling: what is in service goes on."""
        try:
            self._pipeline.activation.resumed(self._records.ledger.generation, self._unrecorded)
        except Exception as error:
            context = {"message": "what is in service again was not told", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _load_file(self, keeper: ZoneKeeper) -> None:
        """At start: a zone from a file, if it has no primary or nothing is kept yet."""
        file = self._files.get(keeper.name)
        if not file or ("file" not in keeper.sources and (keeper.life.serving is not None or keeper.life.queue)):
            return
        source = keeper.sources.get("file") or FileSource(Path(file), self._store)
        try:
            read = await source.fetch(keeper.policy.apex, None)
        except TransferFailed as error:
            keeper.life.last_rejection = f"file: {error}"
            log.alarm("zone file unusable", zone=keeper.name, reason=error)
            return
        keeper.offer_file(read, "file")

    async def run(self) -> None:
        """Go on from what is kept: the table at once, the zones verified anew; else from files."""
        self._finish_next()
        await self._catch_up()
        answers = self._answer_from_table()
        for keeper in self.zones:
            await self._recall(keeper)
        adopted = self.zones.root.life.serving is not None and self._adopt_table()
        if answers and not adopted:
            log.alarm("stored table is not answered from any more", generation=self._page.active)
            for number in range(MAX_ZONES):
                self._page.set_deadline(number, 0)
        if adopted:
            await self._pipeline.verify_again(at_start=True)
            self._say_resumed()
        elif self.zones.root.life.serving is not None:
            await self._pipeline.make_table_again()
        for keeper in self.zones:
            await self._load_file(keeper)
        root = self.zones.root
        only_files = set(root.sources) <= {"file"} and not self._others_may_come
        if root.life.serving is None and not root.life.queue and only_files:
            raise LoadingFailed(f"zone {root.name}: {root.life.last_rejection or 'there is nothing to load'}")
        while root.life.serving is None and root.life.queue:
            await self._pipeline.take(root, root.life.queue.pop(0), at_once=True)
            if root.life.serving is None and not root.life.queue and only_files:
                raise LoadingFailed(f"zone {root.name}: {root.life.last_rejection or _why_held(root)}")
        for keeper in self.zones:
            # Whatever it started from may have been overtaken: accepting it has put the next refresh off.
            keeper.refresh.demand(self._time.boottime())
