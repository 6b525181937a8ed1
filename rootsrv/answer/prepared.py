"""The table's answers, made ready to be sent."""
# All of them take 70 ms of Python, most of it for names that nobody asks for in the next second.  So an answer is
# prepared when it is first wanted (10 µs), or before that, a little at a time, by who has nothing else to do
# (`PreparedAnswers.put_together`): a new table can be answered from after a few milliseconds.

import itertools
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

from rootsrv.answer.table import ANSWER, CUT, CUT_TRUNCATED, AnswerTable
from rootsrv.wire import name as names

_HEADER_TAIL = struct.Struct("!5H")  # flags and counts

_QR, _TC, _RD = 0x8000, 0x0200, 0x0100
_TYPE_DS = 43

Ready = tuple[int, int, tuple[bytes, ...], bytes, int, bytes, bool, bytes, bytes, "Prepared"]
"""What the shortcut needs of an answer that is sent whole.

    size          octets of the body
    anchor_end    octets of header and anchor, without the root label
    header_tails  flags and counts, by 2 × RD + has OPT
    before        the body up to its only pointer, without `first`,
    target        what that points to,
    behind        and what follows it, without `last`; for a body with no pointer or several: all of it, −1, nothing
    several       whether it has several pointers
    first, last   in front of and behind that in a body with one pointer: octets that other answers have as well
    answer        the answer itself"""

_NOT_ONE_POINTER = -1


