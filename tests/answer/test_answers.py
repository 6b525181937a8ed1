"""Which answer belongs to which query (D6–D8, D13): every row of the table in docs/architecture.md."""

import dns.flags
import dns.rcode
import pytest

from rootsrv.answer.responder import Responder, Transport
from rootsrv.wire import name as names
from rootsrv.zone.contents import ZoneContents
from tests.answer.ask import ask, described, query
from tests.answer.conftest import Compiled

AA, TC = dns.flags.AA, dns.flags.TC


def tld_where(root: ZoneContents, *, ds: bool) -> str:
    return next(names.to_text(tld) for tld in root.delegations if (root.rrset(tld, 43) is not None) is ds)


@pytest.fixture(scope="session")
def signed_tld(compiled: Compiled) -> str:
    return tld_where(compiled.root.contents, ds=True)


@pytest.fixture(scope="session")
def unsigned_tld(compiled: Compiled) -> str:
    return tld_where(compiled.root.contents, ds=False)


def test_priming_gives_all_name_servers_and_addresses_without_tc(responder: Responder) -> None:
    response = ask(responder, query(".", "NS", size=1232))
    assert response.flags & (AA | TC) == AA
    assert [len(rrset) for rrset in response.answer] == [13]
    assert response.authority == []
    assert len(response.additional) == 26


def test_priming_with_dnssec_is_signed(responder: Responder) -> None:
    response = ask(responder, query(".", "NS", do=True, size=1232))
    assert described(response)["answer"] == [". NS", ". RRSIG(NS)"]
    assert not response.flags & TC


def test_priming_addresses_that_do_not_fit_are_left_out_without_tc(responder: Responder) -> None:
    response = ask(responder, query(".", "NS"))
    assert len(response.to_wire()) <= 512
    assert not response.flags & TC
    assert 2 <= len(response.additional) < 26


@pytest.mark.parametrize("rtype", ["SOA", "DNSKEY", "NSEC", "ZONEMD"])
def test_apex_rrsets_are_answered_signed_with_nothing_beside(responder: Responder, rtype: str) -> None:
    response = ask(responder, query(".", rtype, do=True, size=4096), Transport.TCP)
    assert described(response) == {
        "answer": [f". {rtype}", f". RRSIG({rtype})"],
        "authority": [],
        "additional": [],
    }
    assert response.flags & AA


@pytest.mark.parametrize("rtype", ["A", "TXT", "DS", "TYPE65280"])
def test_other_types_at_the_apex_are_nodata(responder: Responder, rtype: str) -> None:
    response = ask(responder, query(".", rtype, do=True))
    assert response.rcode() == dns.rcode.NOERROR
    assert response.flags & AA
    assert described(response) == {
        "answer": [],
        "authority": [". SOA", ". RRSIG(SOA)", ". NSEC", ". RRSIG(NSEC)"],
        "additional": [],
    }


def test_any_at_the_apex_is_minimal(responder: Responder) -> None:
    assert described(ask(responder, query(".", "ANY")))["answer"] == [". SOA"]
    assert described(ask(responder, query(".", "ANY", do=True)))["answer"] == [". SOA", ". RRSIG(SOA)"]


def test_rrsig_at_the_apex_is_minimal(responder: Responder) -> None:
    assert described(ask(responder, query(".", "RRSIG", do=True)))["answer"] == [". RRSIG(SOA)"]


@pytest.mark.parametrize("prefix", ["", "www.", "a.b.c.d.", "\\000x."])
@pytest.mark.parametrize("rtype", ["A", "NS", "NSEC", "ANY", "SOA"])
def test_a_signed_tld_is_referred_to_with_its_ds(
    responder: Responder, signed_tld: str, prefix: str, rtype: str
) -> None:
    response = ask(responder, query(prefix + signed_tld, rtype, do=True, size=1232))
    assert response.rcode() == dns.rcode.NOERROR
    assert not response.flags & (AA | TC)
    assert response.answer == []
    assert described(response)["authority"] == [f"{signed_tld} NS", f"{signed_tld} DS", f"{signed_tld} RRSIG(DS)"]
    assert response.additional


