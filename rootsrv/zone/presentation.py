"""Zone files: presentation format (RFC 1035 §5) to contents and back."""
# Theory of operation
# -------------------
# The root zone is published with one record per line: owner, TTL, IN, type, RDATA, names absolute.  A file in which
# every line is of that kind is read by the few lines of `_read_published`.  At the first line that is of any other kind
# (directives, parentheses over several lines, relative names, an owner left out, …), and at the first that is wrong,
# the whole file is given to dnspython instead: it knows all of RFC 1035 and says what is wrong, but takes 50 times as
# long.  So the short way need only never accept what the long one would read otherwise; tests compare the two.

import base64
import binascii
import calendar
import datetime
import functools
import re
import struct
from collections.abc import Callable
from typing import cast

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.transaction
import dns.zonefile

from rootsrv.wire import any_rdata
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.name import MAX_NAME_OCTETS
from rootsrv.wire.name import to_text as name_to_text
from rootsrv.wire.record import ZoneMalformed
from rootsrv.zone.builder import ContentsBuilder
from rootsrv.zone.contents import ZoneContents


def from_text(text: bytes, apex: bytes) -> ZoneContents:
    """Read a zone file for the zone *apex* (wire format, also the first $ORIGIN).

    Identical records are merged.  $INCLUDE is refused: the core opens no files.  ZoneMalformed names line and cause.
    """
    try:
        characters = text.decode("ascii")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ZoneMalformed(
            f"line {line}: octet {text[error.start]:#04x} is not ASCII (RFC 1035 §5.1 has \\DDD for such octets)"
        ) from None
    contents = None if text.translate(None, _REGULAR_OCTETS) else _read_published(characters, apex)
    return contents or _read_any(characters, apex)


def to_text(contents: ZoneContents) -> str:
    """The zone in the layout in which the root zone is published, the SOA first; same contents, same text."""
    names = _NamesToText()
    lines: list[str] = []
    apex_soa = (contents.apex, rdatas.SOA)
    for owner, rtype, ttl, rdata in contents.records():
        write = _WRITERS.get(rtype)
        rdata_text = write(rdata, names) if write else rdatas.to_text(rtype, rdata)
        line = f"{names[owner]}\t{ttl}\tIN\t{rdatas.type_text(rtype)}\t{rdata_text}\n"
        if (owner, rtype) == apex_soa:
            lines.insert(0, line)
        else:
            lines.append(line)
    return "".join(lines)


# ── reading the published layout ──

_REGULAR_OCTETS = b"\t\n" + bytes(range(0x20, 0x7F))
_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)+|\.").fullmatch
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!$)|$)){4}").fullmatch
_IPV6 = re.compile(r"[0-9A-Fa-f:]{2,39}").fullmatch
_SIGNATURE_TIME = re.compile(r"[0-9]{14}").fullmatch


class _Irregular(Exception):
    """This line is not of the published layout."""


class _Names(dict[str, bytes]):
    """Absolute names to canonical wire format; each is worked out once."""

    def __missing__(self, text: str) -> bytes:
        if not _NAME(text):
            raise _Irregular
        labels = text.lower().encode().split(b".") if text != "." else [b""]
        wire = b"".join([bytes((len(label),)) + label for label in labels])
        if len(wire) > MAX_NAME_OCTETS:
            raise _Irregular
        self[text] = wire
        return wire


class _Types(dict[str, int]):
    """Type mnemonics to numbers; each is worked out once."""

    def __missing__(self, text: str) -> int:
        try:
            self[text] = number = int(dns.rdatatype.from_text(text))
        except dns.exception.DNSException:
            raise _Irregular from None
        return number


class _SignatureTimes(dict[str, int]):
    """YYYYMMDDHHmmSS to seconds (RFC 4034 §3.2); each is worked out once."""

    def __missing__(self, text: str) -> int:
        if not _SIGNATURE_TIME(text):
            raise _Irregular
        when = datetime.datetime.strptime(text, "%Y%m%d%H%M%S")
        self[text] = seconds = calendar.timegm(when.timetuple())
        return seconds


class _Tables:
    """What the readers of RDATA look up."""

    def __init__(self) -> None:
        self.names = _Names()
        self.types = _Types()
        self.times = _SignatureTimes()
        self.bitmaps: dict[str, bytes] = {}


