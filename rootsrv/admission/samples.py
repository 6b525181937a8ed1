"""Who asks what: one of so many UDP queries is noted, and what they have in common is counted for a minute."""
# Kernel and workers write notes into rings that the parent reads every second: the kernel one for each CPU
# (fastpath/bpf/shed.h), each worker one in memory of its own.  Writers never wait and write over what nobody has read:
# beyond ROOM × `sample_every` queries a second and ring the latest stand for all.  What a note counts for follows from
# how many queries there were in that second, not from how many notes are left.

import ipaddress
import mmap
import shlex
import struct
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rootsrv.admission.blocks import MAPPED
from rootsrv.admission.shed import Match, ShedRefused
from rootsrv.answer.question import Query
from rootsrv.process.shared_memory import make_shared, map_shared
from rootsrv.wire import edns
from rootsrv.wire import name as names
from rootsrv.wire.rdata import type_text

ROOM = 1024
"""Notes in a ring."""

NAME_OCTETS = 64
NOTE = struct.Struct("<16s2sHHBBBBBxH2x64s")
"""struct query_note: source; port (network order); qtype, octets; family, flags, octets of the name, rcode, outcome;
octets of the response; the name, or its last NAME_OCTETS."""

HAS_OPT, HAS_COOKIE, HAS_DO = 1, 2, 4
"""Flags (enum note_flag); a cookie is a good one."""

ANSWERED, LIMITED, SHED, DROPPED = range(4)
"""Outcomes (enum note_outcome)."""

_HEAD_OCTETS = 64  # of a worker's ring: how many notes were written since it was made
RING_OCTETS = _HEAD_OCTETS + ROOM * NOTE.size

MINUTE = 60
DIMENSIONS = ("address", "prefix", "qname-suffix", "qtype", "source-port", "size")
"""What queries have in common: IPv4 address or IPv6 /64, /24 or /48, the last two labels; sizes by 16 octets."""

PREFIX_DIMENSIONS = ("address", "prefix")
"""Those that say who asks: shown only where the operator allows (limits.publish_prefixes)."""

_SHOWN = 10
_KEPT = 256  # values of a dimension and second: what stands out is among them, and a minute costs no more than this

_UNKNOWN_TYPE = 0


class NotesWriter:
    """A worker's ring, the writing end."""

    def __init__(self, ring: memoryview, every: int) -> None:
        """*every*: one of so many queries is noted; 0 = none."""
        self.every = every
        self._ring = ring
        self._count = ring[:_HEAD_OCTETS].cast("Q")
        self._left = 0

    def chosen(self, amount: int) -> range:
        """Which of *amount* queries in a row are to be noted."""
        if not self.every:
            return range(0)
        chosen = range(self._left, amount, self.every)
        self._left = (self._left - amount) % self.every
        return chosen

    def write(
        self, request: bytes, source: bytes, port: int, response: bytes | None, query: Query | None, *, outcome: int,
        cookie_is_good: bool,
    ) -> None:  # fmt: skip
        """Note one query; *query* is None where it was not understood."""
        name, qtype, flags = b"", _UNKNOWN_TYPE, HAS_COOKIE if cookie_is_good else 0
        if query is not None:
            name, qtype = query.qname, query.qtype
            if query.edns is not None:
                flags |= HAS_OPT | (HAS_DO if query.edns.do else 0)
        rcode, size = (response[3] & 15, len(response)) if response else (0, 0)
        count = self._count[0]
        NOTE.pack_into(
            self._ring, _HEAD_OCTETS + count % ROOM * NOTE.size, source, port.to_bytes(2, "big"), qtype,
            min(len(request), 0xFFFF), int(len(source) == 16), flags, len(name), rcode, outcome, min(size, 0xFFFF),
            name[-NAME_OCTETS:],
        )  # fmt: skip
        self._count[0] = count + 1


class NotesReader:
    """A worker's ring, the reading end, which believes nothing in it."""

    def __init__(self, descriptor: int) -> None:
        self._ring = mmap.mmap(descriptor, RING_OCTETS, access=mmap.ACCESS_READ)
        self._read = int.from_bytes(self._ring[:8], "little")

    def read(self) -> list[bytes]:
        """Notes since the last call, the latest if there were more than there is room for."""
        written = int.from_bytes(self._ring[:8], "little")
        fresh = min(max(0, written - self._read), ROOM)
        self._read = written
        return [self._note(number % ROOM) for number in range(written - fresh, written)]

    def _note(self, place: int) -> bytes:
        start = _HEAD_OCTETS + place * NOTE.size
        return self._ring[start : start + NOTE.size]


