"""Security events on the administrative interface: each is counted, and logged at a bounded rate (D51)."""

import time
from collections import Counter

from rootsrv.process import log

KINDS = ("tsig_failed", "transfer_refused", "notify_spoofed", "control_refused", "request_refused")

LOG_SECONDS = 10.0
"""One line per kind in so long: a flood must not fill a disk."""


class SecurityEvents:
    """Counts and logs."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._logged_at: dict[str, float] = {}
        self._unlogged: Counter[str] = Counter()

    def note(self, kind: str, source: str, reason: str) -> None:
        """*kind* (of KINDS) came from *source*."""
        self.counts[kind] += 1
        now = time.monotonic()
        if now - self._logged_at.get(kind, -LOG_SECONDS) < LOG_SECONDS:
            self._unlogged[kind] += 1
            return
        self._logged_at[kind] = now
        log.security(kind, source=source, reason=reason, more_like_it=self._unlogged.pop(kind, 0))
