"""What a worker counts into its slot of the shared page (page/counts.py names the words).

The words are plain integers that only their worker writes.  Rcodes are counted per batch in C speed, and sizes, most
of which differ, by a look-up each that C walks through.  All is in the page before the next batch is received: a
worker that is killed loses at most one batch.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from operator import itemgetter

from rootsrv.page import day as days
from rootsrv.page import unique_sources
from rootsrv.page.counts import (
    BIN_OCTETS,
    DROP_REASONS,
    DROPPED,
    FAULTS,
    MALFORMED,
    MAX_SIGNALS,
    QUERIES,
    RCODES,
    RCODES_PER_PATH,
    REQUEST_BINS,
    REQUEST_SIZES,
    RESPONSE_BINS,
    RESPONSE_SIZES,
    RESPONSES,
    SIGNAL_KEPT,
    SIGNALS,
    TCP,
    TCP_COUNTERS,
    TLS,
    TLS_COUNTERS,
    TRUNCATED_BIT,
    UNSENT,
)
from rootsrv.page.layout import WorkerSlot
from rootsrv.page.unique_sources import SourcesKey
from rootsrv.wire.codes import BADCOOKIE, BADVERS, FORMERR

# Messages up to which a loop is cheaper than what a batch costs, whatever is in it: for one 2.0 against 3.4 us.
_FEW = 2

# Up to so many sources are looked for among those remembered; more are hashed all at once, which costs as much for each
# whether it came before or not.
_FEW_SOURCES = 8

# Bounds memory (some 2 MB); when it is emptied that costs nothing but repeated work.
_MAX_REMEMBERED_SOURCES = 16_384
_MAX_REMEMBERED_HEADS = 4_096

_SHORT_BINS = bytes(size // BIN_OCTETS for size in range(256))  # of requests: the last bin begins with 288 octets

_TCP_WORDS = {name: TCP + number for number, name in enumerate(TCP_COUNTERS)}
_TLS_WORDS = {name: TLS + number for number, name in enumerate(TLS_COUNTERS)}

_HEAD = itemgetter(slice(2, 12))
_ONLY_AN_OPT = b"\0\0\0\0\0\0\0\1"  # counts of a response without a question and with an OPT record
_OPT_SAYS = TRUNCATED_BIT - 2  # in place of an rcode that only the OPT record tells; nothing has rcode 30

_DASHES = {5 * number: b"-" * number for number in range(1, 13)}  # of "-4f66-9728" …, by its size
_HEXADECIMAL = b"-0123456789abcdef"
_BEHIND_A_SIGNAL = b"\0\0\x0a\0\1"  # the root, NULL, IN
_MAX_TAGS = 4  # that are told apart of one signal; who has more anchors than a roll needs is testing or attacking


class Counters:
    """Counts for one worker into its slot of the shared page."""

    def __init__(
        self, slot: WorkerSlot, anchor_tags: Collection[int] = (), sources_key: SourcesKey | None = None
    ) -> None:
        """Count into *slot*; signals of *anchor_tags*, those of the root's trust anchors, are never forgotten.

        *sources_key*: as all who count for the instance have it; None = one of its own.
        """
        self._slot = slot
        self._words = slot.counters
        self._paths = tuple(_PathWords(path) for path in range(4))
        self._remembered: set[bytes] = set()
        self._signals = _Signals(slot.counters)
        self._anchor_tags = anchor_tags
        self._since, self._until = days.span(slot.day)
        self._sources_key = sources_key or SourcesKey.random()
        self.turn_day(time.time())
        self._registers = slot.registers(slot.day, self._sources_key.id)

    def count(self, path: int, requests: Sequence[bytes], responses: Sequence[bytes]) -> None:
        """Count a batch on *path*: `responses[i]` answers `requests[i]`."""
        if len(requests) <= _FEW:
            self._count_few(path, requests, responses)
            return
        # Sizes of requests fall into few bins, and are sorted as octets of a bytes object, by C loops.  To sort those
        # of responses, too, takes 0.1 us more a query, unless all are of one size.
        words = self._words
        names = self._paths[path]
        amount = len(requests)
        try:
            bins = bytes(map(len, requests)).translate(_SHORT_BINS)
        except ValueError:  # one has more than 255 octets
            for word in map(names.request_words.__getitem__, map(len, requests)):
                words[word] += 1
        else:
            for number in set(bins):
                words[names.request_sizes + number] += bins.count(number)
        for word in map(names.response_words.__getitem__, map(len, responses)):
            words[word] += 1
        # As octets, too; bench/responder.py, "counting", guards this.
        rcodes = bytes(map(names.rcodes_by_head.__getitem__, map(_HEAD, responses)))
        if _OPT_SAYS in rcodes:
            rcodes = bytes(map(names.rcode, responses))
        for number in set(rcodes):
            words[names.rcodes + number] += rcodes.count(number)
        words[RESPONSES + path] += amount
        if FORMERR in rcodes:
            amount -= self._take_back_malformed(path, requests, rcodes)
        words[QUERIES + path] += amount
        joined = b"".join(requests)
        if b"_" in joined and b"_ta-" in joined.lower():
            self._count_signals(requests)

    def _count_few(self, path: int, requests: Sequence[bytes], responses: Sequence[bytes]) -> None:
        words = self._words
        names = self._paths[path]
        for request, response in zip(requests, responses, strict=True):
            rcode = names.rcode(response)
            words[names.rcodes + rcode] += 1
            words[names.response_words[len(response)]] += 1
            words[RESPONSES + path] += 1
            if rcode == FORMERR:
                words[MALFORMED + path] += 1
            else:
                words[names.request_words[len(request)]] += 1
                words[QUERIES + path] += 1
            if b"_" in request and b"_ta-" in request.lower():
                self._count_signals((request,))

    def note_sources(self, sources: Collection[bytes]) -> None:
        """Put packed source addresses into the registers of unique sources."""
        if len(sources) > _FEW_SOURCES:
            unique_sources.observe(self._registers, sources, self._sources_key.octets)
        elif not self._remembered.issuperset(sources):
            fresh = set(sources).difference(self._remembered)
            unique_sources.observe(self._registers, fresh, self._sources_key.octets)
            if len(self._remembered) > _MAX_REMEMBERED_SOURCES:
                self._remembered.clear()
            self._remembered |= fresh

    def keep_signals(self, tags: Iterable[int]) -> None:
        """Never forget how often these key tags, those of the zone's keys, were signalled."""
        self._signals.keep(self._anchor_tags, tags)

    def count_dropped(self, reason: str, amount: int = 1) -> None:
        """Count messages that got no response, for one of DROP_REASONS."""
        self._words[DROPPED + DROP_REASONS.index(reason)] += amount

    def count_fault(self) -> None:
        """Count an exception of our own."""
        self._words[FAULTS] += 1

    def count_unsent(self, path: int, responses: Sequence[bytes]) -> None:
        """Take back responses that were counted on *path* and that the kernel then had no room for."""
        words = self._words
        names = self._paths[path]
        for octets in responses:
            words[names.rcodes + names.rcode(octets)] -= 1
            words[names.response_words[len(octets)]] -= 1
        words[RESPONSES + path] -= len(responses)
        words[UNSENT] += len(responses)

    def count_tcp(self, name: str, amount: int = 1) -> None:
        """Count what happened to a connection: one of TCP_COUNTERS; `open` goes both ways."""
        word = _TCP_WORDS[name]
        self._words[word] = max(0, self._words[word] + amount)

    def count_tls(self, name: str, amount: int = 1) -> None:
        """Count what became of a handshake: one of TLS_COUNTERS."""
        self._words[_TLS_WORDS[name]] += amount

    def forget_open_connections(self) -> None:
        """A replaced worker's connections are gone."""
        self._words[TCP + TCP_COUNTERS.index("open")] = 0

    def turn_day(self, now: float) -> None:
        """Begin the day of *now* (seconds since 1970) if it is another one (page/day.py); called at every wake-up."""
        if self._since <= now < self._until:
            return
        day = days.day_of(now)
        self._signals.forget()
        days.begin(self._slot, day)
        self._registers = self._slot.registers(day, self._sources_key.id)
        self._remembered.clear()
        self._since, self._until = days.span(day)

    def _take_back_malformed(self, path: int, requests: Sequence[bytes], rcodes: bytes) -> int:
        names = self._paths[path]
        malformed = [request for request, rcode in zip(requests, rcodes, strict=True) if rcode == FORMERR]
        for request in malformed:
            self._words[names.request_words[len(request)]] -= 1
        self._words[MALFORMED + path] += len(malformed)
        return len(malformed)

    def _count_signals(self, requests: Iterable[bytes]) -> None:
        for request in requests:
            if request[13:16].lower() != b"_ta":  # a message without a question ends before
                continue
            end = 13 + request[12]
            if request[end : end + 5] != _BEHIND_A_SIGNAL:
                continue
            tags = request[16:end].lower()  # one label (RFC 8145 §5.1)
            separated = tags[::5] == _DASHES.get(len(tags)) and tags.count(b"-") * 5 == len(tags)
            if separated and not tags.translate(None, _HEXADECIMAL):
                self._signals.count(tags)


