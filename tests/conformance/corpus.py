"""Questions and expected responses as text.

A case is a paragraph; `#` starts a comment.  Its lines:

    == what is true, as a sentence (the case's name)
    query NAME TYPE [CLASS] [WORDS]    do size=N version=N option=CODE:HEX rd cd ad z aa tc opcode=N; tcp or udp only
    octets HEX name(NAME) opt(WORDS)   instead of query; for what no client library would send
    over udp|tcp                       with octets: only there
    response RCODE [WORDS]             exactly these flags, and QR
    silence                            instead of response
    question any                       it need not be repeated (else: exactly as it was sent)
    answer|authority OWNER TYPE [signed]      the whole RRset as the zone has it; signed: with its RRSIGs
    answer OWNER TYPE CLASS TTL WORD          a TXT record of one word that is in no zone
    additional addresses of NAME       A and AAAA of all its name servers, from the zone it is in
    may SECTION …                      any part of it that is made of whole RRsets
    opt [do] [NAME=VALUE …]            an OPT with these options and no other; without this line: no OPT
    only rootsrv                       it depends on our configuration; peers are not asked
    differs PEER CLASS [before|from N] the peer's response differs, for the reason of that name; with a version
                                       N, older releases do, or that one and newer (docs/protocol-notes.md)

Everything that a response holds beyond these lines is an error, as is all that it lacks.  Options are given by name:
`nsid=TEXT`, `cookie` (client part repeated, 16 octets of server part), `keepalive`, `zoneversion=LABELS`, `ede=CODE`.
A size with neither `do` nor `option` offers EDNS; without any of them there is no OPT.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers.daemon import release_of
from tests.conformance.wire import (
    FLAG_BITS,
    RCODE_NAMES,
    TYPE_CODES,
    Key,
    Message,
    RRset,
    make_query,
    name_from_text,
    show_key,
)
from tests.conformance.zone_file import ZoneFile, key_of

IDENT = 0x5EED
CLASSES = {"IN": 1, "CH": 3, "HS": 4, "NONE": 254, "ANY": 255}
OPTIONS = {"nsid": 3, "cookie": 10, "keepalive": 11, "ede": 15, "zoneversion": 19}
OUR_UDP_SIZE = 1232

NSID = "site.example"
"""What rootsrv is told to call itself while it is asked."""


@dataclass(frozen=True)
class Difference:
    """One line `differs`: of releases older than *before*, of *since* and newer; () = of all."""

    peer: str
    reason: str
    before: tuple[int, ...] = ()
    since: tuple[int, ...] = ()

    def is_of(self, version: str) -> bool:
        """Whether it is of that version."""
        release = release_of(version)
        return release >= self.since and (not self.before or release < self.before)


@dataclass
class Case:
    """One paragraph of a corpus file."""

    title: str
    source: str
    query: bytes = b""
    transports: tuple[str, ...] = ("udp", "tcp")
    silence: bool = False
    rcode: str = ""
    flags: int = 0
    question_any: bool = False
    records: list[tuple[str, str, list[str], bool]] = field(default_factory=list)
    """Section, owner or `addresses of`, rest, whether it may be left out."""

    opt: list[str] | None = None
    only_rootsrv: bool = False
    differences: list[Difference] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.source}: {self.title}"

    def differs(self, peer: str, version: str) -> str | None:
        """The class by which *peer* of *version* differs; None = it does not.  ValueError if two lines are of it."""
        reasons = [each.reason for each in self.differences if each.peer == peer and each.is_of(version)]
        if len(reasons) > 1:
            raise ValueError(f"{self}: {peer} {version} differs by {' and '.join(reasons)}")
        return reasons[0] if reasons else None


def load_cases(path: Path) -> list[Case]:
    """All cases of a corpus file; ValueError names the line that cannot be understood."""
    cases: list[Case] = []
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        if not line:
            continue
        try:
            word, _, rest = line.partition(" ")
            if word == "==":
                cases.append(Case(rest.strip(), path.stem))
            else:
                _read_line(cases[-1], word, rest)
        except (ValueError, KeyError, IndexError) as error:
            raise ValueError(f"{path.name} line {number}: {line}: {error}") from error
    for case in cases:
        if not case.query or not (case.silence or case.rcode):
            raise ValueError(f"{path.name}: {case.title}: lacks a query or a response")
    return cases


def _read_line(case: Case, word: str, rest: str) -> None:
    words = rest.split()
    if word == "query":
        case.query, case.transports = _query(words)
    elif word == "octets":
        case.query += b"".join(_octets(rest))
    elif word == "over":
        case.transports = tuple(words)
    elif word == "response":
        case.rcode = words[0]
        if words[0] not in RCODE_NAMES.values():
            raise ValueError(f"no RCODE {words[0]}")
        case.flags = 0x8000 | _flags(words[1:])
    elif word == "silence":
        case.silence = True
    elif word == "question":
        case.question_any = True
    elif word in ("answer", "authority", "additional"):
        case.records.append((word, words[0], words[1:], False))
    elif word == "may":
        case.records.append((words[0], words[1], words[2:], True))
    elif word == "opt":
        case.opt = words
    elif word == "only":
        case.only_rootsrv = True
    elif word == "differs":
        case.differences.append(_difference(words))
    else:
        raise ValueError(f"unknown word {word}")


def _difference(words: list[str]) -> Difference:
    peer, reason, *bound = words
    if not bound:
        return Difference(peer, reason)
    side, version = bound
    if side == "before":
        return Difference(peer, reason, before=release_of(version))
    if side == "from":
        return Difference(peer, reason, since=release_of(version))
    raise ValueError(f"{side}: neither before nor from")


def _flags(words: list[str]) -> int:
    bits = {name: bit for bit, name in FLAG_BITS.items()}
    flags = 0
    for word in words:
        flags |= int(word[7:]) << 11 if word.startswith("opcode=") else bits[word]
    return flags


def _type(text: str) -> int:
    return int(text[4:]) if re.fullmatch(r"TYPE\d+", text) else TYPE_CODES[text]


def _query(words: list[str]) -> tuple[bytes, tuple[str, ...]]:
    qname, qtype = name_from_text(words[0]), _type(words[1])
    rest = words[2:]
    qclass = 1
    if rest and (rest[0] in CLASSES or rest[0].startswith("CLASS")):
        text = rest.pop(0)
        qclass = CLASSES[text] if text in CLASSES else int(text[5:])
    transports = tuple(word for word in rest if word in ("udp", "tcp")) or ("udp", "tcp")
    rest = [word for word in rest if word not in ("udp", "tcp")]
    size, version, do, options, flag_words = _edns_words(rest)
    query = make_query(
        qname,
        qtype,
        ident=IDENT,
        flags=_flags(flag_words),
        qclass=qclass,
        size=size,
        do=do,
        version=version,
        options=options,
    )
    return query, transports


def _edns_words(words: list[str]) -> tuple[int | None, int, bool, list[tuple[int, bytes]], list[str]]:
    size: int | None = None
    version, do = 0, False
    options: list[tuple[int, bytes]] = []
    others: list[str] = []
    for word in words:
        name, _, value = word.partition("=")
        if name == "do":
            do = True
        elif name == "size":
            size = int(value)
        elif name == "version":
            version = int(value)
        elif name == "option":
            code, _, digits = value.partition(":")
            options.append((int(code), bytes.fromhex(digits)))
        else:
            others.append(word)
    if size is None and (do or version or options):
        size = OUR_UDP_SIZE
    return size, version, do, options, others


def _octets(text: str) -> Iterator[bytes]:
    for token in re.findall(r"name\([^)]*\)|opt\([^)]*\)|[0-9a-fA-F]+", text):
        if token.startswith("name("):
            yield name_from_text(token[5:-1])
        elif token.startswith("opt("):
            size, version, do, options, others = _edns_words(token[4:-1].split())
            if others:
                raise ValueError(f"unknown words {others}")
            query = make_query(
                b"\0", 0, size=OUR_UDP_SIZE if size is None else size, do=do, version=version, options=options
            )
            yield query[17:]
        else:
            yield bytes.fromhex(token)


# ── Comparison ──


@dataclass(frozen=True)
class Served:
    """The zones that the implementations serve, by apex; the host zone before the root, which everything is under."""

    root: ZoneFile
    hosts: ZoneFile

    def zone_of(self, owner: str) -> ZoneFile:
        """The zone that answers for *owner* with authority or by referral."""
        return self.hosts if owner == self.hosts.apex or owner.endswith("." + self.hosts.apex) else self.root


def mismatches(case: Case, response: Message | None, served: Served) -> list[str]:
    """What of *response* is not as *case* expects; empty when all is."""
    if response is None or case.silence:
        if response is None and case.silence:
            return []
        return [
            "silence where a response was expected" if response is None else "a response where silence was expected"
        ]
    found = []
    if response.id != struct.unpack("!H", case.query[:2])[0]:
        found.append(f"id {response.id:04x}")
    rcode = RCODE_NAMES.get(response.rcode, str(response.rcode))
    if rcode != case.rcode:
        found.append(f"rcode {rcode}, expected {case.rcode}")
    if response.flags != case.flags:
        found.append(f"flags {response.flags:04x}, expected {case.flags:04x}")
    if not case.question_any or response.question:
        found += _question_mismatches(case.query, response)
    for section in ("answer", "authority", "additional"):
        found += _section_mismatches(case, section, getattr(response, section), served)
    return found + _opt_mismatches(case, response, served)


def _question_mismatches(query: bytes, response: Message) -> list[str]:
    if len(response.question) != 1:
        return [f"{len(response.question)} questions"]
    ((qname, qtype, qclass),) = response.question
    sent = qname + struct.pack("!HH", qtype, qclass)
    return [] if query[12 : 12 + len(sent)] == sent else ["the question is not repeated as it was sent"]


def _section_mismatches(case: Case, section: str, got: "dict[Key, RRset]", served: Served) -> list[str]:
    must: dict[Key, RRset] = {}
    may: dict[Key, RRset] = {}
    for name, owner, rest, optional in case.records:
        if name == section:
            (may if optional else must).update(_expected(owner, rest, served))
    found = [f"{section} lacks {show_key(key)}" for key in must if key not in got]
    for key, rrset in got.items():
        expected = must.get(key) or may.get(key)
        if expected is None:
            found.append(f"{section} has {show_key(key)} beside what is expected")
        elif rrset != expected:
            found.append(f"{section} {show_key(key)} is {rrset}, expected {expected}")
    return found


def _expected(owner: str, rest: list[str], served: Served) -> dict[Key, RRset]:
    if owner == "addresses":
        zone = served.zone_of(rest[1])
        return {key: rrset for server in zone.name_servers(rest[1]) for key, rrset in zone.addresses(server).items()}
    if len(rest) == 4:
        rtype, rclass, ttl, text = rest
        value = text.encode()
        return {
            (name_from_text(owner), TYPE_CODES[rtype], CLASSES[rclass]): RRset(
                int(ttl), frozenset({bytes([len(value)]) + value})
            )
        }
    rtype, *signed = rest
    zone = served.zone_of(owner)
    expected = {key_of(owner, rtype): zone.rrset(owner, rtype)}
    if signed == ["signed"]:
        expected[key_of(owner, f"RRSIG({rtype})")] = zone.rrset(owner, f"RRSIG({rtype})")
    elif signed:
        raise ValueError(f"{owner} {' '.join(rest)}: expected nothing or `signed` after the type")
    return expected


def _opt_mismatches(case: Case, response: Message, served: Served) -> list[str]:
    if case.opt is None:
        return [] if response.opt is None else ["an OPT that was not expected"]
    if response.opt is None:
        return ["no OPT"]
    opt = response.opt
    found = []
    if opt.size != OUR_UDP_SIZE or opt.version != 0:
        found.append(f"OPT size {opt.size} version {opt.version}")
    if opt.flags != (0x8000 if "do" in case.opt else 0):
        found.append(f"OPT flags {opt.flags:04x}")
    wanted = dict(word.partition("=")[::2] for word in case.opt if word != "do")
    held = dict(opt.options)
    if len(held) != len(opt.options):
        found.append("an option twice")
    if set(held) != {OPTIONS[name] for name in wanted}:
        return [*found, f"options {sorted(held)}, expected {sorted(OPTIONS[name] for name in wanted)}"]
    for name, value in wanted.items():
        if problem := _option_problem(name, value, held[OPTIONS[name]], case.query, served):
            found.append(problem)
    return found


def _option_problem(name: str, value: str, octets: bytes, query: bytes, served: Served) -> str:
    if name == "cookie":
        # RFC 9018 §4: the client part as it was sent, then version 1, reserved, timestamp and hash.
        good = len(octets) == 24 and octets[:8] in query and octets[8:12] == b"\1\0\0\0"
    elif name == "ede":
        good = octets[:2] == struct.pack("!H", int(value)) and octets[2:].isascii()
    elif name == "keepalive":
        good = len(octets) == 2 and octets != b"\0\0"
    elif name == "zoneversion":
        zone = served.hosts if int(value) else served.root
        good = octets == struct.pack("!BBI", int(value), 0, zone.serial)
    else:
        good = octets == value.encode()
    return "" if good else f"option {name} is {octets.hex()}, expected {value or 'a good one'}"
