"""Every TLD and 20,000 further queries: our responses beside those of NSD and Knot, all from the same genuine zone.

Over TCP nothing is cut, so there the contents are compared; over UDP, what is left out and what TC says of it.
"""

import collections
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from bench.peers import Peer
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from tests.conformance import asking, queries
from tests.conformance.conftest import VALID_AT
from tests.conformance.corpus import Served
from tests.conformance.differences import (
    GLUE_AS_IT_FITS,
    IN_DOMAIN_GLUE_WITHOUT_TC,
    SUFFIX_NOT_SHARED,
    TRUNCATED_AS_IT_FITS,
)
from tests.conformance.wire import NS, RRSIG, SIGNATURE_OF, SOA, Message, name_from_text, parse, record_ends, show
from tests.server.live import Instance

GENERATED = 20_000
LOCALHOST = b"\x7f\0\0\1"
LIMIT = 1232
PEERS = ("NSD", "Knot")

A, AAAA, OPT_SIZE = 1, 28, 11


@dataclass(frozen=True)
class Asked:
    """Queries and everybody's responses to them, by (who, transport), in the same order; ids are 0."""

    queries: list[bytes]
    responses: dict[tuple[str, Transport], list[bytes]]

    def of(self, who: str, transport: Transport) -> list[bytes]:
        return self.responses[who, transport]


@pytest.fixture(scope="module")
def plain(table: AnswerTable) -> Responder:
    """Ours without NSID and cookies: nobody asks for them here."""
    return Responder(table, ResponderSettings())


@pytest.fixture(scope="module")
def asked(plain: Responder, peer: Callable[[str], Peer], served: Served) -> Asked:
    tlds = served.root.delegations
    questions = [
        *queries.of_every_tld(tlds),
        *queries.generated(tlds, served.hosts.owners, served.root.glue_owners, GENERATED),
    ]
    responses = {}
    for name in PEERS:
        other = peer(name)
        responses[name, Transport.UDP] = asking.many_over_udp(other.address, other.port, questions)
        responses[name, Transport.TCP] = asking.over_tcp_pipelined(other.address, other.port, questions)
    for transport in Transport:
        ours = [plain.respond(query, LOCALHOST, transport, VALID_AT) for query in questions]
        responses["rootsrv", transport] = [octets for octets in ours if octets is not None]
    assert {len(each) for each in responses.values()} == {len(questions)}
    return Asked(questions, responses)


def contents(message: Message) -> tuple[object, ...]:
    """All of a message but how it was written."""
    sections = (message.answer, message.authority, message.additional)
    return (message.flags, message.rcode, message.question, *sections, message.opt)


def only_rrsig_differs(ours: Message, theirs: Message) -> bool:
    """Classes rrsig-all and rrsig-other: which signatures answer qtype RRSIG is free, if there is one of the apex."""
    return (
        ours.question[0][1] == RRSIG
        and ours.rcode == theirs.rcode
        and ours.aa
        and theirs.aa
        and all(key[1] > SIGNATURE_OF for section in (ours.answer, theirs.answer) for key in section)
        and len(ours.answer) == 1
    )


def test_whole_responses_equal_those_of_nsd_or_knot(
    asked: Asked, record_property: Callable[[str, object], None]
) -> None:
    counts: collections.Counter[str] = collections.Counter()
    unexplained = []
    tcp = Transport.TCP
    for octets, *others in zip(asked.of("rootsrv", tcp), *(asked.of(name, tcp) for name in PEERS), strict=True):
        ours = None
        equal = []
        theirs = []
        for name, other in zip(PEERS, others, strict=True):
            if other != octets:
                ours = ours or parse(octets)
                theirs.append(parse(other))
                if contents(theirs[-1]) != contents(ours):
                    continue
            equal.append(name)
        if equal:
            counts[f"equal to {' and '.join(equal)}"] += 1
        elif ours and any(only_rrsig_differs(ours, each) for each in theirs):
            counts["rrsig-all, rrsig-other"] += 1
        else:
            unexplained.append("\n".join(show(each) for each in (parse(octets), *theirs)))
    record_property("summary", f"differential, whole: {told(counts)}")
    assert not unexplained, "\n\n".join(unexplained[:20])
    assert sum(counts.values()) >= 4 * 1400 + GENERATED


