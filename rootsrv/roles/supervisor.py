"""All roles of an instance as processes of their own: started in order, watched, stopped in order (D35).

systemd may run the roles as units instead; then there is no supervisor.
"""
# Each role has a task of its own, so that one that cannot be kept running delays no other:
#
#   maintain ──▶ a table is active (or patience is over) ──▶ serve ──▶ a worker is up ──▶ advertise, report
#
# At the very start a role that fails ends the instance with exit status 1: somebody is there to read why.  From then
# on, and whenever something is in service (a worker is up; or, for roles but serve, a table of the run before us is
# active and its lease goes on) a role that ends is started again after a pause that doubles, and the others go on.

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rootsrv.page.layout import Page, PageUnusable
from rootsrv.process import clock, log, service_manager
from rootsrv.process.children import describe_error, environment

SUPERVISOR = "ROOTSRV_SUPERVISOR"
"""In the environment of a role's process: process id of the one that watches it, with which it ends."""

_LOAD_WAIT_SECONDS = 20.0
"""How long a role waits for the one before it; then SERVFAIL is better than no answer at all."""

_START_SECONDS = 30.0
"""A role that ends with a failure before that, the first time, cannot be started: a slow machine loads a zone in it."""

_SETTLED_SECONDS = 60.0
_RESTART_SECONDS = (0.1, 5.0)
"""First and longest pause before a role is started again; the first one again once it has settled."""

_STOP_SECONDS = 10.0
_WITHDRAW_SECONDS = 310.0
"""More than anycast.stop_linger_seconds can be, and the confirmation before it."""

_POLL_SECONDS = 0.02

_PARENT_SECONDS = 3.0
"""Without a heartbeat of the parent of the workers for so long nobody serves."""


class RoleFailed(Exception):
    """A role cannot be started; it has said why."""


class Supervisor:
    """Starts and keeps the roles of the instance whose configuration is at *path*."""

    def __init__(self, page: Page, path: Path, roles: Sequence[str]) -> None:
        """*roles*: in the order in which they are started; `maintain` and `serve` are the first two."""
        self._page = page
        self._path = path
        self._order = roles
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = False

    async def run(self, stop: asyncio.Event, reload: asyncio.Event) -> None:
        """Keep all roles running until *stop*; RoleFailed when one cannot be started at all."""
        stopped = asyncio.create_task(stop.wait())
        forward = asyncio.create_task(self._forward(reload))
        keepers: list[asyncio.Task[None]] = []
        waits: dict[str, Callable[[], bool]] = {"serve": lambda: self._page.active != 0, "advertise": self._is_up}
        try:
            for role in self._order:
                await self._wait(waits.get(role, lambda: True), [stopped, *keepers])
                if stopped.done():
                    return
                keepers.append(asyncio.create_task(self._keep(role), name=role))
            service_manager.ready("all roles are started")
            await asyncio.wait([stopped, *keepers], return_when=asyncio.FIRST_COMPLETED)
            _raise_first(keepers)
        finally:
            self._stopping = True
            for task in (stopped, forward, *keepers):
                task.cancel()
            await asyncio.gather(stopped, forward, *keepers, return_exceptions=True)
            await self._stop()

    async def _wait(self, condition: Callable[[], bool], ends: Sequence["asyncio.Task[object]"]) -> None:
        """Wait for *condition*, for *ends* or for the end of patience; RoleFailed if a role has failed meanwhile."""
        now = asyncio.get_running_loop().time
        deadline = now() + _LOAD_WAIT_SECONDS
        while not condition() and not ends[0].done() and now() < deadline:
            await asyncio.wait(ends, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            _raise_first(ends[1:])

    def _is_up(self) -> bool:
        page = self._page
        with contextlib.suppress(PageUnusable):
            if not page.is_current():
                page.follow()
        serves = clock.boottime_ns() - page.parent_heartbeat < _PARENT_SECONDS * 1e9
        return serves and any(page.worker(slot).pid for slot in range(page.workers))

    def _is_in_service(self, role: str) -> bool:
        """Whether answers would be lost if *role*, which cannot be started, ended the others."""
        leased = self._page.active != 0 and self._page.deadline(0) > clock.boottime_ns()
        return self._is_up() or (leased and role != "serve")

    async def _keep(self, role: str) -> None:
        now = asyncio.get_running_loop().time
        shortest, longest = _RESTART_SECONDS
        pause = shortest
        never_up = True
        while True:
            try:
                process = self._running[role] = await self._start(role)
            except Exception as error:  # no process or no descriptor to be had: that may pass
                log.alarm("role cannot be started", role=role, reason=describe_error(error), pause_seconds=pause)
                await asyncio.sleep(pause)
                pause = min(longest, 2 * pause)
                continue
            started = now()
            status = await process.wait()
            lived = now() - started
            if never_up and lived < _START_SECONDS and status > 0 and not self._is_in_service(role):
                raise RoleFailed(f"the role {role} could not be started")
            never_up = False
            if lived >= _SETTLED_SECONDS:
                pause = shortest
            log.alarm("role restarted", role=role, exit_status=status, pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(longest, 2 * pause)

    async def _start(self, role: str) -> asyncio.subprocess.Process:
        command = ("-m", "rootsrv", "run", "--config", str(self._path), "--role", role)
        variables = environment() | {SUPERVISOR: str(os.getpid())}
        return await asyncio.create_subprocess_exec(sys.executable, *command, env=variables)

    async def _forward(self, reload: asyncio.Event) -> None:
        """SIGHUP is for the roles that read zones and configuration anew."""
        while True:
            await reload.wait()
            reload.clear()
            for role in ("maintain", "serve"):
                if (process := self._running.get(role)) is not None:
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(signal.SIGHUP)

    async def _stop(self) -> None:
        """End the roles: first what announces, which withdraws and waits for routers to follow, then the others."""
        advertising = self._running.pop("advertise", None)
        if advertising is not None:
            await _end([advertising], _WITHDRAW_SECONDS)
        await _end(list(self._running.values()), _STOP_SECONDS)


def _raise_first(tasks: Sequence["asyncio.Task[object]"]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _end(processes: Sequence[asyncio.subprocess.Process], patience_seconds: float) -> None:
    """Have them finish what is in flight; kill them when they do not."""
    running = [process for process in processes if process.returncode is None]
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        async with asyncio.timeout(patience_seconds):
            await asyncio.gather(*(process.wait() for process in running))
    except TimeoutError:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
