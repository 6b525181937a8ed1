"""What the kernel counted, put where the workers' counts are: a slot of the shared page that nobody else writes.

So metrics, RSSAC002 files and status sum up kernel and workers without knowing of each other.
"""

from rootsrv.fastpath.layout import KernelCounters, constant
from rootsrv.page import counts, unique_sources
from rootsrv.page.day import begin, day_to_count
from rootsrv.page.layout import KERNEL_SLOT, Page

_TRUNCATED = constant("TRUNCATED")
_UDP = 0  # transport: the first half of counts.PATHS and of the size bins


class KernelSlot:
    """Copies the program's counters into the page; what earlier programs counted stays counted."""

    def __init__(self, page: Page, sources_key_id: int) -> None:
        """*sources_key_id*: of the key that the program notes sources with."""
        self._sources_key_id = sources_key_id
        self._slot = page.worker(KERNEL_SLOT)
        self._before = self._slot.counters.tolist()

    def day_at(self, wall_seconds: float) -> int:
        """The day (UTC, since 1970) that is to be counted at *wall_seconds* (since 1970)."""
        return day_to_count(self._slot.day, wall_seconds)

    def publish(self, counters: KernelCounters, registers: list[bytes] | None, day: int) -> None:
        """Show *counters* (since the program was loaded) and, if given, the *registers* of *day* (UTC, since 1970)."""
        slot = self._slot
        if slot.day != day:
            begin(slot, day)
        words = slot.counters
        for word, number in words_of(counters).items():
            words[word] = self._before[word] + number
        if registers is None:
            return
        shown = slot.registers(day, self._sources_key_id)
        shown[:] = unique_sources.merge((b"".join(registers), bytes(shown)))


def words_of(counters: KernelCounters) -> dict[int, int]:
    """The counter words (rootsrv/page/counts.py) that *counters* come to."""
    words: dict[int, int] = {}
    for path in (0, 1):
        replies = counters.replies[path]
        words[counts.QUERIES + path] = words[counts.RESPONSES + path] = sum(replies)
        for rcode, number in enumerate(replies):
            truncated, rcode = divmod(rcode, _TRUNCATED)
            word = counts.RCODES + path * counts.RCODES_PER_PATH + rcode + truncated * counts.TRUNCATED_BIT
            words[word] = number
    words[counts.DROPPED + counts.DROP_REASONS.index("blocked")] = sum(counters.blocked)
    words[counts.DROPPED + counts.DROP_REASONS.index("shed")] = counters.shed_dropped
    rules = [number for pair in counters.rules for number in pair]
    judged = [*counters.judged, *counters.limited, *counters.shed, *rules, counters.looked_at]
    words |= {counts.JUDGED + at: number for at, number in enumerate(judged)}
    for first, bins, by_size in (
        (counts.REQUEST_SIZES, counts.REQUEST_BINS, counters.queries_by_size),
        (counts.RESPONSE_SIZES, counts.RESPONSE_BINS, counters.replies_by_size),
    ):
        sizes = [sum(pair) for pair in zip(*by_size, strict=True)]
        for position in range(bins - 1):
            words[first + _UDP * bins + position] = sizes[position] if position < len(sizes) else 0
        words[first + _UDP * bins + bins - 1] = sum(sizes[bins - 1 :])
    return words