def make_ring() -> int:
    """A descriptor of memory for a worker's ring; OSError if it cannot be had."""
    return make_shared("rootsrv-notes", RING_OCTETS)


def map_ring(descriptor: int) -> memoryview:
    """A ring for its writer; the descriptor is not kept.  OSError."""
    return map_shared(descriptor, RING_OCTETS)


def suffix_of(name: bytes, size: int) -> bytes:
    """The last two labels of a note's *name*, as a name; the last one where there are no more, b"" if it is unclear.

    *size*: octets that the whole name had.
    """
    if size > NAME_OCTETS:
        return _end_of(name.lower())
    if not size:
        return b""
    starts, at = [], 0
    while at < size - 1:
        starts.append(at)
        at += name[at] + 1
    if at != size - 1:
        return b""  # a worker may write what it likes
    return name[starts[-2] if len(starts) > 1 else starts[-1] if starts else 0 : size].lower()


def _end_of(tail: bytes) -> bytes:
    """The last two labels of a name of which only the *tail* is known: of those that it may be, the shortest.

    The last one where the other is too long to be seen, b"" where that one is, too.  Who asks for names below another
    one's has a say in what stands left of that only; so what is found is right unless it has octets in it that look
    like the size of a label.
    """
    end = len(tail) - 1  # where the root's label stands
    if tail[end]:
        return b""  # a worker may write what it likes
    last = _label_before(tail, end)
    if last < 0:
        return b""
    start = _label_before(tail, last)
    return tail[last if start < 0 else start :]


def _label_before(tail: bytes, end: int) -> int:
    """Where the shortest label that may end at *end* begins; -1: it is not seen."""
    return next((at for at in range(end - 2, -1, -1) if tail[at] == end - 1 - at), -1)


@dataclass
class _Second:
    """What was noted in one second."""

    queries: float
    with_cookie: float
    counts: tuple[list[tuple[Any, float]], ...]
    """By dimension: the most frequent values."""


