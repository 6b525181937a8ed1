"""How long each root zone took from when it was known to be the newest until it was served (RSSAC002 load-time)."""

from dataclasses import dataclass

from rootsrv.telemetry.view import Said

_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class LoadTime:
    """One zone went into service."""

    serial: int
    known_at: float
    """Seconds since 1970."""

    seconds: float


class LoadTimes:
    """Follows what maintain says of the root; hears it about once a second."""

    def __init__(self, served: int | None) -> None:
        """*served*: the serial that was served when we last heard of it; its load time is not asked for again."""
        self.served = served
        self._known_at: dict[int, float] = {}
        self._heard_at = 0.0

    def hear(self, zone: Said, now: float) -> LoadTime | None:
        """*zone*: the root's entry in maintain's status at *now*; what has just gone into service, if anything."""
        for stage in ("known", "received"):
            serial, age = zone.number(stage), zone.number(f"{stage}_age_seconds")
            if serial is not None and age is not None and int(serial) not in self._known_at:
                # `known_age_seconds` counts from the first of several that came in a row: we have not heard of this one
                # before, so it is no older than the last time that we heard anything.
                self._known_at[int(serial)] = max(now - age, self._heard_at)
        self._heard_at = now
        found = None
        served = zone.number("served")
        if served is not None and int(served) != self.served:
            known_at = self._known_at.get(int(served))
            if self.served is not None and known_at is not None:
                in_service_at = now - (zone.number("served_age_seconds") or 0.0)
                found = LoadTime(int(served), known_at, max(0.0, in_service_at - known_at))
            self.served = int(served)
        for serial in list(self._known_at)[:-_REMEMBERED]:
            del self._known_at[serial]
        return found
