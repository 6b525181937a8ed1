"""What is given to resolvers: only what a publisher has confirmed lately, so that they count SOA expire from then."""
# A resolver counts SOA expire from our last answer (Unbound knows no EXPIRE): if we said "current" up to the end of our
# lease, it would use the zone for twice as long as RFC 8806 §3 allows.  So what nobody has confirmed for one refresh
# and two retries is withheld (SERVFAIL, also to SOA), long before the lease is over; the resolver goes on with what it
# has, from about when a publisher last confirmed it, and then asks the root servers.

from rootsrv.secondary.keeper import ZoneKeeper
from rootsrv.secondary.offering import Offering
from rootsrv.secondary.preparation import is_beyond_us
from rootsrv.zone.delivery import Version

JITTER = 0.1
"""Of a refresh, at most: so much later the next publisher is asked, so that hosts started together drift apart."""


def stale(keeper: ZoneKeeper, now: float) -> str:
    """Why what is in service must not be used at *now* (CLOCK_BOOTTIME, seconds); empty if it may."""
    life, serving = keeper.life, keeper.life.serving
    if serving is None:
        return "no root has been verified yet"
    beyond = [reason for each in life.held.values() if is_beyond_us(each.reasons) for reason in each.reasons]
    if beyond:
        return f"a newer root is beyond this version of the software: {beyond[0]}"
    if life.is_over(now):
        return "its lease is over"
    return ""


def withheld(keeper: ZoneKeeper, now: float) -> str:
    """Why what is in service is not given out at *now*; empty if it is."""
    life, serving = keeper.life, keeper.life.serving
    if (reason := stale(keeper, now)) or serving is None:
        return reason
    timers = keeper.refresh.timers
    unconfirmed = now - serving.lease.confirmed_boottime
    if unconfirmed > timers.refresh * (1 + JITTER) + 2 * timers.retry:
        why = f" ({life.last_rejection})" if life.last_rejection else ""
        return f"no publisher has confirmed it for {unconfirmed:.0f} s{why}"
    return ""


class Confirmed(Offering):
    """Gives out only what a publisher has confirmed lately."""

    def _left(self, keeper: ZoneKeeper, version: Version) -> float:
        return 0.0 if withheld(keeper, self._time.boottime()) else super()._left(keeper, version)
