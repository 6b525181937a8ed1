"""What a worker makes of limits and shed rules: the responses that are sent, or not, and what is counted."""

import ipaddress
from typing import Any

import dns.flags
import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.admission.gate import Gate
from rootsrv.admission.limits import LimitSettings, cells_in_memory
from rootsrv.admission.samples import (
    ANSWERED,
    DROPPED,
    HAS_COOKIE,
    HAS_DO,
    HAS_OPT,
    LIMITED,
    NOTE,
    NotesReader,
    NotesWriter,
    make_ring,
    map_ring,
)
from rootsrv.admission.shed import Match, Rule
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, Transport
from rootsrv.config.limits import LimitsConfig
from rootsrv.page import counts
from rootsrv.page.layout import COUNTER_WORDS
from rootsrv.wire import edns
from tests.answer.conftest import NOW, SECRET, Compiled, compiled, responder  # noqa: F401  (fixtures)

SECOND = 10**9
BOOTTIME = 1000 * SECOND
COOKIES = ServerCookies(SECRET)
CLIENT = bytes((198, 51, 100, 7))
PROBE = bytes((192, 0, 2, 53))
CONFIG = LimitsConfig(mode="on", rate=10, burst_seconds=1.0)


def document(mode: str = "off", rules: tuple[Rule, ...] = (), every: int = 0) -> dict[str, Any]:
    config = LimitsConfig(mode=mode, rate=10, burst_seconds=1.0)  # type: ignore[arg-type]
    return {
        "limits": LimitSettings.of(config, bytes(16)).to_document(),
        "rules": [rule.to_document() for rule in rules],
        "exempt": ["192.0.2.53", "2001:db8:53::/48"],
        "sample_every": every,
    }


def rule(conditions: str, action: str, place: int = 0, until: int = 2 * BOOTTIME, dry: bool = False) -> Rule:
    return Rule(place=place, match=Match.parse(conditions.split()), action=action, until_ns=until, dry=dry)  # type: ignore[arg-type]


class Worker:
    """A gate and a Responder."""

    def __init__(self, responder: Responder, told: dict[str, Any], notes: NotesWriter | None = None) -> None:  # noqa: F811
        self.responder = responder
        self.words = memoryview(bytearray(8 * COUNTER_WORDS)).cast("Q")
        self.gate = Gate(self.words, cells_in_memory(), notes)
        self.gate.change(told)

    def ask(self, *queries: bytes, source: bytes = CLIENT, port: int = 4000, at: int = BOOTTIME) -> list[bytes | None]:
        sources, ports = [source] * len(queries), [port] * len(queries)
        responses = [self.responder.respond(each, source, Transport.UDP, NOW) for each in queries]
        self.gate.judge(
            queries, sources, ports, responses, boottime=at, now=NOW, cookies=COOKIES,
            truncate=self.responder.respond_truncated,
        )  # fmt: skip
        return responses


def query(name: str = "www.example.com.", rtype: str = "A", cookie: bytes = b"", **options: Any) -> bytes:
    made = dns.message.make_query(name, rtype, use_edns=0, want_dnssec=True, payload=1232, **options)
    octets: bytes = made.to_wire()
    if not cookie:
        return octets
    return octets[:-2] + (len(cookie) + 4).to_bytes(2, "big") + edns.option(edns.COOKIE, cookie)


def good_cookie(source: bytes = CLIENT) -> bytes:
    return COOKIES.make(b"client12", source, NOW)


def is_tc(response: bytes | None) -> bool:
    return response is not None and bool(response[2] & 2)


def test_an_open_gate_has_nothing_to_do(responder: Responder) -> None:  # noqa: F811
    assert Worker(responder, document()).gate.is_open
    assert not Worker(responder, document("dry-run")).gate.is_open
    assert not Worker(responder, document(rules=(rule("qtype=A", "tc"),))).gate.is_open
    assert Gate(memoryview(bytearray(8 * COUNTER_WORDS)).cast("Q"), None, None).is_open


def test_who_is_over_the_limit_gets_tc_with_question_and_opt(responder: Responder) -> None:  # noqa: F811
    worker = Worker(responder, document("on"))
    responses = worker.ask(*[query("nosuch.", cookie=b"client12")] * 8)

    assert [is_tc(each) for each in responses] == [False] * 5 + [True] * 3, "an nxdomain costs 2 of 10"
    assert responses[-1] is not None
    said = dns.message.from_wire(responses[-1])
    assert (said.rcode(), said.answer, said.authority, said.additional) == (0, [], [], [])
    assert said.flags & dns.flags.TC
    assert said.question[0].name.to_text() == "nosuch."
    assert [option.otype for option in said.options] == [edns.COOKIE], "with it, the next query is exempt"
    assert list(worker.words[counts.LIMITED : counts.LIMITED + 4]) == [3, 0, 0, 0]


def test_dry_run_counts_and_answers(responder: Responder) -> None:  # noqa: F811
    worker = Worker(responder, document("dry-run"))
    assert not any(map(is_tc, worker.ask(*[query("nosuch.")] * 8)))
    assert list(worker.words[counts.LIMITED : counts.LIMITED + 4]) == [0, 0, 3, 0]


def test_exempt_are_good_cookies_monitors_and_our_own_addresses(responder: Responder) -> None:  # noqa: F811
    worker = Worker(responder, document("on", (rule("qname-suffix=nosuch", "drop", until=BOOTTIME + 1),)))
    monitor = ipaddress.ip_address("2001:db8:53::9").packed
    for source in (PROBE, monitor):
        assert not any(each is None or is_tc(each) for each in worker.ask(*[query("nosuch.")] * 50, source=source))
    later = BOOTTIME + 2
    assert not any(map(is_tc, worker.ask(*[query("nosuch.", cookie=good_cookie())] * 50, at=later)))
    bad = [good_cookie(PROBE), b"client12", good_cookie()[:-1] + b"x"]
    assert any(map(is_tc, worker.ask(*[query("nosuch.", cookie=each) for each in bad * 10], at=later)))