class _Signals:
    """Trust-anchor signals (RFC 8145) by key tag, in the words that there are for them."""

    # Anybody can invent key tags, at any rate.  So a tag is found by one look-up; when there is no place left, one that
    # has none takes that of the least, once for many newcomers; and at the turn of the day all are forgotten but those
    # that are kept.  Whoever has lost a place, or never had one, is counted among those without.

    def __init__(self, words: memoryview) -> None:
        self._words = words
        self._word_of = {
            b"%04x" % (words[word] % SIGNAL_KEPT - 1): word for word in range(SIGNALS + 1, RCODES, 2) if words[word]
        }
        """By a key tag's four hexadecimal digits."""

        self._newcomers = 0

    def count(self, tags: bytes) -> None:
        """Count *tags*: four lower-case hexadecimal digits each, with "-" before."""
        words, word_of = self._words, self._word_of
        without = max(0, len(tags) // 5 - _MAX_TAGS)
        for at in range(1, min(len(tags), 5 * _MAX_TAGS), 5):
            word = word_of.get(tags[at : at + 4]) or self._place(tags[at : at + 4])
            if word:
                words[word + 1] += 1
            else:
                without += 1
        if without:
            words[SIGNALS] += without

    def keep(self, *tags: Iterable[int]) -> None:
        """Give *tags* (the first, if there are very many) places that nobody takes; others may lose theirs."""
        kept = [b"%04x" % tag for tag in list(dict.fromkeys(chain(*tags)))[: MAX_SIGNALS - 1]]
        for word in self._word_of.values():
            self._words[word] %= SIGNAL_KEPT
        for digits in sorted(kept, key=lambda each: each not in self._word_of):  # those that have a place keep it
            self._newcomers = _NEWCOMERS
            self._words[self._word_of.get(digits) or self._place(digits)] += SIGNAL_KEPT

    def forget(self) -> None:
        """Take their places from all that are not kept."""
        for digits in self._evictable():
            self._clear(digits)

    def _evictable(self) -> list[bytes]:
        return [digits for digits, word in self._word_of.items() if self._words[word] < SIGNAL_KEPT]

    def _place(self, digits: bytes) -> int:
        """The word where this tag stands from now on, with a count of 0; or 0 if it gets no place."""
        if len(self._word_of) == MAX_SIGNALS:
            self._newcomers += 1
            if self._newcomers < _NEWCOMERS:
                return 0
            self._newcomers = 0
            self._clear(min(self._evictable(), key=lambda each: self._words[self._word_of[each] + 1]))
        taken = set(self._word_of.values())
        word = next(word for word in range(SIGNALS + 1, RCODES, 2) if word not in taken)
        self._words[word] = int(digits, 16) + 1
        self._word_of[digits] = word
        return word

    def _clear(self, digits: bytes) -> None:
        word = self._word_of.pop(digits)
        self._words[SIGNALS] += self._words[word + 1]
        self._words[word] = self._words[word + 1] = 0


_NEWCOMERS = 64
"""Signals without a place, of which the last takes that of the least."""


class _PathWords:
    """Where one path is counted."""

    def __init__(self, path: int) -> None:
        transport = path >> 1
        self.request_sizes = REQUEST_SIZES + transport * REQUEST_BINS
        self.request_words = _Sizes(self.request_sizes, REQUEST_BINS)
        self.response_words = _Sizes(RESPONSE_SIZES + transport * RESPONSE_BINS, RESPONSE_BINS)
        self.rcodes = RCODES + path * RCODES_PER_PATH
        self.rcodes_by_head = _RcodesByHead()

    def rcode(self, response: bytes) -> int:
        """The extended rcode, plus TRUNCATED_BIT with TC."""
        rcode = self.rcodes_by_head[response[2:12]]
        if rcode == _OPT_SAYS:
            return response[17] << 4  # of an OPT record at offset 12 (RFC 6891 §6.1.3); the lower bits are 0
        return rcode


class _Sizes(dict[int, int]):
    """The word of a size: *first* is that of the first of *bins*, the last one stands for all that are larger, too."""

    def __init__(self, first: int, bins: int) -> None:
        super().__init__()
        self._first, self._last = first, first + bins - 1

    def __missing__(self, octets: int) -> int:
        self[octets] = word = min(self._first + octets // BIN_OCTETS, self._last)
        return word


class _RcodesByHead(dict[bytes, int]):
    """The rcode, plus TRUNCATED_BIT with TC, for octets 2 … 11 of a response: flags and section counts.

    _OPT_SAYS where those do not tell it.
    """

    def __missing__(self, head: bytes) -> int:
        if len(self) > _MAX_REMEMBERED_HEADS:
            self.clear()
        self[head] = rcode = response_rcode(head) + (TRUNCATED_BIT if head[0] & 2 else 0)
        return rcode


def response_rcode(head: bytes) -> int:
    """The extended rcode of one of our responses, from *head*, its octets 2 … 11.

    The upper eight bits stand in the OPT record (RFC 6891 §6.1.3), but only two such rcodes are ever sent, and little
    else that we send looks like them: BADCOOKIE (23) has the lower bits 7, and BADVERS (16) is a NOERROR whose only
    record is OPT, not truncated.  Without a question that may be an answer to a COOKIE, too (RFC 7873 §5.4): _OPT_SAYS.
    """
    rcode = head[1] & 15
    if rcode == BADCOOKIE & 15:
        return BADCOOKIE
    if rcode == 0 and not head[0] & 2:
        if head[2:] == b"\0\1\0\0\0\0\0\1":
            return BADVERS
        if head[2:] == _ONLY_AN_OPT:
            return _OPT_SAYS
    return rcode