def _read_published(text: str, apex: bytes) -> ZoneContents | None:
    """The contents if every line is of the published layout (blank lines and comment lines are let pass), else None."""
    builder = ContentsBuilder(apex)
    tables = _Tables()
    number = 0
    try:
        for line in text.split("\n"):
            number += 1
            if not line or line[0] == ";":
                continue
            if line[0] in " \t":
                return None
            owner, ttl, rdclass, type_text, rdata_text = line.split(None, 4)
            if rdclass != "IN" or not ttl.isdecimal() or len(ttl) > 10:
                return None
            rtype = tables.types[type_text]
            builder.add(tables.names[owner], rtype, int(ttl), _read_rdata(rtype, rdata_text.rstrip(), tables))
    except ZoneMalformed as error:
        raise ZoneMalformed(f"line {number}: {error}") from error
    except (_Irregular, ValueError):  # ValueError: fewer than five fields
        return None
    return builder.contents()


def _read_rdata(rtype: int, text: str, tables: _Tables) -> bytes:
    read = _READERS.get(rtype)
    if read:
        try:
            return read(text, tables)
        except (_Irregular, ValueError, KeyError, struct.error):
            pass  # a comment perhaps, or parentheses that are closed again
    try:
        rdata = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.RdataType.make(rtype), text, None, False)
        return any_rdata.canonical_octets(rdata)
    except any_rdata.DNSPYTHON_STUMBLES:
        raise _Irregular from None


def _read_a(text: str, tables: _Tables) -> bytes:
    if not _IPV4(text):
        raise _Irregular
    return bytes(map(int, text.split(".")))


def _read_aaaa(text: str, tables: _Tables) -> bytes:
    if not _IPV6(text):
        raise _Irregular
    head, gap, tail = text.partition("::")
    groups = head.split(":") if head else []
    if gap:
        behind = tail.split(":") if tail else []
        groups += ["0"] * (8 - len(groups) - len(behind) or 9) + behind
    digits = "".join([group.zfill(4) for group in groups])
    if len(groups) != 8 or len(digits) != 32 or "" in groups:
        raise _Irregular
    return bytes.fromhex(digits)


def _read_ns(text: str, tables: _Tables) -> bytes:
    return tables.names[text]


def _read_ds(text: str, tables: _Tables) -> bytes:
    tag, algorithm, digest_type, digest_text = text.split(None, 3)
    digest = binascii.unhexlify("".join(digest_text.split()))
    if not (tag.isdecimal() and algorithm.isdecimal() and digest_type.isdecimal()):
        raise _Irregular
    if len(digest) != rdatas.DS_DIGEST_OCTETS[int(digest_type)]:
        raise _Irregular
    return struct.pack("!HBB", int(tag), int(algorithm), int(digest_type)) + digest


def _read_rrsig(text: str, tables: _Tables) -> bytes:
    covered, algorithm, labels, ttl, expiration, inception, tag, signer, signature = text.split(None, 8)
    if not (algorithm.isdecimal() and labels.isdecimal() and ttl.isdecimal() and tag.isdecimal()):
        raise _Irregular
    fixed = rdatas.RRSIG_FIXED.pack(
        tables.types[covered],
        int(algorithm),
        int(labels),
        int(ttl),
        tables.times[expiration],
        tables.times[inception],
        int(tag),
    )
    return fixed + tables.names[signer] + base64.b64decode("".join(signature.split()), validate=True)


def _read_nsec(text: str, tables: _Tables) -> bytes:
    next_name, types = text.split(None, 1)
    bitmap = tables.bitmaps.get(types)
    if bitmap is None:
        tables.bitmaps[types] = bitmap = rdatas.type_bitmap([tables.types[each] for each in types.split()])
    if next_name != next_name.lower():
        raise _Irregular  # the case of an NSEC's next name is kept (RFC 6840 §5.1)
    return tables.names[next_name] + bitmap


_READERS: dict[int, Callable[[str, _Tables], bytes]] = {
    rdatas.A: _read_a,
    rdatas.AAAA: _read_aaaa,
    rdatas.NS: _read_ns,
    rdatas.DS: _read_ds,
    rdatas.RRSIG: _read_rrsig,
    rdatas.NSEC: _read_nsec,
}


# ── reading anything ──


class _Transaction:
    """What `dns.zonefile.Reader` writes to; hands every record on with its line.

    A real dnspython transaction merges records before anybody could say in which line a contradiction was.
    """

    def __init__(self, apex: dns.name.Name, builder: ContentsBuilder) -> None:
        self.manager = self
        self._apex = apex
        self._builder = builder

    def origin_information(self) -> tuple[dns.name.Name, bool, dns.name.Name]:
        return self._apex, False, self._apex

    def check_put_rdataset(self, check: object) -> None:
        pass  # no check is wanted: verify judges the zone

    def _set_origin(self, origin: dns.name.Name) -> None:
        pass

    def add(self, owner: dns.name.Name, ttl: int, rdata: dns.rdata.Rdata) -> None:
        try:
            self._builder.add(owner.to_digestable(), int(rdata.rdtype), ttl, any_rdata.canonical_octets(rdata))
        except ZoneMalformed as error:
            raise dns.exception.SyntaxError(str(error)) from error  # type: ignore[no-untyped-call]


