"""The role *maintain*, put together: store, maintainer, administrative interface, control socket."""

import asyncio
import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from rootsrv.config.file import Config, ConfigError, load
from rootsrv.control import client
from rootsrv.control.server import ControlServer
from rootsrv.distribution.limits import transfer_limits
from rootsrv.distribution.listener import AdminCannotListen, Listener, tls_context
from rootsrv.distribution.notify import NotifySender, NotifyTarget, Told, spacing
from rootsrv.distribution.offered import OfferedZone
from rootsrv.distribution.requests import ConfiguredPeers, PeerRecord, Requests
from rootsrv.page.layout import Page
from rootsrv.process import held_back, log
from rootsrv.process.background import Background
from rootsrv.process.clocks import clocks
from rootsrv.process.persistence import persistently
from rootsrv.process.security import SecurityEvents
from rootsrv.process.troubles import Troubles
from rootsrv.roles import maintain_status
from rootsrv.secondary.control import ZoneControl
from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.offering import Offering
from rootsrv.secondary.sources import source_at_start
from rootsrv.secondary.status import Status
from rootsrv.store import sources_key
from rootsrv.store.store import Store
from rootsrv.wire import name as names
from rootsrv.wire.tsig import Key
from rootsrv.zone import public_keys  # noqa: F401  (what verifies is a fork of ours, and has it then)

NICENESS = 5
"""Those who answer go first; with all cores busy this still gets a quarter of one: a zone comes in at any load."""
# Nicer changes nothing.  SCHED_IDLE does harm: the kernel (6.18) takes a core where such a process runs for an idle one
# and puts who answers on it, which costs him three times as much at the 99th percentile (bench/README.md).

_AGAIN_SECONDS = 5.0
"""How often what could not be had at the start is tried again."""


