"""What shed rules are about, and how they are told."""

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.admission.blocks import MAPPED
from rootsrv.admission.everything import is_everything
from rootsrv.admission.shed import (
    ACTIONS,
    MAX_RULES,
    RULE,
    Match,
    Rule,
    ShedRefused,
    decide,
    judge_match,
    pack_rules,
)
from rootsrv.answer.question import Query
from rootsrv.wire import edns

SOURCE = bytes((198, 51, 100, 7))
SOURCE6 = bytes.fromhex("20010db8000100020000000000000007")


def asked(qname: bytes, qtype: int = 1, opt: bytes = b"") -> bytes:
    return struct.pack("!6H", 7, 0, 1, 0, 0, 1 if opt else 0) + qname + struct.pack("!HH", qtype, 1) + opt


def hits(conditions: str, octets: bytes, source: bytes = SOURCE, port: int = 40_000) -> bool:
    rule = Rule(place=0, match=Match.parse(conditions.split()), action="tc", until_ns=1)
    try:
        query: Query | None = Query.parse(octets)
    except ValueError:
        query = None
    return bool(judge_match(query, octets, source, port, (rule,)))


WWW = asked(b"\3WwW\7eXample\3com\0")


@pytest.mark.parametrize(("conditions", "octets", "expected"), [
    ("qname-suffix=example.com", WWW, True),
    ("qname-suffix=EXAMPLE.com.", WWW, True),
    ("qname-suffix=ample.com", WWW, False),
    ("qname-suffix=www.example.com", WWW, True),
    ("qname-suffix=a.www.example.com", WWW, False),
    ("qname-suffix=.", WWW, True),
    ("qname-suffix=.", asked(b"\0"), True),
    ("qname-suffix=com", asked(b"\0"), False),
    ("qtype=A", WWW, True),
    ("qtype=TYPE65", WWW, False),
    ("qtype=HTTPS", asked(b"\0", 65), True),
    ("size=33", WWW, True),
    ("size=34-512", WWW, False),
    ("source-port=40000", WWW, True),
    ("source-port=1-39999", WWW, False),
    ("opt=absent", WWW, True),
    ("opt=no-do", WWW, True),
    ("opt=present", WWW, False),
    ("opt=do", asked(b"\0", 1, edns.opt_record(1232, do=True)), True),
    ("opt=no-do", asked(b"\0", 1, edns.opt_record(1232)), True),
    ("opt=absent", asked(b"\0", 1, edns.opt_record(1232)), False),
    ("prefix=198.51.100.0/24", WWW, True),
    ("prefix=198.51.101.0/24", WWW, False),
    ("prefix=2001:db8::/32", WWW, False),
    ("prefix=0.0.0.0/0", WWW, True),
    ("prefix=198.51.100.0/24 qtype=AAAA", WWW, False),
    ("qname-suffix=com", b"\0" * 20, False),
    ("size=20", b"\0" * 20, True),
])  # fmt: skip
def test_which_messages_a_match_is_about(conditions: str, octets: bytes, expected: bool) -> None:
    assert hits(conditions, octets) is expected


def test_ipv6_sources() -> None:
    assert hits("prefix=2001:db8:1::/48", WWW, SOURCE6)
    assert not hits("prefix=2001:db8:2::/48", WWW, SOURCE6)
    assert not hits("prefix=0.0.0.0/0", WWW, SOURCE6)


@pytest.mark.parametrize(("conditions", "says"), [
    ([], "needs at least one"),
    (["qname=com"], "must be KEY=VALUE with one of qname-suffix, qtype"),
    (["qtype"], "must be KEY=VALUE"),
    (["qtype=A", "qtype=AAAA"], "qtype is said twice; all conditions must hold, and both cannot"),
    (["qtype=NOSUCH"], "is not a query type"),
    (["qtype=TYPE70000"], "is not a query type"),
    (["qname-suffix=a..b"], "is not a domain name"),
    (["qname-suffix=" + "a" * 64], "is not a domain name"),
    (["source-port=70000"], "of 0 to 65535"),
    (["size=100-50"], "must be a number or a range"),
    (["size=-1"], "must be a number or a range"),
    (["size=٣"], "must be a number or a range"),
    (["opt=maybe"], "must be one of absent, present, do, no-do"),
    (["prefix=10.0.0.1/8"], "has host bits set"),
    (["prefix=x"], "does not appear to be"),
    (["prefix=::/0"], "holds ::ffff:0:0/96, which stands for IPv4 .*; all of IPv6 is 2000::/3"),
    (["prefix=::/16"], "stands for IPv4"),
    (["prefix=::ffff:192.0.2.0/120"], "stands for IPv4"),
    (["prefix=fe80::1%eth0"], "a scope says nothing"),
    (["qname-suffix="], "must be KEY=VALUE"),
])  # fmt: skip
def test_what_is_no_match_is_refused_with_its_cause(conditions: list[str], says: str) -> None:
    with pytest.raises(ShedRefused, match=says):
        Match.parse(conditions)


def test_a_match_is_read_back_from_what_it_says() -> None:
    for text in (
        "qname-suffix=a\\032b.example. qtype=TYPE700", "qtype=ANY source-port=53 size=12-40 opt=do prefix=10.0.0.0/8",
        "prefix=2001:db8::/32",
    ):  # fmt: skip
        match = Match.parse(text.split())
        assert str(match) == text
        rule = Rule(place=3, match=match, action="drop", until_ns=99, dry=True)
        assert Rule.from_document(rule.to_document()) == rule


