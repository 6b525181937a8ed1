"""Answer tables in the kernel: which generation has which, and what its self-test found."""
# The kernel has room for two tables, in places 0 and 1.  The instance numbers its tables (generations) upwards; what is
# known of one is kept until its place is taken, what became of its self-test until another answers.

import asyncio
import struct
import threading
from collections.abc import Callable, Sequence

from rootsrv.answer.responder import Responder, ResponderSettings
from rootsrv.answer.table import AnswerTable, TableUnusable
from rootsrv.fastpath.program import TABLE_ROOM, Program, TableUnfit
from rootsrv.fastpath.self_test import SelfTest, run_self_test
from rootsrv.process import log

NEARLY_FULL = 0.9
"""The share of the kernel's room for a table from which on an operator is told."""

OpenTable = Callable[[int], AnswerTable]
"""The answer table of a generation; TableUnusable or OSError when there is none."""


class Staging:
    """Copies tables into the kernel and tests them there; says which of them may answer."""

    def __init__(
        self,
        open_table: OpenTable,
        responses: ResponderSettings,
        addresses: Sequence[str],
        port: int,
        changing: "threading.RLock",
    ) -> None:
        """*responses*, *addresses*, *port*: as the program has them; *changing* is held while a table is changed."""
        self._open_table = open_table
        self._responses = responses
        self._addresses = tuple(addresses)
        self._port = port
        self._changing = changing
        self.latest = 0
        """The generation that was last staged, well or not."""

        self._places: dict[int, int] = {}
        self._outcomes: dict[int, SelfTest | str] = {}
        """By generation: what became of its self-test, or why there could be none."""

        self._serials: dict[int, tuple[int, ...]] = {}
        self.table_octets = 0
        """Size of the table that was last copied into the kernel, of TABLE_ROOM."""

        self._responder: tuple[int, Responder] | None = None

    def expect(self, responses: ResponderSettings) -> None:
        """The program has other settings from now on; `changing` is held."""
        self._responses, self._responder = responses, None

    def place(self, generation: int) -> int | None:
        """Where in the kernel *generation* is; None unless it is there and may answer."""
        return self._places.get(generation)

    def is_known(self, generation: int) -> bool:
        """Whether *generation* was staged, or could not be."""
        return generation in self._places or generation in self._outcomes

    def outcome(self, generation: int) -> SelfTest | str:
        """What became of it, for people."""
        return self._outcomes.get(generation, "not staged")

    def outcomes(self) -> dict[int, SelfTest | str]:
        """The same of all that are known."""
        return dict(self._outcomes)

    def serials(self, generation: int) -> tuple[int, ...]:
        """The zones' serials in *generation*; empty when it is not in the kernel."""
        return self._serials.get(generation, ())

    def forget_others(self, generation: int) -> None:
        """*generation* answers: what the self-tests of others found is history."""
        self._outcomes = {known: outcome for known, outcome in self._outcomes.items() if known == generation}

    async def stage(self, program: Program, generation: int, hooks: Sequence[bool]) -> None:
        """Put the table of *generation* into the place that does not answer, and test it there.

        *hooks*: whether each attachment is in XDP.  Never raises for a table that cannot be used: `outcome` says why.
        """
        try:
            outcome: SelfTest | str = await asyncio.to_thread(self._copy_and_test, program, generation, hooks)
        except (TableUnfit, TableUnusable, OSError) as error:
            outcome = str(error)
        self._outcomes[generation] = outcome
        self.latest = generation
        if isinstance(outcome, SelfTest) and outcome.passed:
            log.event("fast path staged", generation=generation, self_test=outcome)
        else:
            self._places.pop(generation, None)
            log.alarm("fast path cannot serve", generation=generation, reason=outcome)

    def _copy_and_test(self, program: Program, generation: int, hooks: Sequence[bool]) -> SelfTest:
        table = self._open_table(generation)
        with self._changing:
            taken = program.stage(table)
            self._note_size(len(table.octets))
            self._places = {known: place for known, place in self._places.items() if place != taken}
            self._places[generation] = taken
            self._serials = {known: serials for known, serials in self._serials.items() if known in self._places}
            self._serials[generation] = tuple(zone.serial for zone in table.zones)
            return self._test(program, generation, table, hooks)

    def _note_size(self, octets: int) -> None:
        """Tell once when the room gets short: a table that does not fit is answered from by the workers alone."""
        limit = TABLE_ROOM * NEARLY_FULL
        if self.table_octets < limit <= octets:
            log.alarm("fast path table nearly full", octets=octets, room=TABLE_ROOM)
        self.table_octets = octets

    def test_again(self, program: Program, generation: int, hooks: Sequence[bool]) -> SelfTest:
        """The self-test of a *generation* that is in the kernel; TableUnusable or OSError when its table is gone."""
        with self._changing:
            return self._test(program, generation, self._open_table(generation), hooks)

    def _test(self, program: Program, generation: int, table: AnswerTable, hooks: Sequence[bool]) -> SelfTest:
        if self._responder is None or self._responder[0] != generation:
            self._responder = (generation, Responder(table, self._responses))
        program.control.test_generation = self._places[generation]
        try:
            results = [
                run_self_test(program, table, self._responder[1], self._addresses, self._port, is_xdp=is_xdp)
                for is_xdp in sorted({*hooks} or {False})
            ]
        except (LookupError, struct.error) as error:  # what a wrong answer in the table leads to (AnswerTable)
            raise TableUnusable(f"answer table is damaged: {type(error).__name__}: {error}") from error
        return next((each for each in results if not each.passed), results[0])
