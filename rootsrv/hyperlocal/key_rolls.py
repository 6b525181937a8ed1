"""The root's trust anchors kept current by the root itself (RFC 5011), from what came with the software."""
# Theory of operation
# -------------------
# What is looked at are the SEP keys in the DNSKEY RRset of a root that has been verified, so signed by a key that is
# trusted already, each time that a publisher has confirmed it.
#
#            seen                 seen for HOLD_DOWN_SECONDS, and again after it
#   (START) ──────▶ ADDPEND ────────────────────────────────────────────────────▶ VALID ──not there──▶ MISSING
#              ▲       │                                                           │ ▲                  │  │
#              └───────┘ not there, or revoked                                     │ └──────seen────────┘  │
#                                                                  revoked, by its own signature           │
#                                                                                  ▼                       │
#                                                              REMOVED ◀── 30 d ── REVOKED ◀───────────────┘
#
# VALID and MISSING are trusted.  What came with the software is VALID from the start, and trusted no more once it is
# revoked.  A revoked key never comes back.
#
# The hold-down is counted on CLOCK_BOOTTIME and only between two looks of one boot: whoever can set the wall clock
# cannot hurry it, and what passes while nobody looks does not count.  A host that runs by day needs twice the 30 days;
# the root's own keys are published a year before they sign.

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from rootsrv.wire import name, rdata, serial
from rootsrv.zone.anchors import AnchorsMalformed, TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.dnssec import REVOKED, SEP, ZONE_KEY, ZoneKey, signed_octets

HOLD_DOWN_SECONDS = 30 * 86_400.0  # RFC 5011 §2.4.1; the TTL of the root's keys, two days, is less
REMOVE_SECONDS = 30 * 86_400.0  # §2.4.2

MAX_KEYS = 32
"""Keys that are remembered; a root has two, three while one rolls."""

State = Literal["ADDPEND", "VALID", "MISSING", "REVOKED", "REMOVED"]
_NUMBERS: dict[State, int] = {"ADDPEND": 1, "VALID": 2, "MISSING": 3, "REVOKED": 4, "REMOVED": 5}
"""As Unbound's autotrust files number them."""


class KeysMalformed(ValueError):
    """The file of kept keys cannot be read."""


@dataclass(frozen=True, slots=True)
class RootKey:
    """One key and what has become of it."""

    rdata: bytes
    """DNSKEY RDATA, without the REVOKE bit."""

    state: State
    held_seconds: float = 0.0
    """For how long it has been in this state, as far as somebody looked."""

    @property
    def is_trusted(self) -> bool:
        """RFC 5011 §4.3."""
        return self.state in {"VALID", "MISSING"}


@dataclass(frozen=True, slots=True)
class Look:
    """When the keys were looked at last."""

    boot: str
    boottime: float
    """CLOCK_BOOTTIME of that boot, seconds."""