def test_an_unsigned_tld_is_referred_to_with_its_nsec(responder: Responder, unsigned_tld: str) -> None:
    response = ask(responder, query("www." + unsigned_tld, "AAAA", do=True))
    assert described(response)["authority"] == [
        f"{unsigned_tld} NS",
        f"{unsigned_tld} NSEC",
        f"{unsigned_tld} RRSIG(NSEC)",
    ]


def test_without_do_a_referral_has_no_dnssec_records(responder: Responder, signed_tld: str) -> None:
    assert described(ask(responder, query("www." + signed_tld, "A")))["authority"] == [f"{signed_tld} NS"]


def test_ds_at_a_tld_is_answered_with_authority(responder: Responder, signed_tld: str) -> None:
    response = ask(responder, query(signed_tld, "DS", do=True))
    assert response.flags & AA
    assert described(response) == {
        "answer": [f"{signed_tld} DS", f"{signed_tld} RRSIG(DS)"],
        "authority": [],
        "additional": [],
    }


def test_ds_below_a_tld_is_a_referral(responder: Responder, signed_tld: str) -> None:
    response = ask(responder, query("x." + signed_tld, "DS", do=True))
    assert not response.flags & AA
    assert response.answer == []


def test_ds_of_an_unsigned_tld_is_proven_not_to_exist(responder: Responder, unsigned_tld: str) -> None:
    response = ask(responder, query(unsigned_tld, "DS", do=True))
    assert response.flags & AA
    assert described(response)["authority"] == [
        ". SOA",
        ". RRSIG(SOA)",
        f"{unsigned_tld} NSEC",
        f"{unsigned_tld} RRSIG(NSEC)",
    ]


@pytest.mark.parametrize("qname", ["nosuchtld", "www.nosuchtld", "a.b.nosuchtld", "\\000\\255", "a.\\000", "zzzzzzzz"])
def test_an_nxdomain_has_the_covering_nsec_and_that_of_the_root(
    responder: Responder, compiled: Compiled, qname: str
) -> None:
    asked = query(qname, "A", do=True)
    response = ask(responder, asked)
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert response.flags & (AA | TC) == AA
    label = asked.question[0].name.labels[-2].lower()
    before = max(tld for tld in (b"", *(each[1:-1] for each in compiled.root.contents.delegations)) if tld < label)
    covering = names.to_text(bytes((len(before),)) + before + b"\0") if before else "."
    expected = [". SOA", ". RRSIG(SOA)", f"{covering} NSEC", f"{covering} RRSIG(NSEC)"]
    if covering != ".":
        expected += [". NSEC", ". RRSIG(NSEC)"]
    assert described(response) == {"answer": [], "authority": expected, "additional": []}


def test_an_nxdomain_without_do_has_the_soa_only(responder: Responder) -> None:
    assert described(ask(responder, query("nosuchtld", "A", size=512)))["authority"] == [". SOA"]


@pytest.mark.parametrize("rtype", ["A", "AAAA"])
@pytest.mark.parametrize("do", [False, True])
def test_root_servers_net_addresses_are_answered_with_authority(responder: Responder, rtype: str, do: bool) -> None:
    response = ask(responder, query("m.root-servers.net", rtype, do=do))
    assert response.flags & AA
    assert described(response) == {"answer": [f"m.root-servers.net. {rtype}"], "authority": [], "additional": []}


