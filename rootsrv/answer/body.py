"""Writes the body of a response: everything behind the question section, compressed, with its cuts."""
# Theory of operation
# -------------------
# A body is written as if qname were the answer's *anchor* (the suffix of qname that decides the answer: the TLD of a
# referral, "." for an nxdomain of the root).  Compression pointers may then point into the question (from offset 12)
# or into the body itself.  For a longer qname, whose prefix before the anchor takes d octets, the anchor and the whole
# body move by d, so every pointer grows by exactly d and nothing else changes.  For d = 0 there is nothing to do.
#
# The 16-bit ones' complement sum S of the body moves just as cheaply (RFC 1071 §2): with E pointers at even and O at
# odd offsets, S' = S + E·d + O·swap16(d); and if the body starts at an odd offset of the message, swap16(S').
#
# A *cut* is a place where the body may end: after an RRset (with its signatures), never inside one.  What must not be
# missing (answer, authority, addresses of in-domain name servers) makes every cut before it TRUNCATED.

import struct
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from operator import add

from rootsrv.answer.table import MAX_BODY_OCTETS, Answer, Cut
from rootsrv.wire import name as names
from rootsrv.zone.contents import RRset

_QNAME_AT = 12  # size of the DNS header (RFC 1035 §4.1.1)
_MAX_POINTER_TARGET = 0x3FFF - 255  # a pointer has 14 bits (RFC 1035 §4.1.4) and may yet move by the longest prefix

_TYPE_NS, _TYPE_SOA, _TYPE_RRSIG = 2, 6, 46
_WITH_NAMES = (_TYPE_NS, _TYPE_SOA)
_CLASS_IN = 1

ANSWER, AUTHORITY, ADDITIONAL = 0, 1, 2
"""Sections, in the order in which they are written."""

_FIXED = struct.Struct("!HHIH")  # type, class, TTL, RDLENGTH


