"""A DNS message taken apart for comparison: RRsets with canonical RDATA, whatever the compression and the order.

Written apart from rootsrv and quicker than a general library, since differential runs compare a hundred thousand
messages; test_wire.py compares it with dnspython.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# RDATA that holds compressible names (RFC 1035 §3.3, RFC 3597 §4), of the types that the served zones have.
NS, SOA, OPT, RRSIG, NSEC = 2, 6, 41, 46, 47

TYPE_NAMES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV",
    39: "DNAME", 41: "OPT", 43: "DS", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 51: "NSEC3PARAM", 59: "CDS",
    60: "CDNSKEY", 63: "ZONEMD", 64: "SVCB", 65: "HTTPS", 249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR",
    253: "MAILB", 254: "MAILA", 255: "ANY", 257: "CAA",
}  # fmt: skip
TYPE_CODES = {name: code for code, name in TYPE_NAMES.items()}
RCODE_NAMES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 9: "NOTAUTH", 16: "BADVERS",
    23: "BADCOOKIE",
}  # fmt: skip


class Garbled(ValueError):
    """The octets are not a DNS message."""


@dataclass(frozen=True, slots=True)
class RRset:
    """Records of one owner, type and class; for RRSIG also of one type covered."""

    ttl: int
    rdatas: frozenset[bytes]


Key = tuple[bytes, int, int]
"""Owner (wire format, lower-cased), type, class; an RRSIG's type is that of what it covers plus SIGNATURE_OF."""

SIGNATURE_OF = 1 << 16

Section = Mapping[Key, RRset]


@dataclass(frozen=True, slots=True)
class Opt:
    """The OPT record (RFC 6891)."""

    size: int
    version: int
    flags: int
    options: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Message:
    """One parsed message."""

    id: int
    flags: int
    """The second 16 bits of the header, RCODE bits cleared."""

    rcode: int
    """Extended by OPT where there is one."""

    question: tuple[tuple[bytes, int, int], ...]
    """Names as sent: their case matters (0x20)."""

    answer: Section
    authority: Section
    additional: Section
    """Without OPT."""

    opt: Opt | None
    size: int = field(compare=False)
    """Octets of the message."""

    @property
    def aa(self) -> bool:
        return bool(self.flags & 0x0400)

    @property
    def tc(self) -> bool:
        return bool(self.flags & 0x0200)


def parse(octets: bytes) -> Message:
    """Take *octets* apart; Garbled when they are not exactly one message."""
    try:
        return _parse(octets)
    except (IndexError, struct.error) as error:
        raise Garbled(f"ends early: {octets.hex()}") from error


def _parse(octets: bytes) -> Message:
    if len(octets) < 12:
        raise Garbled(f"{len(octets)} octets")
    ident, flags, qdcount, ancount, nscount, arcount = struct.unpack_from("!6H", octets)
    names: dict[int, bytes] = {}
    at = 12
    question = []
    for _ in range(qdcount):
        name, at = read_name(octets, at, {})
        qtype, qclass = struct.unpack_from("!HH", octets, at)
        at += 4
        question.append((name, qtype, qclass))
    opts: list[Opt] = []
    sections = []
    for count in (ancount, nscount, arcount):
        section, at = _read_section(octets, at, count, names, opts)
        sections.append(section)
    if at != len(octets):
        raise Garbled(f"{len(octets) - at} octets follow the message: {octets.hex()}")
    if len(opts) > 1:
        raise Garbled("more than one OPT")
    opt = opts[0] if opts else None
    rcode = flags & 0xF
    if opt is not None:
        rcode |= (opt.flags >> 16 >> 8) << 4
        opt = Opt(opt.size, (opt.flags >> 16) & 0xFF, opt.flags & 0xFFFF, opt.options)
    answer, authority, additional = sections
    return Message(ident, flags & 0xFFF0, rcode, tuple(question), answer, authority, additional, opt, len(octets))