def test_root_servers_net_has_its_own_apex_nodata_and_nxdomain(responder: Responder) -> None:
    apex = "root-servers.net."
    assert described(ask(responder, query(apex, "SOA")))["answer"] == [f"{apex} SOA"]
    ns = ask(responder, query(apex, "NS", size=1232))
    assert described(ns)["answer"] == [f"{apex} NS"]
    assert len(ns.additional) == 26
    nodata = ask(responder, query("a.root-servers.net", "MX", do=True))
    assert (nodata.rcode(), described(nodata)["authority"]) == (dns.rcode.NOERROR, [f"{apex} SOA"])
    for qname in ("x.root-servers.net", "x.y.root-servers.net", "b.a.root-servers.net"):
        nxdomain = ask(responder, query(qname, "A", do=True))
        assert (nxdomain.rcode(), described(nxdomain)["authority"]) == (dns.rcode.NXDOMAIN, [f"{apex} SOA"])
        assert nxdomain.flags & AA


def test_ds_of_root_servers_net_is_a_referral_to_net(responder: Responder) -> None:
    response = ask(responder, query("root-servers.net", "DS", do=True))
    assert not response.flags & AA
    assert described(response)["authority"][0] == "net. NS"


@pytest.mark.parametrize("qname", ["net", "example.net", "xroot-servers.net", "\\012root-servers.net"])
def test_names_beside_root_servers_net_are_referred_to_net(responder: Responder, qname: str) -> None:
    response = ask(responder, query(qname, "A"))
    assert described(response)["authority"] == ["net. NS"]


def test_the_case_of_the_question_is_kept(responder: Responder, signed_tld: str) -> None:
    asked = query("WwW." + signed_tld.upper(), "A", do=True).to_wire()
    response = responder.respond(asked, bytes(4), Transport.UDP, 0)
    assert response is not None
    question_size = len(signed_tld) + 1 + 4 + 4
    assert response[12 : 12 + question_size] == asked[12 : 12 + question_size]


def test_rd_is_copied(responder: Responder) -> None:
    for rd in (False, True):
        for asked in (query("com", "NS", rd=rd), query("com", "NS", rd=rd, rclass="HS")):
            assert bool(ask(responder, asked).flags & dns.flags.RD) is rd


@pytest.mark.parametrize("size", [512, 600, 700, 800, 1232])
def test_a_truncated_referral_holds_ns_then_ds_then_glue(responder: Responder, compiled: Compiled, size: int) -> None:
    root = compiled.root.contents
    for tld in root.delegations:
        text = names.to_text(tld)
        asked = query("www.example." + text, "A", do=True, size=size)
        response = ask(responder, asked)
        assert len(response.to_wire()) <= size
        full = ask(responder, asked, Transport.TCP)
        sections = described(response)
        for section, whole in described(full).items():
            assert sections[section] == whole[: len(sections[section])]
        if len(sections["authority"]) < len(described(full)["authority"]):
            assert sections["additional"] == []
        in_domain = {
            host for ns in full.authority[0] if (host := ns.target.to_text()).endswith("." + text) or host == text
        }
        glue = {(each.name.to_text(), each.rdtype) for each in response.additional}
        all_glue = {(each.name.to_text(), each.rdtype) for each in full.additional}
        complete = len(sections["authority"]) == len(described(full)["authority"]) and all(
            each in glue for each in all_glue if each[0] in in_domain
        )
        assert bool(response.flags & TC) is not complete, f"{text} at {size} (RFC 9471 §3.1)"


def test_an_answer_that_does_not_fit_is_truncated_to_nothing(responder: Responder) -> None:
    response = ask(responder, query(".", "DNSKEY", do=True, size=512))
    assert response.flags & TC
    assert response.answer == []


def test_sizes_below_512_count_as_512(responder: Responder, signed_tld: str) -> None:
    asked = "www.example." + signed_tld
    small, smallest = (ask(responder, query(asked, "A", do=True, size=size)) for size in (512, 1))
    assert described(small) == described(smallest)


def test_no_udp_response_exceeds_the_configured_maximum(responder: Responder, compiled: Compiled) -> None:
    for tld in compiled.root.contents.delegations:
        octets = query("x." * 100 + names.to_text(tld), "A", do=True, size=4096).to_wire()
        response = responder.respond(octets, bytes(4), Transport.UDP, 0)
        assert response is not None
        assert len(response) <= 1232
