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
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Literal

import uvloop

from rootsrv import clock, counts, log
from rootsrv.answer.responder import Responder
from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.anycast import live_check
from rootsrv.anycast.bird import Bird
from rootsrv.anycast.control import Control
from rootsrv.anycast.controller import Controller
from rootsrv.anycast.managed import service_addresses
from rootsrv.anycast.netlink import NetlinkFailed, ServiceInterface
from rootsrv.anycast.orders import Orders, load_flaps
from rootsrv.anycast.probe import Expectations
from rootsrv.anycast.witness import Witness, boottime
from rootsrv.config import Config, ConfigError
from rootsrv.fastpath.control import commands as fastpath_commands
from rootsrv.fastpath.loader import FastPath
from rootsrv.health.evidence import Transport as ProbedTransport
from rootsrv.page import Page
from rootsrv.processes import environment
from rootsrv.secondary.listener import CannotListen
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.role import maintain as maintain_role
from rootsrv.secondary.store import StoreFailed
from rootsrv.server import privileges
from rootsrv.server.parent import Parent
from rootsrv.server.sockets import CannotBind, bind_all
from rootsrv.server.worker import responder_settings
from rootsrv.telemetry.report import Report
from rootsrv.zone import instant

Role = Literal["serve", "maintain", "advertise", "report"]
ROLES: tuple[Role, ...] = ("serve", "maintain", "advertise", "report")

_LOAD_WAIT_SECONDS = 20.0
"""How long `run` waits for the first table before it serves without: SERVFAIL is better than no answer at all."""

_SUPERVISOR = "ROOTSRV_SUPERVISOR"
"""In the environment of a role's process: process id of the one that watches it, with which it ends."""

_START_SECONDS = 2.0
"""A role that ends with a failure before that, the first time, cannot be started at all."""

_RESTART_SECONDS = (0.1, 5.0)
_STOP_SECONDS = 10.0
_WITHDRAW_SECONDS = 310.0
"""More than anycast.stop_linger_seconds can be, and the confirmation before it."""


class CannotRun(Exception):
    """The instance cannot be started; the text names the cause."""


def run(config: Config, path: Path, role: Role | None = None) -> None:
    """Run *role*, or all of them, until SIGTERM or SIGINT.  CannotRun if that cannot be, at start.

    *path*: the configuration file, which the processes of the roles read anew.
    """
    if not config.zone:
        raise ConfigError("zone: a root zone is needed")
    if clock.test_offset_seconds():
        log.alarm("TEST CLOCK: validity is judged at another time", now=instant.to_text(clock.validity_now()))
    if parent := os.environ.get(_SUPERVISOR):
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
                    _run_until_signalled(lambda stop, _: serve(config, stop))
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
                    _run_until_signalled(lambda stop, reload: _supervise(config, path, stop, reload))
    except (LoadingFailed, StoreFailed, CannotListen, CannotBind, NetlinkFailed, privileges.NoSuchUser) as error:
        raise CannotRun(str(error)) from error


@contextlib.contextmanager
def _alone(path: Path) -> Any:
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


def _managed_addresses(config: Config) -> contextlib.AbstractContextManager[None]:
    """The service addresses are there before anything binds them, and go after everything else (D35)."""
    if config.anycast is None or not config.anycast.manage_addresses:
        return contextlib.nullcontext()
    note = Path(config.state.runtime_directory) / "service-addresses.json"
    return service_addresses(config.anycast.interface, config.service.addresses, note)


def _run_until_signalled(
    make: Any, new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
) -> None:
    async def main() -> None:
        stop, reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        await make(stop, reload)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


async def serve(config: Config, stop: asyncio.Event) -> None:
    """The role *serve*: bind, start the workers, keep them."""
    account = privileges.account(config.service.user)
    workers = config.service.workers or len(os.sched_getaffinity(0))
    runtime = Path(config.state.runtime_directory)
    page_path = runtime / "page"
    page = Page.open_or_create(page_path)
    tables = Path(config.state.directory) / "tables"
    tables.mkdir(parents=True, exist_ok=True, mode=0o755)
    sockets = bind_all(config.service.addresses, config.service.port, workers)
    responder = _responder_orders(config)
    orders = {
        "account": account,
        "responder": responder,
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
        responses=responder_settings(responder),
        page=page,
        open_table=lambda generation: _open_table(Path(config.state.directory), generation),
    )
    parent.commands |= fastpath_commands(fastpath)
    status = await parent.listen(runtime / "serve.sock")
    log.event("serving", addresses=",".join(config.service.addresses), port=config.service.port, workers=workers)
    kernel = asyncio.create_task(fastpath.run(stop), name="fastpath")
    try:
        await parent.run(stop)
    finally:
        kernel.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await kernel
        status.close()
        (runtime / "serve.sock").unlink(missing_ok=True)
        for each in sockets:
            each.socket.close()
        log.event("stopped serving")


def _responder_orders(config: Config) -> dict[str, Any]:
    secret = config.cookies.secret or secrets.token_hex(16)
    return {
        "max_udp_response_octets": config.service.max_udp_response_octets,
        "nsid": (config.identity.nsid or socket.gethostname()).encode().hex(),
        "version": config.identity.version.encode().hex(),
        "cookie_secrets": [secret, *config.cookies.previous_secrets],
        "require_server_cookie": config.cookies.require_server_cookie,
        "tcp_idle_seconds": config.service.tcp_idle_seconds,
    }


