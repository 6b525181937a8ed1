"""Two weeks of updates with random faults: all members have the same history, in order, and gaps have a reason.

The real rule (member.py), the real machine of two distribution hosts (host.py) and what both know of each other, on a
clock that is an argument.  What is not real is the engine: a board that is there or not, and members that reach it or
not.  Real instances on real etcd lose the same things in tests/system/test_mesh_network.py, one at a time.
"""

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest

from rootsrv.mesh.host import BoardView, Distribution, Stand, WriteOffer, WriteOrder
from rootsrv.mesh.member import Action, Known, Now, Ready, admitted, decide
from rootsrv.mesh.orders import SetTime, Subject
from rootsrv.mesh.quorum import Done, failed_canaries, may_fall_silent
from tests.mesh.mesh_of import mesh_of

ROSTER = mesh_of(8).roster
TIMING = ROSTER.timing
NAMES = tuple(each.name for each in ROSTER.member)
CANARIES = ROSTER.canaries
START = 1_800_000_000.0
UPDATES = 28
"""Two a day."""

STEP_SECONDS = 10
WINDOW_SECONDS = 4500
"""Longer than a void, the local rule after it and what comes before."""
BAD = (9, 20)
"""Updates that break the workers of every member."""

LEAD_SECONDS = 10.0
"""Without its leader the board has another one after so long."""


@dataclass
class Faults:
    """Of one update; seconds after its publication."""

    ready: dict[str, float]
    engine_gone: tuple[float, float]
    leader_dies: float
    cut_off: dict[str, tuple[float, float]]
    restarts: dict[str, float]
    fails_first: set[str]
    """They cannot switch at the first try."""

    unsynchronised: set[str]

    @classmethod
    def drawn(cls, rng: random.Random) -> "Faults":
        def span(chance: float) -> tuple[float, float]:
            begin = rng.uniform(0, 500)
            return (begin, begin + rng.uniform(10, 2000)) if rng.random() < chance else (math.inf, math.inf)

        def some(chance: float) -> list[str]:
            return [name for name in NAMES if rng.random() < chance]

        return cls(
            {name: rng.uniform(0, rng.choice([20, 20, 20, 200])) for name in NAMES},
            span(0.4),
            rng.uniform(0, 500) if rng.random() < 0.4 else math.inf,
            {name: span(1.0) for name in some(0.1)},
            {name: rng.uniform(0, 600) for name in some(0.08)},
            set(some(0.04)),
            set(some(0.03)),
        )

    def reaches(self, name: str, after: float) -> bool:
        spans = (self.engine_gone, self.cut_off.get(name, (math.inf, math.inf)))
        return not any(begin <= after < end for begin, end in spans)


@dataclass
class Board:
    """What all who reach it see."""

    offer: tuple[Subject, float] | None = None
    order: SetTime | None = None
    ready: dict[str, Subject] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    leader: str = ""
    seq: int = 0


@dataclass
class Member:
    """One of them, over all updates."""

    name: str
    staged: Ready | None = None
    orders: tuple[SetTime, ...] = ()
    offers: dict[Subject, float] = field(default_factory=dict)
    history: list[int] = field(default_factory=list)
    went: dict[int, tuple[float, str]] = field(default_factory=dict)
    """By serial: when, and by what."""

    again_at: float = -math.inf
    silenced: bool = False
    last: Done | None = None
    """What it signed last of its switchovers, whether or not anybody could read it."""


