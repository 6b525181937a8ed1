"""From the table in service to the next one, at a set time (RFC 3258 §2.3, D24, D25)."""
# Theory of operation
# -------------------
#
#             table written            every worker that lives          T, or told to hurry
#             and examined             has it mapped
#      NONE ───────────────▶ STAGING ───────────────────────▶ SCHEDULED ─────────────────▶ FLIPPED
#        ▲                     │  no worker can map it,                                     │   │
#        │                     ▼                                                            │   │ T + grace: somebody
#        │                   VOID (the zone in service goes on)            all have it      │   │ answers from another
#        ├──────────────────────────────────────────────────────────────────────────────────┘   ▼
#        │                                           one has it                             REPLACING
#        ├──────────────────────────────────────────────────────────────────────────────────┘   │ grace again:
#        │        a worker that has it                                                          ▼ nobody has it
#        └─────────────────────────────────────────────────────────────────────────────────── FAILED (silent)
#
# VOID also when the BPF program, where it is on, answers a test run otherwise than the Responder.
# At T + grace the kernel is looked at too: one that still answers from another generation is told to pass everything.
# FAILED ends when any worker has what is active, or with the next switchover that is confirmed.
# The flip is one store to the page's ACTIVE; the new deadlines follow it (page/layout.py says why).  There is no way
# back: no branch stores an older generation.  A worker without a heartbeat answers nothing and fails nothing: when it
# wakes up it reads the page before it answers.  Nobody but its parent ends it: a pid in shared memory may be anybody's.
# Between T and T + grace both the old and the new serial are right answers.

import asyncio
import contextlib
import enum
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rootsrv.config.zones import SwitchoverConfig
from rootsrv.page.layout import Page
from rootsrv.process import log
from rootsrv.zone import instant
from rootsrv.zone.lease import TrustedClock

_LOOK_SECONDS = 0.002  # at the page, in which workers say what they have: a few words of memory
_POLL_SECONDS = 0.01  # at others, who are asked over a socket
_WAIT_SECONDS = 0.5

PARENT_SECONDS = 3.0
"""Without a heartbeat of the parent for so long (it has four a second) nobody serves."""

WORKER_SECONDS = 10.0
"""A worker without a heartbeat for so long answers nothing; its parent replaces it."""

START_SECONDS = 5.0
"""How long a worker that was replaced may take to start and to map the table, on a machine that is busy."""


class SwitchoverState(enum.StrEnum):
    """Where the latest switchover stands."""

    NONE = "none"
    STAGING = "staging"
    SCHEDULED = "scheduled"
    FLIPPED = "flipped"
    REPLACING = "replacing"
    VOID = "void"
    FAILED = "failed"


class SwitchoverVoid(Exception):
    """The next table cannot be staged; what is in service goes on."""

    def __init__(self, reason: str, *, differs: bool = False) -> None:
        """*differs*: it gives wrong answers, so trying it again is no use."""
        super().__init__(reason)
        self.differs = differs


def set_time(now: float, align_seconds: int, lead_seconds: float) -> float:
    """The next multiple of *align_seconds* (UTC, seconds since 1970) at least *lead_seconds* after *now*."""
    if align_seconds == 0:
        return now
    return math.ceil((now + lead_seconds) / align_seconds) * align_seconds


