"""The answer table: every answer of a verified root zone and its host zone, in one flat file."""
# Over 400 lines: it is one format, and what is written is read against what reads it.
#
# The file
# --------
# Written once by the compiler, then only read: mapped by the asyncio workers and copied octet for octet into the
# kernel, where the BPF program reads the same structures (rootsrv/fastpath/bpf; tests/fastpath compares the two).  All
# integers are little-endian, all offsets count from the start of the file, every structure starts at a multiple of 8.
#
#   HEADER                      128 octets
#   ZONE     × zone_count       320: the root is zone 0, its host zone (root-servers.net) zone 1
#   NAME     × name_count        32: one per NSEC owner of the root in canonical order; number 0 is the root itself
#   REST     × name_count        56: octets 9 to 64 of each label, zero-padded: only long labels are looked up here
#   INDEX    65,537 × u16           number of names whose first two octets (zero-padded) are less than the position; for
#                                   the kernel only, and at most 65,535: a table of more names is not for the kernel
#   OWNER    × owner_count      288: the names where we answer with authority by type: ".", then the host zone's
#   TYPE     × type_count        12: per owner, ascending
#   ANSWERS                         CUTs (16 each), their ANSWER (28), its pointers (u16 each), its own octets
#
# A table is larger than most caches, so what is read together stands together: two NAMEs share 64 octets (a cache
# line), and in the 64 octets in which an ANSWER stands there are, in this order, its last cut (the whole body, which is
# nearly always what is sent), itself and its first pointers.
#
# An ANSWER's offset 0 means: there is none.  Where two offsets stand side by side the first is for DO=0, the second for
# DO=1 (RFC 3225).
#
# Canonical order (RFC 4034 §6.1) of labels is the order of (octets padded with zeros, length): a label's first eight
# octets compare as one number (big-endian reading), the next 56 as seven more, then the length decides ("a" before
# "a\0").
#
# A body has up to three pieces: what stands at first_at, the answer's own octets (at own_at), what stands at last_at.
# What another answer has already is not written again but pointed to, wherever the compiler allows it (Answer.seams).
# All signed nxdomains share the SOA and the root's NSEC with their signatures, two thirds of each; the answers to qtype
# DS are octets of the referral with DO=1, and so is, in two pieces, the referral with DO=0.  That makes the file two
# fifths smaller, and what most traffic reads of it still more.
#
# What an answer holds and how it is moved to a longer qname: answer/body.py.

import hashlib
import itertools
import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rootsrv.wire.rdata import key_tag

MAGIC = b"rootsrv\x1a"
FORMAT_VERSION = 5

HEADER = struct.Struct("<8sII32sIIIIIIIIIIII32x")
ZONE = struct.Struct("<256sIIIIIIQQIIII8x")
NAME = struct.Struct("<QBBHIIIII")
REST = struct.Struct("<7Q")
OWNER = struct.Struct("<HHIIIB3xII4x256s")
TYPE = struct.Struct("<HHII")
ANSWER = struct.Struct("<IHHHHHBxIIHH")
CUT = struct.Struct("<8H")
_INDEX = struct.Struct("<H")

assert [each.size for each in (HEADER, ZONE, NAME, REST, OWNER, TYPE, ANSWER, CUT)] == [
    128,
    320,
    32,
    56,
    288,
    12,
    28,
    16,
]

_LINE = 64  # octets; what memory is fetched by on every processor that we know of

INDEX_COUNT = 65537
INDEX_LIMIT = 65535
"""The number of names up to which INDEX tells the truth."""

MAX_BODY_OCTETS = 65_535
"""No message is longer (RFC 1035 §4.2.2): what of an answer is beyond that can never be sent."""

NAME_IS_DELEGATION = 1
"""NAME flag: the label is delegated (every name but the root's is)."""

NAME_HAS_HOST_ZONE = 2
"""NAME flag: the host zone lies at or below this label, so the whole qname must be compared with the owners."""

CUT_TRUNCATED = 1
"""CUT flag: something that must not be missing comes after this cut, so TC is set (RFC 2181 §9, RFC 9471 §3.1)."""

_TYPE_DNSKEY = 48
_RECORD = struct.Struct("!HHIH")  # type, class, TTL, RDLENGTH

