"""What happened on the pages since they were started, counted for metrics."""

import threading
from collections import Counter


class Happenings:
    """Counters that any thread may add to."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, *what: object, by: int = 1) -> None:
        """*what*: a kind, and the values of its labels, none of which strangers write."""
        with self._lock:
            self._counted[" ".join(map(str, what))] += by

    def all(self) -> dict[str, int]:
        """So far, by the words of `add`."""
        with self._lock:
            return dict(self._counted)