class Body:
    """A body being written: add RRsets in order, then `finish`."""

    def __init__(self, anchor: bytes) -> None:
        """Start behind a question for *anchor* (wire format, lower-cased)."""
        self._anchor = anchor
        self._start = _QNAME_AT + len(anchor) + 4
        self._octets = bytearray()
        self._pointers: list[int] = []
        self._seen: dict[bytes, int] = {}
        self._counts = [0, 0, 0]
        self._cuts: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]
        self._needed = 0
        self._seams: list[int] = []
        self._copied_at = 0
        self._remember(anchor, _QNAME_AT)

    def copy(self) -> "Body":
        """Another body that goes on from here in its own way."""
        other = Body.__new__(Body)
        other._anchor, other._start, other._needed = self._anchor, self._start, self._needed
        other._octets, other._seen = bytearray(self._octets), dict(self._seen)
        other._copied_at = 0
        other._pointers, other._counts = [*self._pointers], [*self._counts]
        other._cuts, other._seams = [*self._cuts], [*self._seams]
        self._copied_at = len(self._octets)
        return other

    def go_on_as(self, origin: "Body") -> None:
        """Append all that *origin*, of which this is the latest copy, has had since: without seams.

        Its names must be such as stood there before (`Body` remembers no new ones); ValueError if not.
        """
        if len(origin._seen) != len(self._seen):
            raise ValueError("names were written that this body does not have")
        start, by = origin._copied_at, len(self._octets) - origin._copied_at
        counted = next(counts for size, *counts in reversed(origin._cuts) if size <= start)
        more = [now - before for now, before in zip(self._counts, counted, strict=True)]
        self._octets += origin._octets[start:]
        self._pointers += [at + by for at in origin._pointers if at >= start]
        self._cuts += [(size + by, *map(add, counts, more)) for size, *counts in origin._cuts if size > start]
        self._counts = [*map(add, origin._counts, more)]
        if origin._needed > start:
            self._needed = origin._needed + by

    def add(
        self,
        section: int,
        rrset: RRset,
        *,
        signed: bool,
        needed: bool = True,
        ttl: int | None = None,
        seams: bool = False,
    ) -> None:
        """Append *rrset*, with its RRSIGs if *signed*, and allow a cut behind it.

        *needed*: a response that ends before this RRset is truncated.  *ttl* replaces the RRset's own, seconds.
        *seams*: other answers may have these records too, with or without their signatures (`Answer.seams`).
        """
        ttl = rrset.ttl if ttl is None else ttl
        if seams:
            self._seam()
        self.add_records(section, rrset.owner, rrset.rtype, ttl, rrset.rdatas, cut=False)
        if seams:
            self._seam()
        if signed:
            self.add_records(section, rrset.owner, _TYPE_RRSIG, ttl, rrset.rrsigs, cut=False)
        if seams:
            self._seam()
        self.cut(needed=needed)

    def add_records(
        self, section: int, owner: bytes, rtype: int, ttl: int, rdatas: Sequence[bytes], *, cut: bool = True
    ) -> None:
        """Append records of one owner and type; unless *cut* is false a response may end behind them, never before."""
        target = self._seen.get(owner)
        if target is not None and rtype not in _WITH_NAMES:
            # As below, for nearly all records.
            octets, pointer = self._octets, (0xC000 | target).to_bytes(2, "big")
            for rdata in rdatas:
                self._pointers.append(len(octets))
                octets += pointer + _FIXED.pack(rtype, _CLASS_IN, ttl, len(rdata)) + rdata
        else:
            for rdata in rdatas:
                self._name(owner)
                if rtype in _WITH_NAMES:
                    self._record_with_names(rtype, ttl, rdata)
                else:
                    self._octets += _FIXED.pack(rtype, _CLASS_IN, ttl, len(rdata)) + rdata
        self._counts[section] += len(rdatas)
        if cut:
            self.cut(needed=True)

    def cut(self, *, needed: bool) -> None:
        """Allow the response to end here; with *needed* no earlier end is complete."""
        if self._cuts[-1][0] != len(self._octets):
            self._cuts.append((len(self._octets), self._counts[0], self._counts[1], self._counts[2]))
        if needed:
            self._needed = len(self._octets)

    def finish(self, *, flags: int, zone: int, in_one: bool = False) -> Answer:
        """The answer; *flags* are AA and RCODE, *zone* is the number of the zone that it comes from.

        *in_one*: it is asked for so often that its octets are not gathered from several places (`Answer.in_one`).
        """
        # What no message has room for is left out; as its needed parts are missing, what is left is truncated.
        ends = [each for each in self._cuts if each[0] <= MAX_BODY_OCTETS]
        body = bytes(self._octets[: ends[-1][0]])
        pointers = self._pointers[: bisect_left(self._pointers, len(body))]
        odd_before = (0, *accumulate(each % 2 for each in pointers))
        cuts = []
        done = partial_sum = position = 0
        for size, ancount, nscount, arcount in ends:
            # Adding big-endian 16-bit words with end-around carry is the remainder by 65,535 (RFC 1071 §2); 2^16 leaves
            # the remainder 1, so an odd octet behind the part counts for 2^8.
            octets = int.from_bytes(body[done:size]) % 0xFFFF
            partial_sum = (partial_sum + (octets << 8 if size % 2 else octets)) % 0xFFFF
            position = bisect_left(pointers, size, position)
            odd = odd_before[position]
            cuts.append(Cut(size, ancount, nscount, arcount, partial_sum, position - odd, odd, size < self._needed))
            done = size
        seams = tuple(each for each in self._seams if 0 < each < len(body))
        return Answer(flags, len(self._anchor), zone, tuple(cuts), tuple(pointers), body, seams, in_one)

    def _seam(self) -> None:
        if not self._seams or self._seams[-1] != len(self._octets):
            self._seams.append(len(self._octets))

    def _record_with_names(self, rtype: int, ttl: int, rdata: bytes) -> None:
        """Append type, class, TTL and RDATA whose names may be compressed (RFC 3597 §4: only the types of RFC 1035)."""
        at = len(self._octets)
        self._octets += _FIXED.pack(rtype, _CLASS_IN, ttl, 0)
        rest = rdata
        for _ in range(1 if rtype == _TYPE_NS else 2):
            size = names.end(rest, 0)
            self._name(rest[:size])
            rest = rest[size:]
        self._octets += rest
        struct.pack_into("!H", self._octets, at + 8, len(self._octets) - at - _FIXED.size)

    def _name(self, name: bytes) -> None:
        """Append *name*, its longest suffix that was written before replaced by a pointer."""
        if (target := self._seen.get(name)) is not None:
            self._pointers.append(len(self._octets))
            self._octets += struct.pack("!H", 0xC000 | target)
            return
        at = 0
        while name[at]:
            target = self._seen.get(name[at:])
            if target is not None:
                self._remember(name[:at], self._start + len(self._octets), name[at:])
                self._octets += name[:at]
                self._pointers.append(len(self._octets))
                self._octets += struct.pack("!H", 0xC000 | target)
                return
            at += 1 + name[at]
        self._remember(name, self._start + len(self._octets))
        self._octets += name

    def _remember(self, written: bytes, at: int, rest: bytes = b"") -> None:
        """Let later names point to the suffixes of *written* + *rest*, whose part *written* starts at offset *at*."""
        position = 0
        while position < len(written) and written[position]:
            if at + position > _MAX_POINTER_TARGET:
                return
            self._seen.setdefault(written[position:] + rest, at + position)
            position += 1 + written[position]
