"""The days of the statistics (UTC, counted from 1970), and when whoever counts into a slot begins one."""

from rootsrv.page.layout import WorkerSlot

DAY_SECONDS = 86_400


def day_of(wall_seconds: float) -> int:
    """The day of *wall_seconds* (since 1970)."""
    return int(wall_seconds // DAY_SECONDS)


def span(counting: int) -> tuple[float, float]:
    """From when and until before when (seconds since 1970) who counts for the day *counting* goes on with it.

    A clock that steps back over midnight goes on counting for the later day; after more than a day back it was wrong
    before, and the day is begun anew.
    """
    return (counting - 1) * DAY_SECONDS, (counting + 1) * DAY_SECONDS


def day_to_count(counting: int, wall_seconds: float) -> int:
    """The day that is to be counted at *wall_seconds* by who counts for *counting*; 0 = for none yet."""
    since, until = span(counting)
    return counting if since <= wall_seconds < until else day_of(wall_seconds)


def begin(slot: WorkerSlot, day: int) -> None:
    """From now on *slot* counts for *day*: note what it had counted before."""
    slot.day_start[:] = slot.counters
    slot.day = day
