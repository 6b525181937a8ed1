"""What RSSAC002v5 asks of one UTC day: the numbers, how they add up, and the five files they are published in.

Pure: counter words and registers in, records and texts out.
"""
# Layout of the files: that of those published (rssac-caucus/RSSAC002-data):
#
#   YYYY/MM/<metric>/<letter>-root-YYYYMMDD-<metric>.yaml
#
# Only well-formed DNS messages count (RSSAC002v5 §2); sizes are those of DNS messages, without TCP's two octets of
# length.  load-time of several instances is what 95 % of them kept (nearest rank); all else is a sum, and unique
# sources are merged by their registers (page/unique_sources.py).

import base64
import binascii
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

VERSION = "rssac002v5"
METRICS = ("load-time", "traffic-volume", "traffic-sizes", "rcode-volume", "unique-sources")

VOLUME_KEYS = tuple(
    f"dns-{transport}-{what}-{family}"
    for transport in ("udp", "tcp")
    for what in ("queries-received", "responses-sent")
    for family in ("ipv4", "ipv6")
)
SIZE_KEYS = ("udp-request-sizes", "udp-response-sizes", "tcp-request-sizes", "tcp-response-sizes")
SOURCE_KEYS = ("num-sources-ipv4", "num-sources-ipv6", "num-sources-ipv6-aggregate")

_FORMAT = 1
_NO_REGISTERS = (bytes(REGISTERS),) * REGISTER_SETS


class RecordDamaged(ValueError):
    """This is not a day's record."""


@dataclass(frozen=True, slots=True)
class DayRecord:
    """One UTC day of one instance, or of several that were merged."""

    day: datetime.date
    volume: Mapping[str, int] = field(default_factory=dict)
    """By VOLUME_KEYS."""

    sizes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """By SIZE_KEYS: number of a bin of 16 octets → messages."""

    rcodes: Mapping[int, int] = field(default_factory=dict)
    """Responses sent, by (extended) rcode."""

    load_times: Mapping[int, float] = field(default_factory=dict)
    """Root zone serial → seconds from when it was known to be newest until it was served."""

    registers: tuple[bytes, ...] = _NO_REGISTERS
    """HyperLogLog registers of sources: IPv4, IPv6, IPv6 aggregated to /64."""

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
    def sum(cls, records: Sequence["DayRecord"]) -> "DayRecord":
        """All of *records* (of one day, at least one) together; ValueError if they are of different days."""
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
            tuple(
                _merge_registers([record.registers[estimate] for record in records])
                for estimate in range(REGISTER_SETS)
            ),
        )

    def unique_sources(self) -> dict[str, int]:
        """Estimates by SOURCE_KEYS (± 0.81 % standard error)."""
        return {
            key: unique_sources.count(registers) for key, registers in zip(SOURCE_KEYS, self.registers, strict=True)
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
            *getattr(self, f"_{metric.replace('-', '_')}")(),
        ]
        return "\n".join(lines) + "\n"

    def texts(self, service: str) -> dict[str, str]:
        """All five: relative path → text."""
        stem = f"{service.split('.', maxsplit=1)[0]}-root-{self.day:%Y%m%d}"
        return {f"{self.day:%Y/%m}/{metric}/{stem}-{metric}.yaml": self.text(metric, service) for metric in METRICS}

    def _load_time(self) -> list[str]:
        if not self.load_times:
            return ["time: {}"]
        return ["time:", *(f"  {serial}: {math.ceil(seconds)}" for serial, seconds in sorted(self.load_times.items()))]

    def _traffic_volume(self) -> list[str]:
        return [f"{key}: {self.volume.get(key, 0)}" for key in VOLUME_KEYS]

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
        return {
            "format": _FORMAT,
            "day": self.day.isoformat(),
            "volume": dict(self.volume),
            "sizes": {
                key: {str(number): amount for number, amount in bins.items()} for key, bins in self.sizes.items()
            },
            "rcodes": {str(rcode): amount for rcode, amount in self.rcodes.items()},
            "load_times": {str(serial): seconds for serial, seconds in self.load_times.items()},
            "registers": [base64.b64encode(zlib.compress(each)).decode() for each in self.registers],
        }

    @classmethod
    def from_document(cls, document: Any) -> "DayRecord":
        """Inverse of `to_document`; RecordDamaged says what is wrong."""
        try:
            if document["format"] != _FORMAT:
                raise RecordDamaged(f"format {document['format']}, expected {_FORMAT}")
            registers = tuple(zlib.decompress(base64.b64decode(each, validate=True)) for each in document["registers"])
            if [len(each) for each in registers] != [REGISTERS] * REGISTER_SETS:
                raise RecordDamaged("registers of unique sources: not three times 16,384 octets")
            volume = {key: int(document["volume"].get(key, 0)) for key in VOLUME_KEYS}
            sizes = {
                key: {int(number): int(amount) for number, amount in document["sizes"].get(key, {}).items()}
                for key in SIZE_KEYS
            }
            return cls(
                datetime.date.fromisoformat(document["day"]),
                volume,
                sizes,
                {int(rcode): int(amount) for rcode, amount in document["rcodes"].items()},
                {int(serial): float(seconds) for serial, seconds in document["load_times"].items()},
                registers,
            )
        except RecordDamaged:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, zlib.error) as error:
            raise RecordDamaged(f"{type(error).__name__}: {error}") from error


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


def _merge_registers(registers: Sequence[bytes]) -> bytes:
    different = set(registers) - {_NO_REGISTERS[0]}
    return unique_sources.merge(list(different)) if different else _NO_REGISTERS[0]
