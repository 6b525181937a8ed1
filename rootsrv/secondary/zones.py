"""What one instance has: its zones, what is kept of them, until when they may be answered, the clock that says so."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rootsrv.config.file import Config, ZoneConfig
from rootsrv.config.zones import PrimaryConfig
from rootsrv.page.layout import Page
from rootsrv.process import log
from rootsrv.process.clocks import Clocks, boot_id
from rootsrv.secondary.delivery import Delivery, Origin
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.membership import Membership
from rootsrv.secondary.preparation import ZonePolicy, read_version
from rootsrv.secondary.primary import Transferred
from rootsrv.secondary.sources import FileSource, ZoneSource, source_at_start, source_of
from rootsrv.secondary.switchover import Switchover
from rootsrv.store.ledger import Ledger
from rootsrv.store.store import Provenance, Store, StoreFailed
from rootsrv.wire import name as names
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone import instant
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.lease import TrustedClock


class Zones:
    """The zones of one instance with everything that is shared by those who keep them current."""

    def __init__(self, config: Config, store: Store, page: Page, clocks: Clocks) -> None:
        """StoreFailed if what is kept cannot be read."""
        self.config = config
        self.store = store
        self.page = page
        self.clocks = clocks
        self.counters: Counter[str] = Counter()
        self.state_error = ""
        """Why the state directory could not be written last; empty = it could."""

        self.ledger_unwritten = False
        """Whether what is on disk is not the ledger, because it could not be written last."""

        self.work = asyncio.Event()
        """Something was delivered, or is to be verified again."""

        self.verify_again = False
        """Whether the root in service is to be verified again."""

        record = store.read_ledger()
        reading = clocks()
        last_seen = record.get("last_seen_wall", 0.0)
        self.clock = TrustedClock(reading, last_seen if isinstance(last_seen, float) else 0.0)
        self._boot = boot_id()
        self.ledger = Ledger.from_record(record, self._boot, self.clock, reading.boottime)
        self.last_written = reading.boottime
        """When the ledger was written last, CLOCK_BOOTTIME."""

        self.switchover = Switchover(page, config.switchover, self.clock, self.boottime)
        self.keepers = {zone.name: self._keeper(zone) for zone in config.zone}
        self.root = next(iter(self.keepers.values()))
        self.hosts = next((each for each in self.keepers.values() if each is not self.root), None)
        if self.hosts is not None:
            self.hosts.timer_of = self.root  # whose SOA is signed
        self.membership = None if config.mesh is None else Membership(self.clock, self.boottime)
        self.has_hosts = False
        """Whether the table in service answers for the zone of the hosts."""

    def boottime(self) -> float:
        """CLOCK_BOOTTIME, seconds."""
        return self.clocks().boottime

    def now(self) -> float:
        """The time that is trusted, seconds since 1970."""
        return self.clock.wall(self.boottime())

    def _keeper(self, zone: ZoneConfig) -> ZoneKeeper:
        refresh = self.config.refresh
        return ZoneKeeper(
            policy_of(zone),
            self.sources_of(zone, source_at_start),
            clock=self.clock,
            boottime=self.boottime,
            offer=lambda _: self.work.set(),
            renewed=self._renewed,
            counters=self.counters,
            bounds=(refresh.min_seconds, refresh.max_seconds),
            max_serve_seconds=self.config.switchover.max_serve_seconds,
            backoff_seconds=refresh.backoff_seconds,
        )

    def sources_of(
        self, zone: ZoneConfig, make: Callable[[PrimaryConfig, Config, Store], ZoneSource] = source_of
    ) -> dict[str, ZoneSource]:
        """The sources of a zone, by name; ConfigError when *make* cannot have what it needs."""
        found = {
            each.name: make(each, self.config, self.store) for each in self.config.primary if zone.name in each.zones
        }
        if not found and zone.file:
            found["file"] = FileSource(Path(zone.file), self.store)
        return found

    def grant(self) -> None:
        """Store the deadlines of what is in service."""
        for number, keeper in enumerate(self.in_table()):
            if keeper.serving is None and self.page.active:
                continue  # what workers answer from was granted its lease when it was verified
            deadline = keeper.deadline()
            nanoseconds = max(0, int((deadline or 0.0) * 1e9))
            # The clocks' readings differ by microseconds from turn to turn; a word that moves is read by all workers.
            if abs(self.page.deadline(number) - nanoseconds) > 1_000_000:
                self.page.set_deadline(number, nanoseconds)

    def in_table(self) -> Iterable[ZoneKeeper]:
        yield self.root
        if self.has_hosts and self.hosts is not None:
            yield self.hosts

    def _renewed(self, keeper: ZoneKeeper) -> None:
        assert keeper.serving is not None
        if keeper.distrusted:
            self.ask_to_verify()  # somebody says that it is current: look again
        self.grant()
        self.write_ledger()

    def ask_to_verify(self) -> None:
        """Have the root in service verified again."""
        self.verify_again = True
        self.work.set()

    def write_ledger(self) -> bool:
        """Whether it is on disk when this returns; a disk that cannot be written is an alarm and stops nothing."""
        self.ledger.leases |= {
            each.name: each.serving.lease for each in self.keepers.values() if each.serving is not None
        }
        self.ledger.last_seen_wall = max(self.ledger.last_seen_wall, self.now())
        self.ledger.dropped = {each.name: sorted(each.refresh.dropped_serials) for each in self.keepers.values()}
        return self.save_ledger()

    def save_ledger(self) -> bool:
        self.last_written = self.boottime()
        try:
            self.store.write_ledger(self.ledger.to_record(self._boot))
        except StoreFailed as error:
            self.ledger_unwritten = True
            self.state_failed(error)
            return False
        self.state_error, self.ledger_unwritten = "", False
        return True

    def journal(self, event: str, **facts: Any) -> None:
        try:
            self.store.journal(instant.to_text(self.now()), event, **facts)
        except StoreFailed as error:
            self.state_failed(error)

    def state_failed(self, error: StoreFailed) -> None:
        if str(error) != self.state_error:
            log.alarm("state cannot be written", reason=error)
        self.state_error = str(error)

    def serials(self) -> str:
        return ",".join(f"{each.name}={each.serving.serial}" for each in self.in_table() if each.serving is not None)

    def redeliver(self, keeper: ZoneKeeper, serial: int, *, approved: bool) -> None:
        """Put a kept version before the pipeline again.  StoreFailed is told in the log."""
        try:
            provenance, contents = read_version(self.store, keeper.policy, serial)
        except StoreFailed as error:
            log.alarm("kept zone unusable", zone=keeper.name, serial=serial, reason=error)
            return
        age = max(0.0, self.now() - provenance.received_at)
        keeper.deliver(Delivery.from_store(provenance, contents, self.boottime() - age, approved=approved))

    def offer_file(self, keeper: ZoneKeeper, read: Transferred, how: str, *, approved: bool = False) -> str:
        """A zone that was read from a file; what is wrong with it at first sight, or nothing."""
        contents = read.contents
        assert contents is not None
        serving = keeper.serving
        if serving is not None and contents.serial == serving.serial:
            if contents.rrsets != serving.contents.rrsets:
                return f"serial {contents.serial} is in service with other contents"
            keeper.confirm(None)
            return f"serial {contents.serial} is in service already"
        if serving is not None and not serial_is_newer(contents.serial, serving.serial):
            return f"serial {contents.serial} is older than {serving.serial}, which is in service"
        keeper.received, keeper.received_boottime = contents.serial, self.boottime()
        primary = "file" if "file" in keeper.sources else ""
        origin = Origin("file", how, self.now(), self.boottime(), primary)
        keeper.deliver(Delivery(contents, origin, contents.soa.expire, authenticated=True, approved=approved))
        return ""

    def contents(self, keeper: ZoneKeeper, serial: int | None) -> ZoneContents:
        """A version: the one in service or a kept one.  StoreFailed if there is none."""
        if keeper.serving is not None and serial in {None, keeper.serving.serial}:
            return keeper.serving.contents
        if serial is None:
            raise StoreFailed(f"zone {keeper.name}: nothing is in service")
        return read_version(self.store, keeper.policy, serial)[1]

    def versions(self, keeper: ZoneKeeper) -> list[Provenance]:
        """What is kept of a zone, oldest received first."""
        return self.store.versions(keeper.policy.apex)


def policy_of(zone: ZoneConfig) -> ZonePolicy:
    """How the zone is judged."""

    def anchors() -> str:
        if not zone.trust_anchors:
            raise OSError(f"zone {zone.name}: trust_anchors is not configured")
        return Path(zone.trust_anchors).read_text()

    return ZonePolicy(zone.name, names.from_text(zone.name), zone.validation, zone.zonemd, anchors)
