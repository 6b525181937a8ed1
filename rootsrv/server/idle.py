"""Which connection has been idle longest, without an order that every query would have to keep."""
# A connection has the time at which it asked last, and nothing else is done when it asks.  The order is made when
# somebody wants to know who is first, by sorting, and is used up from its head: whoever has asked since is passed over.
# What is not in it any more, or came later, has asked after all that were in it; so the first who is left is the one
# idle longest.  It is made again when it is used up, that is after each of n has asked or gone: a sort for n of these.

from collections.abc import Iterator
from operator import attrgetter
from typing import Generic, Protocol, TypeVar


class Asking(Protocol):
    """What asks now and then."""

    asked_at: float
    """When it did last, on a clock that never goes back."""


T = TypeVar("T", bound=Asking)


class LongestIdle(Generic[T]):
    """Who has asked, and of these who has not done so for longest."""

    def __init__(self) -> None:
        self._members: dict[T, None] = {}
        self._order: list[tuple[float, T]] = []
        self._made_at = 0.0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        return iter(self._members)

    def add(self, member: T) -> None:
        """*member* asks for the first time: not before any other has asked."""
        self._members[member] = None

    def discard(self, member: T) -> None:
        """*member* is gone; nothing if it never was here."""
        self._members.pop(member, None)

    def first(self, before: float = float("inf")) -> T | None:
        """The one idle longest, of equals the one here longest, if it asked last before *before*; else None."""
        members = self._members
        while True:
            order = self._order
            while order:
                asked_at, member = order[-1]
                if member in members and member.asked_at == asked_at:
                    return member if asked_at < before else None
                order.pop()
            if not members or self._made_at >= before:  # all have asked since it was made
                return None
            self._order = [(each.asked_at, each) for each in sorted(members, key=attrgetter("asked_at"))]
            self._made_at = self._order[-1][0]
            self._order.reverse()
