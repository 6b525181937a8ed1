"""The zones of one instance: which there are, which of them the table in service answers for, and until when."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rootsrv.config.file import Config, ZoneConfig
from rootsrv.page.layout import Page
from rootsrv.secondary.agenda import Agenda
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.preparation import ZonePolicy
from rootsrv.secondary.sources import MakeSource, source_at_start, source_of, sources_of
from rootsrv.secondary.stored import StoredVersions
from rootsrv.store.ledger import Served
from rootsrv.store.records import Records
from rootsrv.store.store import Store
from rootsrv.wire import name as names
from rootsrv.zone.life import InService


class Zones:
    """The root and the zone of its hosts, if that is served."""

    def __init__(self, config: Config, store: Store, records: Records, page: Page, agenda: Agenda) -> None:
        self._store = store
        self._records = records
        self._page = page
        self._agenda = agenda
        self.counters: Counter[str] = Counter()
        """What happened to all of them, since the start."""

        self.keepers = {zone.name: self._keeper(zone, config) for zone in config.zone}
        self.root = next(iter(self.keepers.values()))
        self.hosts = next((each for each in self.keepers.values() if each is not self.root), None)
        if self.hosts is not None:
            self.hosts.timer_of = self.root  # whose SOA is signed
        self.has_hosts = False
        """Whether the table in service answers for the zone of the hosts."""

    def __iter__(self) -> Iterator[ZoneKeeper]:
        return iter(self.keepers.values())

    def _keeper(self, zone: ZoneConfig, config: Config) -> ZoneKeeper:
        refresh = config.refresh
        return ZoneKeeper(
            policy_of(zone),
            sources_of(zone, config, self._store, source_at_start),
            StoredVersions(self._store, names.from_text(zone.name)),
            time=self._records.time,
            offer=self._agenda.delivered,
            renewed=self._renewed,
            counters=self.counters,
            bounds=(refresh.min_seconds, refresh.max_seconds),
            max_serve_seconds=config.switchover.max_serve_seconds,
            backoff_seconds=refresh.backoff_seconds,
        )

    def configure(self, config: Config, make: MakeSource = source_of) -> None:
        """Go on as *config* says; ConfigError if *make* cannot have all sources: nothing has changed then."""
        sources = {zone.name: sources_of(zone, config, self._store, make) for zone in config.zone}
        for zone in config.zone:
            keeper = self.keepers[zone.name]
            keeper.policy = policy_of(zone)
            keeper.bounds = (config.refresh.min_seconds, config.refresh.max_seconds)
            keeper.life.max_serve_seconds = config.switchover.max_serve_seconds
            keeper.backoff_seconds = config.refresh.backoff_seconds
            keeper.set_sources(sources[zone.name])

    def in_table(self) -> Iterator[ZoneKeeper]:
        """Those that the table in service answers for, in its order."""
        yield self.root
        if self.has_hosts and self.hosts is not None:
            yield self.hosts

    def serials(self) -> str:
        """What is in service, for people."""
        served = ((each.name, each.life.serving) for each in self.in_table())
        return ",".join(f"{name}={version.serial}" for name, version in served if version is not None)

    def grant(self) -> None:
        """Store the deadlines of what is in service."""
        for number, keeper in enumerate(self.in_table()):
            if keeper.life.serving is None and self._page.active:
                continue  # what workers answer from was granted its lease when it was verified
            deadline = keeper.deadline()
            nanoseconds = max(0, int((deadline or 0.0) * 1e9))
            # The clocks' readings differ by microseconds from turn to turn; a word that moves is read by all workers.
            if abs(self._page.deadline(number) - nanoseconds) > 1_000_000:
                self._page.set_deadline(number, nanoseconds)

    def write_ledger(self) -> bool:
        """Write down what is in service; whether it is on disk when this returns."""
        boottime, wall = self._records.time.boottime(), self._records.time.now()
        in_service = [(each.name, each.life.service) for each in self]
        served = {name: state for name, state in in_service if isinstance(state, InService)}
        return self._records.write(
            {name: state.version.lease for name, state in served.items()},
            {
                name: Served(state.version.serial, wall - (boottime - state.since), state.known_at)
                for name, state in served.items()
            },
            {each.name: sorted(each.refresh.dropped_serials) for each in self},
            self._seen(wall),
        )

    def _seen(self, wall: float) -> float:
        """What a start is to know to have passed at *wall*; 0 if that makes no difference.

        It keeps what is over from coming back with a clock that was set back, and for that the end of the signatures
        in service is enough.  More than that would have a clock that was years ahead for a minute (no battery, a bad
        time server at boot) shut out every zone for years, after every restart.
        """
        root = self.root.life.serving
        if root is None:
            return 0.0
        until = root.lease.signatures_until
        return wall if until is None else min(wall, until)

    def _renewed(self, keeper: ZoneKeeper) -> None:
        if keeper.life.distrusted:
            self._agenda.ask_to_verify()  # somebody says that it is current: look again
        self.grant()
        self.write_ledger()


def policy_of(zone: ZoneConfig) -> ZonePolicy:
    """How the zone is judged."""

    def anchors() -> str:
        if not zone.trust_anchors:
            raise OSError(f"zone {zone.name}: trust_anchors is not configured")
        return Path(zone.trust_anchors).read_text(encoding="utf-8")

    return ZonePolicy(zone.name, names.from_text(zone.name), zone.validation, zone.zonemd, anchors)
