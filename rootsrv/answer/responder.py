"""Answers queries from an answer table."""
# Over 400 lines: the two ways below are equal, and are read against each other.
#
# Theory of operation
# -------------------
# Everything that depends only on the zone was done by compiler.py.  There are two ways through this file:
#
#   respond_fully   any octets at all: parse, decide, find the answer, fit it to the size, append OPT.  It is complete
#                   and plain.
#   respond         the same for the queries that make up the traffic, in about a microsecond, and a call of
#                   respond_fully for all others.  It never differs (tests/answer compares them).
#
# What makes `respond` fast was measured (bench/responder.py guards it): one dict look-up on the ten octets of flags and
# counts; one on the whole tail of the message (qtype, qclass, OPT) in place of parsing it; the qname's last label found
# without taking the name apart; ready-made headers; one join; everything bound to local names of a closure.
#
# Moving an answer to a longer qname adds the same number d to all its compression pointers (body.py).  A signed
# nxdomain has one pointer: it is replaced.  A referral has 20 to 50: all are picked from a list that is shifted by d
# (one call, in C), and `%` puts them into its body, which is one object: the fewer are touched for a query, the less of
# them has to come back to the caches that the kernel has used since.

import enum
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from rootsrv.answer import identity
from rootsrv.answer.cookies import FULL_COOKIE_OCTETS, ServerCookies
from rootsrv.answer.prepared import TARGETS, PreparedAnswers
from rootsrv.answer.question import HEADER_OCTETS, Query, QueryMalformed, TsigEcho
from rootsrv.answer.table import AnswerTable
from rootsrv.wire import edns
from rootsrv.wire import name as names
from rootsrv.wire.codes import BADCOOKIE, BADKEY, BADVERS, FORMERR, NOERROR, NOTAUTH, NOTIMP, REFUSED, SERVFAIL

MAX_IDENTITY_OCTETS = 128
"""Of NSID and version: with the longest question and all our options there is room in a response of 512 octets."""


class Transport(enum.IntEnum):
    """How a query came in."""

    UDP = 0
    TCP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderSettings:
    """What of the configuration the responses depend on."""

    max_udp_response_octets: int = 1232
    nsid: bytes = b""
    """NSID (RFC 5001), id.server and hostname.bind; empty = not told."""

    version: bytes = b""
    """version.server and version.bind; empty = REFUSED."""

    cookies: ServerCookies | None = None
    """None = the COOKIE option is ignored."""

    require_server_cookie: bool = False
    tcp_idle_seconds: float = 10.0

    def __post_init__(self) -> None:
        if max(len(self.nsid), len(self.version)) > MAX_IDENTITY_OCTETS:
            raise ValueError(f"NSID and version have at most {MAX_IDENTITY_OCTETS} octets")


_QR, _AA, _TC, _RD = 0x8000, 0x0400, 0x0200, 0x0100
_OPCODE = 0x7800
_HEADER_TAIL = struct.Struct("!5H")  # flags and counts

_TYPE_DS, _TYPE_TSIG, _TYPE_IXFR, _TYPE_AXFR, _TYPE_ANY = 43, 250, 251, 252, 255
_CLASS_IN, _CLASS_ANY = 1, 255

# After the end of a zone's lease: not now, since its data is too old (RFC 8914 §4.15, §4.25; §3 allows several).
_EXPIRED = edns.extended_error(edns.EDE_NOT_READY) + edns.extended_error(edns.EDE_INVALID_DATA)

_MAX_ROOT_LABEL_AT = 12 + 255 - 1  # a name has at most 255 octets (RFC 1035 §3.1)
_TCP_LIMIT = 65535  # RFC 1035 §4.2.2: a two-octet length
_FITS_TCP_OCTETS = 64_000  # of a body: with header, the longest question and our options it has less than 65,535

Respond = Callable[[bytes, bytes, Transport, float], bytes | None]

Tail = tuple[bool, int, int, int, int, bytes]
"""What a query asks for from the root label on, when that is qtype, class IN and at most a plain OPT record.

    do      DO (RFC 3225)
    below   which of a delegation's four answers is for names below it
    itself  which of them is for its own name
    qtype
    room    octets that may be in front of and in the body, without the root label, qtype and qclass
    opt     our OPT record, as far as it depends on the tail alone

A plain tuple, like `Ready`: it is taken apart for every query, which takes a fifth of what attributes take."""

