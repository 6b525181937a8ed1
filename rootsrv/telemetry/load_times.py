"""How long each root zone took from when it was known to be the newest until it was served (RSSAC002 load-time)."""

from dataclasses import dataclass

from rootsrv.telemetry.view import Said


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

    def hear(self, zone: Said) -> LoadTime | None:
        """*zone*: the root's entry in maintain's status; what has just gone into service, if anything."""
        serial = zone.number("served")
        if serial is None or int(serial) == self.served:
            return None
        began, self.served = self.served is None, int(serial)
        known_at, served_at = zone.instant("served_known_at"), zone.instant("served_at")
        if began or known_at is None or served_at is None:
            return None
        return LoadTime(int(serial), known_at, max(0.0, served_at - known_at))
