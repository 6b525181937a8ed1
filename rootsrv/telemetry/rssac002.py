"""What RSSAC002v5 asks of one UTC day: the numbers, how they add up, and the five files they are published in.

Pure: counter words and registers in, records and texts out.
"""
# Layout of the files: that of those published (rssac-caucus/RSSAC002-data):
#
#   YYYY/MM/<metric>/<letter>-root-YYYYMMDD-<metric>.yaml
#
# Only well-formed DNS messages count (RSSAC002v5 §2); sizes are those of DNS messages, without TCP's two octets of
# length.  load-time of several instances is what 95 % of them kept (nearest rank); all else is a sum, and unique
# sources are merged by their registers (page/unique_sources.py), those of one key each for themselves.  A day on which
# the key changed has several such sketches; what they have in common nobody can tell, so the greatest of them is given:
# there were at least so many.

import base64
import binascii
import dataclasses
import datetime
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rootsrv.page import unique_sources
from rootsrv.page.counts import (
    BIN_OCTETS,
    PATHS,
    QUERIES,
    REQUEST_BINS,
    REQUEST_SIZES,
    RESPONSE_BINS,
    RESPONSE_SIZES,
    RESPONSES,
    rcodes,
)
from rootsrv.page.layout import REGISTER_SETS, REGISTERS
from rootsrv.wire import digits

VERSION = "rssac002v5"
METRICS = ("load-time", "traffic-volume", "traffic-sizes", "rcode-volume", "unique-sources")

VOLUME_KEYS = tuple(
    f"dns-{transport}-{what}-{family}"
    for transport in ("udp", "tcp")
    for what in ("queries-received", "responses-sent")
    for family in ("ipv4", "ipv6")
)
TLS_VOLUME_KEYS = tuple(
    f"dns-tls-{what}-{family}" for what in ("queries-received", "responses-sent") for family in ("ipv4", "ipv6")
)
"""What RSSAC002 does not ask for: an operator's own keys, in the files with its letter before them, as b-root has."""

SIZE_KEYS = ("udp-request-sizes", "udp-response-sizes", "tcp-request-sizes", "tcp-response-sizes")
SOURCE_KEYS = ("num-sources-ipv4", "num-sources-ipv6", "num-sources-ipv6-aggregate")

_FORMAT = 2
_UNKEYED_FORMAT = 1
_UNKEYED = ""
"""In place of a key's id: of sources that version 0.1 counted."""

_NO_REGISTERS = (bytes(REGISTERS),) * REGISTER_SETS

Sketch = tuple[bytes, ...]
"""HyperLogLog registers of sources: IPv4, IPv6, IPv6 aggregated to /64."""


class RecordDamaged(ValueError):
    """This is not a day's record."""


class DifferentKeys(ValueError):
    """Unique sources of these instances were counted under different keys."""