# Flags and counts of a plain query → 2 × RD + ARCOUNT.  AD and CD say nothing to an authoritative server (RFC 4035
# §3.1.6); any other bit or count goes the complete way.
_HEADS = {
    _HEADER_TAIL.pack(rd * _RD | low, 1, 0, 0, arcount): 2 * rd + arcount
    for rd in (0, 1)
    for low in (0x00, 0x10, 0x20, 0x30)
    for arcount in (0, 1)
}

# Slices ready made: an eighth of what a query costs would be making them.
_ID, _FLAGS_AND_COUNTS = slice(2), slice(2, 12)
_PLAIN_TAIL, _QUESTION_TAIL = slice(-16, None), slice(-5, None)
_COOKIE_TAIL, _CLIENT_COOKIE = slice(-28, -8), slice(-8, None)
_QUESTIONS = [slice(12, end + 5) for end in range(_MAX_ROOT_LABEL_AT + 1)]  # by where the root label stands


class Responder:
    """Responses from one answer table with one identity."""

    respond: Respond
    """respond(octets, source, transport, now) → the response, or None: drop.

    *octets* is a whole DNS message, *source* the client's packed IP address (4 or 16 octets), *now* epoch seconds on
    the wall clock (for cookies).  Never raises, whatever the octets.  Bind it anew after `set_expired`.
    """

    def __init__(self, table: AnswerTable, settings: ResponderSettings) -> None:
        """Answer from *table*; what is to be sent is prepared when first asked for, or by `put_together`."""
        self.table = table
        self._settings = settings
        self._chaos = identity.chaos_answers(settings.nsid, settings.version)
        self._nsid = edns.option(edns.NSID, settings.nsid) if settings.nsid else b""
        self._keepalive = edns.keepalive(settings.tcp_idle_seconds)
        self._zone_versions = [edns.zone_version(len(names.labels(zone.name)), zone.serial) for zone in table.zones]
        self._expired: frozenset[int] = frozenset()
        self._answers = PreparedAnswers(table)
        self._fast = self._shortcut()
        self.respond = self._fast

    def put_together(self) -> Iterator[None]:
        """Prepare all answers that nobody has asked for yet, part by part, each in a fraction of a millisecond."""
        return self._answers.put_together()

    def take_apart(self) -> Iterator[None]:
        """Nobody uses this any more: part by part it goes, each in a fraction of a millisecond, without a collection.

        The parts refer to each other in circles, which end here.
        """
        del self.respond
        yield from self._answers.take_apart()
        del self._fast

    def set_expired(self, zones: frozenset[int]) -> None:
        """From now on answer SERVFAIL for what comes from these zones of the table (D27); empty = all are good."""
        self._expired = zones
        self.respond = self.respond_fully if zones else self._fast

    # ── the complete way ────────────────────────────────────────────────────────────────────────────────────────

    def respond_fully(self, octets: bytes, source: bytes, transport: Transport, now: float) -> bytes | None:
        """What `respond` does, without its shortcuts."""
        if len(octets) < HEADER_OCTETS or octets[2] & 0x80:
            return None  # no id to answer to, or a response (a loop between two servers ends here)
        if octets[2] & 0x78:
            return _error(octets, NOTIMP, b"", b"")  # whatever follows the header need not be a question
        try:
            query = Query.parse(octets)
        except QueryMalformed as error:
            return _formerr(octets, error, self._settings.max_udp_response_octets)
        return self._decide(octets, query, source, transport, now)

    def respond_truncated(self, octets: bytes, source: bytes, now: float) -> bytes | None:
        """What `respond` says over UDP, with TC and without records where that has an answer: come again over TCP.

        It is never longer than that; what is no answer from a zone (FORMERR, REFUSED, …) is the same.
        """
        if len(octets) < HEADER_OCTETS or octets[2] & 0xF8:
            return self.respond_fully(octets, source, Transport.UDP, now)
        try:
            query = Query.parse(octets)
        except QueryMalformed as error:
            return _formerr(octets, error, self._settings.max_udp_response_octets)
        return self._decide(octets, query, source, Transport.UDP, now, without_answer=True)

    def _decide(
        self,
        octets: bytes,
        query: Query,
        source: bytes,
        transport: Transport,
        now: float,
        *,
        without_answer: bool = False,
    ) -> bytes:
        """The response to a well-formed query."""
        asked = query.edns
        if transport is Transport.TCP:
            limit = _TCP_LIMIT
        elif asked is None:
            limit = edns.MIN_UDP_OCTETS
        else:
            limit = min(asked.udp_octets, self._settings.max_udp_response_octets)
        room = limit - HEADER_OCTETS - len(query.question)
        if asked is not None and asked.version > 0:
            return _error(octets, BADVERS, query.question, self._opt(query, rcode=BADVERS))
        if query.tsig is not None:
            return _unknown_key(octets, query.question, query.tsig, self._opt(query), room)
        options = b""
        if asked is not None:
            options, cookie_is_bad = self._options(asked, source, transport, now)
            if cookie_is_bad and self._settings.require_server_cookie and transport is Transport.UDP:
                return _error(octets, BADCOOKIE, query.question, self._opt(query, options, rcode=BADCOOKIE))
        if not query.question:
            # RFC 7873 §5.4: a client may ask for a server cookie without a question.
            has_cookie = asked is not None and asked.cookie is not None
            return _error(octets, NOERROR if has_cookie else FORMERR, b"", self._opt(query, options))
        if query.qclass == identity.CLASS_CHAOS:
            return self._respond_chaos(octets, query, self._opt(query, options))
        if query.qclass != _CLASS_IN:
            options += edns.extended_error(edns.EDE_NOT_AUTHORITATIVE)
            return _error(octets, REFUSED, query.question, self._opt(query, options))
        answer = self._answers.find(query.qname, query.qtype, do=asked is not None and asked.do)
        refused, expired = query.qtype in (_TYPE_AXFR, _TYPE_IXFR), answer.zone in self._expired
        if refused:
            options += edns.extended_error(edns.EDE_PROHIBITED)
        elif expired:
            options += _EXPIRED
        if asked is not None and asked.zoneversion:
            # RFC 9660 §3.2: whatever the response is, if a zone that encloses the qname is ours.
            options += self._zone_versions[answer.zone]
        opt = self._opt(query, options)
        if refused or expired:
            return _error(octets, REFUSED if refused else SERVFAIL, query.question, opt)
        if without_answer:
            response = _error(octets, NOERROR, query.question, opt)
            return response[:2] + bytes((response[2] | _TC >> 8,)) + response[3:]
        return answer.fitted(octets, query.question, opt, room - len(opt))

    def _opt(self, query: Query, options: bytes = b"", *, rcode: int = 0) -> bytes:
        """The OPT record of a response to *query*: none if it had none (RFC 6891 §6.1.1)."""
        if query.edns is None:
            return b""
        size = self._settings.max_udp_response_octets
        return edns.opt_record(size, options, do=query.edns.do, rcode=rcode)

    def _options(self, asked: edns.Edns, source: bytes, transport: Transport, now: float) -> tuple[bytes, bool]:
        """Our options for every answer, and whether a COOKIE came without a good server cookie."""
        options = self._nsid if asked.nsid else b""
        cookie_is_bad = False
        if asked.cookie is not None and self._settings.cookies is not None:
            cookie, good = self._settings.cookies.answer(asked.cookie, source, now)
            options += edns.option(edns.COOKIE, cookie)
            cookie_is_bad = not good
        if asked.keepalive and transport is Transport.TCP:
            options += self._keepalive
        return options, cookie_is_bad

    def _respond_chaos(self, octets: bytes, query: Query, opt: bytes) -> bytes:
        record = self._chaos.get(query.qname)
        if record is None or query.qtype not in (identity.TYPE_TXT, _TYPE_ANY):
            return _error(octets, REFUSED, query.question, opt)
        flags = _QR | _AA | (octets[2] << 8 & _RD)
        header = octets[:2] + _HEADER_TAIL.pack(flags, 1, 1, 0, 1 if opt else 0)
        return b"".join((header, query.question, record, opt))

    # ── the shortcut ────────────────────────────────────────────────────────────────────────────────────────────

    def _shortcut(self) -> Respond:
        """Build `respond`."""
        answers, fully = self._answers, self.respond_fully
        delegations, denials = answers.delegations, answers.denials
        nxdomain = answers.nxdomain.ready
        root_types, root_nodata = answers.owners[names.ROOT]
        tails, cookie_tails = _Remembered(self._common_tails()), _Remembered()
        rare_tail = self._rare_tails(tails, cookie_tails)
        cookies = self._settings.cookies
        make_cookie = None if cookies is None or self._settings.require_server_cookie else cookies.maker()

        # Bound for speed: a closure's variable is found faster than a module's.
        steps, targets, bisect, join = _STEPS, TARGETS, bisect_right, b"".join
        find, shifted, versions = answers.find, answers.shifted, self._zone_versions
        known_head, known_tail, known_cookie_tail, delegated = _HEADS.get, tails.get, cookie_tails.get, delegations.get
        id_, flags_and_counts, questions = _ID, _FLAGS_AND_COUNTS, _QUESTIONS
        plain_tail, question_tail, cookie_tail, client_cookie = (
            _PLAIN_TAIL,
            _QUESTION_TAIL,
            _COOKIE_TAIL,
            _CLIENT_COOKIE,
        )

        def respond(octets: bytes, source: bytes, transport: Transport, now: float) -> bytes | None:
            head = known_head(octets[flags_and_counts])
            if head is None:
                return fully(octets, source, transport, now)

            # The tail, and where it begins.  Nearly all queries end in the root label and a plain OPT record, or in the
            # question itself; most others in an OPT record with nothing but a client cookie.
            cookie = b""
            if not head & 1:
                tail = known_tail(octets[question_tail])
                end = len(octets) - 5
            else:
                tail = known_tail(octets[plain_tail])
                end = len(octets) - 16
                if tail is None:
                    tail = known_cookie_tail(octets[cookie_tail])
                    if tail is not None:
                        end = len(octets) - 28
                        cookie = make_cookie(octets[client_cookie], source, now)  # type: ignore[misc]
            if tail is None:
                end = octets.find(0, 12)
                tail = rare_tail(octets[end:], head & 1, source, transport, now)
                if tail is None:
                    return fully(octets, source, transport, now)
            do, below, itself, qtype, room, opt = tail
            if cookie:
                opt += cookie

            # The last label.  With a compression pointer or a label that is too long this does not come to the root
            # label at `end`; such names go the complete way.
            start = 12
            at = 12 + steps[octets[12]]
            while at < end:
                start = at
                at += steps[octets[at]]

            # The answer.
            if at != end or end > _MAX_ROOT_LABEL_AT:
                if end != 12:
                    return fully(octets, source, transport, now)
                ready = root_types.get(qtype, root_nodata)[do].ready
            else:
                label = octets[start + 1 : end].lower()
                delegation = delegated(label)
                if delegation:
                    ready = delegation[itself if start == 12 else below]
                elif delegation is not None:
                    ready = find(octets[12 : end + 1].lower(), qtype, do=do).ready
                elif do:
                    others, covering = denials[label[0]]
                    ready = covering[bisect(others, label)]
                else:
                    ready = nxdomain
            size, anchor_end, header_tails, before, target, behind, several, first, last, answer = ready

            # Does it fit?
            question = octets[questions[end]]
            if end + size > room:
                if room < 0:
                    room += _ZONEVERSION_ASKED
                    opt += versions[answer.zone]
                if end + size > room and not transport:
                    return answer.fitted(octets, question, opt, room - end)
                if size > _FITS_TCP_OCTETS and transport:
                    return fully(octets, source, transport, now)

            # The response, its pointers moved.
            if target >= 0:
                pointer = targets[target + end - anchor_end]
                return join((octets[id_], header_tails[head], question, first, before, pointer, behind, last, opt))
            if several and end != anchor_end:
                body = (answer.template or answer.make_template()) % answer.pick(shifted[end - anchor_end])
                return join((octets[id_], header_tails[head], question, body, opt))
            return join((octets[id_], header_tails[head], question, before, opt))

        return respond

    def _rare_tails(
        self, tails: "_Remembered", cookie_tails: "_Remembered"
    ) -> Callable[[bytes, int, bytes, Transport, float], Tail | None]:
        """Build what the shortcut asks about a tail that it does not know; it puts into its arguments what it may.

        *tails* are whole; *cookie_tails* lack the data of a client cookie, which ends them and their OPT record alike.
        """
        cookies = self._settings.cookies
        make_answer = None if cookies is None or self._settings.require_server_cookie else cookies.answer
        answered_tails = _Remembered()

        def plain_tail(behind: bytes) -> Tail | None:
            """With no option at all."""
            tail = tails.get(behind)
            if tail is None:
                tail = self._tail(behind)
                if tail is not None:
                    tails.remember(behind, tail)
            return tail

        def rare_tail(behind: bytes, arcount: int, source: bytes, transport: Transport, now: float) -> Tail | None:
            if len(behind) <= _PLAIN_TAIL_OCTETS:
                return plain_tail(behind) if arcount == (len(behind) > 5) else None
            if not arcount:
                return None
            tail = answered_tails.get(behind)
            if tail is not None:
                return tail
            if int.from_bytes(behind[14:16]) != len(behind) - _PLAIN_TAIL_OCTETS:
                return None
            tail = plain_tail(behind[:14] + b"\0\0")
            if tail is None:
                return None
            try:
                nsid, cookie, keepalive, zoneversion = edns.parse_options(behind[_PLAIN_TAIL_OCTETS:])
            except edns.OptionMalformed:
                return None
            if keepalive and transport is Transport.TCP:
                return None
            if cookie is not None and make_answer is None:
                if cookies is not None:
                    return None  # it decides whether there is an answer at all
                cookie = None
            options = self._nsid if nsid else b""
            size = len(options) + (_COOKIE_OCTETS if cookie is not None else 0) + (10 if zoneversion else 0)
            do, below, itself, qtype, room, opt = tail
            opt = opt[:9] + size.to_bytes(2) + options
            room -= size + (_ZONEVERSION_ASKED if zoneversion else 0)
            if cookie is not None and make_answer is not None:
                opt += _COOKIE_HEAD
                if behind[14:20] == _ONLY_CLIENT_COOKIE:
                    cookie_tails.remember(behind[:20], (do, below, itself, qtype, room, opt))
                return do, below, itself, qtype, room, opt + make_answer(cookie, source, now)[0]
            tail = do, below, itself, qtype, room, opt
            if not keepalive and len(behind) <= _MAX_REMEMBERED_OCTETS:
                answered_tails.remember(behind, tail)  # for TCP as well
            return tail

        return rare_tail

    def _tail(self, behind: bytes) -> Tail | None:
        """What root label, qtype, qclass and OPT ask for; None if the complete way must look at them."""
        if len(behind) < 5 or behind[0]:
            return None
        qtype, qclass = struct.unpack_from("!HH", behind, 1)
        if qclass != _CLASS_IN or qtype in (_TYPE_AXFR, _TYPE_IXFR):
            return None
        if len(behind) == 5:
            return False, 0, 2 if qtype == _TYPE_DS else 0, qtype, edns.MIN_UDP_OCTETS - 5, b""
        if len(behind) != _PLAIN_TAIL_OCTETS:
            return None
        owner, rtype, udp_octets, rcode, version, flags, size = edns.OPT.unpack_from(behind, 5)
        if (owner, rtype, rcode, version, size) != (0, edns.TYPE_OPT, 0, 0, 0):
            return None
        asked = edns.parse(udp_octets, version, flags, b"")
        full_size = self._settings.max_udp_response_octets
        opt = edns.opt_record(full_size, do=asked.do)
        room = min(asked.udp_octets, full_size) - 5 - len(opt)
        return asked.do, int(asked.do), asked.do + (2 if qtype == _TYPE_DS else 0), qtype, room, opt

    def _common_tails(self) -> dict[bytes, Tail]:
        """The tails that resolvers send, known from the start."""
        tails = {}
        for qtype in _COMMON_QTYPES:
            question = struct.pack("!BHH", 0, qtype, _CLASS_IN)
            plain_opts = [edns.opt_record(size, do=do) for size in _COMMON_UDP_OCTETS for do in (False, True)]
            for tail in (question, *(question + opt for opt in plain_opts)):
                meaning = self._tail(tail)
                if meaning is not None:
                    tails[tail] = meaning
        return tails


