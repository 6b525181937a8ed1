"""Shed rules: which UDP queries get TC, or nothing, for a while, because an operator says so in an attack (D4)."""
# A rule is a conjunction of conditions.  Of a well-formed question in class IN all can be judged; of any other message
# the source, the port and the size alone, and a condition on anything else does not hold.  Rules stand in places
# 0 … MAX_RULES − 1; the first that holds and is not dry decides.  A dry one is only counted.
#
# The kernel has the same rules (fastpath/bpf/shed.h) in the form of RULE; tests/fastpath/test_admission.py feeds both.

import ipaddress
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rootsrv.admission.blocks import MAPPED, Network, what_is_odd, words_of_prefix
from rootsrv.answer.question import Query
from rootsrv.control.protocol import Refused
from rootsrv.wire import name as names
from rootsrv.wire.rdata import type_text

MAX_RULES = 16

Action = Literal["tc-unless-cookie", "drop", "tc"]
ACTIONS: tuple[Action, ...] = ("tc-unless-cookie", "drop", "tc")

OPT_STATES = ("absent", "present", "do", "no-do")
"""What `opt` can say: whether there is an OPT record, and DO in it."""

KEYS = ("qname-suffix", "qtype", "source-port", "size", "opt", "prefix")

# Bits of `conditions` (enum shed_condition in fastpath/bpf/shared.h).
BY_SUFFIX, BY_QTYPE, BY_PORT, BY_SIZE, BY_OPT, BY_PREFIX = 1, 2, 4, 8, 16, 32
DRY, IN_USE = 64, 128

RULE = struct.Struct("<Q2Q2QI6HBB6x256s")
"""until; address and mask (network order); conditions; qtype, ports, sizes, octets of the suffix; action, opt; suffix.

Places that nobody uses are zeros."""

_ALL_PORTS, _ALL_SIZES = (0, 65_535), (0, 65_535)
_CLASS_IN = 1
_EVERY_ADDRESS = (1 << 128) - 1


class ShedRefused(Refused):
    """The rule cannot be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which queries a rule is about; what is None or empty is not asked."""

    suffix: bytes | None = None
    """Wire format, lower case: this name and all below it."""

    qtype: int | None = None
    ports: tuple[int, int] | None = None
    sizes: tuple[int, int] | None = None
    """Octets of the DNS message, from … to."""

    opt: str = ""
    prefix: Network | None = None
    _words: tuple[int, int] = field(init=False, repr=False, compare=False)
    """Address and mask of the prefix as numbers: every query asks for them, and they take 20 µs to be found."""

    def __post_init__(self) -> None:
        words = (0, 0)
        if self.prefix is not None:
            upper, lower, size = words_of_prefix(str(self.prefix))
            words = upper << 64 | lower, _EVERY_ADDRESS << (128 - size) & _EVERY_ADDRESS
        object.__setattr__(self, "_words", words)

    @classmethod
    def parse(cls, conditions: Sequence[str]) -> "Match":
        """From texts like `qname-suffix=example.`; ShedRefused says what is wrong."""
        found: dict[str, Any] = {}
        for text in conditions:
            key, _, value = text.partition("=")
            if not value or key not in KEYS:
                raise ShedRefused(f"--match {text}: must be KEY=VALUE with one of {', '.join(KEYS)}")
            field, parse = _PARSERS[key]
            if field in found:
                raise ShedRefused(f"--match {text}: {key} is said twice; all conditions must hold, and both cannot")
            found[field] = parse(text, value)
        if not found:
            raise ShedRefused("a rule needs at least one --match")
        return cls(**found)

    def __str__(self) -> str:
        said = []
        if self.suffix is not None:
            said.append(f"qname-suffix={names.to_text(self.suffix)}")
        if self.qtype is not None:
            said.append(f"qtype={type_text(self.qtype)}")
        if self.ports is not None:
            said.append(f"source-port={_range_text(self.ports)}")
        if self.sizes is not None:
            said.append(f"size={_range_text(self.sizes)}")
        if self.opt:
            said.append(f"opt={self.opt}")
        if self.prefix is not None:
            said.append(f"prefix={self.prefix}")
        return " ".join(said)

    @property
    def words(self) -> tuple[int, int]:
        """Address and mask of the prefix as numbers, IPv4 mapped; 0 and 0 where there is none."""
        return self._words

    def covers(self, other: "Match") -> bool:
        """Whether every query that *other* is about is one that this is about."""
        return (
            (self.suffix in (None, names.ROOT) or (other.suffix is not None and _below(other.suffix, self.suffix)))
            and self.qtype in (None, other.qtype)
            and _contains(self.ports or _ALL_PORTS, other.ports or _ALL_PORTS)
            and _contains(self.sizes or _ALL_SIZES, other.sizes or _ALL_SIZES)
            and (self.opt in ("", other.opt) or (self.opt, other.opt) in {("present", "do"), ("no-do", "absent")})
            and (self.prefix is None or (other.prefix is not None and _is_within(other.prefix, self.prefix)))
        )

    def holds(self, query: Query | None, size: int, source: int, port: int) -> bool:
        """Whether a message of *size* octets is one of these; *query* is None unless it is a question in class IN.

        *source*: as a number, IPv4 mapped (RFC 4291 §2.5.5.2).
        """
        if self.prefix is not None:
            address, mask = self._words
            if source & mask != address:
                return False
        if self.ports is not None and not self.ports[0] <= port <= self.ports[1]:
            return False
        if self.sizes is not None and not self.sizes[0] <= size <= self.sizes[1]:
            return False
        if self.suffix is None and self.qtype is None and not self.opt:
            return True
        if query is None:
            return False
        if self.qtype not in (None, query.qtype):
            return False
        if self.opt and not _opt_is(self.opt, query):
            return False
        return self.suffix is None or _below(query.qname, self.suffix)

    def pack(self, action: Action, until_ns: int, *, dry: bool) -> bytes:
        """The rule as the kernel has it."""
        conditions = IN_USE | (DRY if dry else 0)
        for bit, asked in (
            (BY_SUFFIX, self.suffix is not None), (BY_QTYPE, self.qtype is not None), (BY_PORT, self.ports is not None),
            (BY_SIZE, self.sizes is not None), (BY_OPT, bool(self.opt)), (BY_PREFIX, self.prefix is not None),
        ):  # fmt: skip
            conditions |= bit if asked else 0
        address, mask = (struct.unpack("<2Q", each.to_bytes(16, "big")) for each in self._words)
        suffix = self.suffix or b""
        return RULE.pack(
            until_ns, *address, *mask, conditions, self.qtype or 0, *(self.ports or _ALL_PORTS),
            *(self.sizes or _ALL_SIZES), len(suffix), ACTIONS.index(action),
            OPT_STATES.index(self.opt) if self.opt else 0, suffix,
        )  # fmt: skip


