"""What an instance counts: names for the counter words of the slots in the shared page, and their sums.

Whoever wants sums (metrics, RSSAC002, status) adds the slots up with `total`; server/counters.py writes the words.
"""
# Words, each 64 bits; a *path* is transport and family: udp-ipv4, udp-ipv6, tcp-ipv4, tcp-ipv6.
#
#   QUERIES         4         well-formed queries that were answered (RSSAC002 counts only well-formed messages)
#   RESPONSES       4         responses sent
#   MALFORMED       4         messages answered with FORMERR; not among QUERIES nor REQUEST_SIZES
#   DROPPED         8         messages without a response, by reason (DROP_REASONS)
#   FAULTS          1         exceptions of our own that a message raised (answered SERVFAIL or dropped)
#   UNSENT          1         UDP responses that the kernel had no room for; not among RESPONSES
#   TCP             16        connections: accepted, open, closed by reason (TCP_COUNTERS)
#   SIGNALS         1 + 2×32  trust-anchor signals (RFC 8145): those without a place, then pairs (key tag + 1, count);
#                             SIGNAL_KEPT is added to a key tag that is never forgotten
#   RCODES          4×2×32    responses by path, TC, rcode (extended ones too; 31 = any above 30)
#   REQUEST_SIZES   2×19      by transport: 0-15, 16-31 … 272-287, 288- octets
#   RESPONSE_SIZES  2×257     by transport: 0-15 … 4080-4095, 4096- octets
#   JUDGED          2         UDP queries that limits and shed rules looked at: all of them, those with a good cookie
#   LIMITED         4         answered TC because of a limit; in dry-run: would have been; each by family
#   SHED            2         answered TC because of a shed rule, by family; those dropped are among DROPPED
#   RULES           2×16      queries for which the shed rule in a place held: all of them, those with a good cookie
#   LOOKED_AT       1         UDP queries among which samples were taken (admission/samples.py)
#   TLS             8         what became of handshakes (TLS_COUNTERS)
#
# The slot of DNS over TLS (layout.TLS_SLOT) has its connections and messages where others have those over TCP; so it is
# not among those that `total` sums.

from collections import Counter
from collections.abc import Sequence

from rootsrv.page.layout import COUNTER_WORDS, TLS_SLOT, Page

PATHS = ("udp-ipv4", "udp-ipv6", "tcp-ipv4", "tcp-ipv6")
"""A path is its index here: 2 × transport + (family is IPv6)."""

DROP_REASONS = ("silent", "oversized", "silenced", "blocked", "fault", "shed")
"""silent: no response by design (QR set, shorter than a header …); silenced: a switchover failed for good (D25);
shed: a rule of the operator's says so (admission/shed.py)."""

TCP_COUNTERS = (
    "accepted",
    "open",
    "closed-by-client",
    "closed-idle",
    "closed-for-another",  # over the limit (server/newcomers.py)
    "refused-client-limit",
    "closed-incomplete",  # a message took too long to arrive
    "closed-stalled",  # the client does not read
    "closed-oversized",  # too many hold much of a long message: the one that has done so longest goes
    "closed-empty",  # a message of length zero
    "closed-shutdown",
    "closed-silent",
    "refused-rate",  # too many new ones from a prefix (limits.connections, limits.handshake_milliseconds)
    "closed-handshake",  # a TLS handshake failed, or took too long
)

TLS_COUNTERS = (
    "handshakes",  # completed
    "failed",  # no TLS 1.3, or garbage, or the client went away
    "late",  # not completed in time
    "wrong-protocol",  # something else than "dot" was offered by ALPN
    "refused",  # the source is blocked, or over limits.handshake_milliseconds
    "microseconds",  # of processor time that handshakes took
)

MAX_SIGNALS = 32
SIGNAL_KEPT = 1 << 20
RCODES_PER_PATH = 64
REQUEST_BINS = 19
RESPONSE_BINS = 257
BIN_OCTETS = 16

QUERIES = 0
RESPONSES = QUERIES + 4
MALFORMED = RESPONSES + 4
DROPPED = MALFORMED + 4
FAULTS = DROPPED + 8
UNSENT = FAULTS + 1
TCP = UNSENT + 1
SIGNALS = TCP + 16
RCODES = SIGNALS + 1 + 2 * MAX_SIGNALS
REQUEST_SIZES = RCODES + 4 * RCODES_PER_PATH
RESPONSE_SIZES = REQUEST_SIZES + 2 * REQUEST_BINS
JUDGED = RESPONSE_SIZES + 2 * RESPONSE_BINS
LIMITED = JUDGED + 2
SHED = LIMITED + 4
RULES = SHED + 2
MAX_RULES = 16
LOOKED_AT = RULES + 2 * MAX_RULES
TLS = LOOKED_AT + 1
END = TLS + 8
assert END <= COUNTER_WORDS