# Offset from a label's length octet to the next; far away for what is not an ordinary label's length.
_STEPS = [size + 1 if 0 < size <= 63 else 1 << 20 for size in range(256)]

# RDLENGTH, code and length of an OPT record's only option, when that is a client cookie.
_ONLY_CLIENT_COOKIE = struct.pack("!HHH", 12, edns.COOKIE, 8)

# Code and length of the COOKIE option of a response, and all its octets.
_COOKIE_HEAD = struct.pack("!HH", edns.COOKIE, FULL_COOKIE_OCTETS)
_COOKIE_OCTETS = len(_COOKIE_HEAD) + FULL_COOKIE_OCTETS

_COMMON_QTYPES = (1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 48, 64, 65, 255)
_COMMON_UDP_OCTETS = (512, 1220, 1232, 1280, 1400, 1410, 1432, 1452, 1472, 4000, 4096, 8192, 65535)
_MAX_RARE_TAILS = 8192
_MAX_REMEMBERED_OCTETS = 96  # of a tail; longer ones are padded, or somebody's experiment
_PLAIN_TAIL_OCTETS = 5 + edns.OPT_OCTETS  # root label, qtype, qclass, OPT without options

# What is taken from a tail's room when ZONEVERSION was asked for: what the option says depends on the answer's zone, so
# such a query shall seem not to fit and be looked at twice.
_ZONEVERSION_ASKED = 1 << 20


