"""The day the root changes shape: types that are new, and a signed root-servers.net, answered as validators need it."""

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest

from rootsrv.answer import examination
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.responder import Responder, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.demo.sign import sign_root
from rootsrv.wire.name import ROOT, from_text
from rootsrv.wire.rdata import NS, A
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.verify import verify, verify_hosts
from tests.answer.ask import ask, described, query
from tests.answer.conftest import NOW, SETTINGS, Compiled
from tests.zone.altered import with_rrset

NEW_TYPE = 65280
HOSTS = "root-servers.net."


@pytest.fixture(scope="module")
def changed(compiled: Compiled) -> Responder:
    """A root with a new type at com (has DS), org (has none) and the apex, and signed hosts."""
    generated = compiled.generated
    added = [RRset(from_text(owner), NEW_TYPE, 86400, (b"\1\2\3",)) for owner in ("com.", "org.", ".")]
    root = verify(
        sign_root(with_rrset(generated.root, *added), generated.signing),
        TrustAnchors.from_text(generated.trust_anchor),
        NOW,
    )
    hosts = verify_hosts(sign_root(generated.hosts, generated.signing), root, NOW)
    table = AnswerTable(compile_table(root, hosts))
    assert examination.examine(table, root.contents, hosts.contents)[1] == []
    return Responder(table, SETTINGS)


# ── new types ──


@pytest.mark.parametrize("tld", ["com", "org"])
@pytest.mark.parametrize("prefix", ["", "www.example."])
@pytest.mark.parametrize("do", [False, True])
def test_asked_for_a_new_type_at_a_delegation_it_refers_as_ever(
    changed: Responder, responder: Responder, tld: str, prefix: str, do: bool
) -> None:
    """As NSD, Knot, BIND and PowerDNS do (docs/protocol-notes.md)."""
    response = ask(changed, query(prefix + tld, "TYPE65280", do=do, size=1232))
    assert not response.flags & (dns.flags.AA | dns.flags.TC)
    assert described(response) == described(ask(responder, query(prefix + tld, "A", do=do, size=1232)))


def test_the_nsec_that_is_sent_with_a_referral_affirms_the_new_type(changed: Responder) -> None:
    response = ask(changed, query("org", "A", do=True))
    (nsec,) = (rrset for rrset in response.authority if rrset.rdtype == dns.rdatatype.NSEC)
    assert "TYPE65280" in nsec[0].to_text()


def test_a_new_type_at_the_apex_is_answered(changed: Responder) -> None:
    assert described(ask(changed, query(".", "TYPE65280", do=True)))["answer"] == [
        ". TYPE65280",
        ". RRSIG(TYPE65280)",
    ]
    assert described(ask(changed, query(".", "TYPE65280")))["answer"] == [". TYPE65280"]


# ── signed hosts ──

PROOFS = {
    "before the first host": ("\\000", [HOSTS]),
    "behind a host": ("aa", [f"a.{HOSTS}", HOSTS]),
    "behind the last host": ("x", [f"m.{HOSTS}", HOSTS]),
    "deep, behind the last host": ("a.b.x", [f"m.{HOSTS}", HOSTS]),
    "below a host": ("x.a", [f"a.{HOSTS}"]),
    "far below a host": ("x.y.z.b", [f"b.{HOSTS}"]),
    "a wildcard that is not there": ("*", [HOSTS]),
}


@pytest.mark.parametrize(("name", "owners"), PROOFS.values(), ids=PROOFS.keys())
@pytest.mark.parametrize("rtype", ["A", "DS", "NS", "ANY"])
def test_what_is_not_there_is_proven(changed: Responder, name: str, owners: list[str], rtype: str) -> None:
    response = ask(changed, query(f"{name}.{HOSTS}", rtype, do=True))
    assert response.rcode() == dns.rcode.NXDOMAIN
    assert response.flags & dns.flags.AA
    expected = [f"{HOSTS} SOA", f"{HOSTS} RRSIG(SOA)"]
    for owner in owners:
        expected += [f"{owner} NSEC", f"{owner} RRSIG(NSEC)"]
    assert described(response)["authority"] == expected
    wanted = dns.name.from_text(f"{name}.{HOSTS}")
    encloser = wanted.parent()
    while encloser.to_text() not in {HOSTS, *(f"{letter}.{HOSTS}" for letter in "abcdefghijklm")}:
        encloser = encloser.parent()
    nsecs = [(rrset.name, rrset[0].next) for rrset in response.authority if rrset.rdtype == dns.rdatatype.NSEC]
    for denied in (wanted, dns.name.from_text("*", encloser)):
        assert any(owner < denied and (denied < following or following < owner) for owner, following in nsecs)
    without_do = ask(changed, query(f"{name}.{HOSTS}", rtype))
    assert described(without_do)["authority"] == [f"{HOSTS} SOA"]


# ── names that sort before "*" ──


@pytest.fixture(scope="module")
def sorted_early(compiled: Compiled) -> Responder:
    """A root with the TLDs "!" and ")z", and signed hosts with one named "!", so that the apexes' NSEC end there."""
    generated = compiled.generated
    added = [RRset(wire, NS, 172800, (from_text("ns.example.com."),)) for wire in (b"\1!\0", b"\2)z\0")]
    host = RRset(b"\1!" + from_text(HOSTS), A, 172800, (bytes((192, 0, 2, 99)),))
    signing = generated.signing
    root = verify(
        sign_root(with_rrset(generated.root, *added, host), signing),
        TrustAnchors.from_text(generated.trust_anchor),
        NOW,
    )
    hosts = verify_hosts(sign_root(with_rrset(generated.hosts, host), signing), root, NOW)
    table = AnswerTable(compile_table(root, hosts))
    assert examination.examine(table, root.contents, hosts.contents)[1] == []
    return Responder(table, SETTINGS)


