"""Between two turns of its connections a worker that goes before ordinary processes leaves its core to the others."""
# Theory of operation
# -------------------
# Where a card's queue interrupts the core of a worker, an operator may have the kernel's threads and the worker run in
# turns, of one real-time priority (docs/install.md, "Capacity"): neither takes the core from the other, so caches stay
# warm, and what comes meanwhile waits in the card's ring.  But whoever answers on connections is never done: while it
# answers some queries, others come.  It would stay until its clock tick is over, 4 ms at 250 Hz, and at three times the
# root's peak the ring is full before.
#
#   a turn of some TURN_SECONDS ──▶ the core is left for a moment, LEAVE_TIMES as long at least ──▶ …
#
# So connections have half of the core at most, and the others what they need of it.  What comes after a pause is
# answered at once; what comes in one waits for its end, with others, and all in step costs less (tcp.py).
# bench/peak.py guards it.
#
# An ordinary worker never does this: the scheduler shares the core, and who asks again as soon as the answer is there
# would wait for nothing.  Datagrams are taken as ever, for what the kernel passes up is little; after a full batch, as
# a flood of them makes it, the core is left for as long.  Batches that are not full keep a core as well, if each brings
# some until the next is there (on several sockets, or a little below what the worker can do): who has had the core for
# most of some HOLD_SECONDS leaves it, too.  (With 30 queries outstanding on each of two sockets, UDP alone, an ordinary
# process on the worker's core had 5.7 % of it, which Linux keeps for it where it was not told otherwise, and 21.7 % so;
# the worker answered 133 k and 109 k queries/s, which its client sent from another core.)  So ordinary processes, of
# which some judge this instance and replace what hangs, have a fifth of it at least, whatever comes in.
#
# The worker is to be SCHED_FIFO, the kernel's threads SCHED_RR: a turn that a clock tick ends goes on when all others
# have had theirs, and at three times the peak TCP's 99th percentile was 30 ms so and 5 as it is.

import asyncio
import math
import time
from collections.abc import Callable
from typing import Protocol

from rootsrv.process import real_time
from rootsrv.server.udp import BATCH_SIZE

TURN_SECONDS = 0.001
"""What a turn may take: long enough for some hundred queries, but in the seconds after a switchover many must be
prepared first.  A ring of 4,096 holds what comes in 5 ms at three times the peak."""

LEAVE_SECONDS = 0.001
"""From a turn to the next, at least: what the event loop's clock can tell apart."""

LEAVE_TIMES = 1
"""At least so many times what the turn took.  Without it, who has to make up for a tenth of a second in which a table
was mapped has most of the core, and 0.8 % of two times the root's peak were lost in the ring; with 2 it takes him long
enough for TCP's 99th percentile."""

HOLD_SECONDS = 0.004
"""So much of the core, others having less of it meanwhile: it is left for LEAVE_SECONDS though no batch was full."""


class TakesTurns(Protocol):
    """Connections, as tcp.py has them."""

    turn_seconds: float

    def fileno(self) -> int:
        """What is readable when there is something to do."""

    def on_readable(self) -> None:
        """Take a turn."""


class Leaving:
    """Has turns taken when there is something to do, and none for a moment after each if this process goes first."""

    def __init__(self, connections: TakesTurns) -> None:
        self._connections = connections
        self._begin_anew()
        self.look()
        asyncio.get_running_loop().add_reader(connections.fileno(), self._on_readable)

    def look(self) -> None:
        """See whether this process goes first; called a few times a second, for that may change."""
        self._leaves = real_time.goes_first()
        self._connections.turn_seconds = TURN_SECONDS if self._leaves else math.inf

    def datagrams(self, take: Callable[[], int]) -> Callable[[], int]:
        """*take*, which answers a batch and says how many there were, with the core left after a full one."""

        def taking() -> int:
            if not self._leaves:
                return take()
            began = time.thread_time()
            amount = take()
            if amount >= BATCH_SIZE:
                _leave(began)
                self._begin_anew()
            else:
                self._leave_if_held()
            return amount

        return taking

    def _begin_anew(self) -> None:
        self._used, self._since = time.thread_time(), time.monotonic()

    def _leave_if_held(self) -> None:
        held = time.thread_time() - self._used
        if held < HOLD_SECONDS:
            return
        if time.monotonic() - self._since < (1 + LEAVE_TIMES) * held:
            time.sleep(LEAVE_SECONDS)
        self._begin_anew()

    def _on_readable(self) -> None:
        if not self._leaves:
            self._connections.on_readable()
            return
        began = time.thread_time()
        self._connections.on_readable()
        _leave(began, LEAVE_SECONDS)
        self._begin_anew()


def _leave(began: float, at_least: float = 0.0) -> None:
    """Leave the core, for so many seconds at least; *began*: the thread's time when it was taken.

    By sleeping: to tell the loop to stop reading and to go on, twice a turn, took a fifth of a worker's time.
    """
    took = time.thread_time() - began  # what others had of the core meanwhile, they have had
    time.sleep(max(at_least, LEAVE_TIMES * took))