class _Remembered(dict[bytes, Tail]):
    """What tails mean: those known from the start, and some that came."""

    def __init__(self, common: Mapping[bytes, Tail] = {}) -> None:
        super().__init__(common)
        self._common = dict(common)

    def remember(self, behind: bytes, tail: Tail) -> None:
        """Keep what *behind* means for the next query."""
        if len(self) >= len(self._common) + _MAX_RARE_TAILS:
            # Somebody sends tails at random: forget them, or nobody else's would find a place.
            self.clear()
            self.update(self._common)
        self[behind] = tail


def not_ready(octets: bytes, max_udp_octets: int = 1232) -> bytes | None:
    """The response when there is no answer table yet: SERVFAIL with the extended error "not ready" (RFC 8914 §4.15)."""
    if len(octets) < HEADER_OCTETS or octets[2] & 0x80:
        return None
    if octets[2] & 0x78:
        return _error(octets, NOTIMP, b"", b"")
    try:
        query = Query.parse(octets)
    except QueryMalformed as error:
        return _formerr(octets, error, max_udp_octets)
    opt = b""
    rcode = SERVFAIL
    if query.edns is not None:
        options = edns.extended_error(edns.EDE_NOT_READY)
        if query.edns.version > 0:
            rcode, options = BADVERS, b""
        opt = edns.opt_record(max_udp_octets, options, do=query.edns.do, rcode=rcode)
    return _error(octets, rcode, query.question, opt)