_DIGEST_AT = 16
_DIGEST_OCTETS = 32


class TableUnusable(Exception):
    """The file is not an answer table of this version, or is damaged."""


@dataclass(frozen=True, slots=True)
class ZoneInfo:
    """What follows from one version of a zone alone (until when it may be served is a lease, kept elsewhere)."""

    name: bytes
    serial: int
    refresh: int
    retry: int
    expire: int
    """Seconds, from the SOA."""

    not_before: int
    """Latest inception of a signature, epoch seconds; 0 for an unsigned or unvalidated zone."""

    signatures_until: int
    """Earliest expiration of a signature, epoch seconds; 0 for an unsigned or unvalidated zone."""

    nxdomain: tuple[int, int]
    """Answer offsets (DO=0, DO=1).  For the root only DO=0: with DO the covering NSEC decides, see NameInfo."""


class NameInfo(NamedTuple):
    """One NSEC owner of the root zone; all numbers are answer offsets."""

    label: bytes
    flags: int
    referral: tuple[int, int]
    ds: tuple[int, int]
    """To qtype DS at the name itself: the DS RRset, or nodata."""

    nxdomain: int
    """With DO=1, for names between this one and the next in canonical order."""


@dataclass(frozen=True, slots=True)
class OwnerInfo:
    """A name at which we answer with authority; numbers are answer offsets (DO=0, DO=1)."""

    name: bytes
    zone: int
    types: dict[int, tuple[int, int]]
    nodata: tuple[int, int]
    nxdomain: tuple[int, int] = (0, 0)
    """With DO=1, in the host zone: for names between this one and the next in canonical order, for names below this."""


class Cut(NamedTuple):
    """A place where a response may end."""

    size: int
    """Octets of the body up to here."""

    ancount: int
    nscount: int
    arcount: int
    """Without the OPT record."""

    partial_sum: int
    """16-bit ones' complement sum of the body up to here, read as big-endian words, zero-padded to even length."""

    even_pointers: int
    odd_pointers: int
    """Compression pointers up to here that lie at even and at odd offsets of the body."""

    truncated: bool


class Answer(NamedTuple):
    """One answer, as if qname were its anchor; see answer/body.py."""

    flags: int
    """AA and RCODE, as they stand in the second 16-bit word of the DNS header."""

    anchor_size: int
    """Octets of the anchor name in wire format."""

    zone: int
    cuts: tuple[Cut, ...]
    """Ascending by size; the last one is the whole body."""

    pointers: tuple[int, ...]
    """Offsets in the body of all compression pointers, ascending."""

    body: bytes
    """At most MAX_BODY_OCTETS."""

    seams: tuple[int, ...] = ()
    """Offsets inside the body, ascending, where it may be taken apart; not kept in the file."""

    in_one: bool = False
    """Written in one piece, whatever stands elsewhere already; not kept in the file."""