def test_cut_responses_equal_those_of_nsd_or_knot_but_for_what_fits(
    asked: Asked, record_property: Callable[[str, object], None]
) -> None:
    counts: collections.Counter[str] = collections.Counter()
    unexplained = []
    udp = Transport.UDP
    whole = asked.of("rootsrv", Transport.TCP)
    for octets, full, *others in zip(
        asked.of("rootsrv", udp), whole, *(asked.of(name, udp) for name in PEERS), strict=True
    ):
        if octets in others:
            counts["equal"] += 1
            continue
        ours, theirs = parse(octets), [parse(other) for other in others]
        if any(contents(each) == contents(ours) for each in theirs):
            counts["equal"] += 1
        elif octets == full and any(only_rrsig_differs(ours, each) for each in theirs):
            counts["rrsig-all, rrsig-other"] += 1
        elif ours.tc and any(each.tc and same_head(ours, each) for each in theirs):
            counts[TRUNCATED_AS_IT_FITS] += 1
        elif not ours.tc and any(same_but_for_glue(ours, each) for each in theirs):
            counts[GLUE_AS_IT_FITS] += 1
        elif ours.tc and any(same_but_for_glue(ours, each) and is_partial(each, full) for each in theirs):
            counts[IN_DOMAIN_GLUE_WITHOUT_TC] += 1
        elif ours.tc and shares_a_servers_suffix(ours) and any(same_but_for_glue(ours, each) for each in theirs):
            counts[SUFFIX_NOT_SHARED] += 1
        else:
            unexplained.append("\n".join(show(each) for each in (ours, *theirs)))
    record_property("summary", f"differential, over UDP: {told(counts)}")
    assert not unexplained, "\n\n".join(unexplained[:20])


def same_head(ours: Message, theirs: Message) -> bool:
    return (ours.flags, ours.rcode, ours.question) == (theirs.flags, theirs.rcode, theirs.question)


def is_partial(theirs: Message, full: bytes) -> bool:
    """Whether a response without TC lacks addresses that the whole one has."""
    return not theirs.tc and theirs.additional.keys() < parse(full).additional.keys()


def same_but_for_glue(ours: Message, theirs: Message) -> bool:
    """TC may differ: what it says of glue is test_tc_says_that_…'s."""
    addresses = {key[1] for section in (ours.additional, theirs.additional) for key in section}
    return (
        (ours.rcode, ours.aa, ours.question) == (theirs.rcode, theirs.aa, theirs.question)
        and (ours.answer, ours.authority) == (theirs.answer, theirs.authority)
        and addresses <= {A, AAAA}
    )


def limit_of(query: bytes) -> int:
    """What a UDP response may have: 512 without EDNS, else what is offered, within 512 and 1232."""
    if query[11] == 0:
        return 512
    return max(512, min(LIMIT, int.from_bytes(query[-8:-6], "big")))


def units(octets: bytes) -> list[int]:
    """Where a message may be cut: the ends of RRsets with their signatures."""
    ends: list[tuple[object, int]] = []
    for (owner, rtype, _), end in record_ends(octets):
        unit = (owner, rtype % SIGNATURE_OF)
        if ends and ends[-1][0] == unit:
            ends[-1] = (unit, end)
        else:
            ends.append((unit, end))
    return [end for _, end in ends]


