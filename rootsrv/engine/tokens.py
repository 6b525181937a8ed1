"""Taking, keeping and giving back tokens of the floor (mesh/floor.py says when one counts)."""

import asyncio
from collections.abc import Callable

from rootsrv.engine.board import Board
from rootsrv.engine.etcd import EngineGone
from rootsrv.mesh.floor import Slot, Token, slots_to_try
from rootsrv.process import log


def slot_key(group: str, slot: int) -> str:
    """Where a slot stands on the board."""
    return f"floor/{group}/{slot}"


class TokenKeeper:
    """This member's tokens: one in each floor that it belongs to."""

    def __init__(self, board: Board, member: str, clock: Callable[[], float]) -> None:
        self._board = board
        self._member = member
        self._clock = clock
        self._tokens: dict[str, Token] = {}
        self._wants = ""
        self._woken = asyncio.Event()
        self.why = "no token is wanted"
        """Why there is none that counts, for people."""

    def want(self, reason: str) -> None:
        """From now on a token is wanted for *reason*; empty = none is, and what is held is given back."""
        if reason != self._wants:
            self._wants = reason
            self._woken.set()

    @property
    def wanted(self) -> str:
        """For what a token is wanted; empty = none is."""
        return self._wants

    def counts(self, floors: tuple[tuple[str, int], ...]) -> bool:
        """Whether there is a token that counts in each of *floors*."""
        now = self._clock()
        return bool(floors) and all(group in self._tokens and self._tokens[group].counts(now) for group, _ in floors)

    def counts_seconds(self, floors: tuple[tuple[str, int], ...]) -> float:
        """For how long from now on the tokens count, if nothing is heard; 0 = they do not."""
        if not self.counts(floors):
            return 0.0
        return min(self._tokens[group].counts_until for group, _ in floors) - self._clock()

    def counts_in_seconds(self) -> float | None:
        """How long until what was taken counts; None = nothing was taken."""
        taken = [each.counts_from for each in self._tokens.values() if each.slot is not None]
        return max(0.0, max(taken) - self._clock()) if taken else None

    async def run(
        self,
        floors: Callable[[], tuple[tuple[str, int], ...]],
        lifetime: Callable[[], float],
        say: Callable[[str, str], bytes],
        names: Callable[[str], tuple[str, ...]],
    ) -> None:
        """Take, keep and give back, until cancelled.

        *floors*: groups and their k; *say*: what to write into a slot of a group, signed, for a reason; *names*: the
        members of a group.
        """
        while True:
            try:
                if self._wants:
                    for group, k in floors():
                        await self._turn(group, k, int(lifetime()), say, names(group))
                else:
                    await self._give_back()
            except EngineGone as error:
                self.why = f"the engine is gone: {error}"
            self._woken.clear()
            try:
                async with asyncio.timeout(lifetime() / 6 if self._wants else 5.0):
                    await self._woken.wait()
            except TimeoutError:
                pass

    async def _turn(
        self, group: str, k: int, lifetime: int, say: Callable[[str, str], bytes], names: tuple[str, ...]
    ) -> None:
        token = self._tokens.setdefault(group, Token(group))
        if token.slot is not None:
            await self._keep(token)
        if token.slot is None:
            await self._take(token, k, lifetime, say, names)

    async def _keep(self, token: Token) -> None:
        etcd, prefix = self._board.etcd, self._board.prefix
        assert token.slot is not None
        sent_at = self._clock()
        ttl = await etcd.keep_alive(token.lease)
        entry = await etcd.get(prefix + slot_key(token.group, token.slot))
        found = None if entry is None else Slot(entry.create_revision, entry.lease)
        if not token.kept(found, sent_at, ttl):
            self.why = "the slot is not ours any more"
            log.alarm("token lost", group=token.group, reason="its key is gone or somebody else's")

    async def _take(
        self, token: Token, k: int, lifetime: int, say: Callable[[str, str], bytes], names: tuple[str, ...]
    ) -> None:
        etcd, prefix = self._board.etcd, self._board.prefix
        taken = {n for n in range(k) if slot_key(token.group, n) in self._board.entries}
        for slot in slots_to_try(k, taken, self._member, names):
            asked_at = self._clock()
            lease = await etcd.grant(lifetime)
            revision = await etcd.create(prefix + slot_key(token.group, slot), say(token.group, self._wants), lease)
            if revision is not None:
                token.taken(slot, Slot(revision, lease), asked_at, self._clock(), lifetime)
                self.why = f"token {slot} of {token.group} was taken, and counts in {lifetime} s"
                log.event("token taken", group=token.group, slot=slot, reason=self._wants, counts_in_seconds=lifetime)
                return
            await etcd.revoke(lease)
        self.why = f"all {k} tokens of {token.group} are taken"

    async def _give_back(self) -> None:
        for token in self._tokens.values():
            if token.slot is not None:
                key = slot_key(token.group, token.slot)
                revision, lease = token.create_revision, token.lease
                token.lost()
                await self._board.etcd.delete(self._board.prefix + key, revision)
                await self._board.etcd.revoke(lease)
                log.event("token given back", group=token.group)
        self.why = "no token is wanted"
