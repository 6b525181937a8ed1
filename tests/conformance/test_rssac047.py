"""Correctness as RSSAC047v2 §5.3 measures it (D8): DO=1, 1,220 octets offered, every TLD, over UDP and TCP.

The measurement wants exact data and good signatures; here both must be those of the genuine zone, which verified.
"""

import bisect
from collections.abc import Callable

import pytest

from tests.conformance.asking import many_over_udp, over_tcp_pipelined
from tests.conformance.corpus import Served
from tests.conformance.wire import (
    TYPE_CODES,
    Key,
    Message,
    RRset,
    make_query,
    name_from_text,
    name_to_text,
    parse,
    show,
)
from tests.conformance.zone_file import key_of
from tests.server.live import Instance

OFFERED = 1220
NOERROR, NXDOMAIN = 0, 3

AskAll = Callable[[list[tuple[str, str]]], list[Message]]


@pytest.fixture(params=["udp", "tcp"])
def ask(request: pytest.FixtureRequest, live: Instance) -> AskAll:
    """Put (name, type) questions to the live server as the measurement does."""
    way = {"udp": many_over_udp, "tcp": over_tcp_pipelined}[request.param]

    def ask_all(questions: list[tuple[str, str]]) -> list[Message]:
        queries = [
            make_query(name_from_text(name), TYPE_CODES[rtype], size=OFFERED, do=True) for name, rtype in questions
        ]
        responses = [parse(octets) for octets in way("127.0.0.1", live.port, queries)]
        assert all(not each.tc and each.size <= OFFERED for each in responses)
        return responses

    return ask_all


def signed(served: Served, owner: str, rtype: str) -> dict[Key, RRset]:
    """An RRset and its signatures, as a section holds them."""
    zone = served.root
    return {key_of(owner, each): zone.rrset(owner, each) for each in (rtype, f"RRSIG({rtype})")}


def test_ns_of_every_tld_is_a_referral(ask: AskAll, served: Served) -> None:
    zone = served.root
    tlds = zone.delegations
    for tld, response in zip(tlds, ask([(tld, "NS") for tld in tlds]), strict=True):
        assert response.rcode == NOERROR, show(response)
        assert not response.aa
        assert response.answer == {}
        proof = signed(served, tld, "DS" if (tld, "DS") in zone else "NSEC")
        assert response.authority == {key_of(tld, "NS"): zone.rrset(tld, "NS"), **proof}, show(response)
        glue = {key: rrset for server in zone.name_servers(tld) for key, rrset in zone.addresses(server).items()}
        assert response.additional, show(response)
        assert response.additional.items() <= glue.items(), show(response)


def test_ds_of_every_tld_is_an_answer(ask: AskAll, served: Served) -> None:
    tlds = [tld for tld in served.root.delegations if (tld, "DS") in served.root]
    assert len(tlds) > 1300
    for tld, response in zip(tlds, ask([(tld, "DS") for tld in tlds]), strict=True):
        assert (response.rcode, response.aa) == (NOERROR, True)
        assert response.answer == signed(served, tld, "DS"), show(response)
        assert (response.authority, response.additional) == ({}, {}), show(response)


def test_soa_ns_and_dnskey_of_the_root(ask: AskAll, served: Served) -> None:
    soa, ns, dnskey = ask([(".", "SOA"), (".", "NS"), (".", "DNSKEY")])
    for response, rtype in ((soa, "SOA"), (ns, "NS"), (dnskey, "DNSKEY")):
        assert (response.rcode, response.aa) == (NOERROR, True)
        assert response.answer == signed(served, ".", rtype), show(response)
    assert soa.authority in ({}, signed(served, ".", "NS"))
    assert ns.authority == {}
    assert (dnskey.authority, dnskey.additional) == ({}, {})


def test_a_name_that_does_not_exist_is_denied_with_proof(ask: AskAll, served: Served) -> None:
    # Names of the form that the measurement uses, one in each of many gaps: a TLD's label and more.
    names = [f"www.{tld.rstrip('.')}-zz{number}." for number, tld in enumerate(served.root.delegations)]
    names = [name for name in names if len(name_from_text(name)) < 80]
    nsec = TYPE_CODES["NSEC"]
    labels = sorted(name_from_text(tld)[1:-1] for tld in served.root.delegations)
    for name, response in zip(names, ask([(name, "A") for name in names]), strict=True):
        assert (response.rcode, response.aa) == (NXDOMAIN, True), show(response)
        assert (response.answer, response.additional) == ({}, {})
        owners = {key[0] for key in response.authority if key[1] == nsec}
        proofs = {name_from_text("."), covering(labels, name)}
        assert owners == proofs, f"{name}: {show(response)}"
        expected = signed(served, ".", "SOA")
        for owner in owners:
            expected |= signed(served, name_to_text(owner), "NSEC")
        assert response.authority == expected, show(response)


def covering(labels: list[bytes], name: str) -> bytes:
    """Owner of the NSEC that covers *name*: by its last label, the greatest that is not above it (RFC 4034 §6.1)."""
    before = labels[: bisect.bisect(labels, name.rstrip(".").split(".")[-1].encode())]
    return bytes([len(before[-1])]) + before[-1] + b"\0" if before else b"\0"
