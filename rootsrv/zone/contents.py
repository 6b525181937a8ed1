"""One immutable version of a zone, as octets.

Names and RDATA are in canonical form (RFC 4034 §6.2: uncompressed, names lower-cased where that section says so), since
that is what signatures and ZONEMD are computed over and what a compiler wants.
"""

import enum
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rootsrv.wire import name
from rootsrv.wire.name import canonical_key
from rootsrv.wire.record import Record, ZoneMalformed


@dataclass(frozen=True, slots=True)
class RRset:
    """Records of one owner and type, with the signatures that cover them."""

    owner: bytes
    """Wire format, lower-cased."""

    rtype: int
    ttl: int
    """Seconds; the RRSIGs have the same (RFC 4034 §3)."""

    rdatas: tuple[bytes, ...]
    """Canonical RDATA in canonical order (RFC 4034 §6.3), without duplicates; empty only for a signature of nothing."""

    rrsigs: tuple[bytes, ...] = ()
    """RDATA of the RRSIG records that cover this RRset, in canonical order."""

    def records(self) -> Iterator[Record]:
        """Every record, RRSIGs last."""
        for rdata in self.rdatas:
            yield self.owner, self.rtype, self.ttl, rdata
        for rrsig in self.rrsigs:
            yield self.owner, 46, self.ttl, rrsig


@dataclass(frozen=True, slots=True)
class Soa:
    """The SOA RDATA (RFC 1035 §3.3.13); intervals in seconds."""

    mname: bytes
    rname: bytes
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int

    @classmethod
    def from_rdata(cls, rdata: bytes) -> "Soa":
        """Parse canonical (uncompressed) SOA RDATA; ZoneMalformed when it is not that."""
        try:
            mname_end = name.end(rdata, 0)
            rname_end = name.end(rdata, mname_end)
            serial, refresh, retry, expire, minimum = struct.unpack("!IIIII", rdata[rname_end:])
        except (IndexError, struct.error) as error:
            raise ZoneMalformed(f"SOA RDATA of {len(rdata)} octets cannot be parsed") from error
        return cls(rdata[:mname_end], rdata[mname_end:rname_end], serial, refresh, retry, expire, minimum)


class Place(enum.Enum):
    """Where in its zone a name stands (RFC 1034 §4.2.1, RFC 4035 §2)."""

    APEX = enum.auto()
    AUTHORITATIVE = enum.auto()
    """Below the apex, and neither delegated nor below a delegation."""

    DELEGATION = enum.auto()
    BELOW = enum.auto()
    """Below a delegation: glue, or occluded."""


@dataclass(frozen=True)
class ZoneContents:
    """All RRsets of one version of a zone.  Says nothing about whether they can be believed: see `verify`."""

    apex: bytes
    rrsets: Mapping[tuple[bytes, int], RRset] = field(repr=False)
    """By (owner, type).  RRSIGs are not keys of their own: they hang on the RRset that they cover."""

    @cached_property
    def soa(self) -> Soa:
        """The apex SOA; ZoneMalformed if there is not exactly one."""
        rrset = self.rrsets.get((self.apex, 6))
        if rrset is None or len(rrset.rdatas) != 1:
            raise ZoneMalformed("a zone has exactly one SOA record at its apex")
        return Soa.from_rdata(rrset.rdatas[0])

    @property
    def serial(self) -> int:
        """The SOA serial (RFC 1982 arithmetic applies)."""
        return self.soa.serial

    @cached_property
    def by_owner(self) -> Mapping[bytes, tuple[RRset, ...]]:
        """RRsets grouped by owner, owners in canonical order (RFC 4034 §6.1), types ascending."""
        grouped: dict[bytes, list[RRset]] = {}
        for rrset in self.rrsets.values():
            grouped.setdefault(rrset.owner, []).append(rrset)
        return {
            owner: tuple(sorted(grouped[owner], key=lambda rrset: rrset.rtype))
            for owner in sorted(grouped, key=canonical_key)
        }

    @cached_property
    def places(self) -> Mapping[bytes, Place]:
        """Where each owner stands, in canonical order."""
        found: dict[bytes, Place] = {}
        cut: bytes | None = None
        for owner, rrsets in self.by_owner.items():
            if owner == self.apex:
                found[owner] = Place.APEX
            elif cut is not None and name.is_at_or_below(owner, cut):
                found[owner] = Place.BELOW
            elif any(rrset.rtype == 2 and rrset.rdatas for rrset in rrsets):
                found[owner], cut = Place.DELEGATION, owner
            else:
                found[owner] = Place.AUTHORITATIVE
        return found

    @cached_property
    def delegations(self) -> tuple[bytes, ...]:
        """Owners of NS below the apex, in canonical order."""
        return tuple(owner for owner in self.by_owner if owner != self.apex and (owner, 2) in self.rrsets)

    def rrset(self, owner: bytes, rtype: int) -> RRset | None:
        """The RRset of *owner* and *rtype*, if the zone has it."""
        return self.rrsets.get((owner, rtype))

    def records(self) -> Iterator[Record]:
        """Every record: owners in canonical order, types ascending, RRSIGs behind what they cover."""
        for rrsets in self.by_owner.values():
            for rrset in rrsets:
                yield from rrset.records()

    @property
    def record_count(self) -> int:
        """Resource records, RRSIGs included."""
        return sum(len(rrset.rdatas) + len(rrset.rrsigs) for rrset in self.rrsets.values())
