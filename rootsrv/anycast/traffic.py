"""How many queries still come in while a prefix drains."""

from collections import deque

_BEFORE_SECONDS = 10.0
_NOW_SECONDS = 2.0


class Traffic:
    """Follows a counter of replies; tells the rate now and the rate when a drain began, in replies a second."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._before: tuple[float, float] | None = None

    def sample(self, now: float, replies: int) -> None:
        """*replies*: how many were sent to others so far, ever."""
        self._samples.append((now, replies))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _BEFORE_SECONDS:
            self._samples.popleft()

    def rate(self, seconds: float = _NOW_SECONDS) -> float:
        """Replies a second over the last *seconds*; 0 until there are two samples."""
        if len(self._samples) < 2:
            return 0.0
        end, replies = self._samples[-1]
        start, earlier = next((each for each in reversed(self._samples) if each[0] <= end - seconds), self._samples[0])
        return (replies - earlier) / (end - start) if end > start else 0.0

    def begin_drain(self, now: float) -> None:
        """Remember the rate from which traffic is to fall."""
        if self._before is None:
            self._before = (now, self.rate(_BEFORE_SECONDS))

    def end_drain(self) -> None:
        """There is no drain."""
        self._before = None

    def has_fallen(self, now: float, fraction: float, patience_seconds: float) -> bool:
        """Whether the rate is down to *fraction* of what it was when the drain began, or that was long enough ago."""
        if self._before is None:
            return False
        began, before = self._before
        elapsed = now - began
        # Neighbours need a moment to follow, and the rate has to be of a time in which they had followed.
        settled = elapsed >= 2 * _NOW_SECONDS
        return elapsed >= patience_seconds or (settled and self.rate() <= max(fraction * before, 1.0))