class TwoWeeks:
    """The whole of it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.members = {name: Member(name) for name in NAMES}
        self.hosts = {name: Distribution(".") for name in ROSTER.distribution_hosts}
        self.board = Board()
        self.failed_before: frozenset[str] = frozenset()

    def update(self, number: int) -> Faults:
        """Publish one and wait until all have it, or until it is clear that they will not."""
        begin, serial = START + number * 43_200.0, 2026112101 + number
        subject, faults = Subject(".", serial, f"{serial:x}"), Faults.drawn(self.rng)
        self.failed_before = frozenset(n for n, each in self.board.done.items() if not each.ok)
        dead, away_since = "", math.inf
        for after in range(0, WINDOW_SECONDS, STEP_SECONDS):
            now = begin + after
            if after >= faults.leader_dies and not dead:
                dead = self.board.leader
            leader = self.board.leader
            if not leader or leader == dead or not faults.reaches(leader, after):
                if leader:
                    self.hosts[leader].stand = Stand.VERIFIED  # as leader.py leaves it when it ends
                away_since = min(away_since, now) if leader else -math.inf
                others = [n for n in self.hosts if n != dead and faults.reaches(n, after)]
                if others and now - away_since >= LEAD_SECONDS:
                    self.board.leader, away_since = others[0], math.inf
                    self.adopt(others[0], subject)
            else:
                away_since = math.inf
                self.lead(leader, now, faults, after)
            for member in self.members.values():
                self.step(member, subject, begin, after, faults, is_bad=number in BAD)
            if all(serial in each.went for each in self.members.values()):
                break
        return faults

    def adopt(self, name: str, subject: Subject) -> None:
        if self.board.offer is not None and self.board.offer[0] == subject:
            order = self.board.order
            self.hosts[name].adopt(self.board.offer[1], order if order and order.subject == subject else None)

    def lead(self, name: str, now: float, faults: Faults, after: float) -> None:
        board = self.board
        present = frozenset(each for each in NAMES if faults.reaches(each, after))
        seen = BoardView(ready=board.ready, done=board.done, present=present, canaries_failed_before=self.failed_before)
        for effect in self.hosts[name].advance(seen, ROSTER, now):
            board.seq += 1
            match effect:
                case WriteOffer(subject):
                    board.offer = subject, now
                case WriteOrder(subject, stage, at, reason, canaries_at):
                    board.order = SetTime(subject, stage, at, name, START, board.seq, reason, canaries_at)

    def step(self, me: Member, subject: Subject, begin: float, after: float, faults: Faults, *, is_bad: bool) -> None:
        now, reaches = begin + after, faults.reaches(me.name, after)
        restart = faults.restarts.get(me.name, math.inf)
        if restart <= after < restart + STEP_SECONDS:  # it stages what it had again, and hears everything anew
            me.orders, me.offers = (), {}
            me.staged = None if me.staged is None else replace(me.staged, since=now)
        if after >= faults.ready[me.name] and (me.staged is None or me.staged.subject != subject):
            if subject.serial in me.went:
                return
            me.staged = Ready(subject, now)
            if me.name in self.hosts:
                host = self.hosts[me.name]
                host.verified(subject)
                if self.board.leader == me.name:
                    self.adopt(me.name, subject)
        if reaches:
            self.exchange(me, now)
        if me.staged is None or subject.serial in me.went or me.staged.subject != subject or now < me.again_at:
            return
        known = Known(
            timing=TIMING,
            canary=me.name in CANARIES,
            orders=me.orders,
            offers=me.offers,
            canaries_failed=failed_canaries(subject, ROSTER, self.board.done, self.failed_before),
        )
        answer = decide(me.staged, known, Now(now, now, me.name not in faults.unsynchronised))
        if answer.action is not Action.GO or answer.at > now:
            return
        first = me.last is None or me.last.subject != subject
        ok = not is_bad and not (first and me.name in faults.fails_first)
        me.last = Done(subject, ok, "" if ok else "no worker answers from it")
        if ok:
            me.history.append(subject.serial)
            me.went[subject.serial] = now, answer.why
        else:
            seen = self.board.done if reaches else None
            me.silenced |= may_fall_silent(subject, me.name, ROSTER, seen).allowed
            me.again_at = now + 120
        if reaches:
            self.exchange(me, now)

    def exchange(self, me: Member, now: float) -> None:
        """Hear the board, and say what there is to say."""
        board = self.board
        if board.order is not None and board.order not in me.orders:
            me.orders = admitted(me.orders, board.order, Now(now, now, True))
        if board.offer is not None:
            me.offers = {board.offer[0]: board.offer[1]}
        if me.staged is not None:
            board.ready[me.name] = me.staged.subject
        if me.last is not None:
            board.done[me.name] = me.last


def serials(numbers: Iterable[int]) -> list[int]:
    return [2026112101 + number for number in numbers]


@pytest.mark.parametrize("seed", range(8))
def test_all_members_have_one_history_in_order_whatever_fails(seed: int) -> None:
    weeks = TwoWeeks(seed)
    drawn = []
    for number in range(UPDATES):
        drawn.append(weeks.update(number))
        silent = {name for name, each in weeks.members.items() if each.silenced}
        switched = sum(serials([number])[0] in each.went for each in weeks.members.values())
        # Silence falls on who fails alone, if at least half say that they switched.
        assert len(silent) <= ROSTER.k_of("all")
        assert not silent or (2 * switched >= len(NAMES) and number not in BAD)
        for each in weeks.members.values():
            each.silenced = False

    wanted = serials(number for number in range(UPDATES) if number not in BAD)
    for member in weeks.members.values():
        # No gap but those of the versions that nobody could go into service with.
        assert member.history == wanted, member.name
    for number, faults in enumerate(drawn):
        if number in BAD:
            continue
        (serial,) = serials([number])
        steady = [
            member.went[serial]
            for name, member in weeks.members.items()
            if name not in CANARIES
            and name not in faults.restarts
            and name not in faults.cut_off
            and name not in faults.fails_first
            and name not in faults.unsynchronised
        ]
        if faults.engine_gone[0] > 600 and not faults.cut_off.keys() & weeks.hosts.keys():
            # Whoever was in touch, and whatever leader died, while there was one: one T.
            assert len({at for at, _ in steady}) <= 1, (number, steady)