def _error(octets: bytes, rcode: int, question: bytes, opt: bytes) -> bytes:
    """A response without records besides *opt*: opcode and RD copied, the low four bits of *rcode* in the header."""
    flags = _QR | (octets[2] << 8 & (_OPCODE | _RD)) | (rcode & 0xF)
    return octets[:2] + _HEADER_TAIL.pack(flags, bool(question), 0, 0, bool(opt)) + question + opt


def _formerr(octets: bytes, error: QueryMalformed, max_udp_octets: int) -> bytes:
    """FORMERR, with an OPT record that copies DO where one was understood to be there (RFC 6891 §7, RFC 3225 §3)."""
    opt = b"" if error.do is None else edns.opt_record(max_udp_octets, do=error.do)
    return _error(octets, FORMERR, error.question, opt)


def _unknown_key(octets: bytes, question: bytes, tsig: TsigEcho, opt: bytes, room: int) -> bytes:
    """NOTAUTH with BADKEY, unsigned (RFC 8945 §5.2.1, §5.3.2): no key is known on the service address.

    A TSIG record that does not fit into *room* octets with the OPT record is left out, and TC is set: over TCP it fits.
    """
    rdata = tsig.algorithm + tsig.time_and_fudge + struct.pack("!H2sHH", 0, octets[:2], BADKEY, 0)
    record = tsig.key_name + struct.pack("!HHIH", _TYPE_TSIG, _CLASS_ANY, 0, len(rdata)) + rdata
    response = bytearray(_error(octets, NOTAUTH, question, opt))
    if len(opt) + len(record) > room:
        response[2] |= _TC >> 8
        return bytes(response)
    response += record
    struct.pack_into("!H", response, 10, 2 if opt else 1)
    return bytes(response)
