"""A query as octets, parsed once."""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from rootsrv.wire import edns

HEADER_OCTETS = 12
_HEADER = struct.Struct("!6H")
_QTYPE_QCLASS = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")  # type, class, TTL, RDLENGTH

_TYPE_TSIG, _TYPE_IXFR = 250, 251
_MAX_ADDITIONAL = 2  # OPT and TSIG; nothing else belongs into the additional section of a query


class QueryMalformed(ValueError):
    """The message cannot be understood; the answer is FORMERR."""

    def __init__(self, cause: str, question: bytes = b"", *, do: bool | None = None) -> None:
        super().__init__(cause)
        self.question = question
        """The question section, if that much could be read."""

        self.do = do
        """DO of the first OPT record that was there, so that the answer should have one (RFC 6891 §7) with the same DO
        (RFC 3225 §3); None if there was none."""


@dataclass(frozen=True, slots=True)
class TsigEcho:
    """A query's TSIG record, as far as an answer to an unknown key needs it (RFC 8945 §5.2.1)."""

    key_name: bytes
    algorithm: bytes
    time_and_fudge: bytes


class Query(NamedTuple):
    """A well-formed message of at most one question.  `parse` is the only maker.

    A named tuple is made in a quarter of a frozen dataclass's time, and this is what a hostile query costs.
    """

    question: bytes
    """The question section as received; empty for QDCOUNT 0."""

    qname: bytes
    """Wire format, lower-cased; empty for QDCOUNT 0."""

    qtype: int
    qclass: int
    edns: edns.Edns | None
    tsig: TsigEcho | None

    @classmethod
    def parse(cls, octets: bytes) -> "Query":
        """Parse a message of at least 12 octets; Malformed says what is wrong.

        Opcode and the flags are not looked at.  Compression in the question is refused: there is nothing before it to
        point to (RFC 1035 §4.1.4).
        """
        _, _, qdcount, ancount, nscount, arcount = _HEADER.unpack_from(octets)
        question, qname, qtype, qclass = b"", b"", 0, 0
        at = HEADER_OCTETS
        if qdcount > 1:
            raise QueryMalformed("more than one question")  # RFC 9619
        if qdcount:
            end = _name_end(octets, at)
            if end + 4 > len(octets):
                raise QueryMalformed("the question is cut off")
            qtype, qclass = _QTYPE_QCLASS.unpack_from(octets, end)
            qname = octets[at:end].lower()
            question = octets[at : end + 4]
            at = end + 4
        if ancount or nscount > (qtype == _TYPE_IXFR) or arcount > _MAX_ADDITIONAL:
            raise QueryMalformed("records that do not belong into a query", question)
        if nscount:
            at = _record(octets, at, question)[-1]  # the SOA of an IXFR (RFC 1995 §3), which is refused anyway
        asked: edns.Edns | None = None
        tsig: TsigEcho | None = None
        do: bool | None = None
        for _ in range(arcount):
            start = at
            owner_end, rtype, rclass, ttl, rdata, at = _record(octets, at, question, do)
            if tsig is not None:
                raise QueryMalformed("a record behind the TSIG", question, do=do)  # RFC 8945 §5.1
            if rtype == edns.TYPE_OPT:
                if do is not None:
                    raise QueryMalformed("two OPT records", question, do=do)  # RFC 6891 §6.1.1
                do = edns.is_do(ttl)
                if octets[start]:
                    raise QueryMalformed("an OPT record whose owner is not the root", question, do=do)
                try:
                    asked = edns.parse(rclass, ttl >> 16 & 0xFF, ttl & 0xFFFF, rdata)
                except edns.OptionMalformed as error:
                    raise QueryMalformed(str(error), question, do=do) from error
            elif rtype == _TYPE_TSIG:
                tsig = _tsig(octets[start:owner_end], rdata, question, do)
        if at != len(octets):
            raise QueryMalformed("octets behind the message", question, do=do)
        return cls(question, qname, qtype, qclass, asked, tsig)


def _name_end(octets: bytes, at: int) -> int:
    """Offset behind the uncompressed name at *at*."""
    start, end = at, len(octets)
    while at < end:
        size = octets[at]
        at += 1 + size
        if size == 0:
            if at - start > 255:
                raise QueryMalformed("a name of more than 255 octets")
            return at
        if size > 63:
            raise QueryMalformed("a compressed name or an unknown kind of label")
    raise QueryMalformed("a name is cut off")


def _record(octets: bytes, at: int, question: bytes, do: bool | None = None) -> tuple[int, int, int, int, bytes, int]:
    """The record at *at*: end of owner, type, class, TTL, RDATA, end."""
    end = len(octets)
    longest = min(end, at + 255)
    while at < longest and (size := octets[at]):
        if size >= 0xC0:
            at += 1
            break
        at += 1 + size
    owner_end = at + 1
    if owner_end + _RECORD.size > end:
        raise QueryMalformed("a record is cut off", question, do=do)
    rtype, rclass, ttl, size = _RECORD.unpack_from(octets, owner_end)
    start = owner_end + _RECORD.size
    if start + size > end:
        raise QueryMalformed("a record is cut off", question, do=do)
    return owner_end, rtype, rclass, ttl, octets[start : start + size], start + size


def _tsig(owner: bytes, rdata: bytes, question: bytes, do: bool | None) -> TsigEcho:
    """RFC 8945 §4.2; names in it must not be compressed."""
    try:
        _name_end(owner, 0)
        algorithm_end = _name_end(rdata, 0)
    except QueryMalformed as error:
        raise QueryMalformed(f"TSIG: {error}", question, do=do) from error
    if algorithm_end + 10 > len(rdata):
        raise QueryMalformed("a TSIG record is cut off", question, do=do)
    return TsigEcho(owner, rdata[:algorithm_end], rdata[algorithm_end : algorithm_end + 8])
