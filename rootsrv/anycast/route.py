"""One service prefix in the routing system: what BIRD is to do with it, and what BIRD says that it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rootsrv.anycast.bird import Bird, BirdError, Protocol
from rootsrv.health.state import Announcement

_ORDER = (Announcement.UP, Announcement.DEGRADED, Announcement.DRAINING)
"""As in `direct`: the three direct protocols, in rising preference."""


@dataclass(frozen=True, slots=True)
class RouteReading:
    """What was read back from BIRD."""

    wanted: Announcement
    confirmed: bool
    """Every session that is up announces what is wanted, and at least one does; or none, where none should."""

    detail: str
    sessions: Mapping[str, bool] = field(default_factory=dict)
    """BGP protocol → whether it is established."""


class Route:
    """The prefix of one IP version."""

    def __init__(self, bird: Bird, prefix: str, direct: Sequence[str], bgp: Sequence[str]) -> None:
        self.prefix = prefix
        self._bird = bird
        self._direct = tuple(direct)
        self._bgp = tuple(bgp)

    async def prepare(self, announcement: Announcement) -> dict[str, Protocol]:
        """Have the direct protocols enabled that *announcement* needs and no other.  Raises BirdError.

        The first one always is; the second or third is enabled before and disabled after the others, so that there is
        a route at every instant.
        """
        protocols = await self._bird.protocols()
        missing = [name for name in (*self._direct, *self._bgp) if name not in protocols]
        if missing:
            raise BirdError(f"BIRD: has no protocol {', '.join(missing)}")
        wanted = {self._direct[0], self._source(announcement)}
        for name in self._direct:
            if name in wanted and not protocols[name].up:
                await self._bird.enable(name)
        for name in self._direct:
            if name not in wanted and protocols[name].up:
                await self._bird.disable(name)
        return protocols

    async def read_back(self, announcement: Announcement, protocols: Mapping[str, Protocol]) -> RouteReading:
        """Compare what the sessions announce with *announcement*.  Raises BirdError."""
        sessions = {name: protocols[name].established for name in self._bgp}
        wanted = frozenset() if announcement is Announcement.WITHDRAWN else {self._source(announcement)}
        said, right = [], 0
        for name in self._bgp:
            sources = await self._bird.exported(name, self.prefix)
            right += sources == wanted
            said.append(f"{name} announces {', '.join(sorted(sources)) or 'nothing'}")
            if not sessions[name]:
                said[-1] += " (session down)"
            elif sources - set(self._direct):
                said[-1] += ", which is not ours"
        if announcement is Announcement.WITHDRAWN:
            confirmed = right == len(self._bgp)
        else:
            # A session that is down announces nothing; that is the neighbour's loss and no mismatch of the others.
            confirmed = 0 < right >= sum(sessions.values())
        return RouteReading(announcement, confirmed, "; ".join(said), sessions)

    async def steer(self, announcement: Announcement) -> RouteReading:
        """Bring BIRD to *announcement* as far as it lies in the direct protocols, and read back.  Raises nothing."""
        try:
            return await self.read_back(announcement, await self.prepare(announcement))
        except BirdError as error:
            return RouteReading(announcement, False, str(error))

    def _source(self, announcement: Announcement) -> str:
        return self._direct[0 if announcement is Announcement.WITHDRAWN else _ORDER.index(announcement)]
