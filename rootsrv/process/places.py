"""Places for connections from an administrative network: who says nothing does not take them from others."""
# No prefix has more than half of the places.  Where there is none left, one goes that has asked nothing yet: of the
# prefix that has most of these, the oldest.  Who has asked keeps his.  (On service addresses, where thousands come in a
# second, server/newcomers.py does it in constant time.)

import functools
import ipaddress
from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

PREFIX_V4, PREFIX_V6 = 24, 56

T = TypeVar("T")


@functools.lru_cache(4096)
def prefix_of(address: str) -> bytes:
    """The prefix that *address*, a v4-mapped one too, is counted under."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    return found.packed[: PREFIX_V4 // 8 if found.version == 4 else PREFIX_V6 // 8]


class NoPlace(Exception):
    """All places are taken by who has asked something."""


class Places(Generic[T]):
    """Connections, and the prefix that each comes from."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.of_one_prefix = max(1, limit // 2)
        self._prefixes: dict[T, bytes] = {}
        """All connections."""

        self._of_prefix: Counter[bytes] = Counter()
        """How many of them there are."""

        self._silent: dict[T, bytes] = {}
        """Those that have asked nothing yet, the oldest first."""

    def take(self, connection: T, address: str) -> T | None:
        """A place for *connection* from *address*; returns whose it was, or None.  NoPlace if none can be had."""
        prefix = prefix_of(address)
        victim = None
        if self._of_prefix[prefix] >= self.of_one_prefix:
            victim = self._oldest_silent(prefix)
        elif len(self._prefixes) >= self.limit and self._silent:
            ((fullest, _),) = Counter(self._silent.values()).most_common(1)
            victim = self._oldest_silent(fullest)
        elif len(self._prefixes) < self.limit:
            self._enter(connection, prefix)
            return None
        if victim is None:
            raise NoPlace
        self.leave(victim)
        self._enter(connection, prefix)
        return victim

    def _enter(self, connection: T, prefix: bytes) -> None:
        self._prefixes[connection] = self._silent[connection] = prefix
        self._of_prefix[prefix] += 1

    def has_asked(self, connection: T) -> None:
        """It has sent a whole request."""
        self._silent.pop(connection, None)

    def leave(self, connection: T) -> None:
        """It is gone; nothing if it had no place."""
        prefix = self._prefixes.pop(connection, None)
        self._silent.pop(connection, None)
        if prefix is not None:
            self._of_prefix[prefix] -= 1
            if not self._of_prefix[prefix]:
                del self._of_prefix[prefix]

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._prefixes))

    def _oldest_silent(self, prefix: bytes) -> T | None:
        return next((each for each, found in self._silent.items() if found == prefix), None)