def test_a_cut_response_is_the_start_of_the_whole_one_and_holds_as_many_rrsets_as_fit(asked: Asked) -> None:
    cut = 0
    for query, octets, full in zip(
        asked.queries, asked.of("rootsrv", Transport.UDP), asked.of("rootsrv", Transport.TCP), strict=True
    ):
        limit = limit_of(query)
        assert len(octets) <= limit
        if octets == full:
            continue
        cut += 1
        opt_size = OPT_SIZE if query[11] else 0
        size = len(octets) - opt_size
        question_end = len(query) - opt_size
        ends = units(full)
        assert size in (question_end, *ends)
        assert octets[12:size] == full[12:size]
        following = next(end for end in ends if end > size)
        assert following + opt_size > limit, show(parse(octets))
    assert cut > 1000


def test_tc_says_that_something_is_missing_that_must_be_there(asked: Asked, served: Served) -> None:
    in_domain = {
        name_from_text(tld): {name_from_text(s) for s in served.root.name_servers(tld) if ("." + s).endswith("." + tld)}
        for tld in served.root.delegations
    }
    tcs = 0
    for octets, full in zip(asked.of("rootsrv", Transport.UDP), asked.of("rootsrv", Transport.TCP), strict=True):
        if octets == full:
            assert not octets[2] & 0x02
            continue
        ours, whole = parse(octets), parse(full)
        owner = next(iter(whole.authority), (b"", 0, 0))[0]
        glue = [key for key in whole.additional if key[0] in in_domain.get(owner, ())]
        is_missing = (
            ours.answer != whole.answer
            or ours.authority != whole.authority
            or any(key not in ours.additional for key in glue)
        )
        assert ours.tc == is_missing, show(ours)
        tcs += is_missing
    assert tcs > 500


def test_no_response_with_the_same_rrsets_is_larger_than_that_of_nsd_or_knot(
    asked: Asked, record_property: Callable[[str, object], None]
) -> None:
    larger: collections.Counter[int] = collections.Counter()
    compared = 0
    for transport in Transport:
        for octets, *others in zip(
            asked.of("rootsrv", transport), *(asked.of(name, transport) for name in PEERS), strict=True
        ):
            for other in others:
                if len(octets) <= len(other):
                    compared += 1
                    continue
                ours, theirs = parse(octets), parse(other)
                if ours.tc or theirs.tc or contents(ours) != contents(theirs):
                    continue
                compared += 1
                assert shares_a_servers_suffix(ours), show(ours)
                larger[len(octets) - len(other)] += 1
    sharing = f"{sum(larger.values())} larger, by up to {max(larger)} octets: {SUFFIX_NOT_SHARED}"
    record_property("summary", f"sizes: {compared} compared, {sharing}")
    assert compared > 2 * 1400 * 8


def shares_a_servers_suffix(message: Message) -> bool:
    """Whether the qname ends in the name of a name server in the message, or in two labels or more of one.

    An answer is written once for all names below its anchor, so it cannot point to those labels of a qname.
    """
    qname = message.question[0][0].lower()
    names = {key[0] for key in message.additional}
    names |= {rdata for key, rrset in message.authority.items() if key[1] == NS for rdata in rrset.rdatas}
    names |= {
        rdata[: _end(rdata)] for key, rrset in message.authority.items() if key[1] == SOA for rdata in rrset.rdatas
    }
    two_labels_or_more = _suffixes(qname)[:-2]
    return any(name.endswith(suffix) for name in names for suffix in two_labels_or_more)


def _end(name: bytes) -> int:
    at = 0
    while name[at]:
        at += 1 + name[at]
    return at + 1


def _suffixes(name: bytes) -> list[bytes]:
    at, suffixes = 0, [name]
    while name[at]:
        at += 1 + name[at]
        suffixes.append(name[at:])
    return suffixes


def test_the_live_server_answers_the_same_octets(asked: Asked, live: Instance) -> None:
    for address in ("127.0.0.1", "::1"):
        over_udp = asking.many_over_udp(address, live.port, asked.queries)
        assert over_udp == asked.of("rootsrv", Transport.UDP)
    assert asking.over_tcp_pipelined("::1", live.port, asked.queries) == asked.of("rootsrv", Transport.TCP)


def told(counts: "collections.Counter[str]") -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
