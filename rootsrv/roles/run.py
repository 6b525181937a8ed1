"""`rootsrv run`: the roles, each alone on its directory, until a signal ends them.

`rootsrv run` starts and watches the roles as processes of their own; systemd may run them as units instead.
"""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from rootsrv.config import text as config_text
from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import clock, lock, log, memory, privileges, service_manager
from rootsrv.process.descriptors import raise_limit
from rootsrv.roles import supervisor
from rootsrv.server.sockets import CannotBind
from rootsrv.zone import instant

Role = Literal["serve", "maintain", "advertise", "report", "mesh", "capture", "localroot", "portal", "hyperlocal"]
ROLES: tuple[Role, ...] = ("maintain", "serve", "advertise", "report", "mesh", "capture")


class CannotRun(Exception):
    """The instance cannot be started; the text names the cause."""


def run(config: Config, path: Path, role: Role | None = None) -> None:
    """Run *role*, or all of them, until SIGTERM or SIGINT.  CannotRun if that cannot be, at start.

    *path*: the configuration file, which the processes of the roles read anew.
    """
    # Of the modules of a role nothing is garbage: to look for some while they are loaded takes a seventh of its start.
    gc.disable()
    try:
        _run(config, path, role)
    finally:
        gc.enable()


def _run(config: Config, path: Path, role: Role | None) -> None:
    if not config.zone and role != "portal":
        raise ConfigError("zone: a root zone is needed")
    if config.localroot is not None and (role is None or (role in ROLES and role != "report")):
        raise ConfigError("localroot: has a configuration of its own: rootsrv run --role localroot")
    service_manager.take()
    raise_limit()
    if clock.test_offset_seconds():
        log.alarm("TEST CLOCK: validity is judged at another time", now=instant.to_text(clock.validity_now()))
    _tell_open_secrets(config, path)
    parent = os.environ.get(supervisor.SUPERVISOR)
    if parent and not privileges.die_with_parent(int(parent)):
        raise CannotRun("whoever started this process has ended")
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
                    _run_until_signalled(lambda stop, reload: _serve(config, path, stop, reload))
            case "maintain":
                with _alone(state / "maintain.lock", runtime / "maintain.lock"):
                    _run_until_signalled(lambda stop, reload: _maintain(config, path, stop, reload))
            case "advertise":
                with _alone(runtime / "advertise.lock"):
                    # uvloop has no netlink sockets; nothing here is in a hurry.
                    _run_until_signalled(lambda stop, _: _advertise(config, stop), asyncio.new_event_loop)
            case "report":
                with _alone(runtime / "report.lock"):
                    _run_until_signalled(lambda stop, _: _report(config, path, stop))
            case "mesh":
                with _alone(runtime / "mesh.lock"):
                    _run_until_signalled(lambda stop, _: _mesh(config, path, stop))
            case "capture":
                with _alone(runtime / "capture.lock"):
                    _run_until_signalled(lambda stop, _: _capture(config, stop))
            case "portal":
                with _alone(runtime / "portal.lock"):
                    _run_until_signalled(lambda stop, _: _portal(config, stop))
            case "hyperlocal":
                with _alone(state / "maintain.lock", runtime / "maintain.lock"):
                    # A megabyte less, and a resolver's few queries need no more.
                    _run_until_signalled(lambda stop, _: _hyperlocal(config, path, stop), asyncio.new_event_loop)
            case "localroot":
                with _alone(state / "maintain.lock", runtime / "maintain.lock"):
                    _run_until_signalled(lambda stop, _: _localroot(config, path, stop))
            case None:
                with _alone(state / "run.lock", runtime / "run.lock"):
                    absent = {
                        "advertise": config.anycast is None,
                        "mesh": config.mesh is None,
                        "capture": config.capture is None,
                    }
                    roles = [each for each in ROLES if not absent.get(each, False)]
                    page = Page.keep_head(runtime / "page")
                    _run_until_signalled(supervisor.Supervisor(page, path, roles).run)
    except (CannotBind, PageUnusable, privileges.NoSuchUser, supervisor.RoleFailed) as error:
        raise CannotRun(str(error)) from error


def _tell_open_secrets(config: Config, path: Path) -> None:
    """An alarm where the secrets in the file can be read by everybody; no reason not to serve.  `doctor` fails then."""
    with contextlib.suppress(OSError):
        if (keys := list(config_text.secrets(config))) and config_text.is_for_everybody(path):
            log.alarm("secrets can be read by everybody", file=path, keys=",".join(keys), do=f"chmod 640 {path}")