async def maintain(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """The role *maintain*: keep the zones current."""
    await maintain_role(config, path, stop, reload)


async def report(config: Config, path: Path, stop: asyncio.Event) -> None:
    """The role *report*: metrics, status page, statistics; it reads what the others write, and nobody waits for it."""
    await Report(config, path).run(stop)


async def advertise(config: Config, stop: asyncio.Event) -> None:
    """The role *advertise*: announce the service prefixes while the service is right.  CannotRun names what is not."""
    if config.anycast is None:
        raise CannotRun("anycast: there is no such section in the configuration, so nothing to advertise")
    if wrong := await live_check.problems(config):
        raise CannotRun("; ".join(wrong))
    runtime, state = Path(config.state.runtime_directory), Path(config.state.directory)
    page = Page.open_or_create(runtime / "page")
    settings = responder_settings(_responder_orders(config))
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


async def _supervise(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """All roles: load first, then listen (D35); a role that ends is started again."""
    page = Page.open_or_create(Path(config.state.runtime_directory) / "page")
    maintain_role = await _start("maintain", path)
    roles: dict[Role, asyncio.subprocess.Process] = {"maintain": maintain_role}
    stopped = asyncio.create_task(stop.wait())
    ended = asyncio.create_task(maintain_role.wait())
    try:
        deadline = asyncio.get_running_loop().time() + _LOAD_WAIT_SECONDS
        # A table that is active from an earlier run on this boot is served while maintain looks at the zones.
        while not page.active and not stop.is_set() and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait([stopped, ended], timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                break
        if ended.done() and not stop.is_set():
            raise CannotRun("the zones could not be loaded")
        ended.cancel()
        if not stop.is_set():
            roles["serve"] = await _start("serve", path)
            if config.anycast is not None:
                await _first_heartbeat(page, stopped)
                roles["advertise"] = await _start("advertise", path)
            roles["report"] = await _start("report", path)
            await _keep(roles, path, stopped, reload)
    finally:
        stopped.cancel()
        await _stop(roles)


async def _keep(
    roles: dict[Role, asyncio.subprocess.Process], path: Path, stopped: "asyncio.Task[Any]", reload: asyncio.Event
) -> None:
    """Have all roles running until told to stop; CannotRun when one fails at its very start."""
    loop = asyncio.get_running_loop()
    shortest, longest = _RESTART_SECONDS
    pauses = dict.fromkeys(roles, shortest)
    started = dict.fromkeys(roles, loop.time())
    never_up = set(roles)
    ends = {asyncio.create_task(process.wait()): role for role, process in roles.items()}
    reloads = asyncio.create_task(reload.wait())
    try:
        while True:
            await asyncio.wait([stopped, reloads, *ends], return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return
            if reloads.done():
                reload.clear()
                reloads = asyncio.create_task(reload.wait())
                with contextlib.suppress(ProcessLookupError):
                    roles["maintain"].send_signal(signal.SIGHUP)
            for task in [each for each in ends if each.done()]:
                role = ends.pop(task)
                lived = loop.time() - started[role]
                if role in never_up and lived < _START_SECONDS and roles[role].returncode == 1:
                    raise CannotRun(f"the role {role} could not be started")
                never_up.discard(role)  # from now on a role that fails takes none of the others down
                pauses[role] = shortest if lived > 60 else min(longest, 2 * pauses[role])
                log.alarm("role restarted", role=role, exit_status=roles[role].returncode, pause_seconds=pauses[role])
                await asyncio.wait([stopped], timeout=pauses[role])
                if stopped.done():
                    return
                roles[role] = await _start(role, path)
                started[role] = loop.time()
                ends[asyncio.create_task(roles[role].wait())] = role
    finally:
        for task in (reloads, *ends):
            task.cancel()


async def _start(role: Role, path: Path) -> asyncio.subprocess.Process:
    command = ("-m", "rootsrv", "run", "--config", str(path), "--role", role)
    variables = environment() | {_SUPERVISOR: str(os.getpid())}
    return await asyncio.create_subprocess_exec(sys.executable, *command, env=variables)


async def _first_heartbeat(page: Page, stopped: "asyncio.Task[Any]") -> None:
    """Wait until a worker is up, so that what announces finds what it is to announce (D35)."""
    began = clock.boottime_ns()
    deadline = asyncio.get_running_loop().time() + _LOAD_WAIT_SECONDS

    def is_up() -> bool:
        slots = [page.worker(slot) for slot in range(page.workers)]
        return any(each.pid and each.heartbeat > began and Path(f"/proc/{each.pid}").exists() for each in slots)

    while not is_up() and asyncio.get_running_loop().time() < deadline and not stopped.done():
        await asyncio.wait([stopped], timeout=0.02)


async def _stop(roles: dict[Role, asyncio.subprocess.Process]) -> None:
    """End the roles: first what announces, which withdraws and waits for routers to follow (D35), then the others.

    What keeps the statistics goes last, so that it has read all that the workers have counted.
    """
    if (advertising := roles.pop("advertise", None)) is not None:
        await _end([advertising], _WITHDRAW_SECONDS)
    reporting = roles.pop("report", None)
    await _end(roles.values(), _STOP_SECONDS)
    if reporting is not None:
        await _end([reporting], _STOP_SECONDS)


async def _end(processes: Iterable[asyncio.subprocess.Process], patience_seconds: float) -> None:
    """Have them finish what is in flight; kill them when they do not."""
    running = [process for process in processes if process.returncode is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    waits: list[Coroutine[Any, Any, int]] = [process.wait() for process in running]
    try:
        async with asyncio.timeout(patience_seconds):
            await asyncio.gather(*waits)
    except TimeoutError:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