class _Tokenizer(dns.tokenizer.Tokenizer):
    """Remembers in which line the record began that is being read."""

    record_line = 1

    def get(self, want_leading: bool = False, want_comment: bool = False) -> dns.tokenizer.Token:
        if want_leading and want_comment:  # so the reader asks for the first token of a line, and for no other
            self.record_line = self.line_number
        return super().get(want_leading, want_comment)


def _read_any(text: str, apex: bytes) -> ZoneContents:
    builder = ContentsBuilder(apex)
    origin = dns.name.from_wire(apex, 0)[0]
    tokenizer = _Tokenizer(text)
    reader = dns.zonefile.Reader(
        tokenizer,
        dns.rdataclass.IN,
        cast(dns.transaction.Transaction, _Transaction(origin, builder)),
        allow_directives=("$ORIGIN", "$TTL", "$GENERATE"),
    )
    reader.zone_origin = dns.name.root  # else records out of the zone would be dropped in silence
    try:
        reader.read()
    except any_rdata.DNSPYTHON_STUMBLES as error:
        cause = re.sub(r"^<string>:\d+: ", "", str(error)) or type(error).__name__
        raise ZoneMalformed(f"line {tokenizer.record_line}: {cause}") from error
    return builder.contents()


# ── writing ──


class _NamesToText(dict[bytes, str]):
    """Names to presentation format; each is worked out once."""

    def __missing__(self, wire: bytes) -> str:
        self[wire] = text = name_to_text(wire)
        return text


def _write_a(rdata: bytes, names: _NamesToText) -> str:
    return "%d.%d.%d.%d" % tuple(rdata)  # noqa: UP031  (three times as fast)


_ZERO_GROUPS = re.compile(r"(?:^|:)(?:0(?::|$))+")


def _write_aaaa(rdata: bytes, names: _NamesToText) -> str:
    # RFC 5952 §4: no leading zeros, lower case, the first of the longest runs of two or more zero groups as "::".
    text = "%x:%x:%x:%x:%x:%x:%x:%x" % struct.unpack("!8H", rdata)  # noqa: UP031  (six times as fast as ipaddress)
    runs = _ZERO_GROUPS.findall(text)
    longest = max(runs, key=lambda run: run.count("0"), default="")
    return text.replace(longest, "::", 1) if longest.count("0") > 1 else text


def _write_nsec(rdata: bytes, names: _NamesToText) -> str:
    bitmap = rdatas.nsec_bitmap(rdata)
    return " ".join((names[rdata[: len(rdata) - len(bitmap)]], *_bitmap_text(bitmap)))


@functools.lru_cache(maxsize=256)
def _bitmap_text(bitmap: bytes) -> tuple[str, ...]:
    return tuple(map(rdatas.type_text, sorted(rdatas.types_in_bitmap(bitmap))))


def _write_ns(rdata: bytes, names: _NamesToText) -> str:
    return names[rdata]


def _write_ds(rdata: bytes, names: _NamesToText) -> str:
    tag, algorithm, digest_type = struct.unpack_from("!HBB", rdata)
    return f"{tag} {algorithm} {digest_type} {rdata[4:].hex().upper()}"


def _write_rrsig(rdata: bytes, names: _NamesToText) -> str:
    covered, algorithm, labels, ttl, expiration, inception, tag = rdatas.RRSIG_FIXED.unpack_from(rdata)
    end = rdatas.signer_end(rdata)
    return (
        f"{rdatas.type_text(covered)} {algorithm} {labels} {ttl} {_time_text(expiration)} {_time_text(inception)} {tag}"
        f" {names[rdata[rdatas.RRSIG_FIXED_OCTETS : end]]} {base64.b64encode(rdata[end:]).decode()}"
    )


@functools.lru_cache(maxsize=64)
def _time_text(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y%m%d%H%M%S")


def _write_zonemd(rdata: bytes, names: _NamesToText) -> str:
    serial, scheme, hash_algorithm = struct.unpack_from("!IBB", rdata)
    return f"{serial} {scheme} {hash_algorithm} {rdata[6:].hex().upper()}"


_WRITERS: dict[int, Callable[[bytes, _NamesToText], str]] = {
    rdatas.A: _write_a,
    rdatas.AAAA: _write_aaaa,
    rdatas.NS: _write_ns,
    rdatas.NSEC: _write_nsec,
    rdatas.DS: _write_ds,
    rdatas.RRSIG: _write_rrsig,
    rdatas.ZONEMD: _write_zonemd,
}