@contextlib.contextmanager
def _alone(*paths: Path) -> Iterator[None]:
    """Hold the locks at *paths*; CannotRun if another process does.

    Who keeps zones has two: of two on one state the second would undo what the first keeps, and of two that share the
    runtime directory only, the second would take its page and sockets.
    """
    with contextlib.ExitStack() as held:
        for path in dict.fromkeys(path.parent.resolve() / path.name for path in paths):
            try:
                held.callback(os.close, lock.hold(path, 0o644))
            except BlockingIOError as error:
                raise CannotRun(f"{path}: another instance is running on this directory") from error
            except OSError as error:
                raise CannotRun(f"{path}: {error.strerror}") from error
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


def _run_until_signalled(make: Any, new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """*new_event_loop*: instead of uvloop's."""
    if new_event_loop is None:
        import uvloop

        new_event_loop = uvloop.new_event_loop

    async def main() -> None:
        stop, reload = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def end() -> None:
            service_manager.stopping()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        loop.add_signal_handler(signal.SIGHUP, reload.set)
        loop.call_soon(memory.is_loaded)  # when the role waits for the first time
        await make(stop, reload)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


# Each role imports what it needs when it is started: a controller has no use for the workers' code.


async def _serve(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    from rootsrv.roles.serve import serve

    await serve(config, path, stop, reload)


async def _maintain(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """CannotRun if there is nothing to begin with."""
    from rootsrv.roles.maintain import maintain
    from rootsrv.secondary.loading import LoadingFailed
    from rootsrv.store.store import StoreFailed

    try:
        await maintain(config, path, stop, reload)
    except (LoadingFailed, StoreFailed) as error:
        raise CannotRun(str(error)) from error


async def _hyperlocal(config: Config, path: Path, stop: asyncio.Event) -> None:
    """CannotRun if it cannot be begun."""
    from rootsrv.distribution.listener import AdminCannotListen
    from rootsrv.roles.hyperlocal import hyperlocal
    from rootsrv.secondary.loading import LoadingFailed
    from rootsrv.store.store import StoreFailed

    try:
        await hyperlocal(config, path, stop)
    except (LoadingFailed, StoreFailed, AdminCannotListen) as error:
        raise CannotRun(str(error)) from error


async def _localroot(config: Config, path: Path, stop: asyncio.Event) -> None:
    """CannotRun if it cannot be begun."""
    from rootsrv.roles.localroot import localroot
    from rootsrv.secondary.loading import LoadingFailed
    from rootsrv.store.store import StoreFailed

    try:
        await localroot(config, path, stop)
    except (LoadingFailed, StoreFailed) as error:
        raise CannotRun(str(error)) from error


async def _advertise(config: Config, stop: asyncio.Event) -> None:
    """CannotRun names what is wrong with the configuration or the host."""
    from rootsrv.anycast.netlink import NetlinkFailed
    from rootsrv.roles.advertise import CannotAdvertise, advertise

    try:
        await advertise(config, stop)
    except (NetlinkFailed, CannotAdvertise) as error:
        raise CannotRun(str(error)) from error


async def _report(config: Config, path: Path, stop: asyncio.Event) -> None:
    from rootsrv.roles.report import report

    await report(config, path, stop)


async def _capture(config: Config, stop: asyncio.Event) -> None:
    """CannotRun if it is not configured."""
    from rootsrv.roles.capture import CannotCapture, capture

    try:
        await capture(config, stop)
    except CannotCapture as error:
        raise CannotRun(str(error)) from error


async def _portal(config: Config, stop: asyncio.Event) -> None:
    """CannotRun if it cannot be begun, or what it needs is not installed."""
    try:
        from rootsrv.portal.serving import PortalCannotListen
        from rootsrv.roles.portal import PortalCertificateUnusable, RegisterUnusable, portal
    except ModuleNotFoundError as error:
        raise CannotRun(f"portal: {error.name} is not installed: pip install 'rootsrv[portal]'") from error

    try:
        await portal(config, stop)
    except (RegisterUnusable, PortalCertificateUnusable, PortalCannotListen) as error:
        raise CannotRun(str(error)) from error


async def _mesh(config: Config, path: Path, stop: asyncio.Event) -> None:
    """CannotRun if it cannot be begun."""
    from rootsrv.roles.mesh import mesh
    from rootsrv.roles.mesh_presence import CannotJoin

    try:
        await mesh(config, path, stop)
    except CannotJoin as error:
        raise CannotRun(str(error)) from error