@dataclass(frozen=True, slots=True)
class DayRecord:
    """One UTC day of one instance, or of several that were merged."""

    day: datetime.date
    volume: Mapping[str, int] = field(default_factory=dict)
    """By VOLUME_KEYS, and TLS_VOLUME_KEYS if there was any."""

    sizes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """By SIZE_KEYS: number of a bin of 16 octets → messages."""

    rcodes: Mapping[int, int] = field(default_factory=dict)
    """Responses sent, by (extended) rcode."""

    load_times: Mapping[int, float] = field(default_factory=dict)
    """Root zone serial → seconds from when it was known to be newest until it was served."""

    sketches: Mapping[str, Sketch] = field(default_factory=dict)
    """By id of the key that sources were hashed with."""

    @classmethod
    def from_words(cls, day: datetime.date, words: Sequence[int]) -> "DayRecord":
        """From counter words (page/counts.py) that were counted on *day*."""
        volume = {}
        for path, name in enumerate(PATHS):
            transport, family = name.split("-")
            volume[f"dns-{transport}-queries-received-{family}"] = words[QUERIES + path]
            volume[f"dns-{transport}-responses-sent-{family}"] = words[RESPONSES + path]
        by_rcode: Counter[int] = Counter()
        for path in range(len(PATHS)):
            by_rcode.update({rcode: number for rcode, number in enumerate(rcodes(words, path)) if number})
        sizes = {}
        for number, transport in enumerate(("udp", "tcp")):
            sizes[f"{transport}-request-sizes"] = _bins(words, REQUEST_SIZES + number * REQUEST_BINS, REQUEST_BINS)
            sizes[f"{transport}-response-sizes"] = _bins(words, RESPONSE_SIZES + number * RESPONSE_BINS, RESPONSE_BINS)
        return cls(day, volume, sizes, by_rcode)

    @classmethod
    def from_words_over_tls(cls, day: datetime.date, words: Sequence[int]) -> "DayRecord":
        """From counter words of the slot of DNS over TLS: as in b-root's files, rcodes count it and sizes do not."""
        record = cls.from_words(day, words)
        volume = {key: record.volume[key.replace("-tls-", "-tcp-")] for key in TLS_VOLUME_KEYS}
        return cls(day, volume, {}, record.rcodes)

    @classmethod
    def sum(cls, records: Sequence["DayRecord"]) -> "DayRecord":
        """All of *records* (of one day, at least one) together; ValueError if they are of different days.

        DifferentKeys unless the sources of all were counted under one key, for part of the day at least.
        """
        keys = [set(record.sketches) for record in records if record.sketches]
        if keys and not set.intersection(*keys):
            names = sorted({name or "none" for each in keys for name in each})
            raise DifferentKeys(
                f"unique sources were counted under different keys: {', '.join(names)}"
                " (report.sources_key_file must be the same at all instances)"
            )
        return cls._together(records)

    def and_then(self, record: "DayRecord") -> "DayRecord":
        """With what the same instance counted besides, under whatever key."""
        return self._together([self, record])

    def without_sources(self) -> "DayRecord":
        """As if nobody's sources had been noted."""
        return dataclasses.replace(self, sketches={})

    @classmethod
    def _together(cls, records: Sequence["DayRecord"]) -> "DayRecord":
        days = {record.day for record in records}
        if len(days) != 1:
            raise ValueError(f"records of different days: {', '.join(sorted(map(str, days)))}")
        by_serial: dict[int, list[float]] = {}
        for record in records:
            for serial, seconds in record.load_times.items():
                by_serial.setdefault(serial, []).append(seconds)
        return cls(
            days.pop(),
            _sum(record.volume for record in records),
            {key: _sum(record.sizes.get(key, {}) for record in records) for key in SIZE_KEYS},
            _sum(record.rcodes for record in records),
            {serial: percentile_95(seconds) for serial, seconds in sorted(by_serial.items())},
            {
                name: _merge([record.sketches[name] for record in records if name in record.sketches])
                for name in sorted({name for record in records for name in record.sketches})
            },
        )

    def unique_sources(self) -> dict[str, int]:
        """Estimates by SOURCE_KEYS (± 0.81 % standard error); if the key has changed, what there was at least."""
        sketches = list(self.sketches.values()) or [_NO_REGISTERS]
        return {
            key: max(unique_sources.count(sketch[estimate]) for sketch in sketches)
            for estimate, key in enumerate(SOURCE_KEYS)
        }

    # ── the five files ──────────────────────────────────────────────────────────────────────────────────────────

    def text(self, metric: str, service: str) -> str:
        """The file of *metric* (one of METRICS) for *service*, YAML."""
        lines = [
            "---",
            f"version: {VERSION}",
            f"service: {service}",
            f"start-period: {self.day.isoformat()}T00:00:00Z",
            f"metric: {metric}",
            *self._lines(metric, service),
        ]
        return "\n".join(lines) + "\n"

    def _lines(self, metric: str, service: str) -> list[str]:
        match metric:
            case "load-time":
                return self._load_time()
            case "traffic-volume":
                return self._traffic_volume(service)
            case "traffic-sizes":
                return self._traffic_sizes()
            case "rcode-volume":
                return self._rcode_volume()
        return self._unique_sources()

    def texts(self, service: str) -> dict[str, str]:
        """All five: relative path → text."""
        stem = f"{service.split('.', maxsplit=1)[0]}-root-{self.day:%Y%m%d}"
        return {f"{self.day:%Y/%m}/{metric}/{stem}-{metric}.yaml": self.text(metric, service) for metric in METRICS}

    def _load_time(self) -> list[str]:
        if not self.load_times:
            return ["time: {}"]
        return ["time:", *(f"  {serial}: {math.ceil(seconds)}" for serial, seconds in sorted(self.load_times.items()))]

    def _traffic_volume(self, service: str) -> list[str]:
        own = [key for key in TLS_VOLUME_KEYS if any(map(self.volume.get, TLS_VOLUME_KEYS))]
        letter = service.split(".", maxsplit=1)[0]
        return [
            *(f"{key}: {self.volume.get(key, 0)}" for key in VOLUME_KEYS),
            *(f"{letter}-{key}: {self.volume.get(key, 0)}" for key in own),
        ]

    def _traffic_sizes(self) -> list[str]:
        lines = []
        for key in SIZE_KEYS:
            bins = {number: amount for number, amount in sorted(self.sizes.get(key, {}).items()) if amount}
            last = (REQUEST_BINS if "request" in key else RESPONSE_BINS) - 1
            lines.append(f"{key}:" if bins else f"{key}: {{}}")
            lines += [f"  {bin_name(number, last)}: {amount}" for number, amount in bins.items()]
        return lines

    def _rcode_volume(self) -> list[str]:
        return [f"{rcode}: {amount}" for rcode, amount in sorted(self.rcodes.items()) if amount]

    def _unique_sources(self) -> list[str]:
        return [f"{key}: {amount}" for key, amount in self.unique_sources().items()]

    # ── the record itself, which can be merged ──────────────────────────────────────────────────────────────────

    def to_document(self) -> dict[str, Any]:
        """For JSON."""
        return self._to_document(_FORMAT)

    def to_own_document(self) -> dict[str, Any]:
        """For what this instance keeps of a day that is not over: version 0.1 reads it, too.

        It goes on with all but the unique sources, should it come back; of a record that is merged elsewhere it must
        not believe that it had none.
        """
        return self._to_document(_UNKEYED_FORMAT)

    def _to_document(self, written_as: int) -> dict[str, Any]:
        return {
            "format": written_as,
            "day": self.day.isoformat(),
            "volume": dict(self.volume),
            "sizes": {
                key: {str(number): amount for number, amount in bins.items()} for key, bins in self.sizes.items()
            },
            "rcodes": {str(rcode): amount for rcode, amount in self.rcodes.items()},
            "load_times": {str(serial): seconds for serial, seconds in self.load_times.items()},
            "registers": _packed(self.sketches.get(_UNKEYED, _NO_REGISTERS)),
            "sketches": {name: _packed(sketch) for name, sketch in self.sketches.items() if name != _UNKEYED},
        }

    @classmethod
    def from_document(cls, document: Any) -> "DayRecord":
        """Inverse of `to_document`; RecordDamaged says what is wrong."""
        try:
            if document["format"] not in {_FORMAT, _UNKEYED_FORMAT}:
                raise RecordDamaged(f"format {document['format']}, expected {_FORMAT}")
            sketches = {_UNKEYED: _unpacked(document["registers"])}
            sketches |= {str(name): _unpacked(each) for name, each in document.get("sketches", {}).items()}
            said = document["volume"]
            volume = {
                key: _amount(said.get(key, 0)) for key in (*VOLUME_KEYS, *(k for k in TLS_VOLUME_KEYS if k in said))
            }
            sizes = {
                key: {
                    digits.whole(number): _amount(amount) for number, amount in document["sizes"].get(key, {}).items()
                }
                for key in SIZE_KEYS
            }
            rcodes = {digits.whole(rcode): _amount(amount) for rcode, amount in document["rcodes"].items()}
            load_times = {digits.whole(serial): _seconds(seconds) for serial, seconds in document["load_times"].items()}
            counted: tuple[Mapping[Any, float], ...] = (volume, *sizes.values(), rcodes, load_times)
            if any(number < 0 for each in counted for number in each.values()):
                raise RecordDamaged("a number below nought")
            return cls(
                datetime.date.fromisoformat(document["day"]),
                volume,
                sizes,
                rcodes,
                load_times,
                {name: sketch for name, sketch in sorted(sketches.items()) if sketch != _NO_REGISTERS},
            )
        except RecordDamaged:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, zlib.error) as error:
            raise RecordDamaged(f"{type(error).__name__}: {error}") from error