def _read_section(
    octets: bytes, at: int, count: int, names: dict[int, bytes], opts: list[Opt]
) -> tuple[dict[Key, RRset], int]:
    grouped: dict[Key, tuple[int, list[bytes]]] = {}
    for _ in range(count):
        owner, at = read_name(octets, at, names)
        rtype, rclass, ttl, size = struct.unpack_from("!HHIH", octets, at)
        at += 10
        end = at + size
        if end > len(octets):
            raise Garbled(f"RDATA ends early: {octets.hex()}")
        rdata = octets[at:end]
        if rtype == OPT:
            if owner != b"\0":
                raise Garbled("OPT not at the root")
            opts.append(Opt(rclass, 0, ttl, tuple(_read_options(rdata))))
            at = end
            continue
        if rtype == NS:
            rdata, stop = read_name(octets, at, names)
            rdata = rdata.lower()
        elif rtype == SOA:
            mname, stop = read_name(octets, at, names)
            rname, stop = read_name(octets, stop, names)
            rdata = mname.lower() + rname.lower() + octets[stop:end]
        elif rtype == RRSIG:
            rtype = SIGNATURE_OF + int.from_bytes(rdata[:2], "big")
        at = end
        key = (owner.lower(), rtype, rclass)
        held = grouped.get(key)
        if held is None:
            grouped[key] = (ttl, [rdata])
        else:
            if held[0] != ttl:
                raise Garbled(f"TTLs differ within {show_key(key)}")
            if rdata in held[1]:
                raise Garbled(f"a record of {show_key(key)} twice in one section")
            held[1].append(rdata)
    return {key: RRset(ttl, frozenset(rdatas)) for key, (ttl, rdatas) in grouped.items()}, at


def _read_options(rdata: bytes) -> Iterable[tuple[int, bytes]]:
    at = 0
    while at < len(rdata):
        code, size = struct.unpack_from("!HH", rdata, at)
        if at + 4 + size > len(rdata):
            raise Garbled("an EDNS option ends early")
        yield code, rdata[at + 4 : at + 4 + size]
        at += 4 + size


def record_ends(octets: bytes) -> list[tuple[Key, int]]:
    """All records behind the question but OPT, in the order of the message: key and offset of the end."""
    *_, qdcount, ancount, nscount, arcount = struct.unpack_from("!6H", octets)
    names: dict[int, bytes] = {}
    at = 12
    for _ in range(qdcount):
        _, at = read_name(octets, at, {})
        at += 4
    ends = []
    for _ in range(ancount + nscount + arcount):
        owner, at = read_name(octets, at, names)
        rtype, rclass, _, size = struct.unpack_from("!HHIH", octets, at)
        at += 10
        if rtype == RRSIG:
            rtype = SIGNATURE_OF + int.from_bytes(octets[at : at + 2], "big")
        at += size
        if rtype != OPT:
            ends.append(((owner.lower(), rtype, rclass), at))
    return ends


def read_name(octets: bytes, at: int, known: dict[int, bytes]) -> tuple[bytes, int]:
    """The name at offset *at*, uncompressed, and the offset behind it.  *known* remembers names by offset."""
    if at in known and octets[at] >= 0xC0:
        return known[at], at + 2
    start, labels, end = at, [], 0
    lowest = at
    while True:
        size = octets[at]
        if size >= 0xC0:
            target = struct.unpack_from("!H", octets, at)[0] & 0x3FFF
            end = end or at + 2
            if target >= lowest:
                raise Garbled("a compression pointer does not point backwards")
            at = lowest = target
        elif size > 63:
            raise Garbled("a label of an unknown kind")
        else:
            at += 1 + size
            if at > len(octets):
                raise Garbled("a label ends early")
            labels.append(octets[at - size - 1 : at])
            if size == 0:
                break
    name = b"".join(labels)
    if len(name) > 255:
        raise Garbled("a name of more than 255 octets")
    end = end or at
    known[start] = name
    return name, end