def test_500_clients_behind_one_address_with_and_without_cookies(responder: Responder) -> None:  # noqa: F811
    worker = Worker(responder, document("on"))
    plain = worker.ask(*[query(f"n{number}.com.") for number in range(500)])
    # The referral to com has 1,100 octets and more: it costs 4 of the 10 that may come at once.
    assert sum(map(is_tc, plain)) == 498
    with_cookies = worker.ask(*[query(f"n{number}.com.", cookie=good_cookie()) for number in range(500)])
    assert not any(map(is_tc, with_cookies))


def test_shed_rules_drop_truncate_and_spare(responder: Responder) -> None:  # noqa: F811
    worker = Worker(
        responder,
        document(rules=(
            rule("qname-suffix=evil.com", "drop", 0), rule("qtype=AAAA", "tc", 1),
            rule("source-port=5353", "tc-unless-cookie", 2), rule("qname-suffix=com", "drop", 3, dry=True),
        )),
    )  # fmt: skip
    dropped, tc, answered = worker.ask(query("x.evil.com."), query("x.com.", "AAAA"), query("x.com."))
    assert dropped is None
    assert is_tc(tc)
    assert not is_tc(answered)
    without, with_cookie = worker.ask(query("."), query(".", cookie=good_cookie()), port=5353)
    assert is_tc(without)
    assert not is_tc(with_cookie)

    hits = list(worker.words[counts.RULES : counts.RULES + 8])
    assert hits == [1, 0, 1, 0, 2, 1, 3, 0]
    assert list(worker.words[counts.JUDGED : counts.JUDGED + 2]) == [5, 1]
    assert list(worker.words[counts.SHED : counts.SHED + 2]) == [2, 0]
    assert worker.words[counts.DROPPED + counts.DROP_REASONS.index("shed")] == 1


def test_a_rule_ends_by_itself(responder: Responder) -> None:  # noqa: F811
    worker = Worker(responder, document(rules=(rule("qname-suffix=.", "drop", until=BOOTTIME + 5),)))
    assert worker.ask(query(), at=BOOTTIME + 4) == [None]
    assert None not in worker.ask(query(), at=BOOTTIME + 5)
    assert worker.gate.is_open


def test_new_connections_are_limited_when_limits_are_on(responder: Responder) -> None:  # noqa: F811
    worker = Worker(responder, document("on"))
    assert [worker.gate.refuses_connection(CLIENT, BOOTTIME) for _ in range(300)].count(False) == 200
    assert not any(worker.gate.refuses_connection(PROBE, BOOTTIME) for _ in range(300))
    dry = Worker(responder, document("dry-run"))
    assert not any(dry.gate.refuses_connection(CLIENT, BOOTTIME) for _ in range(300))


@pytest.mark.parametrize("action", ["tc", "drop", "tc-unless-cookie"])
@given(octets=st.binary(max_size=80), data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_rule_and_no_limit_makes_a_response_larger(
    responder: Responder,  # noqa: F811
    action: str,
    octets: bytes,
    data: st.DataObject,
) -> None:
    """The reflection test: whatever arrives, what is sent is a prefix of nothing larger than without."""
    names = data.draw(st.sampled_from(["com.", "x.com.", ".", "nosuch.", "version.bind."]))
    types = data.draw(st.sampled_from(["A", "DNSKEY", "DS", "AXFR", "ANY", "NS"]))
    cookie = data.draw(st.sampled_from([b"", b"client12", good_cookie()]))
    option = data.draw(st.sampled_from([b"", edns.option(edns.NSID, b""), edns.option(edns.ZONEVERSION, b"")]))
    asked = query(names, types, cookie)
    if option:
        asked = query(names, types)[:-2] + len(option).to_bytes(2, "big") + option
    limits = Worker(responder, document("on"))
    limits.ask(*[query()] * 20)
    for each in (asked, octets):
        without = responder.respond(each, CLIENT, Transport.UDP, NOW)
        for worker in (limits, Worker(responder, document(rules=(rule("size=0-65535", action),)))):
            (sent,) = worker.ask(each)
            assert sent is None or (without is not None and len(sent) <= len(without))


def test_notes_are_taken_of_one_in_so_many(responder: Responder) -> None:  # noqa: F811
    descriptor = make_ring()
    reader = NotesReader(descriptor)
    notes = NotesWriter(map_ring(descriptor), 0)
    worker = Worker(responder, document("on", (rule("qname-suffix=evil.com", "drop"),), every=4), notes)
    for _ in range(5):
        worker.ask(*[query("a.example.com.", cookie=good_cookie())] * 6)  # 30 queries, in batches of 6
    read = [NOTE.unpack(each) for each in reader.read()]
    assert len(read) == 8
    source, port, qtype, size, family, flags, name_size, rcode, outcome, octets, name = read[0]
    assert (source[:4], port, qtype, family, rcode, outcome) == (CLIENT, (4000).to_bytes(2, "big"), 1, 0, 0, ANSWERED)
    assert flags == HAS_OPT | HAS_DO | HAS_COOKIE
    assert name[:name_size] == b"\1a\7example\3com\0"
    assert size == len(query("a.example.com.", cookie=good_cookie()))
    assert octets > 100
    assert worker.words[counts.LOOKED_AT] == 30

    worker.ask(*[query("evil.com.")] * 4, *[query("nosuch.")] * 40)
    outcomes = [NOTE.unpack(each)[8] for each in reader.read()]
    assert outcomes[0] == DROPPED
    assert outcomes[-1] == LIMITED