class Prepared:
    """One answer, ready to be fitted and moved."""

    __slots__ = ("_at", "_flags", "_shared", "_sizes", "pick", "ready", "template", "zone")

    pick: Callable[[Sequence[bytes]], tuple[bytes, ...]]
    """Takes all pointers of the body, in order, out of a list of `_Shifted`.  Set with `template`."""

    def __init__(self, shared: "_Shared", at: int) -> None:
        """Prepare the answer at offset *at*."""
        octets = shared.table.octets
        _, size, flags, anchor_size, pointer_count, _, zone, *_ = ANSWER.unpack_from(octets, at)
        first, body, last = (bytes(octets[start : start + count]) for start, count in shared.table.pieces(at))

        self.zone: int = zone
        self._shared = shared
        self._at = at
        self._flags: int = _QR | flags
        self.template = b""
        """The body, for `%` and what `pick` gives: "%b" in place of each pointer; empty until `make_template`."""

        self._sizes: list[int] = []  # of the cuts; filled when first needed

        _, *counts, _, _, _, cut_flags = CUT.unpack_from(octets, at - CUT.size)
        target, behind = _NOT_ONE_POINTER, b""
        if pointer_count == 1:
            (offset,) = struct.unpack_from("<H", octets, at + ANSWER.size)
            offset -= len(first)
            if not 0 <= offset < len(body):  # the pointer is in octets of others
                first, body, last, offset = b"", first + body + last, b"", offset + len(first)
            first, last = shared.pieces.setdefault(first, first), shared.pieces.setdefault(last, last)
            before, behind = body[:offset], body[offset + 2 :]
            target = (body[offset] << 8 | body[offset + 1]) & 0x3FFF
        else:
            first, before, last = b"", b"".join((first, body, last)) if first or last else body, b""
        if pointer_count:
            shared.shifted.reach(16 + anchor_size + size)
        keep = shared.numbers.setdefault
        ends = keep(size, size), 11 + anchor_size
        header_tails = shared.header_tails(self._flags | (_TC if cut_flags & CUT_TRUNCATED else 0), *counts)
        moves = before, keep(target, target), behind, pointer_count > 1
        self.ready: Ready = (*ends, header_tails, *moves, first, last, self)

    def fitted(self, octets: bytes, question: bytes, opt: bytes, room: int) -> bytes:
        """The response to the query *octets* with a body of as many octets as *room* has, its smallest cut at least."""
        sizes, shared = self._sizes, self._shared
        if not sizes:
            cuts = shared.table.octets[self._cuts_at : self._at]
            sizes = self._sizes = cuts.cast("H").tolist()[:: CUT.size // 2]
        cut = bisect_right(sizes, room) or 1
        key = self._at << 16 | cut
        try:
            size, header_tails, count, template_octets = shared.cuts[key]
        except KeyError:
            size, header_tails, count, template_octets = shared.cuts.keep(key, self._cut(cut - 1))
        _, anchor_end, _, before, target, behind, several, first, last, _ = self.ready
        header_tail = header_tails[2 * (octets[2] & 1) + bool(opt)]
        moved_by = len(question) + 7 - anchor_end
        if not count or (several and not moved_by):
            return b"".join((octets[:2], header_tail, question, (first + before)[:size], opt))
        if not several:
            body = b"".join((first, before, TARGETS[target + moved_by], behind, last))
            return b"".join((octets[:2], header_tail, question, body[:size], opt))
        template = (self.template or self.make_template())[:template_octets]
        body = template % self.pick(shared.shifted[moved_by])[:count]
        return b"".join((octets[:2], header_tail, question, body, opt))

    @property
    def _cuts_at(self) -> int:
        """Where in the table this answer's cuts stand: before it, its pointers behind it."""
        cut_count: int = ANSWER.unpack_from(self._shared.table.octets, self._at)[5]
        return self._at - cut_count * CUT.size

    def _cut(self, cut: int) -> "_Cut":
        octets = self._shared.table.octets
        size, ancount, nscount, arcount, _, even, odd, cut_flags = CUT.unpack_from(
            octets, self._cuts_at + cut * CUT.size
        )
        flags = self._flags | (_TC if cut_flags & CUT_TRUNCATED else 0)
        count = even + odd
        template_octets = 0
        if self.ready[6]:
            pointers = struct.unpack_from(f"<{count}H", octets, self._at + ANSWER.size)
            template_octets = len(_template(self.ready[3][:size], pointers))
        return size, self._shared.header_tails(flags, ancount, nscount, arcount), count, template_octets

    def make_template(self) -> bytes:
        """Fill `template` and `pick` of a body with several pointers; returns the former."""
        shared = self._shared
        body, octets = self.ready[3], shared.table.octets
        pointer_count = ANSWER.unpack_from(octets, self._at)[4]
        offsets = struct.unpack_from(f"<{pointer_count}H", octets, self._at + ANSWER.size)
        targets = ((body[offset] << 8 | body[offset + 1]) & 0x3FFF for offset in offsets)
        self.pick = itemgetter(*(shared.numbers.setdefault(target, target) for target in targets))
        self.template = _template(body, offsets)
        return self.template


def _template(body: bytes, pointers: Sequence[int]) -> bytes:
    """*body* with "%b" in place of the *pointers* at these offsets, and each "%" twice, as `%` wants it."""
    starts, ends = (0, *(offset + 2 for offset in pointers)), (*pointers, len(body))
    return b"%b".join(body[start:end].replace(b"%", b"%%") for start, end in zip(starts, ends, strict=True))


_Cut = tuple[int, tuple[bytes, ...], int, int]
"""Size of the body up to a cut, header tails, pointers, octets of the template of a body with several."""

TARGETS = [struct.pack("!H", 0xC000 | target) for target in range(0x4000)]
"""Compression pointers (RFC 1035 §4.1.4) by the offset that they point to."""


class _Shifted(dict[int, list[bytes]]):
    """By how far an answer is moved (0 … 254): where its pointers then point to, by where they pointed before."""

    _longest = 0

    def reach(self, octets: int) -> None:
        """Have pointers for a message of so many octets, before it is moved."""
        if octets > self._longest:
            self._longest = octets
            self.clear()

    def __missing__(self, moved_by: int) -> list[bytes]:
        self[moved_by] = pointers = TARGETS[moved_by : moved_by + self._longest]
        return pointers


class _Recent(dict[int, _Cut]):
    """Cuts that were used recently."""

    # A list of all by their last use would cost a step at each use; here a use costs nothing until many others came.

    def __init__(self) -> None:
        super().__init__()
        self._older: dict[int, _Cut] = {}

    def __missing__(self, key: int) -> _Cut:
        return self.keep(key, self._older[key])

    def keep(self, key: int, cut: _Cut) -> _Cut:
        """Keep *cut*."""
        if len(self) == _CUTS_KEPT:
            self._older = dict(self)
            self.clear()
        self[key] = cut
        return cut


class _Shared:
    """What the prepared answers of one table have in common: equal things are kept once, which keeps them in cache."""

    def __init__(self, table: AnswerTable) -> None:
        self.table = table
        self.numbers: dict[int, int] = {}

        self.pieces: dict[bytes, bytes] = {}
        """Parts of bodies that are the same in many: SOA and NSEC of the root, say."""

        self.shifted = _Shifted()
        self.cuts = _Recent()
        """By offset of the answer and number of the cut."""

        self._header_tails: dict[tuple[int, ...], tuple[bytes, ...]] = {}

    def header_tails(self, flags: int, ancount: int, nscount: int, arcount: int) -> tuple[bytes, ...]:
        """Flags and counts by 2 × RD + has OPT."""
        key = (flags, ancount, nscount, arcount)
        if key not in self._header_tails:
            self._header_tails[key] = tuple(
                _HEADER_TAIL.pack(flags | rd, 1, ancount, nscount, arcount + opt) for rd in (0, _RD) for opt in (0, 1)
            )
        return self._header_tails[key]


_TAKEN_APART = 128  # answers at a time, some 0.1 ms

_CUTS_KEPT = 4096  # and as many older ones; 0.2 kB each

_NEVER_FITS = 1 << 30  # octets; more than any message has room for, and less than what _ZONEVERSION_ASKED leaves


class _NotYet(Prepared):
    """Stands for every denial that nobody has asked for: it seems not to fit, and finds the one that is meant then."""

    __slots__ = ("_find",)

    def __init__(self, find: Callable[[bytes, int], Prepared]) -> None:
        """*find*: the denial for a qname and a qtype."""
        self._find = find
        self.zone = 0
        self.ready = (_NEVER_FITS, 0, (), b"", _NOT_ONE_POINTER, b"", False, b"", b"", self)

    def fitted(self, octets: bytes, question: bytes, opt: bytes, room: int) -> bytes:
        """The response of the answer that is meant."""
        qtype = question[-4] << 8 | question[-3]
        return self._find(question[:-4].lower(), qtype).fitted(octets, question, opt, room)

    def take_apart(self) -> None:
        """It refers to who refers to it."""
        del self.ready, self._find


class PreparedAnswers:
    """All answers of a table and the ways to find them."""

    def __init__(self, table: AnswerTable) -> None:
        self._shared = _Shared(table)
        self.shifted = self._shared.shifted
        self._prepared: dict[int, Prepared] = {}
        self._not_yet = _NotYet(lambda qname, qtype: self.find(qname, qtype, do=True))
        infos = list(table.names())

        self.labels = [info.label for info in infos]
        """NSEC owners of the root zone in canonical order; the first is the root's, empty."""

        self._denials = [info.nxdomain for info in infos]
        """For each of `labels`: where the nxdomain, DO=1, for names behind it stands."""

        self._referrals = {info.label: (*info.referral, *info.ds) for info in infos if info.label}
        """By TLD label: where referral with DO=0 and DO=1, answer to qtype DS with DO=0 and DO=1 stand."""

        self._found: dict[bytes, tuple[Prepared, ...]] = {}
        """Those that are prepared."""

        self.delegations: dict[bytes, tuple[Ready, ...]] = dict.fromkeys(self._referrals, ())
        """For the shortcut: `_found`, ready to be sent; empty for what `find` must be asked for."""

        self.denials = _by_first_octet(self.labels, [self._not_yet.ready] * len(infos))
        """For the shortcut, by the first octet of a label: the labels that begin with it, and the nxdomain, DO=1, for
        what comes before them and behind each of them."""

        at = self._at
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

        self._host_label: bytes | None = None  # the last of the host zone: names that end in it are compared whole
        self._host_apex = b""  # nobody's name: each ends in a root label
        if len(table.zones) > 1:
            zone = table.zones[1]
            self._host_apex = zone.name
            self._host_label = names.labels(zone.name)[-1]
            self.delegations[self._host_label] = ()
            self._host_nxdomain = at(zone.nxdomain[0])
            hosts = [owner for owner in table.owners() if owner.zone]  # the apex first, then in canonical order
            self._host_labels = [b"", *(names.labels(owner.name)[0] for owner in hosts[1:])]
            self._host_denials = [(at(owner.nxdomain[0]), at(owner.nxdomain[1])) for owner in hosts]

    def _at(self, offset: int) -> Prepared:
        """The answer that stands at *offset* of the table."""
        found = self._prepared.get(offset)
        if found is None:
            found = self._prepared[offset] = Prepared(self._shared, offset)
        return found

    def put_together(self) -> Iterator[None]:
        """Prepare what nobody has asked for yet, the answers of one name at a time: some 50 µs."""
        for number, label in enumerate(self.labels):
            if label and label not in self._found:
                self._prepare_delegation(label)
            self._prepare_denial(number)
            yield

    def take_apart(self) -> Iterator[None]:
        """Let go of the answers, some at a time: each refers to itself by `ready`."""
        self._not_yet.take_apart()
        while self.denials or self.delegations:
            del self.denials[-8:]
            for label in list(itertools.islice(self.delegations, 64)):
                del self.delegations[label]
                self._found.pop(label, None)
            yield
        while self._prepared:
            for _ in range(min(_TAKEN_APART, len(self._prepared))):
                _, answer = self._prepared.popitem()
                del answer.ready
            yield

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
                return self._host_denial(qname[start + 1 : at]) if do else self._host_nxdomain
            start = at
            at += 1 + qname[at]
        label = qname[start + 1 : at]
        delegation = self._found.get(label)
        if delegation is None and label in self._referrals:
            delegation = self._prepare_delegation(label)
        if delegation is not None:
            return delegation[(2 if qtype == _TYPE_DS and start == 0 else 0) + do]
        if not do:
            return self.nxdomain
        number = bisect_right(self.labels, label) - 1
        return self._prepared.get(self._denials[number]) or self._prepare_denial(number)

    def _prepare_delegation(self, label: bytes) -> tuple[Prepared, ...]:
        found = self._found[label] = tuple(map(self._at, self._referrals[label]))
        if label != self._host_label:
            self.delegations[label] = tuple(answer.ready for answer in found)
        return found

    def _prepare_denial(self, number: int) -> Prepared:
        """The nxdomain, DO=1, for names behind label *number*, from now on also where the shortcut looks for it."""
        answer = self._at(self._denials[number])
        # It is the first of those who begin with an octet that comes behind it, up to the octet of the next label.
        label, behind = self.labels[number], self.labels[number + 1 : number + 2]
        first, last = label[0] if label else -1, behind[0][0] if behind else 255
        if label:
            own, ready = self.denials[first]
            ready[1 + bisect_left(own, label)] = answer.ready
        for octet in range(first + 1, last + 1):
            self.denials[octet][1][0] = answer.ready
        return answer

    def _host_denial(self, label: bytes) -> Prepared:
        """The nxdomain, DO=1, for a name of the host zone whose last label before its apex is *label*."""
        number = bisect_right(self._host_labels, label) - 1
        return self._host_denials[number][self._host_labels[number] == label]


def _by_first_octet(labels: list[bytes], denials: list[Ready]) -> list[tuple[list[bytes], list[Ready]]]:
    """For each first octet: the *labels* that begin with it, the denial for what comes before them, and theirs."""
    low = [bisect_left(labels, bytes((octet,))) for octet in range(1, 256)]
    return [
        (labels[first:last], denials[first - 1 : last])
        for first, last in zip([1, *low], [*low, len(labels)], strict=True)
    ]