@pytest.mark.parametrize("name", ["\\000", " ", 'www.\\"', ")zz", "*", "no-such", "zzzz", "www.no-such"])
@pytest.mark.parametrize("zone", [".", HOSTS])
def test_the_wildcard_is_denied_by_the_nsec_that_covers_it(sorted_early: Responder, name: str, zone: str) -> None:
    wanted = dns.name.from_text(name, dns.name.from_text(zone))
    response = ask(sorted_early, query(wanted.to_text(), "A", do=True))
    assert response.rcode() == dns.rcode.NXDOMAIN
    nsecs = [(rrset.name, rrset[0].next) for rrset in response.authority if rrset.rdtype == dns.rdatatype.NSEC]
    for denied in (wanted, dns.name.from_text("*", dns.name.from_text(zone))):
        assert any(owner < denied and (denied < following or following < owner) for owner, following in nsecs)
    assert len(set(nsecs)) == len(nsecs) <= 2


@pytest.mark.parametrize("owner", [HOSTS, f"a.{HOSTS}", f"m.{HOSTS}"])
def test_a_type_that_is_not_there_is_proven(changed: Responder, owner: str) -> None:
    response = ask(changed, query(owner, "HINFO", do=True))
    assert response.rcode() == dns.rcode.NOERROR
    assert {"NSEC", "RRSIG(NSEC)", "SOA", "RRSIG(SOA)"} == {
        each.split()[1] for each in described(response)["authority"]
    }
    assert f"{owner} NSEC" in described(response)["authority"]


@pytest.mark.parametrize(
    ("owner", "rtype"),
    [(HOSTS, "SOA"), (HOSTS, "NS"), (HOSTS, "DNSKEY"), (HOSTS, "NSEC"), (f"a.{HOSTS}", "A"), (f"m.{HOSTS}", "AAAA")],
)
def test_what_is_there_is_signed_and_a_validator_agrees(changed: Responder, owner: str, rtype: str) -> None:
    keys = ask(changed, query(HOSTS, "DNSKEY", do=True), Transport.TCP).answer[0]
    trusted = {dns.name.from_text(HOSTS): keys}
    response = ask(changed, query(owner, rtype, do=True), Transport.TCP)
    assert described(response)["answer"] == [f"{owner} {rtype}", f"{owner} RRSIG({rtype})"]
    for section in (response.answer, response.additional):
        signed = [rrset for rrset in section if rrset.rdtype != dns.rdatatype.RRSIG]
        assert signed or section is response.additional
        for rrset in signed:
            signatures = response.find_rrset(
                section, rrset.name, dns.rdataclass.IN, dns.rdatatype.RRSIG, covers=rrset.rdtype
            )
            dns.dnssec.validate(rrset, signatures, trusted, now=NOW)
    assert not [each for each in described(ask(changed, query(owner, rtype)))["answer"] if "RRSIG" in each]


def test_ds_of_the_hosts_is_the_parents_parents_to_refer(changed: Responder) -> None:
    response = ask(changed, query(HOSTS, "DS", do=True))
    assert not response.flags & dns.flags.AA
    assert described(response)["authority"][0] == "net. NS"


def test_priming_is_as_ever(changed: Responder, responder: Responder) -> None:
    assert described(ask(changed, query(".", "NS", do=True))) == described(ask(responder, query(".", "NS", do=True)))


# ── what still fits ──


def test_optional_addresses_that_would_still_fit_are_there(compiled: Compiled, responder: Responder) -> None:
    """RFC 9471 §3.2 lets sibling glue be left out: all that fits is there all the same."""
    root = compiled.root.contents
    short = 0
    for tld in root.delegations:
        for size in (512, 600, 700):
            for do in (False, True):
                asked = dns.message.make_query(dns.name.from_wire(tld, 0)[0], "A", want_dnssec=do, payload=size)
                asked.use_edns(0, dns.flags.DO if do else 0, size)
                octets = responder.respond(asked.to_wire(), bytes(4), Transport.UDP, NOW) or b""
                response = dns.message.from_wire(octets)
                if response.flags & dns.flags.TC:
                    continue
                missing = _missing(root, tld, response)
                short += bool(missing)
                for rrset in missing:
                    assert len(octets) + sum(12 + len(rdata) for rdata in rrset.rdatas) > size
    assert short > 5


def _missing(root: ZoneContents, tld: bytes, response: dns.message.Message) -> list[RRset]:
    there = {(rrset.name.to_digestable(), int(rrset.rdtype)) for rrset in response.additional}
    found = (root.rrset(host, rtype) for host in root.rrsets[tld, 2].rdatas for rtype in (1, 28))
    return [rrset for rrset in found if rrset is not None and (rrset.owner, rrset.rtype) not in there]


def test_the_root_is_not_of_a_new_shape_today(compiled: Compiled) -> None:
    assert (compiled.root.alarms, compiled.root.limits, compiled.hosts.limits) == ((), (), ())
    assert compiled.root.contents.apex == ROOT