TRUNCATED_BIT = 32


def over_tls(page: Page) -> list[int]:
    """What is counted for DNS over TLS, by word; its connections and messages are where others have those over TCP."""
    return list(page.worker(TLS_SLOT).counters.tolist())


def total(page: Page) -> list[int]:
    """All workers' counters summed, by word, without DNS over TLS; those of workers that are gone count on."""
    slots = [slot for number, slot in page.slots().items() if number != TLS_SLOT]
    words = [sum(each) for each in zip(*(slot.counters.tolist() for slot in slots if slot.day), strict=True)]
    words = words or [0] * COUNTER_WORDS
    words[SIGNALS + 1 : RCODES] = [0] * (2 * MAX_SIGNALS)  # each slot has its own order of key tags
    merged: Counter[int] = Counter()
    kept: set[int] = set()
    for slot in slots:
        merged.update(signals(slot.counters))
        kept.update(name % SIGNAL_KEPT - 1 for name in slot.counters[SIGNALS + 1 : RCODES : 2] if name > SIGNAL_KEPT)
    by_weight = sorted(merged.items(), key=lambda item: (item[0] in kept, item[1]), reverse=True)
    for index, (tag, number) in enumerate(by_weight[:MAX_SIGNALS]):
        name = tag + 1 + (SIGNAL_KEPT if tag in kept else 0)
        words[SIGNALS + 1 + 2 * index : SIGNALS + 3 + 2 * index] = name, number
    words[SIGNALS] += sum(number for _, number in by_weight[MAX_SIGNALS:])
    return words


def received(words: Sequence[int]) -> int:
    """Messages that came, whatever they were, but for blocked ones."""
    dropped = sum(words[DROPPED : DROPPED + len(DROP_REASONS)]) - words[DROPPED + DROP_REASONS.index("blocked")]
    return sum(words[QUERIES : QUERIES + 4]) + sum(words[MALFORMED : MALFORMED + 4]) + dropped


def tls_document(words: Sequence[int]) -> dict[str, object]:
    """`over_tls` by name, for status."""
    named = {name: words[TLS + at] for at, name in enumerate(TLS_COUNTERS)}
    told = as_document(words)
    return named | {
        "queries": {name.removeprefix("tcp-"): words[QUERIES + path] for path, name in enumerate(PATHS) if path > 1},
        "responses": {
            name.removeprefix("tcp-"): words[RESPONSES + path] for path, name in enumerate(PATHS) if path > 1
        },
        "malformed": words[MALFORMED + 2] + words[MALFORMED + 3],
        "connections": told["tcp"],
        "dropped": told["dropped"],
        "faults": told["faults"],
    }


def as_document(words: Sequence[int]) -> dict[str, object]:
    """*words* (of one slot, or `total`) by name, for status."""

    def named(first: int, names: Sequence[str]) -> dict[str, int]:
        return {name: words[first + index] for index, name in enumerate(names)}

    return {
        "queries": named(QUERIES, PATHS),
        "responses": named(RESPONSES, PATHS),
        "malformed": named(MALFORMED, PATHS),
        "truncated": {name: sum(truncated(words, path)) for path, name in enumerate(PATHS)},
        "rcodes": {
            str(rcode): number
            for rcode in range(TRUNCATED_BIT)
            if (number := sum(rcodes(words, path)[rcode] for path in range(4)))
        },
        "dropped": named(DROPPED, DROP_REASONS),
        "faults": words[FAULTS],
        "unsent": words[UNSENT],
        "tcp": named(TCP, TCP_COUNTERS),
        "judged": named(JUDGED, ("all", "with-cookie")),
        "limited": named(LIMITED, ("ipv4", "ipv6", "dry-ipv4", "dry-ipv6")),
        "shed": named(SHED, ("ipv4", "ipv6")),
        "trust_anchor_signals": {str(tag): number for tag, number in signals(words).items()},
    }


def rcodes(words: Sequence[int], path: int) -> Sequence[int]:
    """Responses on *path* by rcode (32 numbers), truncated ones included."""
    first = RCODES + path * RCODES_PER_PATH
    return [words[first + rcode] + words[first + TRUNCATED_BIT + rcode] for rcode in range(TRUNCATED_BIT)]


def truncated(words: Sequence[int], path: int) -> Sequence[int]:
    """Truncated responses on *path* by rcode (32 numbers)."""
    first = RCODES + path * RCODES_PER_PATH + TRUNCATED_BIT
    return list(words[first : first + TRUNCATED_BIT])


def signals(words: Sequence[int]) -> dict[int, int]:
    """Trust-anchor signals by key tag (RFC 8145 §5)."""
    return {words[at] % SIGNAL_KEPT - 1: words[at + 1] for at in range(SIGNALS + 1, RCODES, 2) if words[at]}
