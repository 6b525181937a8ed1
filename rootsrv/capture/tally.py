"""What captures hold, counted: for a summary and for a report, in memory that is bounded however much they hold."""

import heapq
import ipaddress
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rootsrv.capture.cdns import BlockKey, PreambleKey, QueryResponse, Signature, SignatureFlags, StatisticsKey, Table
from rootsrv.capture.cdns_reader import CaptureUnreadable, CdnsFile, open_capture
from rootsrv.capture.facts import Fact, Kind, OptBits
from rootsrv.capture.file_names import METADATA
from rootsrv.capture.pcap_reader import PcapFile
from rootsrv.process import json_text
from rootsrv.wire.codes import NXDOMAIN

GRAIN_SECONDS = 300
SIZE_STEP_OCTETS = 64
"""Lengths of responses are counted in steps of so many octets."""

PREFIXES = {4: 24, 6: 48}
"""Clients are counted by network: no address of one is in a summary or a report (RSSAC040)."""

NO_RESPONSE = -1
"""In place of the RCODE of a query to which no response was sent, or of which nothing is known."""

_KEPT = 20_000  # entries of each list of the most frequent
_MAX_INTERVALS = 4_000  # 13 days at five minutes; with more, intervals grow
_MAX_SECONDS = 1 << 40  # of the wall clock: 34,000 years
_COUNT, _SHORT, _NAME_OCTETS = (1 << 64) - 1, 0xFFFF, 255
"""The greatest count, the greatest number of 16 bits (types, RCODEs, sizes of messages), the longest name."""

_ABOUT = 100  # things that files say about themselves, and characters of each

_Thing = TypeVar("_Thing", bound=Hashable)


class MostFrequent(Generic[_Thing]):
    """Counts of the most frequent things; the rarest are forgotten as one thing when there are too many."""

    def __init__(self) -> None:
        self._counts: Counter[_Thing] = Counter()
        self.forgotten = 0
        """How often things were met that are not among those that are kept: counts may be too low by as much."""

    def add(self, thing: _Thing, count: int = 1) -> None:
        self._counts[thing] += count
        if len(self._counts) > 2 * _KEPT:
            kept = Counter(dict(self._counts.most_common(_KEPT)))
            self.forgotten += self._counts.total() - kept.total()
            self._counts = kept

    def most_common(self, count: int) -> list[tuple[_Thing, int]]:
        return heapq.nsmallest(count, self._counts.items(), key=lambda each: (-each[1], str(each[0])))

    def __len__(self) -> int:
        return len(self._counts)