def _amount(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise RecordDamaged(f"an amount is no whole number: {value!r:.40}")
    return value


def _seconds(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RecordDamaged(f"a load time is no number: {value!r:.40}")
    return float(value)


def bin_name(number: int, last: int) -> str:
    """`16-31` for bin 1; the *last* one has no upper end: `288-`."""
    first = number * BIN_OCTETS
    return f"{first}-" if number >= last else f"{first}-{first + BIN_OCTETS - 1}"


def percentile_95(values: Sequence[float]) -> float:
    """The least of *values* (at least one) that 95 % of them do not exceed (nearest rank)."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _bins(words: Sequence[int], first: int, bins: int) -> dict[int, int]:
    return {number: amount for number, amount in enumerate(words[first : first + bins]) if amount}


def _sum(mappings: "Iterable[Mapping[Any, int]]") -> dict[Any, int]:
    total: Counter[Any] = Counter()
    for each in mappings:
        total.update(each)
    return dict(total)


def _merge(sketches: Sequence[Sketch]) -> Sketch:
    return tuple(_merge_registers([sketch[estimate] for sketch in sketches]) for estimate in range(REGISTER_SETS))


def _packed(sketch: Sketch) -> list[str]:
    return [base64.b64encode(zlib.compress(each)).decode() for each in sketch]


def _unpacked(texts: Iterable[str]) -> Sketch:
    sketch = tuple(_inflated(base64.b64decode(each, validate=True)) for each in texts)
    if [len(each) for each in sketch] != [REGISTERS] * REGISTER_SETS:
        raise RecordDamaged("registers of unique sources: not three times 16,384 octets")
    return sketch


def _inflated(octets: bytes) -> bytes:
    """No more than is wanted: a record may come from elsewhere."""
    return zlib.decompressobj().decompress(octets, REGISTERS + 1)


def _merge_registers(registers: Sequence[bytes]) -> bytes:
    different = set(registers) - {_NO_REGISTERS[0]}
    return unique_sources.merge(list(different)) if different else _NO_REGISTERS[0]