def _opt_is(state: str, query: Query) -> bool:
    do = query.edns is not None and query.edns.do
    return {"absent": query.edns is None, "present": query.edns is not None, "do": do, "no-do": not do}[state]


def _below(name: bytes, ancestor: bytes) -> bool:
    return name.endswith(ancestor) and names.is_at_or_below(name, ancestor)


def _contains(wide: tuple[int, int], narrow: tuple[int, int]) -> bool:
    return wide[0] <= narrow[0] and narrow[1] <= wide[1]


def _is_within(inner: Network, outer: Network) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _range_text(pair: tuple[int, int]) -> str:
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]}-{pair[1]}"


def _parse_suffix(text: str, value: str) -> bytes:
    import dns.exception

    try:
        return names.from_text(value)
    except (dns.exception.DNSException, ValueError) as error:
        raise ShedRefused(f"--match {text}: {value!r} is not a domain name: {error}") from error


def _parse_qtype(text: str, value: str) -> int:
    import dns.exception
    import dns.rdatatype

    try:
        number = int(dns.rdatatype.from_text(value))
    except (dns.exception.DNSException, ValueError) as error:
        raise ShedRefused(f"--match {text}: {value!r} is not a query type: {error}") from error
    return number


def _parse_range(text: str, value: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", value)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not 0 <= low <= high <= 65_535:
        raise ShedRefused(f"--match {text}: must be a number or a range like 1000-2000, of 0 to 65535")
    return low, high


def _parse_opt(text: str, value: str) -> str:
    if value not in OPT_STATES:
        raise ShedRefused(f"--match {text}: must be one of {', '.join(OPT_STATES)}")
    return value


def _parse_prefix(text: str, value: str) -> Network:
    try:
        network = ipaddress.ip_network(value)
    except ValueError as error:
        raise ShedRefused(f"--match {text}: {error}") from error
    if odd := what_is_odd(network):
        raise ShedRefused(f"--match {text}: {odd}")
    return network


_PARSERS: dict[str, tuple[str, Any]] = {
    "qname-suffix": ("suffix", _parse_suffix),
    "qtype": ("qtype", _parse_qtype),
    "source-port": ("ports", _parse_range),
    "size": ("sizes", _parse_range),
    "opt": ("opt", _parse_opt),
    "prefix": ("prefix", _parse_prefix),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule in its place."""

    place: int
    match: Match
    action: Action
    until_ns: int
    """CLOCK_BOOTTIME, nanoseconds."""

    dry: bool = False

    def to_document(self) -> dict[str, Any]:
        """For a worker, as JSON has it."""
        return {"place": self.place, "match": str(self.match).split(), "action": self.action, "until_ns": self.until_ns,
                "dry": self.dry}  # fmt: skip

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Rule":
        """Inverse of `to_document`; ShedRefused, KeyError or TypeError for what is none."""
        place, until_ns = document["place"], document["until_ns"]
        if document["action"] not in ACTIONS or not isinstance(place, int) or place not in range(MAX_RULES):
            raise ShedRefused(f"{document['action']} in place {place}: is no rule")
        if not isinstance(until_ns, int) or not 0 <= until_ns < 1 << 63 or not isinstance(document["dry"], bool):
            raise ShedRefused(f"until {until_ns}, dry {document['dry']}: is no rule")
        return cls(
            place=place, match=Match.parse(document["match"]), action=document["action"], until_ns=until_ns,
            dry=document["dry"],
        )  # fmt: skip


def pack_rules(rules: Sequence[Rule]) -> bytes:
    """All places, as the kernel has them."""
    packed = [bytes(RULE.size)] * MAX_RULES
    for rule in rules:
        packed[rule.place] = rule.match.pack(rule.action, rule.until_ns, dry=rule.dry)
    return b"".join(packed)


def judge_match(query: Query | None, octets: bytes, source: bytes, port: int, rules: Sequence[Rule]) -> list[Rule]:
    """The *rules* that hold for a message, in their order."""
    address = int.from_bytes(source, "big") | (MAPPED if len(source) == 4 else 0)
    return [rule for rule in rules if rule.match.holds(query, len(octets), address, port)]


def decide(held: Sequence[Rule], *, cookie_is_good: bool) -> Action | None:
    """What becomes of a query for which the rules *held* hold; None: nothing."""
    for rule in held:
        if not rule.dry:
            return None if rule.action == "tc-unless-cookie" and cookie_is_good else rule.action
    return None