def test_one_match_covers_another() -> None:
    order = [
        "qname-suffix=. source-port=0-65535", "qname-suffix=com", "qname-suffix=com opt=no-do",
        "qname-suffix=x.com opt=absent", "qname-suffix=x.com opt=absent qtype=A size=20-30 prefix=10.0.0.0/8",
        "qname-suffix=x.com opt=absent qtype=A size=20-25 prefix=10.1.0.0/16 source-port=53",
    ]  # fmt: skip
    matches = [Match.parse(each.split()) for each in order]
    for (a, wide), (b, narrow) in itertools.product(enumerate(matches), repeat=2):
        assert wide.covers(narrow) is (a <= b), (order[a], order[b])
    assert [is_everything([match]) for match in matches] == [True] + [False] * 5


EVERYTHING = [
    "prefix=0.0.0.0/0", "prefix=2000::/3", "prefix=0.0.0.0/1|prefix=128.0.0.0/1", "opt=absent|opt=present",
    "opt=do|opt=no-do", "opt=do|opt=absent|opt=no-do", "size=12-65535", "source-port=1-65535 size=17-1000",
    "source-port=0-1023|source-port=1024-65535", "source-port=0-2000|source-port=1000-65535", "size=0-100|size=101-512",
    "qname-suffix=. opt=do|opt=no-do", "prefix=10.0.0.0/8|opt=present|qname-suffix=.", "qtype=A|opt=do|opt=no-do",
    "source-port=1-500 opt=do|source-port=501-65535 opt=present|opt=no-do", "source-port=1-500|size=1-60 "
    "source-port=501-65535|size=61-400 source-port=400-65535",
    "opt=present prefix=2000::/4|opt=absent prefix=2000::/3|opt=present prefix=3000::/4",
]  # fmt: skip
NOT_EVERYTHING = [
    "prefix=0.0.0.0/1", "prefix=2000::/4", "prefix=0.0.0.0/1|prefix=2000::/4", "opt=do|opt=absent", "opt=present",
    "size=0-100|size=102-65535", "source-port=1-1023|source-port=1025-65535", "qtype=A|qtype=AAAA", "qname-suffix=com",
    "qtype=A opt=do|opt=no-do", "qname-suffix=com opt=do|opt=no-do", "opt=do source-port=1-500|opt=no-do",
    "source-port=1-500|size=1-60 source-port=501-65535|size=62-400 source-port=400-65535",
]  # fmt: skip


@pytest.mark.parametrize("rules", [*EVERYTHING, *NOT_EVERYTHING])
def test_whether_rules_are_about_every_query(rules: str) -> None:
    assert is_everything([Match.parse(each.split()) for each in rules.split("|")]) is (rules in EVERYTHING)


def test_nothing_is_not_everything() -> None:
    assert not is_everything([])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_rules_that_are_everything_hold_for_any_query(data: st.DataObject) -> None:
    """And where they are not, there is one for which none does: looked for at the ends of all ranges."""
    ends, sizes = st.sampled_from([1, 2, 500, 501, 65_535]), st.sampled_from([17, 18, 60, 61, 310])
    prefixes = st.sampled_from(["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "2000::/3", "2000::/4", "3000::/4"])

    def ranged(key: str, numbers: st.SearchStrategy[int]) -> st.SearchStrategy[str]:
        return st.tuples(numbers, numbers).map(lambda pair: f"{key}={min(pair)}-{max(pair)}")

    conditions = st.tuples(
        st.none() | ranged("source-port", ends), st.none() | ranged("size", sizes),
        st.none() | st.sampled_from(["opt=do", "opt=no-do", "opt=present", "opt=absent"]),
        st.none() | prefixes.map(lambda prefix: f"prefix={prefix}"),
    ).map(lambda parts: [each for each in parts if each])  # fmt: skip
    matches = [Match.parse(each) for each in data.draw(st.lists(conditions.filter(bool), max_size=6))]
    with_do, without = edns.Edns(512, 0, True), edns.Edns(512, 0, False)
    missed = {
        address >> 125 == 1
        for address in (MAPPED, MAPPED | 0xFFFFFFFF, 0x2 << 124, 0x3 << 124)
        for port, size, opt in itertools.product(
            (1, 2, 3, 499, 500, 501, 502, 65_534, 65_535),
            (17, 18, 19, 59, 60, 61, 62, 309, 310),
            (None, with_do, without),
        )
        if not any(each.holds(Query(b"?", b"\1x\0", 1, 1, opt, None), size, address, port) for each in matches)
    }
    assert is_everything(matches) is (len(missed) < 2)


def test_the_first_rule_that_is_not_dry_decides() -> None:
    def rule(place: int, action: str, dry: bool = False) -> Rule:
        return Rule(place=place, match=Match.parse(["qtype=A"]), action=action, until_ns=1, dry=dry)  # type: ignore[arg-type]

    assert decide([], cookie_is_good=False) is None
    assert decide([rule(0, "drop", dry=True)], cookie_is_good=False) is None
    assert decide([rule(0, "drop", dry=True), rule(1, "tc")], cookie_is_good=True) == "tc"
    assert decide([rule(0, "tc-unless-cookie"), rule(1, "drop")], cookie_is_good=True) is None
    assert decide([rule(0, "tc-unless-cookie"), rule(1, "drop")], cookie_is_good=False) == "tc-unless-cookie"


def test_rules_are_packed_into_their_places() -> None:
    rules = [Rule(place=place, match=Match.parse(["qtype=A"]), action=ACTIONS[place], until_ns=5) for place in (0, 2)]
    packed = pack_rules(rules)
    assert len(packed) == MAX_RULES * RULE.size
    assert packed[RULE.size : 2 * RULE.size] == bytes(RULE.size)
    assert RULE.unpack_from(packed, 2 * RULE.size)[12] == ACTIONS.index("tc")