class AnswerTable:
    """A table that was found whole; making one is the check."""

    def __init__(self, octets: "bytes | mmap.mmap") -> None:
        """*octets*: the file, mapped or in memory; TableUnusable names what is wrong with it."""
        view = memoryview(octets)
        if len(view) < HEADER.size or view[:8] != MAGIC:
            raise TableUnusable("not an answer table (wrong magic)")
        (_, version, size, digest, *counts) = HEADER.unpack_from(view)
        if version != FORMAT_VERSION:
            raise TableUnusable(f"answer table of format version {version}, this program reads {FORMAT_VERSION}")
        if size != len(view):
            raise TableUnusable(f"answer table of {len(view)} octets, its header says {size}")
        if digest != _digest(view):
            raise TableUnusable("answer table is damaged: its digest does not match its contents")
        self.octets = view
        self.digest: bytes = digest
        (
            self._zone_count,
            self._zones_at,
            self._name_count,
            self._names_at,
            self._rests_at,
            self._index_at,
            self._owner_count,
            self._owners_at,
            self._type_count,
            self._types_at,
            self.answer_count,
            self._answers_at,
        ) = counts
        self._check_places()
        self.zones = tuple(self._zones())

    def _check_places(self) -> None:
        """TableUnusable if anything that is read when a table is put in use points out of the file.

        What stands in single answers is not looked at: whoever reads a wrong one gets an exception, for that query.
        """
        octets, size = self.octets, len(self.octets)
        sections = (
            ("zones", self._zones_at, self._zone_count, ZONE),
            ("names", self._names_at, self._name_count, NAME),
            ("rests", self._rests_at, self._name_count, REST),
            ("index", self._index_at, INDEX_COUNT, _INDEX),
            ("owners", self._owners_at, self._owner_count, OWNER),
            ("types", self._types_at, self._type_count, TYPE),
        )
        for name, at, count, each in sections:
            if count < 1 or at % 4 or not HEADER.size <= at <= at + count * each.size <= self._answers_at <= size:
                raise TableUnusable(f"answer table is damaged: {count} {name} at {at} of {size} octets")
        types_end = self._types_at + self._type_count * TYPE.size
        words = octets[self._names_at : self._names_at + self._name_count * NAME.size].cast("I")
        offsets = {offset for first in range(3, 8) for offset in words[first :: NAME.size // 4]}
        for number in range(self._zone_count):
            *_, name_octets, _, _, plain, do, _, _ = ZONE.unpack_from(octets, self._zones_at + number * ZONE.size)
            offsets |= {plain, do}
            if not 0 < name_octets < 256:
                raise TableUnusable(f"answer table is damaged: zone {number} has a name of {name_octets} octets")
        for number in range(self._owner_count):
            name_octets, types, at, *nodata, zone, behind, below, _ = OWNER.unpack_from(
                octets, self._owners_at + number * OWNER.size
            )
            offsets |= {*nodata, behind, below}
            if zone >= self._zone_count or not self._types_at <= at <= at + types * TYPE.size <= types_end:
                raise TableUnusable(f"answer table is damaged: owner {number} has {types} types at {at}")
            if (name_octets == 1) != (number == 0) or not 0 < name_octets < 256:  # the root alone comes first
                raise TableUnusable(f"answer table is damaged: owner {number} has a name of {name_octets} octets")
        for _, _, plain, do in TYPE.iter_unpack(octets[self._types_at : types_end]):
            offsets |= {plain, do}
        offsets.discard(0)
        if offsets and not self._answers_at + CUT.size <= min(offsets) <= max(offsets) <= size - ANSWER.size:
            raise TableUnusable("answer table is damaged: there are answers beyond its end")

    def _zones(self) -> Iterator[ZoneInfo]:
        for number in range(self._zone_count):
            wire, serial, refresh, retry, expire, _minimum, name_size, not_before, until, plain, do, _, _ = (
                ZONE.unpack_from(self.octets, self._zones_at + number * ZONE.size)
            )
            yield ZoneInfo(wire[:name_size], serial, refresh, retry, expire, not_before, until, (plain, do))

    def names(self) -> Iterator[NameInfo]:
        """All NSEC owners of the root in canonical order; the first is the root itself (empty label)."""
        names = self.octets[self._names_at : self._names_at + self._name_count * NAME.size]
        for number, (key, size, flags, _, *referral, ds, ds_do, nxdomain) in enumerate(NAME.iter_unpack(names)):
            label = key.to_bytes(8)
            if size > 8:
                label += struct.pack(">7Q", *REST.unpack_from(self.octets, self._rests_at + number * REST.size))
            yield NameInfo(label[:size], flags, (referral[0], referral[1]), (ds, ds_do), nxdomain)

    def owners(self) -> Iterator[OwnerInfo]:
        """The names at which we answer with authority."""
        for number in range(self._owner_count):
            size, type_count, types_at, nodata, nodata_do, zone, behind, below, wire = OWNER.unpack_from(
                self.octets, self._owners_at + number * OWNER.size
            )
            types = {}
            for position in range(type_count):
                rtype, _, plain, do = TYPE.unpack_from(self.octets, types_at + position * TYPE.size)
                types[rtype] = (plain, do)
            yield OwnerInfo(wire[:size], zone, types, (nodata, nodata_do), (behind, below))

    def answers(self) -> Iterator[Answer]:
        """Every answer once, in the file's order."""
        offsets = {info.nxdomain for info in self.names()}
        offsets |= {offset for info in self.names() for offset in (*info.referral, *info.ds)}
        for owner in self.owners():
            offsets |= {*owner.nodata, *owner.nxdomain, *(offset for pair in owner.types.values() for offset in pair)}
        offsets |= {offset for zone in self.zones for offset in zone.nxdomain}
        return (self.answer(offset) for offset in sorted(offsets - {0}))

    def key_tags(self) -> list[int]:
        """Key tags of the root zone's DNSKEY RRset (RFC 4034 appendix B); none if it has no such RRset."""
        apex = next(self.owners())
        if _TYPE_DNSKEY not in apex.types:
            return []
        answer = self.answer(apex.types[_TYPE_DNSKEY][0])
        tags, at = [], 0
        for _ in range(answer.cuts[-1].ancount):
            rdata_at = at + 1 + _RECORD.size  # behind the root's name
            at = rdata_at + int.from_bytes(answer.body[rdata_at - 2 : rdata_at])
            tags.append(key_tag(answer.body[rdata_at:at]))
        return tags

    def answer(self, at: int) -> Answer:
        """The answer at offset *at*."""
        _, _, flags, anchor_size, pointer_count, cut_count, zone, *_ = ANSWER.unpack_from(self.octets, at)
        cuts = tuple(
            Cut._make((*numbers, bool(cut_flags & CUT_TRUNCATED)))
            for *numbers, cut_flags in CUT.iter_unpack(self.octets[at - cut_count * CUT.size : at])
        )
        pointers = struct.unpack_from(f"<{pointer_count}H", self.octets, at + ANSWER.size)
        body = b"".join(self.octets[start : start + size] for start, size in self.pieces(at))
        return Answer(flags, anchor_size, zone, cuts, pointers, body)

    def pieces(self, at: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(offset in the file, octets) of the body's pieces: the first, the answer's own, the last; octets may be 0."""
        own_at, size, *_, first_at, last_at, first_size, last_size = ANSWER.unpack_from(self.octets, at)
        return (first_at, first_size), (own_at, size - first_size - last_size), (last_at, last_size)


@dataclass(frozen=True, slots=True)
class TableContents:
    """What `to_octets` lays out; answers are numbered from 1, and 0 means that there is none."""

    zones: tuple[ZoneInfo, ...]
    minimums: tuple[int, ...]
    names: tuple[NameInfo, ...]
    owners: tuple[OwnerInfo, ...]
    answers: tuple[Answer, ...]


def to_octets(contents: TableContents) -> bytes:
    """The file's octets: deterministic, so the same contents give the same table.

    Whatever the protocol allows fits: a table too large for the kernel is still answered from by the workers.
    """
    names, owners = contents.names, contents.owners
    type_count = sum(len(owner.types) for owner in owners)
    zones_at = HEADER.size
    names_at = _aligned(zones_at + ZONE.size * len(contents.zones), _LINE)
    rests_at = names_at + NAME.size * len(names)
    index_at = rests_at + REST.size * len(names)
    owners_at = _aligned(index_at + 2 * INDEX_COUNT)
    types_at = owners_at + OWNER.size * len(owners)
    answers_at = _aligned(types_at + TYPE.size * type_count)

    layout = _Layout(answers_at)
    for answer in contents.answers:
        layout.add(answer)
    offsets, end = layout.offsets, layout.end

    file = bytearray(answers_at)
    for number, (zone, minimum) in enumerate(zip(contents.zones, contents.minimums, strict=True)):
        plain, do = (offsets[each] for each in zone.nxdomain)
        timers = (zone.serial, zone.refresh, zone.retry, zone.expire, minimum, len(zone.name))
        signatures = (zone.not_before, zone.signatures_until)
        ZONE.pack_into(file, zones_at + number * ZONE.size, zone.name, *timers, *signatures, plain, do, 0, 0)
    prefixes = [0] * (INDEX_COUNT + 1)
    for number, name in enumerate(names):
        key, *rest = struct.unpack(">8Q", name.label.ljust(64, b"\0"))
        prefixes[(key >> 48) + 1] += 1
        targets = (offsets[each] for each in (*name.referral, *name.ds, name.nxdomain))
        NAME.pack_into(file, names_at + number * NAME.size, key, len(name.label), name.flags, 0, *targets)
        REST.pack_into(file, rests_at + number * REST.size, *rest)
    index: Iterable[int] = itertools.accumulate(prefixes[:INDEX_COUNT])
    if len(names) > INDEX_LIMIT:
        index = (min(below, INDEX_LIMIT) for below in index)
    struct.pack_into(f"<{INDEX_COUNT}H", file, index_at, *index)
    type_at = types_at
    for number, owner in enumerate(owners):
        plain, do = (offsets[each] for each in owner.nodata)
        start = owners_at + number * OWNER.size
        nxdomain = (offsets[each] for each in owner.nxdomain)
        head = (len(owner.name), len(owner.types), type_at, plain, do, owner.zone)
        OWNER.pack_into(file, start, *head, *nxdomain, owner.name)
        for rtype in sorted(owner.types):
            plain, do = (offsets[each] for each in owner.types[rtype])
            TYPE.pack_into(file, type_at, rtype, 0, plain, do)
            type_at += TYPE.size

    counts = (len(contents.zones), zones_at, len(names), names_at, rests_at, index_at, len(owners), owners_at)
    tail = (type_count, types_at, len(contents.answers), answers_at)
    HEADER.pack_into(file, 0, MAGIC, FORMAT_VERSION, end, bytes(_DIGEST_OCTETS), *counts, *tail)
    whole = bytearray(b"".join((file, *layout.octets)))
    whole[_DIGEST_AT : _DIGEST_AT + _DIGEST_OCTETS] = _digest(memoryview(whole))
    return bytes(whole)


class _Layout:
    """Where answers stand."""

    def __init__(self, end: int) -> None:
        self.end = end
        self.offsets = [0]
        """By the answer's number."""

        self.octets: list[bytes] = []
        self._places: dict[bytes, int] = {}
        """Where octets stand that others may point to."""

    def add(self, answer: Answer) -> None:
        """Place *answer* behind the others: its last cut starts a line."""
        body, seams = answer.body, (0, *answer.seams, len(answer.body))
        start, end = (0, len(body)) if answer.in_one else self._own(body, seams)
        cuts_at = _aligned(self.end + CUT.size * (len(answer.cuts) - 1), _LINE) - CUT.size * (len(answer.cuts) - 1)
        at = cuts_at + CUT.size * len(answer.cuts)
        own_at = at + ANSWER.size + 2 * len(answer.pointers)
        sizes = (answer.anchor_size, len(answer.pointers), len(answer.cuts))
        first_at, last_at = (self._places[piece] if piece else 0 for piece in (body[:start], body[end:]))
        shared = (first_at, last_at, start, len(body) - end)
        self.octets += (
            bytes(cuts_at - self.end),
            *(CUT.pack(*cut) for cut in answer.cuts),  # CUT_TRUNCATED is what a truth is as a number
            ANSWER.pack(own_at, len(body), answer.flags, *sizes, answer.zone, *shared),
            struct.pack(f"<{len(answer.pointers)}H", *answer.pointers),
            body[start:end],
        )
        for first, last in itertools.combinations([each for each in seams if start <= each <= end], 2):
            self._places.setdefault(body[first:last], own_at + first - start)
        self.offsets.append(at)
        self.end = own_at + end - start

    def _own(self, body: bytes, seams: tuple[int, ...]) -> tuple[int, int]:
        """Where in *body* that part begins and ends that does not stand anywhere yet."""
        places = self._places
        start = next((seam for seam in reversed(seams) if body[:seam] in places), 0)
        end = next((seam for seam in seams if seam >= start and body[seam:] in places), len(body))
        return start, end


def digest_in(octets: bytes) -> bytes:
    """The digest that a table says it has; whether it is right is found when it is opened."""
    return octets[_DIGEST_AT : _DIGEST_AT + _DIGEST_OCTETS]


def _aligned(at: int, to: int = 8) -> int:
    return -(-at // to) * to


def _digest(view: memoryview) -> bytes:
    """SHA-256 of the file with zeros in place of the digest."""
    hasher = hashlib.sha256(view[:_DIGEST_AT])
    hasher.update(bytes(_DIGEST_OCTETS))
    hasher.update(view[_DIGEST_AT + _DIGEST_OCTETS :])
    return hasher.digest()