@dataclass(slots=True)
class Interval:
    """What was asked in one interval of time."""

    sources: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Queries by IP version and transport."""

    rcodes: Counter[int] = field(default_factory=Counter)
    malformed: int = 0

    def __iadd__(self, other: "Interval") -> "Interval":
        self.sources += other.sources
        self.rcodes += other.rcodes
        self.malformed += other.malformed
        return self


class Tally:
    """Counts over any number of captures.  Times are microseconds of the wall clock."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.cut_off: list[Path] = []
        self.about: Counter[tuple[str, str]] = Counter()
        """What files say about themselves, and how many say it."""

        self.first: int | None = None
        self.last: int | None = None
        self.queries = self.malformed = self.lost = self.not_sampled = self.other_packets = 0
        self.losses_unknown = 0
        """Files of which nobody says what was lost while they were written."""

        self.sources: Counter[tuple[int, int]] = Counter()
        self.qtypes: Counter[int] = Counter()
        self.rcodes: Counter[int] = Counter()
        self.name_octets: Counter[int] = Counter()
        self.sizes: Counter[tuple[int, int]] = Counter()
        """Responses by RCODE and length in steps of SIZE_STEP_OCTETS."""

        self.with_opt = self.with_do = self.with_rd = 0
        self.prefixes: MostFrequent[tuple[int, bytes]] = MostFrequent()
        self.undelegated: MostFrequent[bytes] = MostFrequent()
        """Top-level labels that were answered NXDOMAIN, lower-cased."""

        self.undelegated_queries = 0
        self.grain_seconds = GRAIN_SECONDS
        self.intervals: dict[int, Interval] = {}
        """By the second it begins."""

    def read(self, path: Path) -> None:
        """Count what is in the file at *path*, C-DNS or pcap, compressed or not.

        Raises CaptureUnreadable, OSError; what was counted before stays counted.
        """
        head, stream = open_capture(path)
        with stream:
            if head in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d"):
                packets = PcapFile(stream, str(path))
                self.about["format", "pcap"] += 1
                # First: while it is read the role may make .xz of it, and take these away.
                packets.is_of_what_came = self._look_beside(path)
                for fact in packets:
                    self.add_fact(fact)
                self.other_packets += packets.others
                cut_off = packets.cut_off
            elif head == b"\x0a\x0d\x0d\x0a":
                raise CaptureUnreadable(f"{path}: is pcapng, which is not read (editcap -F pcap makes a pcap of it)")
            elif head:
                file = CdnsFile(stream, str(path))
                self._describe(file)
                for block in file:
                    self.add_block(block, file.preamble.parameters)
                cut_off = file.cut_off
            else:
                raise CaptureUnreadable(f"{path}: holds nothing that can be read")
        self.files.append(path)
        if cut_off:
            self.cut_off.append(path)

    def _describe(self, file: CdnsFile) -> None:
        self.about["format", f"C-DNS {file.preamble.version}"] += 1
        for parameters in file.preamble.parameters:
            storage, collection = parameters[0], parameters.get(1, {})
            self._tell("written by", collection.get(8))
            self._tell("host", collection.get(9))
            self._tell("filter", collection.get(7))
            self._tell("sampled", storage.get(10))
            self._tell("anonymised", storage.get(11))

    def _tell(self, key: str, told: Any) -> None:
        # Text, and short: whoever made the file chose it, and it may be an array of arrays of arrays.
        if isinstance(told, str) and told and ((key, told[:_ABOUT]) in self.about or len(self.about) < _ABOUT):
            self.about[key, told[:_ABOUT]] += 1

    def _look_beside(self, path: Path) -> bool:
        """What a pcap has no place for is in the metadata beside it, if they are of this very file (output_file.py).

        Whether they are there.
        """
        try:
            told = json_text.parse(path.with_name(path.name + METADATA).read_bytes())
            if not isinstance(told, dict) or told.get("octets") != path.stat().st_size:
                raise ValueError("of another file")
            lost, left_out = (_number(told.get(key), _COUNT) for key in ("lost", "passed_over"))
        except (OSError, ValueError):
            self.losses_unknown += 1
            return False
        self.lost += lost
        self.not_sampled += left_out
        for key, of in (("written by", "software"), ("host", "host"), ("filter", "filter")):
            self._tell(key, told.get(of))
        self._tell("anonymised", told.get("anonymisation_method"))
        if isinstance(every := told.get("every"), int) and every > 1:
            self._tell("sampled", f"one query of {every}")
        return True

    def add_block(self, block: dict[int, Any], parameters: list[dict[int, Any]]) -> None:
        """Count a block of C-DNS (RFC 8618 §7.5); CaptureUnreadable if its indexes or times make no sense."""
        try:
            self._add_block(block, parameters)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise CaptureUnreadable(f"a block makes no sense: {type(error).__name__}: {error}") from error

    def _add_block(self, block: dict[int, Any], parameters: list[dict[int, Any]]) -> None:
        preamble, statistics = block[BlockKey.PREAMBLE], block.get(BlockKey.STATISTICS, {})
        items, malformed = block.get(BlockKey.QUERY_RESPONSES, []), block.get(BlockKey.MALFORMED_MESSAGES, [])
        self.lost += _number(statistics.get(StatisticsKey.LOST, 0), _COUNT)
        self.not_sampled += _number(statistics.get(StatisticsKey.NOT_SAMPLED, 0), _COUNT)
        if not items and not malformed:
            return
        stored = parameters[preamble.get(PreambleKey.PARAMETERS, 0)][0]
        ticks = stored[0]
        seconds, fraction = preamble.get(PreambleKey.EARLIEST_TIME, (0, 0))
        earliest = _number(seconds, _MAX_SECONDS - 1) * ticks + _number(fraction, ticks - 1)
        tables = block.get(BlockKey.TABLES, {})
        described = [_Described.of(signature, tables) for signature in tables.get(Table.SIGNATURES, [])]
        unknown = _Described()

        def what(number: int | None) -> _Described:
            return unknown if number is None else _entry(described, number)

        offsets = [each.get(QueryResponse.TIME_OFFSET, 0) for each in (*items, *malformed)]
        sizes = [item[QueryResponse.RESPONSE_SIZE] for item in items if QueryResponse.RESPONSE_SIZE in item]
        if not {*map(type, offsets), *map(type, sizes)} <= {int} or min(offsets) < 0:
            raise ValueError("a time or a size that is no number, or a time before the earliest")
        latest = earliest + max(offsets)
        begin, end = earliest // ticks, _number(latest // ticks, _MAX_SECONDS - 1)
        self._met(earliest * 10**6 // ticks, latest * 10**6 // ticks)
        signatures = Counter([item.get(QueryResponse.SIGNATURE) for item in items])
        self.queries += len(items)
        self.malformed += len(malformed)
        for number, count in signatures.items():
            of = what(number)
            self.sources[of.source] += count
            self.rcodes[of.rcode] += count
            if of.qtype is not None:
                self.qtypes[of.qtype] += count
            self.with_opt += count * of.has_opt
            self.with_do += count * of.has_do
            self.with_rd += count * of.has_rd
        for (number, step), count in Counter(
            [
                (item.get(QueryResponse.SIGNATURE), item[QueryResponse.RESPONSE_SIZE] // SIZE_STEP_OCTETS)
                for item in items
                if 9 in item
            ]
        ).items():
            self.sizes[what(number).rcode, _number(step, _SHORT // SIZE_STEP_OCTETS)] += count
        names = tables.get(Table.NAMES, [])
        asked = Counter([(item.get(QueryResponse.SIGNATURE), item.get(QueryResponse.QUERY_NAME)) for item in items])
        for (number, name), count in asked.items():
            if name is not None:
                self._name(_entry(names, name), what(number).rcode, count)
        clients = Counter(
            [(item.get(QueryResponse.SIGNATURE), item.get(QueryResponse.CLIENT_ADDRESS)) for item in items]
        )
        addresses = tables.get(Table.ADDRESSES, [])
        for (number, client), count in clients.items():
            if client is not None:
                self._client(_entry(addresses, client), what(number).source[0], count)
        if begin // self.grain_seconds == end // self.grain_seconds:
            interval = self._interval(begin)
            for number, count in signatures.items():
                interval.sources[what(number).source] += count
                interval.rcodes[what(number).rcode] += count
            interval.malformed += len(malformed)
            return
        for (second, number), count in Counter(
            [((earliest + item.get(0, 0)) // ticks, item.get(QueryResponse.SIGNATURE)) for item in items]
        ).items():
            interval = self._interval(int(second))
            interval.sources[what(number).source] += count
            interval.rcodes[what(number).rcode] += count
        for item in malformed:
            self._interval(int((earliest + item.get(0, 0)) // ticks)).malformed += 1

    def add_fact(self, fact: Fact) -> None:
        """Count a message of a pcap: a query, a response, or what is neither."""
        self._met(fact.time // 1000, fact.time // 1000)
        interval = self._interval(fact.time // 10**9)
        if fact.kind == Kind.MALFORMED:
            self.malformed += 1
            interval.malformed += 1
            return
        if fact.response_octets:
            rcode = fact.extended_rcode << 4 | fact.response_flags & 15
            self.rcodes[rcode] += 1
            interval.rcodes[rcode] += 1
            self.sizes[rcode, fact.response_octets // SIZE_STEP_OCTETS] += 1
            if rcode == NXDOMAIN:
                self._undelegated(fact.octets, 1)
            return
        self.queries += 1
        self.sources[fact.family, fact.transport] += 1
        interval.sources[fact.family, fact.transport] += 1
        if fact.octets:
            self.qtypes[fact.qtype] += 1
            self.name_octets[len(fact.octets)] += 1
        self.with_opt += bool(fact.opt_bits & int(OptBits.PRESENT))
        self.with_do += bool(fact.opt_bits & int(OptBits.DO))
        self.with_rd += fact.query_flags >> 8 & 1
        size = 4 if fact.family == 4 else 16
        self._client(fact.source[:size], fact.family, 1)

    def _met(self, first: int, last: int) -> None:
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)

    def _name(self, name: bytes, rcode: int, count: int) -> None:
        self.name_octets[_number(len(name), _NAME_OCTETS)] += count
        if rcode == NXDOMAIN:
            self._undelegated(name, count)

    def _undelegated(self, name: bytes, count: int) -> None:
        if not isinstance(name, bytes):
            raise TypeError("a name that is no octets")
        self.undelegated_queries += count
        last = at = 0
        while at < len(name) and name[at]:
            last, at = at, at + 1 + name[at]
        self.undelegated.add(name[last + 1 : at].lower(), count)

    def _client(self, address: bytes, family: int, count: int) -> None:
        """Count an address, of which only a prefix may be stored: so *family* is said (RFC 8618 §6.2.4), or 0."""
        if not isinstance(address, bytes) or len(address) > 16:
            raise TypeError("an address that is none")
        family = family or (4 if len(address) <= 4 else 6)
        self.prefixes.add((family, address[: PREFIXES[family] // 8]), count)

    def _interval(self, second: int) -> Interval:
        begin = second // self.grain_seconds * self.grain_seconds
        found = self.intervals.get(begin)
        if found is not None:
            return found
        if len(self.intervals) >= _MAX_INTERVALS:
            self.grain_seconds *= 2
            before, self.intervals = self.intervals, {}
            for start, interval in before.items():
                known = self._interval(start)
                known += interval
            return self._interval(second)
        found = self.intervals[begin] = Interval()
        return found


@dataclass(slots=True)
class _Described:
    """What a signature (RFC 8618 §7.5.3.2) says about each of its queries."""

    source: tuple[int, int] = (0, 0)
    qtype: int | None = None
    rcode: int = NO_RESPONSE
    has_opt: bool = False
    has_do: bool = False
    has_rd: bool = False

    @classmethod
    def of(cls, signature: dict[int, int], tables: dict[int, Any]) -> "_Described":
        if not all(isinstance(value, int) and value <= _COUNT for value in signature.values()):
            raise TypeError("a signature of something else than numbers")
        transport = signature.get(Signature.TRANSPORT_FLAGS)
        flags = signature.get(Signature.SIGNATURE_FLAGS, 0)
        dns_flags = signature.get(Signature.DNS_FLAGS, 0)
        classtype = signature.get(Signature.CLASSTYPE)
        responded = flags & SignatureFlags.RESPONSE or Signature.SIGNATURE_FLAGS not in signature
        qtype = None if classtype is None else _number(_entry(tables[Table.CLASSTYPES], classtype)[0], _SHORT)
        return cls(
            source=(0, 0) if transport is None else (6 if transport & 1 else 4, transport >> 1 & 15),
            qtype=qtype,
            rcode=_number(signature[Signature.RESPONSE_RCODE], _SHORT)
            if responded and Signature.RESPONSE_RCODE in signature
            else NO_RESPONSE,
            has_opt=bool(flags & SignatureFlags.QUERY_HAS_OPT) or Signature.EDNS_VERSION in signature,
            has_do=bool(dns_flags & 0x80),
            has_rd=bool(dns_flags & 0x10),
        )


def _number(value: Any, greatest: int) -> int:
    """*value*, if it is an integer from 0 on that is no greater.

    What files say is added up, printed and kept as a key: a fraction, or an integer of a million digits, must not be.
    """
    if type(value) is not int or not 0 <= value <= greatest:
        raise ValueError(f"a number that is none, or more than {greatest}")
    return value


def _entry(table: list[Any], number: int) -> Any:
    """An entry of a block's table, counted from 0."""
    if number < 0:
        raise LookupError("an entry before the first")
    return table[number]


def prefix_text(family: int, octets: bytes) -> str:
    """A network as it is written: 192.0.2.0/24."""
    size = 4 if family == 4 else 16
    return f"{ipaddress.ip_address(octets.ljust(size, bytes(1)))}/{PREFIXES[family]}"
