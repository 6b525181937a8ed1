"""The composition root: builds the parts of a role, starts and stops them in order.

`rootsrv run` starts and watches the roles as processes of their own; systemd may run them as units instead.
"""

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import uvloop

from rootsrv import clock, counts, log, notification, supervisor
from rootsrv.answer.responder import Responder
from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.blocks import Blocks
from rootsrv.config import Config, ConfigError, load
from rootsrv.health.evidence import Transport as ProbedTransport
from rootsrv.page import Page
from rootsrv.server import privileges
from rootsrv.server.parent import Parent
from rootsrv.server.sockets import CannotBind, bind_all
from rootsrv.server.worker import responder_settings
from rootsrv.zone import instant

Role = Literal["serve", "maintain", "advertise", "report"]
ROLES: tuple[Role, ...] = ("maintain", "serve", "advertise", "report")


class CannotRun(Exception):
    """The instance cannot be started; the text names the cause."""


def run(config: Config, path: Path, role: Role | None = None) -> None:
    """Run *role*, or all of them, until SIGTERM or SIGINT.  CannotRun if that cannot be, at start.

    *path*: the configuration file, which the processes of the roles read anew.
    """
    if not config.zone:
        raise ConfigError("zone: a root zone is needed")
    notification.take()
    if clock.test_offset_seconds():
        log.alarm("TEST CLOCK: validity is judged at another time", now=instant.to_text(clock.validity_now()))
    if parent := os.environ.get(supervisor.SUPERVISOR):
        privileges.die_with_parent(int(parent))
    try:
        runtime = Path(config.state.runtime_directory)
        runtime.mkdir(parents=True, exist_ok=True, mode=0o755)
        state = Path(config.state.directory)
        state.mkdir(parents=True, exist_ok=True, mode=0o755)
    except OSError as error:
        raise CannotRun(f"{error.filename}: {error.strerror}") from error
    try:
        match role:
            case "serve":
                with _alone(runtime / "serve.lock"), _managed_addresses(config):
                    _run_until_signalled(lambda stop, reload: serve(config, path, stop, reload))
            case "maintain":
                with _alone(state / "maintain.lock"):
                    _run_until_signalled(lambda stop, reload: maintain(config, path, stop, reload))
            case "advertise":
                with _alone(runtime / "advertise.lock"):
                    # uvloop has no netlink sockets; nothing here is in a hurry.
                    _run_until_signalled(lambda stop, _: advertise(config, stop), asyncio.new_event_loop)
            case "report":
                with _alone(state / "report.lock"):
                    _run_until_signalled(lambda stop, _: report(config, path, stop))
            case None:
                with _alone(state / "run.lock"):
                    roles = [each for each in ROLES if each != "advertise" or config.anycast is not None]
                    page = Page.open_or_create(runtime / "page")
                    _run_until_signalled(supervisor.Supervisor(page, path, roles).run)
    except (CannotBind, privileges.NoSuchUser, supervisor.RoleFailed) as error:
        raise CannotRun(str(error)) from error


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock at *path*; CannotRun if another process does."""
    try:
        lock = path.open("a")
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotRun(f"{path}: another instance is running on this directory") from error
        yield


@contextlib.contextmanager
def _managed_addresses(config: Config) -> Iterator[None]:
    """The service addresses are there before anything binds them, and go after everything else (D35)."""
    if config.anycast is None or not config.anycast.manage_addresses:
        yield
        return
    from rootsrv.anycast.managed import service_addresses
    from rootsrv.anycast.netlink import NetlinkFailed

    note = Path(config.state.runtime_directory) / "service-addresses.json"
    try:
        with service_addresses(config.anycast.interface, config.service.addresses, note):
            yield
    except NetlinkFailed as error:
        raise CannotRun(str(error)) from error


def _run_until_signalled(
    make: Any, new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
) -> None:
    async def main() -> None:
        stop, reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            notification.stopping()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        await make(stop, reload)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


async def serve(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """The role *serve*: bind, start the workers, keep them; read *path* again when *reload* is set."""
    from rootsrv.fastpath.control import commands as fastpath_commands
    from rootsrv.fastpath.loader import FastPath

    account = privileges.account(config.service.user)
    workers = config.service.workers or len(os.sched_getaffinity(0))
    runtime = Path(config.state.runtime_directory)
    page_path = runtime / "page"
    page = Page.open_or_create(page_path)
    tables = Path(config.state.directory) / "tables"
    tables.mkdir(parents=True, exist_ok=True, mode=0o755)
    sockets = bind_all(config.service.addresses, config.service.port, workers)
    answers = _Answers(config, path)
    orders = {
        "account": account,
        "responder": answers.orders,
        "tcp": {
            "connections": config.service.tcp_max_connections,
            "connections_per_client": config.service.tcp_max_connections_per_client,
            "idle_seconds": config.service.tcp_idle_seconds,
        },
    }
    parent = Parent(sockets=sockets, page=page, page_path=page_path, tables=tables, orders=orders)
    fastpath = FastPath(
        config.fastpath,
        addresses=config.service.addresses,
        port=config.service.port,
        responses=responder_settings(answers.orders),
        page=page,
        open_table=lambda generation: _open_table(Path(config.state.directory), generation),
        note=runtime / "fastpath.json",
    )
    blocks = Blocks(page, runtime / "blocks.json")
    answers.users += (parent.change_responder, lambda orders: fastpath.respond_as(responder_settings(orders)))
    parent.commands |= fastpath_commands(fastpath) | blocks.commands() | {"reload": answers.reload}
    status = await parent.listen(runtime / "serve.sock")
    log.event("serving", addresses=",".join(config.service.addresses), port=config.service.port, workers=workers)
    beside = (
        asyncio.create_task(fastpath.run(stop), name="fastpath"),
        asyncio.create_task(_end_blocks(blocks), name="blocks"),
        asyncio.create_task(answers.follow(reload), name="reload"),
    )
    try:
        await parent.run(stop)
    finally:
        for task in beside:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        status.close()
        (runtime / "serve.sock").unlink(missing_ok=True)
        for each in sockets:
            each.socket.close()
        log.event("stopped serving")


async def _end_blocks(blocks: Blocks) -> None:
    """Forget blocks when their time is over, until cancelled."""
    while True:
        await asyncio.sleep(1)
        blocks.expire()


class _Answers:
    """How queries are answered, as far as the configuration says; identity and cookies may change meanwhile."""

    def __init__(self, config: Config, path: Path) -> None:
        self._path = path
        self._own_secret = secrets.token_hex(16)  # in case that none is configured
        self.orders = _responder_orders(config, self._own_secret)
        """`WorkerOrders.responder`."""

        self.users: list[Callable[[dict[str, Any]], None]] = []
        """Called with the orders when these have changed."""

    async def follow(self, reload: asyncio.Event) -> None:
        """Read the file whenever *reload* is set, until cancelled."""
        while True:
            await reload.wait()
            reload.clear()
            self.reload({})

    def reload(self, _: dict[str, Any]) -> dict[str, Any]:
        """Read the file now; the response to this command on the status socket.  An error in it changes nothing."""
        try:
            read = _responder_orders(load(self._path), self._own_secret)
        except ConfigError as error:
            log.alarm("reload refused", reason=error)
            return {"ok": False, "error": str(error)}
        orders = self.orders | {key: read[key] for key in _CHANGEABLE}
        if orders != self.orders:
            self.orders = orders
            for use in self.users:
                use(orders)
            log.event("identity and cookies reloaded", file=self._path)
        return {"ok": True}


_CHANGEABLE = ("nsid", "version", "cookie_secrets", "require_server_cookie")
"""Of `WorkerOrders.responder`.  The rest is of `[service]`, as sockets and limits are, which only a restart changes."""


def _responder_orders(config: Config, own_secret: str) -> dict[str, Any]:
    """`WorkerOrders.responder`; *own_secret* for cookies if none is configured (hexadecimal digits)."""
    return {
        "max_udp_response_octets": config.service.max_udp_response_octets,
        "nsid": (config.identity.nsid or socket.gethostname()).encode().hex(),
        "version": config.identity.version.encode().hex(),
        "cookie_secrets": [config.cookies.secret or own_secret, *config.cookies.previous_secrets],
        "require_server_cookie": config.cookies.require_server_cookie,
        "tcp_idle_seconds": config.service.tcp_idle_seconds,
    }


async def maintain(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """The role *maintain*: keep the zones current.  CannotRun if there is none to begin with."""
    from rootsrv.secondary.listener import CannotListen
    from rootsrv.secondary.loading import LoadingFailed
    from rootsrv.secondary.role import maintain as keep_current
    from rootsrv.secondary.store import StoreFailed

    try:
        await keep_current(config, path, stop, reload)
    except (LoadingFailed, StoreFailed, CannotListen) as error:
        raise CannotRun(str(error)) from error


async def report(config: Config, path: Path, stop: asyncio.Event) -> None:
    """The role *report*: metrics, status page, statistics; it reads what the others write, and nobody waits for it."""
    from rootsrv.telemetry.report import Report

    making = Report(config, path)
    _keep_what_report_needs(config)
    await making.run(stop)


def _keep_what_report_needs(config: Config) -> None:
    """Take the role's privileges from it, before anybody can talk to it.

    It runs as the workers' account, but in the group that it was started in: to that the page and the other roles'
    sockets are open.  Of capabilities it keeps the one for a port below 1024, if that is its own.
    """
    capability = privileges.NET_BIND_SERVICE if config.report.port < 1024 else None
    account = privileges.account(config.service.user)
    if account is not None and os.geteuid() == 0:
        statistics = Path(config.report.statistics_directory)
        privileges.hand_over(statistics, account[0])
        needed = (statistics, Path(config.state.directory), Path(config.state.runtime_directory))
        if closed := privileges.unreachable(needed, account[0]):
            log.alarm("report keeps running as root", reason=f"{closed[0]} is closed to {config.service.user}")
            return
        privileges.keep_group_only(account[0], capability)
    else:
        privileges.give_up_capabilities(capability)
    if parent := os.environ.get(supervisor.SUPERVISOR):
        privileges.die_with_parent(int(parent))


async def advertise(config: Config, stop: asyncio.Event) -> None:
    """The role *advertise*: announce the service prefixes while the service is right.  CannotRun names what is not."""
    from rootsrv.anycast.netlink import NetlinkFailed

    try:
        await _advertise(config, stop)
    except NetlinkFailed as error:
        raise CannotRun(str(error)) from error


async def _advertise(config: Config, stop: asyncio.Event) -> None:
    from rootsrv.anycast import live_check
    from rootsrv.anycast.bird import Bird
    from rootsrv.anycast.control import Control
    from rootsrv.anycast.controller import Controller
    from rootsrv.anycast.fastpath_watch import FastPathWatch
    from rootsrv.anycast.netlink import ServiceInterface
    from rootsrv.anycast.orders import Orders, load_flaps
    from rootsrv.anycast.probe import Expectations
    from rootsrv.anycast.witness import Witness, boottime

    if config.anycast is None:
        raise CannotRun("anycast: there is no such section in the configuration, so nothing to advertise")
    if wrong := await live_check.problems(config):
        raise CannotRun("; ".join(wrong))
    runtime, state = Path(config.state.runtime_directory), Path(config.state.directory)
    page = Page.open_or_create(runtime / "page")
    settings = responder_settings(_responder_orders(config, secrets.token_hex(16)))
    expected = Expectations(
        page, lambda generation: Responder(_open_table(state, generation), settings), config.switchover.grace_seconds
    )
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    flaps_path = runtime / "flaps.json"
    bird = Bird(config.anycast.bird_socket, timeout_seconds=0.5)
    async with ServiceInterface(config.anycast.interface) as interface:
        orders = Orders(state / "orders.json")
        controller = Controller(
            config=config.anycast,
            port=config.service.port,
            addresses=tuple(ipaddress.ip_address(each) for each in config.service.addresses),
            expected=expected,
            witness=Witness(page, lambda: expected.zones, runtime / "maintain.sock", state),
            fastpath=FastPathWatch(runtime / "serve.sock", detach=config.anycast.on_fastpath_wrong == "detach"),
            interface=interface,
            bird=bird,
            replies=lambda: _replies(page),
            orders=orders,
            flaps=load_flaps(flaps_path, boot_id, boottime()),
            flaps_path=flaps_path,
            boot_id=boot_id,
        )
        path = runtime / "advertise.sock"
        status = await Control(controller, orders).listen(path)
        try:
            await controller.run(stop)
        finally:
            status.close()
            path.unlink(missing_ok=True)
            bird.close()


def _open_table(state: Path, generation: int) -> AnswerTable:
    """Map an answer table; TableUnusable says why it cannot be used."""
    path = state / "tables" / f"{generation}.table"
    try:
        return AnswerTable.open(path)
    except OSError as error:
        raise TableUnusable(f"{path}: {error.strerror}") from error


def _replies(page: Page) -> dict[tuple[ProbedTransport, int], int]:
    """Replies that the workers have sent, by transport and IP version."""
    slots = [page.worker(slot).counters for slot in range(page.workers)]
    paths = ((transport, version) for transport in ProbedTransport for version in (4, 6))  # as in counts.PATHS
    return {path: sum(words[counts.RESPONSES + number] for words in slots) for number, path in enumerate(paths)}