# ── Text ──


def name_from_text(text: str) -> bytes:
    """Wire format of an absolute name in presentation format; `\\DDD` escapes are understood."""
    if text == ".":
        return b"\0"
    labels, label, at = [], bytearray(), 0
    while at < len(text):
        if text[at] == "\\":
            label.append(int(text[at + 1 : at + 4]) if text[at + 1].isdigit() else ord(text[at + 1]))
            at += 4 if text[at + 1].isdigit() else 2
        elif text[at] == ".":
            labels.append(bytes(label))
            label.clear()
            at += 1
        else:
            label.append(ord(text[at]))
            at += 1
    if label or not all(labels):
        raise ValueError(f"{text}: not an absolute name")
    return b"".join(bytes([len(each)]) + each for each in labels) + b"\0"


def name_to_text(name: bytes) -> str:
    """Presentation format of an uncompressed name."""
    text, at = "", 0
    while size := name[at]:
        text += "".join(
            chr(c) if 0x21 <= c <= 0x7E and c not in b".\\" else f"\\{c:03}" for c in name[at + 1 : at + 1 + size]
        )
        text += "."
        at += 1 + size
    return text or "."


def show_key(key: Key) -> str:
    """`com. DS` or `com. RRSIG(DS)`."""
    owner, rtype, rclass = key
    shown = show_type(rtype) if rtype < SIGNATURE_OF else f"RRSIG({show_type(rtype - SIGNATURE_OF)})"
    return f"{name_to_text(owner)} {shown}" + ("" if rclass == 1 else f" CLASS{rclass}")


def show_type(rtype: int) -> str:
    """A type's mnemonic, or TYPE123 (RFC 3597)."""
    return TYPE_NAMES.get(rtype, f"TYPE{rtype}")


def show(message: Message) -> str:
    """A message for a reader of a failed test."""
    flags = [name for bit, name in FLAG_BITS.items() if message.flags & bit]
    opcode = message.flags >> 11 & 15
    lines = [
        f"{RCODE_NAMES.get(message.rcode, message.rcode)} {' '.join(flags)}{f' opcode={opcode}' if opcode else ''} "
        f"({message.size} octets)"
    ]
    lines += [f"question   {name_to_text(q[0])} {show_type(q[1])} CLASS{q[2]}" for q in message.question]
    for title, section in (
        ("answer", message.answer), ("authority", message.authority), ("additional", message.additional),
    ):  # fmt: skip
        lines += [
            f"{title:<10} {show_key(key)} ×{len(rrset.rdatas)} ttl={rrset.ttl}"
            for key, rrset in sorted(section.items())
        ]
    if message.opt:
        options = " ".join(f"{code}={value.hex()}" for code, value in message.opt.options)
        lines.append(
            f"opt        size={message.opt.size} version={message.opt.version} flags={message.opt.flags:04x} {options}"
        )
    return "\n".join(lines)


FLAG_BITS = {
    0x8000: "qr",
    0x0400: "aa",
    0x0200: "tc",
    0x0100: "rd",
    0x0080: "ra",
    0x0040: "z",
    0x0020: "ad",
    0x0010: "cd",
}


def make_query(
    qname: bytes,
    qtype: int,
    *,
    ident: int = 0,
    flags: int = 0,
    qclass: int = 1,
    size: int | None = None,
    do: bool = False,
    version: int = 0,
    options: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """A query with one question; *size* None means without OPT."""
    octets = (
        struct.pack("!6H", ident, flags, 1, 0, 0, 0 if size is None else 1) + qname + struct.pack("!HH", qtype, qclass)
    )
    if size is None:
        return octets
    rdata = b"".join(struct.pack("!HH", code, len(value)) + value for code, value in options)
    return octets + struct.pack("!BHHBBHH", 0, OPT, size, 0, version, 0x8000 if do else 0, len(rdata)) + rdata
