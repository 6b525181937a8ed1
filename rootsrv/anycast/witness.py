"""What the neighbours of the controller know: the shared page, maintain, serve, the state directory."""
# A neighbour that does not answer is an alarm and never a reason to withdraw (D31): what it said last stands, and goes
# on ageing.  So all asking happens in the background; the round of probes takes what is there and waits for nobody.

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootsrv.control.client import NoAnswer, ask
from rootsrv.health.evidence import Instance
from rootsrv.page.layout import Page

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 5.0
"""After so long without a word from maintain it counts as unreachable: it may be busy verifying a zone."""

_WRITE_SECONDS = 30.0
_WORKER_ALIVE_SECONDS = 1.0  # workers wake up ten times a second (server/parent.py)


@dataclass(slots=True)
class ControlPlane:
    """What maintain said last, and when (seconds on CLOCK_BOOTTIME)."""

    heard_at: float = float("-inf")
    behind_seconds: float = 0.0
    held_serials: tuple[int, ...] = ()
    switchover_failed: bool = False
    primaries_reachable: bool | None = None
    clock_synchronised: bool | None = None
    alarms: tuple[str, ...] = field(default=())

    def hear(self, document: Mapping[str, Any], now: float) -> None:
        """Take the `health` part of maintain's status.  What is missing or of another type counts as not known."""
        health = document.get("health")
        health = health if isinstance(health, dict) else {}
        self.heard_at = now
        behind = health.get("behind_seconds")
        self.behind_seconds = float(behind) if isinstance(behind, int | float) and behind > 0 else 0.0
        held = health.get("held_serials")
        self.held_serials = tuple(each for each in held if isinstance(each, int)) if isinstance(held, list) else ()
        self.switchover_failed = health.get("switchover_failed") is True
        self.primaries_reachable = _boolean(health.get("primaries_reachable"))
        self.clock_synchronised = _boolean(health.get("clock_synchronised"))
        alarms = health.get("alarms")
        self.alarms = tuple(map(str, alarms)) if isinstance(alarms, list) else ()

    def behind(self, now: float) -> float:
        """For how long, at *now*, a newer serial has been known and not served, as far as is known."""
        return self.behind_seconds + (now - self.heard_at) if self.behind_seconds else 0.0


class Witness:
    """Gathers what is true of the whole instance."""

    def __init__(
        self,
        page: Page,
        zones: Callable[[], tuple[bytes, ...]],
        maintain_socket: Path,
        state_directory: Path,
    ) -> None:
        """*zones*: names (wire format) of the active table's zones, in the order of their leases in the page."""
        self._page = page
        self._zones = zones
        self._maintain_socket = maintain_socket
        self._state_directory = state_directory
        self.control_plane = ControlPlane()
        self.state_writable: bool | None = None

    async def watch(self) -> None:
        """Ask maintain and try the state directory, until cancelled."""
        tried_at = float("-inf")
        while True:
            with contextlib.suppress(NoAnswer):
                document = await ask(self._maintain_socket, {"command": "status"})
                self.control_plane.hear(document, boottime())
            if boottime() - tried_at >= _WRITE_SECONDS:
                tried_at = boottime()
                try:
                    # A disk that hangs must not hang the controller: the thread waits for it alone.
                    async with asyncio.timeout(5):
                        self.state_writable = await asyncio.to_thread(is_writable, self._state_directory)
                except TimeoutError:
                    self.state_writable = False
            await asyncio.sleep(POLL_SECONDS)

    def observe(self) -> Instance:
        """All that is known now."""
        page = self._page
        now = boottime()
        root_lease, others_over = float("-inf"), []
        for number, name in enumerate(self._zones()):
            left = page.deadline(number) / 1e9 - now
            if name == b"\0":
                root_lease = left
            elif left <= 0:
                others_over.append(_text(name))
        workers = page.workers
        alive = sum(now - page.worker(slot).heartbeat / 1e9 < _WORKER_ALIVE_SECONDS for slot in range(workers))
        said = self.control_plane
        return Instance(
            generation=page.active,
            lease_seconds=root_lease,
            other_leases_over=tuple(others_over),
            silenced=page.silenced,
            switchover_failed=said.switchover_failed,
            workers=workers,
            workers_alive=alive,
            control_plane_reachable=now - said.heard_at < PATIENCE_SECONDS,
            behind_seconds=said.behind(now),
            held_serials=said.held_serials,
            primaries_reachable=said.primaries_reachable,
            clock_synchronised=said.clock_synchronised,
            state_writable=self.state_writable,
            alarms=said.alarms,
        )


def boottime() -> float:
    """Seconds on CLOCK_BOOTTIME, which no clock step moves."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_writable(directory: Path) -> bool:
    """Whether a file can be written, to the disk, in *directory*."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(512))
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return False
    return True


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(name: bytes) -> str:
    labels = []
    while name and name[0]:
        labels.append(name[1 : 1 + name[0]].decode(errors="backslashreplace"))
        name = name[1 + name[0] :]
    return ".".join(labels) + "."