async def maintain(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """Keep the zones current until *stop* is set; read *path* again when *reload* is.

    Raises StoreFailed or LoadingFailed when it cannot start.  A primary that fails is not an error here, nor is what
    cannot be had yet: a secret, a certificate, an administrative address.
    """
    os.nice(NICENESS)
    store = Store(Path(config.state.directory))
    try:
        await MaintainRole(config, path, store).run(stop, reload)
    finally:
        store.close()


class MaintainRole:
    """All parts of the role."""

    def __init__(self, config: Config, path: Path, store: Store) -> None:
        self._path = path
        self._digest = _digest(path)
        self._lacks_keys = False
        self._socket = Path(config.state.runtime_directory) / "maintain.sock"
        if not config.report.sources_key_file:
            sources_key.own(Path(config.state.directory))  # for the role serve, which may read the state only
        page = Page.keep_head(Path(config.state.runtime_directory) / "page")
        self.maintainer = Maintainer(config, store, page, clocks(config.clock.source))
        self.maintainer.switchover.kernel = lambda: self._ask_serve("fastpath-status")
        self.maintainer.switchover.suspend_kernel = lambda wanted, why: self._ask_serve(
            "fastpath-suspend", wanted=wanted, reason=why
        )
        self.maintainer.switchover.replace = lambda slot, wanted: self._ask_serve(
            "replace-worker", slot=slot, wanted=wanted
        )
        self.security = SecurityEvents()
        self.offering = Offering(
            self.maintainer.zones, self.maintainer.time, self.security, from_staging=config.mesh is not None
        )
        self.peers = ConfiguredPeers(self.maintainer.time.now)
        self.sender = NotifySender(config.admin.addresses)
        self.requests = Requests(
            self.offering.zone, self.peers, self.security, self.offering.notified, transfer_limits(config.admin)
        )
        try:
            self._configure(config, keys_of(config))
        except ConfigError as error:
            # What is in service goes on, and so do the peers whose keys can be had.
            log.alarm("keys cannot be had", reason=error, again_seconds=_AGAIN_SECONDS)
            self._configure(config, keys_of(config, missing_ok=True))
            self._lacks_keys = True
        if self.maintainer.membership is not None:
            self.maintainer.membership.on_partners = self._take_partners
        self.listener = Listener(config.admin, self.requests)
        self._background = Background()
        self.maintainer.activation.on_activated.append(self._tell_peers)
        self.maintainer.activation.on_staged.append(self._tell_peers)

    def _configure(self, config: Config, keys: dict[bytes, Key]) -> None:
        self.peers.configure(keys, config.peer)
        self.offering.configure(config.primary)
        self.sender.leave_from(config.admin.addresses)
        self.requests.set_limits(transfer_limits(config.admin))

    def _take_partners(self) -> None:
        """The roster names others than before for transfers."""
        try:
            whole = self.maintainer.completed(self.maintainer.config)
            # What cannot be had now was had before, or is tried again, whoever the partners are.
            self.maintainer.zones.configure(whole, source_at_start)
            listed = {names.from_text(each.name) for each in whole.key}
            known = {name: key for name, key in self.peers.keys.items() if name in listed}
            self._configure(whole, known | keys_of(whole, missing_ok=True))
        except ConfigError as error:
            log.alarm("no transfers by the roster", reason=error)
        else:
            log.event("transfers by the roster", primaries=len(whole.primary), peers=len(whole.peer))

    async def run(self, stop: asyncio.Event, reload: asyncio.Event) -> None:
        """Until *stop* is set."""

        def status() -> Status:
            return maintain_status.status(self.maintainer, self.peers.records.values(), self.security, self._digest)

        commands = ZoneControl(self.maintainer, status, self.reload_now).commands()
        refused = lambda caller, reason: self.security.note("control_refused", caller, reason)  # noqa: E731
        control = ControlServer(commands, refused)
        control.start(self._socket)
        try:
            await self.listener.start(without_tls_if_need_be=True)
        except AdminCannotListen as error:
            # Whoever reads this sees it; what is kept is served all the same, and primaries are asked.
            log.alarm("admin addresses cannot be bound", reason=error)
            self._background.begin(self._rebind(self.maintainer.config))
        self._background.begin(self._have_what_was_missing())
        addresses = self.maintainer.config.admin.addresses
        self._background.begin(persistently("addresses", lambda: held_back.watch("administrative", addresses)))
        reloading = asyncio.create_task(self._reload_forever(reload), name="reload")
        try:
            await self.maintainer.run(stop)
        except* LoadingFailed as group:
            raise group.exceptions[0] from None
        finally:
            control.close()
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
            await self._background.cancel()
            await self.listener.close()
            await self.sender.close()

    async def _ask_serve(self, command: str, **facts: int | str) -> dict[str, Any]:
        """What the parent that serves, which owns the fast path, answers; empty if it does not."""
        try:
            return await client.ask(self._socket.with_name("serve.sock"), {"command": command, **facts}, 2.0)
        except client.NoAnswer:
            return {}

    def _tell_peers(self, keeper: ZoneKeeper) -> None:
        apex = keeper.policy.apex
        zone = self.offering.zone(apex)
        told = [each for each in self.peers.records.values() if each.config.notify and apex in each.apexes]
        if zone is not None and zone.offer is not None and told:
            self._background.begin(self._tell(zone, [self._target(each) for each in told]))

    async def _tell(self, zone: OfferedZone, targets: list[NotifyTarget]) -> None:
        if zone.offer is None:
            return
        octets = (await zone.whole()).octets  # ready before the first peer comes for it
        self.sender.tell(zone, targets, spacing(octets, self.maintainer.config.admin.notify_mbit_per_second))

    def _target(self, record: PeerRecord) -> NotifyTarget:
        def report(told: Told) -> None:
            record.notify = str(told)

        key = self.peers.key(record.key_name) if record.key_name else None
        return NotifyTarget(record.name, record.address, record.config.port, key, report)

    async def _reload_forever(self, reload: asyncio.Event) -> None:
        while True:
            await reload.wait()
            reload.clear()
            self.reload_now()

    def reload_now(self) -> tuple[bool, str]:
        """Read the configuration again: (whether it is in force, what to know).  What is served stays served."""
        admin = self.maintainer.config.admin
        try:
            config = load(self._path)
            whole = self.maintainer.completed(config)
            keys = keys_of(whole)
            tls_context(config.admin)  # all that is read is read before anything changes
            later = self.maintainer.reload(config)
            self._configure(whole, keys)
        except ConfigError as error:
            log.alarm("reload refused", reason=error)
            return False, str(error)
        except Exception as error:  # it ends this reload, neither the role nor the next one
            context = {"message": "a reload failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
            return False, f"{type(error).__name__}: {error}"
        self._digest = _digest(self._path)
        if config.admin != admin:
            self._background.begin(self._rebind(config))
        log.event("configuration reloaded", file=self._path, only_after_restart=",".join(later))
        return True, f"only after a restart: {', '.join(later)}" if later else ""

    async def _rebind(self, config: Config) -> None:
        await self.listener.close()
        wait = 0.1
        unbound = Troubles("admin addresses cannot be bound")  # when they are, the listener says so
        while config is self.maintainer.config:
            self.listener = Listener(config.admin, self.requests)
            try:
                await self.listener.start()
            except (AdminCannotListen, ConfigError) as error:
                unbound.met(error)
            else:
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, 30.0)

    async def _have_what_was_missing(self) -> None:
        """What could not be had at the start: keys, certificates, the administrative addresses."""
        config = self.maintainer.config
        while config is self.maintainer.config and (self._lacks_keys or self.listener.lacks):
            await asyncio.sleep(_AGAIN_SECONDS)
            with contextlib.suppress(ConfigError):
                if self._lacks_keys:
                    whole = self.maintainer.completed(config)
                    self._configure(whole, keys_of(whole))
                    self._lacks_keys = False
                    log.event("keys can be had")
            with contextlib.suppress(ConfigError):
                if self.listener.lacks and tls_context(config.admin):
                    await self._rebind(config)


def keys_of(config: Config, *, missing_ok: bool = False) -> dict[bytes, Key]:
    """The TSIG keys, by name.  ConfigError if one cannot be had; with *missing_ok* it is left out."""
    keys = {}
    for each in config.key:
        try:
            key = each.tsig_key()
        except ConfigError:
            if not missing_ok:
                raise
        else:
            keys[key.name] = key
    return keys


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