@dataclass
class Switchover:
    """Switches the workers of one page; one switchover at a time."""

    page: Page
    settings: SwitchoverConfig
    clock: TrustedClock
    boottime: Callable[[], float]
    """CLOCK_BOOTTIME, seconds."""

    kernel: Callable[[], Awaitable[dict[str, Any]]] | None = None
    """Asks the owner of the fast path for its status (fastpath/owner.py); empty if there is none."""

    suspend_kernel: Callable[[int, str], Awaitable[dict[str, Any]]] | None = None
    """Orders that owner to have the kernel pass everything unless it has this generation; why; what it says then."""

    replace: Callable[[int, int], Awaitable[dict[str, Any]]] | None = None
    """Orders the parent that serves to end the worker in a slot that has not this generation; it starts another."""

    state: SwitchoverState = SwitchoverState.NONE
    generation: int = 0
    """The one that the latest switchover leads or led to."""

    activate_at: float | None = None
    """T, seconds since 1970; None = at once."""

    reason: str = ""
    """Why it is void or failed."""

    def __post_init__(self) -> None:
        self._hurry = asyncio.Event()
        self._kernel_was_on = False
        self._orders: set[asyncio.Task[None]] = set()

    def hurry(self) -> None:
        """Do not wait for the set time."""
        self._hurry.set()

    @property
    def hurried(self) -> bool:
        """Whether somebody said so since the latest staging."""
        return self._hurry.is_set()

    async def hurry_or(self, event: asyncio.Event) -> None:
        """Wait until told to hurry, or for *event*."""
        waiting = [asyncio.ensure_future(each.wait()) for each in (self._hurry, event)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()

    def schedule(self) -> float | None:
        """T for a table that is ready now; None = at once."""
        if self.settings.align_seconds == 0 or not self.clock.synchronised:
            return None
        return set_time(self.clock.wall(self.boottime()), self.settings.align_seconds, self.settings.lead_seconds)

    def void(self, generation: int, reason: str) -> None:
        """*generation* must not be switched to."""
        self.state, self.generation, self.reason, self.activate_at = SwitchoverState.VOID, generation, reason, None
        self.page.staged = 0
        log.alarm("switchover void", generation=generation, reason=reason, serving=self.page.active)

    async def stage(self, generation: int) -> None:
        """Have every worker that lives map *generation*; SwitchoverVoid if none can."""
        self.state, self.generation, self.reason = SwitchoverState.STAGING, generation, ""
        self._hurry.clear()
        self.page.staged = generation
        deadline = self.boottime() + self.settings.stage_seconds
        while lagging := self._lagging(lambda slot: generation in {self._staged(slot), self._active(slot)}):
            if self.boottime() >= deadline:
                if len(lagging) == len(self._alive()):
                    self.void(generation, f"no worker could map it within {self.settings.stage_seconds:g} s")
                    raise SwitchoverVoid(self.reason)
                log.alarm("not all workers have staged", generation=generation, slots=lagging)
                break
            await asyncio.sleep(_LOOK_SECONDS)
        if wrong := await self._examined_by_kernel(generation, deadline):
            self.void(generation, f"fast path {wrong}")
            raise SwitchoverVoid(self.reason, differs=True)

    async def _examined_by_kernel(self, generation: int, deadline: float) -> str:
        """What the test runs of the BPF program found wrong with *generation*; empty if nothing, or if it is not on.

        A kernel that cannot take the table (too large, no memory) is no difference: it then passes everything up.
        """
        while self.kernel is not None and self.boottime() < deadline:
            told = await self.kernel()
            self._kernel_was_on = _is_on(told)
            if not self._kernel_was_on:
                return ""
            if outcome := told["self_tests"].get(str(generation)):
                return str(outcome) if outcome.startswith("wrong") else ""
            await asyncio.sleep(2 * _POLL_SECONDS)
        return ""

    async def wait_until(self, activate_at: float | None) -> None:
        """Wait for T or until told to hurry.  Steps of the wall clock do not move what the trusted clock says."""
        self.state, self.activate_at = SwitchoverState.SCHEDULED, activate_at
        while activate_at is not None and not self._hurry.is_set():
            left = activate_at - self.clock.wall(self.boottime())
            if left <= 0:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _WAIT_SECONDS)):
                    await self._hurry.wait()

    def flip(self, generation: int, grant: Callable[[], None]) -> None:
        """The switchover itself; *grant* stores the new deadlines.  ValueError for an older generation."""
        if generation < self.page.active:
            raise ValueError(f"generation {generation} is older than {self.page.active}, which answers")
        if self.page.active == 0:
            grant()
            self.page.active = generation
        else:
            self.page.active = generation
            grant()
        self.page.staged = 0
        self.state, self.generation, self.activate_at = SwitchoverState.FLIPPED, generation, None

    async def confirm(self, generation: int, alone: Callable[[], str] = lambda: "") -> bool:
        """Read it back from everything that answers; replace what does not follow.  False = failed.

        *alone*: asked when nobody follows: why the failure may be common to a whole mesh; empty = it is ours alone.
        Raises SwitchoverVoid if it may be: nobody is replaced or silenced, and the caller goes on with the old one.
        """

        def has_it(slot: int) -> bool:
            return self._active(slot) == generation

        due = self.boottime() + self.settings.grace_seconds
        if not await self._until(due, lambda: not self._lagging(has_it)):
            if len(self._lagging(has_it)) == len(self._alive()) and (common := alone()):
                raise SwitchoverVoid(f"no worker answers from generation {generation}; {common}")
            self.state = SwitchoverState.REPLACING
            for slot in self._lagging(has_it):
                self._replace(slot, generation)
            started = self.boottime() + max(self.settings.grace_seconds, START_SECONDS)
            if not await self._until(started, lambda: any(map(has_it, self._alive()))):
                self._failed(generation)
                return False
        await self._have_kernel_follow(generation, due)
        self._confirmed(generation)
        return True

    def stay(self, generation: int, grant: Callable[[], None], reason: str) -> bool:
        """Go on with *generation*, which is the one that everybody here answers from; *grant* stores its deadlines.

        False, with the page as the flip has left it, if a worker has followed at the last moment: then it is in
        service, and nothing goes back.  The kernel follows only where all workers have (fastpath/owner.py), so it
        answers from *generation* as they do, and has its deadlines again as soon as it sees them.
        """
        failed = self.generation
        self.page.active = generation
        if any(self._active(slot) == failed for slot in self._alive()):
            self.page.active = failed
            return False
        grant()
        self.void(failed, reason)
        return True

    def _failed(self, generation: int) -> None:
        self.state = SwitchoverState.FAILED
        self.reason = f"no worker answers from generation {generation}"
        silence = self.settings.on_failed_switchover == "silence"
        log.alarm("switchover failed", generation=generation, reason=self.reason, silenced=silence)
        if silence:
            self.page.silenced = True  # the kernel's owner reads it too, and passes everything

    async def _have_kernel_follow(self, generation: int, due: float) -> None:
        """A kernel that still answers from another generation when it is *due* is switched off."""
        while self.kernel is not None and self._kernel_was_on:
            told = await self.kernel()
            if told and not _answers_from_another(told, generation):
                return
            if self.boottime() >= due:
                break
            await asyncio.sleep(5 * _POLL_SECONDS)
        else:
            return
        reason = f"it does not follow to generation {generation}" if told else "its owner does not answer"
        log.alarm("fast path does not switch", generation=generation, has=told.get("active"), reason=reason)
        told = await self.suspend_kernel(generation, reason) if self.suspend_kernel is not None else {}
        if not told or _answers_from_another(told, generation):
            log.alarm("fast path cannot be switched off", ends="by itself, within fastpath.orphan_seconds")

    def watch(self) -> None:
        """Called every second: a failure is over as soon as a worker has what is active, whoever had it fail."""
        settled = self.state in {SwitchoverState.NONE, SwitchoverState.VOID}
        if self.state is not SwitchoverState.FAILED and not (settled and self.page.silenced):
            return
        active, lagging = self.page.active, self.behind()
        if len(lagging) < len(self._alive()):
            for slot in lagging:
                self._replace(slot, active)
            self._confirmed(active)
            log.event("switchover healed", generation=active)

    def behind(self) -> list[int]:
        """The slots of living workers that do not answer from what is active."""
        active = self.page.active
        return self._lagging(lambda slot: self._active(slot) == active)

    def _confirmed(self, generation: int) -> None:
        self.state, self.reason = SwitchoverState.NONE, ""
        self.page.silenced = False
        log.event("switchover confirmed", generation=generation, workers=len(self._alive()), at=self._now())

    async def _until(self, deadline: float, condition: Callable[[], bool]) -> bool:
        """Whether *condition* came true before *deadline* (CLOCK_BOOTTIME, seconds)."""
        while not condition():
            if self.boottime() >= deadline:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return True

    def _lagging(self, predicate: Callable[[int], bool]) -> list[int]:
        return [slot for slot in self._alive() if not predicate(slot)]

    def _alive(self) -> list[int]:
        """Slots in which somebody answers.  A slot's pid is nobody's word: its parent and its heartbeat are."""
        now = self.boottime()
        if now - self.page.parent_heartbeat / 1e9 > PARENT_SECONDS:
            return []
        slots = ((slot, self.page.worker(slot)) for slot in range(self.page.workers))
        return [slot for slot, words in slots if words.pid and now - words.heartbeat / 1e9 < WORKER_SECONDS]

    def _staged(self, slot: int) -> int:
        return int(self.page.worker(slot).staged)

    def _active(self, slot: int) -> int:
        return int(self.page.worker(slot).active)

    def _replace(self, slot: int, generation: int) -> None:
        """Have a worker that does not follow ended: its parent starts another, which maps what is active."""
        log.alarm("worker does not switch", slot=slot, has=self._active(slot), wanted=generation)
        if self.replace is not None:
            task = asyncio.get_running_loop().create_task(self._have_replaced(self.replace(slot, generation), slot))
            self._orders.add(task)
            task.add_done_callback(self._orders.discard)

    async def _have_replaced(self, ordered: Awaitable[dict[str, Any]], slot: int) -> None:
        if not (await ordered).get("replaced"):
            log.alarm("worker was not replaced", slot=slot, reason="its parent does not answer, or it has followed")

    def _now(self) -> str:
        return instant.to_text(self.clock.wall(self.boottime()))


def _is_on(told: dict[str, Any]) -> bool:
    """Whether the program is attached anywhere."""
    return any(each["hook"] != "off" for each in told.get("interfaces", ()))


def _answers_from_another(told: dict[str, Any], generation: int) -> bool:
    """Whether the kernel gives answers, and not from *generation*."""
    return _is_on(told) and any(told["answer_until_seconds"]) and told["active"] != generation
