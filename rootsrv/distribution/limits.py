"""How much one peer, one prefix and all together may take at a time, so that nobody's transfers starve the others'."""

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rootsrv.config.zones import AdminConfig
from rootsrv.process.places import prefix_of


class OverLimit(Exception):
    """No more to this one."""

    def __init__(self, text: str, *, passes: bool = True) -> None:
        super().__init__(text)
        self.passes = passes
        """Whether it may ask again in a while; else only for the next serial."""


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Of transfers that run at the same time, and of whole zones that are sent again."""

    at_a_time: int = 64
    """Of all peers together: each holds a connection and up to 128 KiB that are on their way."""

    of_one_peer: int = 4
    """By key, or by the certificate's name; a peer has one or two servers behind it."""

    of_one_prefix: int = 16
    """By source address: /24 and /56."""

    whole_per_serial: int = 32
    """Whole zones of one serial to one peer; then it has to wait for the next serial.  0 = as many as it wants."""

    unproved_at_a_time: int = 16
    """Of all together who are known by where they come from only: so many of the places above, and no more."""

    unproved_whole_per_serial: int = 8
    """Whole zones of one serial to one of these."""


def transfer_limits(config: AdminConfig) -> TransferLimits:
    """Those of an instance."""
    return TransferLimits(of_one_peer=config.transfers_per_peer, whole_per_serial=config.whole_zones_per_serial)


MAX_REMEMBERED = 65_536
"""Peers whose whole zones are counted; the one that asked longest ago is forgotten first."""


class TransferCounts:
    """Counts what runs and what was sent, and refuses what is over the limits."""

    def __init__(self, limits: TransferLimits) -> None:
        self.limits = limits
        self.running = 0
        self.unproved = 0
        """How many of them are known by where they come from only."""

        self._by_peer: Counter[Hashable] = Counter()
        self._by_prefix: Counter[bytes] = Counter()
        self._whole: OrderedDict[tuple[Hashable, bytes], tuple[int, int]] = OrderedDict()
        """By peer and zone: serial, and how often it was sent whole."""

    @contextmanager
    def one(self, peer: Hashable, address: str, *, proved: bool = True) -> Iterator[None]:
        """A transfer to *peer* at *address*, while the block lasts.  OverLimit says which limit is reached.

        *proved*: whether key or certificate say who it is.
        """
        prefix = prefix_of(address)
        if self.running >= self.limits.at_a_time:
            raise OverLimit(f"{self.running} transfers at a time")
        if not proved and self.unproved >= self.limits.unproved_at_a_time:
            raise OverLimit(f"{self.unproved} transfers without a key at a time")
        if self._by_peer[peer] >= self.limits.of_one_peer:
            raise OverLimit(f"{self.limits.of_one_peer} transfers to one peer at a time")
        if self._by_prefix[prefix] >= self.limits.of_one_prefix:
            raise OverLimit(f"{self.limits.of_one_prefix} transfers into one prefix at a time")
        self.running += 1
        self.unproved += not proved
        self._by_peer[peer] += 1
        self._by_prefix[prefix] += 1
        try:
            yield
        finally:
            self.running -= 1
            self.unproved -= not proved
            _less(self._by_peer, peer)
            _less(self._by_prefix, prefix)

    def whole(self, peer: Hashable, zone: bytes, serial: int, *, proved: bool = True) -> None:
        """The whole *zone* is about to be sent.  OverLimit if *peer* had this serial often enough."""
        most = self.limits.whole_per_serial if proved else self.limits.unproved_whole_per_serial
        had, times = self._whole.get((peer, zone), (serial, 0))
        times = times + 1 if had == serial else 1
        if most and times > most:
            raise OverLimit(f"{most} whole zones of {serial} to one peer", passes=False)
        self._whole[peer, zone] = serial, times
        self._whole.move_to_end((peer, zone))
        while len(self._whole) > MAX_REMEMBERED:
            self._whole.popitem(last=False)


def _less(counts: "Counter[Any]", key: Hashable) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
