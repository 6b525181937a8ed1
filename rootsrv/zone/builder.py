"""From records in any order to ZoneContents."""

from collections.abc import Collection, Iterable, Mapping

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.name import is_at_or_below, to_text
from rootsrv.wire.record import Record, ZoneMalformed
from rootsrv.zone.contents import RRset, ZoneContents

# Ten times the root zone.  Whoever sends more is not sending a root zone, and 250,000 records are some 150 MB here.
MAX_RECORDS = 250_000

MAX_TTL = 2**31 - 1  # RFC 2181 §8


def from_records(apex: bytes, records: Iterable[Record]) -> ZoneContents:
    """The contents that *records* make: (owner, type, TTL, RDATA), class IN, names uncompressed, in any order.

    Identical records are merged, so the SOA that ends a transfer may be there.  ZoneMalformed says what is wrong.
    """
    builder = ContentsBuilder(apex)
    for owner, rtype, ttl, rdata in records:
        builder.add(owner.lower(), rtype, ttl, rdatas.canonical(rtype, rdata))
    return builder.contents()


class ContentsBuilder:
    """Collects records, then makes the contents.  Its names and RDATA are canonical already."""

    def __init__(self, apex: bytes) -> None:
        self.apex = apex
        self._added = 0
        self._groups: dict[tuple[bytes, int], tuple[int, list[bytes], list[bytes]]] = {}

    def add(self, owner: bytes, rtype: int, ttl: int, rdata: bytes) -> None:
        """Add one record; ZoneMalformed when it cannot belong to this zone or contradicts an earlier one."""
        self._added += 1
        if self._added > MAX_RECORDS:
            raise ZoneMalformed(f"more than {MAX_RECORDS} records")
        covered = covered_type(rtype, rdata)
        group = self._groups.get((owner, covered))
        if group is None:
            self._check(owner, rtype, ttl)
            self._groups[owner, covered] = group = (ttl, [], [])
        elif group[0] != ttl:
            # RFC 2181 §5.2: one TTL for an RRset; RFC 4034 §3: and for its RRSIGs.
            what = f"RRSIG of {rdatas.type_text(covered)}" if rtype == rdatas.RRSIG else rdatas.type_text(rtype)
            raise ZoneMalformed(f"{to_text(owner)} {what}: TTL {ttl} differs from {group[0]} in the same RRset")
        (group[2] if rtype == rdatas.RRSIG else group[1]).append(rdata)

    def _check(self, owner: bytes, rtype: int, ttl: int) -> None:
        if not 0 <= ttl <= MAX_TTL:
            raise ZoneMalformed(f"{to_text(owner)} {rdatas.type_text(rtype)}: TTL {ttl} is not 0..{MAX_TTL}")
        if not is_at_or_below(owner, self.apex):
            raise ZoneMalformed(f"{to_text(owner)} {rdatas.type_text(rtype)} is not in the zone {to_text(self.apex)}")
        if rtype == rdatas.SOA and owner != self.apex:
            raise ZoneMalformed(f"SOA at {to_text(owner)}, but the zone is {to_text(self.apex)}")

    def contents(self) -> ZoneContents:
        """What was added, as contents; ZoneMalformed if there is not exactly one SOA."""
        if not self._groups:
            raise ZoneMalformed("there are no records")
        return self._checked(self._rrsets())

    def contents_over(self, base: ZoneContents, replaced: Collection[tuple[bytes, int]]) -> ZoneContents:
        """*base* with what was added in place of its RRsets in *replaced*, (owner, type); ZoneMalformed as above."""
        kept = {key: rrset for key, rrset in base.rrsets.items() if key not in replaced}
        contents = self._checked(kept | self._rrsets())
        if contents.record_count > MAX_RECORDS:
            raise ZoneMalformed(f"more than {MAX_RECORDS} records")
        return contents

    def _rrsets(self) -> dict[tuple[bytes, int], RRset]:
        return {
            key: RRset(key[0], key[1], ttl, _in_order(found), _in_order(rrsigs))
            for key, (ttl, found, rrsigs) in self._groups.items()
        }

    def _checked(self, rrsets: Mapping[tuple[bytes, int], RRset]) -> ZoneContents:
        contents = ZoneContents(self.apex, rrsets)
        soa = contents.rrset(self.apex, rdatas.SOA)
        if soa is None or len(soa.rdatas) != 1:
            found_soas = len(soa.rdatas) if soa else 0
            raise ZoneMalformed(f"{to_text(self.apex)} has {found_soas} different SOA records instead of one")
        contents.soa  # noqa: B018  (raises if it cannot be parsed)
        return contents


def covered_type(rtype: int, rdata: bytes) -> int:
    """The type of the RRset that a record belongs to, or that it signs."""
    return rdata[0] << 8 | rdata[1] if rtype == rdatas.RRSIG else rtype


def _in_order(found: list[bytes]) -> tuple[bytes, ...]:
    """RDATA in canonical order, without duplicates (RFC 4034 §6.3)."""
    return tuple(sorted(set(found))) if len(found) > 1 else tuple(found)
