"""Connections that have not completed a query, and which of them goes first when there is no room (D10)."""
# Theory of operation
# -------------------
# A flood of connections that ask nothing must not push out clients that are about to ask: between connecting and asking
# they are one round trip as idle as the flood is.  What tells them apart is company.  So the victim is taken from the
# prefix that holds most newcomers, and of these it is the oldest.  Prefixes are weighed by newcomers only: a farm of
# resolvers that asks is never the fullest, however many connections it has.
#
#   IPv4   /24
#   IPv6   the fullest /32, in it the fullest /48, in it the fullest /56: who owns a /32 has 2^24 of the latter
#
# A Ranking knows the key that was added most often, in constant time: keys stand in buckets by their count, and a count
# changes by one, so the highest bucket in use is the one before, or the next to it.  Heads are taken from OrderedDicts:
# in a plain dict the first key is behind the places of all that were removed.
#
# Who asks in the packet after the handshake is answered before it is ever put here (tcp.py).

from collections import OrderedDict
from typing import Generic, TypeVar

_LEVELS = {4: (3,), 16: (4, 6, 7)}
"""Octets of the prefixes, by the octets of an address."""

T = TypeVar("T")


class Ranking:
    """Keys by how often each was added: the first of those added most often is known in constant time."""

    __slots__ = ("_by_count", "_counts", "_most")

    def __init__(self) -> None:
        self._counts: dict[bytes, int] = {}
        self._by_count: dict[int, OrderedDict[bytes, None]] = {}
        self._most = 0

    def add(self, key: bytes) -> None:
        """Once more."""
        count = self._counts.get(key, 0)
        if count:
            self._leave(key, count)
        self._enter(key, count + 1)
        if count == self._most:
            self._most = count + 1

    def remove(self, key: bytes) -> bool:
        """Once less; whether that was the last time."""
        count = self._counts[key]
        self._leave(key, count)
        if count == self._most and count not in self._by_count:
            self._most = count - 1
        if count == 1:
            del self._counts[key]
            return True
        self._enter(key, count - 1)
        return False

    def fullest(self) -> bytes:
        """The key added most often, of several the one that has been so longest.  KeyError if there is none."""
        return next(iter(self._by_count[self._most]))

    def _enter(self, key: bytes, count: int) -> None:
        self._counts[key] = count
        bucket = self._by_count.get(count)
        if bucket is None:
            bucket = self._by_count[count] = OrderedDict()
        bucket[key] = None

    def _leave(self, key: bytes, count: int) -> None:
        bucket = self._by_count[count]
        del bucket[key]
        if not bucket:
            del self._by_count[count]


class Newcomers(Generic[T]):
    """Connections without a completed query, each with the packed address (4 or 16 octets) that it came from."""

    def __init__(self) -> None:
        self.since: OrderedDict[T, float] = OrderedDict()
        """When each came, on the caller's clock; the oldest first."""

        self._rankings: dict[bytes, Ranking] = {b"": Ranking()}
        """Of the prefixes that are one level longer, by prefix."""

        self._members: dict[bytes, OrderedDict[T, None]] = {}
        """Newcomers by their longest prefix, the oldest first."""

    def __len__(self) -> int:
        return len(self.since)

    def add(self, newcomer: T, source: bytes, now: float) -> None:
        """*newcomer* has come from *source*."""
        self.since[newcomer] = now
        above = b""
        for octets in _LEVELS[len(source)]:
            prefix = source[:octets]
            ranking = self._rankings.get(above)
            if ranking is None:
                ranking = self._rankings[above] = Ranking()
            ranking.add(prefix)
            above = prefix
        members = self._members.get(above)
        if members is None:
            members = self._members[above] = OrderedDict()
        members[newcomer] = None

    def discard(self, newcomer: T, source: bytes) -> None:
        """*newcomer* is none any more, or is gone; nothing if it was none."""
        if self.since.pop(newcomer, None) is None:
            return
        levels = _LEVELS[len(source)]
        longest = source[: levels[-1]]
        members = self._members[longest]
        del members[newcomer]
        if not members:
            del self._members[longest]
        above = b""
        for octets in levels:
            prefix = source[:octets]
            if self._rankings[above].remove(prefix) and octets != levels[-1]:
                # Nobody is left below it, so what stood one level down is empty, too.
                self._empty(prefix, source)
                return
            above = prefix

    def _empty(self, prefix: bytes, source: bytes) -> None:
        for octets in _LEVELS[len(source)][:-1]:
            if octets >= len(prefix):
                self._rankings.pop(source[:octets], None)

    def victim(self) -> T:
        """Who goes first.  KeyError if nobody is here."""
        prefix = self._rankings[b""].fullest()
        while (ranking := self._rankings.get(prefix)) is not None:
            prefix = ranking.fullest()
        return next(iter(self._members[prefix]))
