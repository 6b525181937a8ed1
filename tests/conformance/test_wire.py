"""The parser that the comparisons rest on sees what dnspython sees."""

from collections.abc import Callable

import dns.message
import dns.name
import dns.rdatatype
import pytest

from bench.peers import AUTHORITATIVE, Peer
from tests.conformance import asking, queries
from tests.conformance.corpus import Served
from tests.conformance.wire import SIGNATURE_OF, Garbled, Section, make_query, name_from_text, name_to_text, parse


def as_dnspython_sees(section: "list[dns.rrset.RRset]") -> dict[tuple[bytes, int, int], tuple[int, set[bytes]]]:
    return {
        (
            rrset.name.to_wire().lower(),
            int(rrset.rdtype if rrset.rdtype != dns.rdatatype.RRSIG else SIGNATURE_OF + rrset.covers),
            int(rrset.rdclass),
        ): (rrset.ttl, {rdata.to_digestable() for rdata in rrset})
        for rrset in section
    }


def as_we_see(section: Section) -> dict[tuple[bytes, int, int], tuple[int, set[bytes]]]:
    return {key: (rrset.ttl, set(rrset.rdatas)) for key, rrset in section.items()}


@pytest.mark.parametrize("name", AUTHORITATIVE)
def test_messages_of_every_peer_are_parsed_as_dnspython_parses_them(
    name: str, peer: Callable[[str], Peer], served: Served
) -> None:
    other = peer(name)
    tlds = served.root.delegations
    asked = list(queries.generated(tlds, served.hosts.owners, served.root.glue_owners, 300))
    for octets in asking.many_over_udp(other.address, other.port, asked):
        ours, theirs = parse(octets), dns.message.from_wire(octets)
        assert (ours.flags, ours.rcode) == (theirs.flags & 0xFFF0, theirs.rcode())
        assert [q[0] for q in ours.question] == [rrset.name.to_wire() for rrset in theirs.question]
        for section in ("answer", "authority", "additional"):
            assert as_we_see(getattr(ours, section)) == as_dnspython_sees(getattr(theirs, section))
        assert (ours.opt.size if ours.opt else 0) == theirs.payload


def test_names_survive_text() -> None:
    for text in (".", "com.", "a\\.b.c.", "\\000\\255.x\\032y."):
        assert name_to_text(name_from_text(text)).replace("\\046", "\\.") == text
        assert dns.name.from_text(text).to_wire() == name_from_text(text)


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_message_that_ends_early_is_garbled(cut: int) -> None:
    query = make_query(name_from_text("example.com."), 1, size=1232, options=[(3, b"x")])
    with pytest.raises(Garbled):
        parse(query[:-cut])


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(make_query(b"\0", 1) + b"\0", id="trailing_octet"),
        pytest.param(make_query(b"\xc0\x0c", 1), id="pointer_to_itself"),
        pytest.param(make_query(b"\xc0\x20", 1), id="pointer_forwards"),
        pytest.param(make_query(b"\x40" + b"a" * 64 + b"\0", 1), id="label_of_64_octets"),
        pytest.param(make_query((b"\x3f" + b"a" * 63) * 4 + b"\0", 1), id="name_of_257_octets"),
    ],
)
def test_what_is_no_message_is_garbled(octets: bytes) -> None:
    with pytest.raises(Garbled):
        parse(octets)
