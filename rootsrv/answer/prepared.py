"""The table's answers, made ready to be sent."""

import struct
from bisect import bisect_right
from collections.abc import Sequence

from rootsrv.answer.table import ANSWER, CUT, CUT_TRUNCATED, AnswerTable
from rootsrv.zone import name as names

_HEADER_TAIL = struct.Struct("!5H")  # flags and counts

_QR, _TC, _RD = 0x8000, 0x0200, 0x0100
_TYPE_DS = 43

Ready = tuple[int, int, tuple[bytes, ...], bytes, int, bytes, int, "Prepared"]
"""What the shortcut needs of an answer that is sent whole.

Size of the body; size of header and anchor; header tails (by 2 × RD + has OPT); the body up to its only pointer, that
pointer's target, and what is behind it (a body with no pointer or several: all of it, −1, nothing); for several
pointers a number with a one at each of them, read as the body is; and the answer itself."""

_NOT_ONE_POINTER = -1


class Prepared:
    """One answer, ready to be fitted and moved."""

    __slots__ = (
        "_anchor_size",
        "_cuts_at",
        "_flags",
        "_sizes",
        "_table",
        "body",
        "moved",
        "ready",
        "zone",
    )

    def __init__(self, table: AnswerTable, at: int, heads: dict[tuple[int, ...], bytes]) -> None:
        """Prepare the answer at offset *at*; *heads* collects header tails, which many answers share."""
        octets = table.octets
        body_at, size, flags, anchor_size, pointer_count, cut_count, zone, _ = ANSWER.unpack_from(octets, at)
        cuts_at = at + ANSWER.size
        pointers_at = cuts_at + cut_count * CUT.size
        pointers = struct.unpack_from(f"<{pointer_count}H", octets, pointers_at)
        body = bytes(octets[body_at : body_at + size])

        self.zone: int = zone
        self.body = body

        self.moved: dict[int, bytes] = {}
        """Bodies that were moved before, by how far; the shortcut fills it and bounds it."""

        self._table = table
        self._flags: int = _QR | flags
        self._anchor_size: int = anchor_size
        self._cuts_at = (cuts_at, pointers_at)
        self._sizes: list[int] = []  # of the cuts; filled when first needed

        _, ancount, nscount, arcount, *_ = CUT.unpack_from(octets, pointers_at - CUT.size)
        tails = []
        for rd in (0, _RD):
            for opt in (0, 1):
                key = (self._flags | rd, 1, ancount, nscount, arcount + opt)
                tails.append(heads.get(key) or heads.setdefault(key, _HEADER_TAIL.pack(*key)))
        before, target, behind = body, _NOT_ONE_POINTER, b""
        if pointer_count == 1:
            (offset,) = pointers
            before, behind = body[:offset], body[offset + 2 :]
            target = (body[offset] << 8 | body[offset + 1]) & 0x3FFF
        several = _mask(pointers, size) if pointer_count > 1 else 0
        self.ready: Ready = (size, 11 + anchor_size, tuple(tails), before, target, behind, several, self)

    def response(self, octets: bytes, question: bytes, opt: bytes, limit: int) -> bytes:
        """The response to the query *octets*, at most *limit* octets long, with as much of the body as fits."""
        room = limit - 12 - len(question) - len(opt)
        first, end = self._cuts_at
        if not self._sizes:
            self._sizes = self._table.octets[first:end].cast("H").tolist()[:: CUT.size // 2]
        chosen = max(bisect_right(self._sizes, room), 1) - 1
        size, ancount, nscount, arcount, _, even, odd, cut_flags = CUT.unpack_from(
            self._table.octets, first + chosen * CUT.size
        )
        flags = self._flags | (octets[2] << 8 & _RD) | (_TC if cut_flags & CUT_TRUNCATED else 0)
        header = octets[:2] + _HEADER_TAIL.pack(flags, 1, ancount, nscount, arcount + (1 if opt else 0))
        moved_by = len(question) - 4 - self._anchor_size
        if moved_by and even + odd:
            whole, several = self.ready[0], self.ready[6]
            if size == whole and several:
                mask = several
            else:
                mask = _mask(struct.unpack_from(f"<{even + odd}H", self._table.octets, end), size)
            body = (int.from_bytes(self.body[:size]) + moved_by * mask).to_bytes(size)
        else:
            body = self.body[:size]
        return b"".join((header, question, body, opt))


TARGETS = [struct.pack("!H", 0xC000 | target) for target in range(0x4000)]
"""Compression pointers (RFC 1035 §4.1.4) by the offset that they point to."""


def _mask(pointers: Sequence[int], size: int) -> int:
    """The number that adds one to every pointer of a body of *size* octets, read as a number."""
    mask = bytearray(size)
    for offset in pointers:
        mask[offset + 1] = 1
    return int.from_bytes(mask)


class PreparedAnswers:
    """All answers of a table and the ways to find them."""

    def __init__(self, table: AnswerTable) -> None:
        heads: dict[tuple[int, ...], bytes] = {}
        prepared: dict[int, Prepared] = {}

        def at(offset: int) -> Prepared:
            found = prepared.get(offset)
            if found is None:
                found = prepared[offset] = Prepared(table, offset, heads)
            return found

        self.labels: list[bytes] = []
        """NSEC owners of the root zone in canonical order; the first is the root's, empty."""

        self.denials: list[Prepared] = []
        """For each of `labels`: the nxdomain, DO=1, for names behind it."""

        self.delegations: dict[bytes, tuple[Prepared, ...]] = {}
        """By TLD label: referral with DO=0 and DO=1, answer to qtype DS with DO=0 and DO=1."""

        for info in table.names():
            self.labels.append(info.label)
            self.denials.append(at(info.nxdomain))
            if info.label:
                self.delegations[info.label] = tuple(at(offset) for offset in (*info.referral, *info.ds))
        self.owners = {
            owner.name: (
                {rtype: (at(plain), at(do)) for rtype, (plain, do) in owner.types.items()},
                (at(owner.nodata[0]), at(owner.nodata[1])),
            )
            for owner in table.owners()
        }
        """By name: the answers per qtype and nodata, each with DO=0 and DO=1, where we answer with authority."""

        self.nxdomain = at(table.zones[0].nxdomain[0])
        """For any name that does not exist in the root zone, DO=0."""

        self.host_label: bytes | None = None
        """The last label of the host zone: names that end in it must be compared whole."""

        self._host_apex = names.ROOT  # an empty suffix would be found below every name; the root never is
        if len(table.zones) > 1:
            zone = table.zones[1]
            self._host_apex = zone.name
            self.host_label = names.labels(zone.name)[-1]
            self._host_nxdomain = at(zone.nxdomain[0])

    def find(self, qname: bytes, qtype: int, *, do: bool) -> Prepared:
        """The answer to *qname* (wire format, lower-cased) and *qtype* in class IN, with or without DNSSEC records."""
        owner = self.owners.get(qname)
        if owner is not None and not (qtype == _TYPE_DS and qname == self._host_apex):
            types, nodata = owner
            return types.get(qtype, nodata)[do]
        start = at = 0
        apex_at = len(qname) - len(self._host_apex)
        while qname[at]:
            if at == apex_at and owner is None and qname.endswith(self._host_apex):
                return self._host_nxdomain
            start = at
            at += 1 + qname[at]
        label = qname[start + 1 : at]
        delegation = self.delegations.get(label)
        if delegation is not None:
            return delegation[(2 if qtype == _TYPE_DS and start == 0 else 0) + do]
        return self.denials[bisect_right(self.labels, label) - 1] if do else self.nxdomain