@dataclass
class KeyRolls:
    """All keys of the root that were ever seen, beside the anchors that came with the software."""

    shipped: TrustAnchors
    keys: dict[bytes, RootKey] = field(default_factory=dict)
    """By RDATA."""

    looked: Look | None = None

    def observe(self, root: ZoneContents, boot: str, boottime: float, now: float) -> list[str]:
        """Look at the keys of a verified *root* that was confirmed at *boottime*; what changed, for people.

        *now*: seconds since 1970, by which signatures are judged.
        """
        rrset = root.rrset(root.apex, rdata.DNSKEY)
        if rrset is None:
            return []
        passed = boottime - self.looked.boottime if self.looked and self.looked.boot == boot else 0.0
        self.looked = Look(boot, boottime)
        there = {each for each in rrset.rdatas if _is_sep(each) and not ZoneKey(each).flags & REVOKED}
        gone = {
            _without_revoke(each)
            for each in rrset.rdatas
            if _is_sep(each) and ZoneKey(each).flags & REVOKED and _signs(each, rrset, now)
        }
        changes = []
        for rdatas in sorted(there | gone | set(self.keys)):
            before = self.keys.get(rdatas)
            after = self._next(rdatas, before, seen=rdatas in there, revoked=rdatas in gone, passed=max(0.0, passed))
            if after is None:
                self.keys.pop(rdatas, None)
            elif before is not None or len(self.keys) < MAX_KEYS:
                self.keys[rdatas] = after
            was, is_ = before.state if before else "START", after.state if after else "START"
            if was != is_:
                changes.append(f"key {ZoneKey(rdatas).tag}: {was} -> {is_}")
        return changes

    def _next(self, rdatas: bytes, key: RootKey | None, *, seen: bool, revoked: bool, passed: float) -> RootKey | None:
        """All transitions; None is START."""
        if key is None:
            if self._is_shipped(rdatas):
                return RootKey(rdatas, "REVOKED") if revoked else RootKey(rdatas, "VALID")
            return RootKey(rdatas, "ADDPEND") if seen and not revoked else None
        longer = replace(key, held_seconds=key.held_seconds + passed)
        match key.state:
            case "ADDPEND":
                if revoked or not seen:
                    return None
                return RootKey(rdatas, "VALID") if longer.held_seconds >= HOLD_DOWN_SECONDS else longer
            case "VALID" | "MISSING":
                if revoked:
                    return RootKey(rdatas, "REVOKED")
                state: State = "VALID" if seen else "MISSING"
                return longer if state == key.state else RootKey(rdatas, state)
            case "REVOKED":
                return RootKey(rdatas, "REMOVED") if longer.held_seconds >= REMOVE_SECONDS else longer
            case "REMOVED":
                return key

    def _is_shipped(self, rdatas: bytes) -> bool:
        return any(each.covers(name.ROOT, rdatas) for each in self.shipped.anchors)

    def anchors(self) -> str:
        """The trust anchors that are in force: DNSKEY and DS records in presentation format."""
        lines = [_line(each.rdata) for each in self.keys.values() if each.is_trusted]
        revoked = [each.rdata for each in self.keys.values() if each.state in {"REVOKED", "REMOVED"}]
        for anchor in self.shipped.anchors:
            if not any(anchor.covers(name.ROOT, each) for each in revoked):
                kind = "DS" if anchor.rtype == rdata.DS else "DNSKEY"
                lines.append(f". IN {kind} {rdata.to_text(anchor.rtype, anchor.rdata)}")
        return "\n".join(lines) + "\n"

    def to_text(self) -> str:
        """The file in which this is kept; autotrust's form, as Unbound has it, with what we count."""
        looked = f"; looked boot={self.looked.boot} boottime={self.looked.boottime:.0f}\n" if self.looked else ""
        keys = "".join(
            f"{_line(each.rdata)} ;;state={_NUMBERS[each.state]} [{each.state}] ;;held={each.held_seconds:.0f}\n"
            for each in self.keys.values()
        )
        text = f"{_TITLE}{_WHOLE}\n{looked}{keys}"
        return f"{text}{_last_line(text)}\n"

    @classmethod
    def from_text(cls, text: str, shipped: TrustAnchors) -> "KeyRolls":
        """Read what `to_text` wrote; KeysMalformed names the line."""
        made = cls(shipped)
        states = {number: state for state, number in _NUMBERS.items()}
        # An empty file, say, or one that was cut: what it forgot of revoked keys must not go unsaid.
        if text.startswith(f"{_TITLE}{_WHOLE}\n"):
            above, _, last = text.removesuffix("\n").rpartition("\n")
            if not text.endswith("\n") or last != _last_line(f"{above}\n"):
                raise KeysMalformed(
                    f"line {text.count(chr(10))}: is not the last one of this file: it was cut, or changed"
                )
        elif not text.startswith(f"{_TITLE}\n"):  # an older version's, which ends anywhere
            raise KeysMalformed("line 1: is not that of a file of kept keys")
        for number, line in enumerate(text.splitlines(), 1):
            if look := _LOOKED.fullmatch(line):
                made.looked = Look(look[1], float(look[2]))
            if not line.strip() or line.startswith(";"):
                continue
            match = _KEPT.fullmatch(line)
            if match is None or int(match["state"]) not in states:
                raise KeysMalformed(f"line {number}: expected a DNSKEY record with ;;state= and ;;held=")
            try:
                (anchor,) = TrustAnchors.from_text(match["record"]).anchors
            except AnchorsMalformed as error:
                raise KeysMalformed(f"line {number}: {error}") from error
            made.keys[anchor.rdata] = RootKey(anchor.rdata, states[int(match["state"])], float(match["held"]))
        return made


_TITLE = "; Keys of the root (RFC 5011), kept by rootsrv hyperlocal: not to be changed by hand."
_WHOLE = "  The last line has the digest of those above."
_KEPT = re.compile(r"(?P<record>\. IN DNSKEY [^;]+) ;;state=(?P<state>\d) \[[A-Z]+\] ;;held=(?P<held>\d{1,12})")
_LOOKED = re.compile(r"; looked boot=([0-9a-f-]{1,64}) boottime=(\d{1,12})")


def _last_line(above: str) -> str:
    """What ends the file: lines can be taken away from any other, and it looks whole."""
    return f"; sha256={hashlib.sha256(above.encode('utf-8', 'surrogateescape')).hexdigest()}"


def _line(rdatas: bytes) -> str:
    return f". IN DNSKEY {rdata.to_text(rdata.DNSKEY, rdatas)}"


def _is_sep(rdatas: bytes) -> bool:
    flags = ZoneKey(rdatas).flags
    return len(rdatas) > 4 and flags & (ZONE_KEY | SEP) == ZONE_KEY | SEP and rdatas[2] == 3


def _without_revoke(rdatas: bytes) -> bytes:
    return (ZoneKey(rdatas).flags & ~REVOKED).to_bytes(2) + rdatas[2:]


def _signs(rdatas: bytes, rrset: RRset, now: float) -> bool:
    """Whether the key itself signs the RRset that says it is revoked (RFC 5011 §2.1): nobody else may say so."""
    key = ZoneKey(rdatas)
    for rrsig in _signatures(rrset.rrsigs, key, now):
        try:
            if key.check(rrsig[rdata.signer_end(rrsig) :], signed_octets(rrset, rrsig)):
                return True
        except ValueError:
            continue
    return False


def _signatures(rrsigs: Iterable[bytes], key: ZoneKey, now: float) -> Iterable[bytes]:
    """Those of *rrsigs* that name *key* and are valid at *now*."""
    for rrsig in rrsigs:
        _, algorithm, _, _, expiration, inception, tag = rdata.RRSIG_FIXED.unpack_from(rrsig)
        valid = serial.nearest(inception, now) <= now <= serial.nearest(expiration, now)
        if valid and (algorithm, tag) == (key.algorithm, key.tag):
            yield rrsig