class Flood:
    """What the queries of the last minute have in common."""

    def __init__(self) -> None:
        self._seconds: deque[_Second] = deque(maxlen=MINUTE)
        self._latest: deque[bytes] = deque(maxlen=4 * ROOM)
        self._document: dict[str, Any] | None = None

    def take(self, notes: Sequence[bytes], queries: int) -> None:
        """The *notes* of a second in which there were so many *queries*."""
        self._latest.extend(notes)
        self._document = None
        columns: tuple[list[Any], ...] = tuple([] for _ in DIMENSIONS)
        addresses, prefixes, suffixes, qtypes, ports, sizes = columns
        cookies = 0
        for source, port, qtype, size, family, flags, name_octets, *_, name in map(NOTE.unpack, notes):
            is_ipv6 = family == 1
            addresses.append(source[:8] if is_ipv6 else source[:4])
            prefixes.append(source[:6] if is_ipv6 else source[:3])
            suffixes.append(suffix_of(name, name_octets))
            qtypes.append(qtype)
            ports.append(port)
            sizes.append(size // 16)
            cookies += bool(flags & HAS_COOKIE)
        weight = max(queries, len(notes)) / len(notes) if notes else 0.0
        counts = tuple(
            [(value, number * weight) for value, number in Counter(column).most_common(_KEPT)] for column in columns
        )
        self._seconds.append(_Second(len(notes) * weight, cookies * weight, counts))

    def share_of(self, matches: Sequence[Match]) -> float:
        """The share of the latest queries that any of *matches* is about; 0 where there are too few to say."""
        latest = list(self._latest)
        if len(latest) < _FEWEST_NOTES:
            return 0.0
        return sum(any(_is_one(match, note) for match in matches) for note in latest) / len(latest)

    def as_document(self) -> dict[str, Any]:
        """The most frequent values of each dimension, with their shares, for `rootsrv top` and the status page."""
        if self._document is not None:
            return self._document
        seconds = list(self._seconds)
        total = sum(each.queries for each in seconds)
        top = {}
        for at, dimension in enumerate(DIMENSIONS):
            merged: Counter[Any] = Counter()
            for second in seconds:
                for value, number in second.counts[at]:
                    merged[value] += number  # type: ignore[assignment]
            top[dimension] = [
                {"value": _TEXTS[dimension](value), "share": _share(number, total)}
                for value, number in merged.most_common(_SHOWN)
            ]
        document = {
            "seconds": len(seconds),
            "queries": round(total),
            "queries_per_second": round(total / len(seconds), 1) if seconds else 0.0,
            "with_cookie": _share(sum(each.with_cookie for each in seconds), total),
            "top": top,
        }
        self._document = document | {"suggestions": suggestions(document)}
        return self._document


_FEWEST_NOTES = 100


def _is_one(match: Match, note: bytes) -> bool:
    source, port, qtype, size, family, flags, name_octets, *_, name = NOTE.unpack(note)
    asked = None
    if flags & HAS_OPT:
        asked = edns.Edns(edns.MIN_UDP_OCTETS, 0, bool(flags & HAS_DO))
    query = None
    if name_octets:
        qname = name[: min(name_octets, NAME_OCTETS)].lower()  # the kernel notes letters as they were asked
        if name_octets > NAME_OCTETS and match.suffix is not None:  # labels cannot be counted from its first one on
            may_be = len(match.suffix) <= name_octets and qname.endswith(match.suffix[-NAME_OCTETS:])
            qname = match.suffix if may_be else names.ROOT
        query = Query(b"?", qname, qtype, 1, asked, None)
    address = int.from_bytes(source, "big") if family == 1 else int.from_bytes(source[:4], "big") | MAPPED
    return match.holds(query, size, address, int.from_bytes(port, "big"))


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def _address_text(octets: bytes) -> str:
    return f"{ipaddress.ip_address(octets)}/32" if len(octets) == 4 else _ipv6_text(octets)


def _prefix_text(octets: bytes) -> str:
    return f"{ipaddress.ip_address(octets + bytes(1))}/24" if len(octets) == 3 else _ipv6_text(octets)


def _ipv6_text(octets: bytes) -> str:
    return f"{ipaddress.ip_address(octets.ljust(16, bytes(1)))}/{8 * len(octets)}"


_TEXTS: dict[str, Callable[[Any], str]] = {
    "address": _address_text,
    "prefix": _prefix_text,
    "qname-suffix": lambda name: names.to_text(name) if name else UNKNOWN,
    "qtype": lambda qtype: type_text(qtype) if qtype else UNKNOWN,
    "source-port": lambda port: str(int.from_bytes(port, "big")),
    "size": lambda number: f"{16 * number}-{16 * number + 15}",
}

UNKNOWN = "?"
"""What is not understood, or not seen in full."""

# The share from which on a value is worth a look, by dimension.  Ports and addresses are spread in ordinary traffic; of
# names below one delegation, and of one size, there are many on any day.
_STANDS_OUT = {"address": 0.2, "prefix": 0.3, "qname-suffix": 0.3, "source-port": 0.15, "qtype": 0.3}
_ORDINARY_TYPES = frozenset(("A", "AAAA", "NS", "DS", "SOA", "DNSKEY", "PTR", "MX", "TXT", "HTTPS", UNKNOWN))
_FEWEST_QUERIES = 1000


def suggestions(document: dict[str, Any]) -> list[str]:
    """Commands on what stands out in `Flood.as_document`: for a person to look at, never run by itself."""
    if document["queries"] < _FEWEST_QUERIES:
        return []
    found = []
    for dimension, share in _STANDS_OUT.items():
        for each in document["top"][dimension]:
            value = each["value"]
            if each["share"] < share or value == UNKNOWN or (dimension == "qtype" and value in _ORDINARY_TYPES):
                continue
            if dimension == "qname-suffix" and value.count(".") < 2:
                continue  # all of a TLD, or the root
            key = "prefix" if dimension == "address" else dimension
            try:
                Match.parse([f"{key}={value}"])
            except ShedRefused:  # loopback's ::/64 holds all that stands for IPv4
                continue
            match = shlex.quote(f"{key}={value}")  # a name is a stranger's words, and is pasted into a shell
            found.append(f"rootsrv shed --match {match} --do tc-unless-cookie --dry-run")
    return list(dict.fromkeys(found))
