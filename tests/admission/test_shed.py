"""What shed rules are about, and how they are told."""

import itertools
import struct

import pytest

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
    assert [match.is_everything() for match in matches] == [True] + [False] * 5
    assert Match.parse(["prefix=0.0.0.0/0"]).is_everything()


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
