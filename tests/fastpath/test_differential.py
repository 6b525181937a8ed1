"""Whatever the kernel answers is octet for octet the Responder's response, in a frame right in every respect."""

import dataclasses
import ipaddress
import random
from collections import Counter
from collections.abc import Callable

import pytest

from bench.frames import Frame
from bench.mix import Mix
from rootsrv.answer.cookies import ServerCookies
from rootsrv.fastpath.layout import Reason
from tests.fastpath.conftest import (
    CLIENT,
    NOW,
    PREVIOUS_SECRET,
    SECRET,
    SETTINGS,
    XDP,
    Hook,
    InKernel,
    Zones,
    frame,
    message,
    opt,
    option,
    wire,
)

QTYPES = (1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 46, 47, 48, 63, 64, 65, 99, 255, 256, 257, 32769)
OFFERS = (0, 511, 512, 513, 600, 700, 800, 900, 1000, 1100, 1200, 1231, 1232, 1233, 1452, 4096, 65535)


def assert_same(kernel: InKernel, hook: Hook, query: bytes, family: int = 4) -> None:
    """Answered in the kernel, and as the Responder does."""
    response = kernel.ask(hook, query, family)
    assert not isinstance(response, Reason), f"passed: {response!r}, query {query.hex()}"
    assert response == kernel.expected(query, family)


def label_of(length: int, seed: int = 0) -> bytes:
    return bytes(random.Random(seed).choices(b"abcdefghijklmnopqrstuvwxyz-0123456789", k=length))


def prefixes(anchor_size: int) -> list[tuple[bytes, ...]]:
    """Labels to put before an anchor: none, short, with odd and even sizes, up to the longest name."""
    longest: list[bytes] = []
    room = 255 - anchor_size
    while room > 1:
        longest.append(label_of(min(63, room - 1), room))
        room -= len(longest[-1]) + 1
    return [(), (b"a",), (b"ab",), (b"WwW", b"ExAmple"), (label_of(63), label_of(40)), tuple(longest)]


def test_the_root_mix_is_answered_and_at_most_one_in_a_hundred_is_passed_up(
    kernel: InKernel, hook: Hook, zones: Zones, record_property: Callable[[str, object], None]
) -> None:
    queries = Mix.read().queries([tld.decode() for tld in zones.tlds], 4000, seed=11)
    passed: Counter[Reason] = Counter()
    for query in queries:
        response = kernel.ask(hook, query.octets, query.family)
        if isinstance(response, Reason):
            passed[response] += 1
            continue
        assert response == kernel.expected(query.octets, query.family)

    share = passed.total() / len(queries)
    record_property("share_of_passes", share)
    print(f"{hook}: {share:.2%} of the root mix is passed up: {dict(passed)}")
    assert set(passed) <= {Reason.QCLASS, Reason.UDP_CHECKSUM}  # CHAOS, and sums that are right in two ways
    assert share <= 0.01


@pytest.mark.parametrize("do", [False, True], ids=["plain", "DO"])
def test_every_delegation_at_the_name_and_below_it(kernel: InKernel, hook: Hook, zones: Zones, do: bool) -> None:
    for number, tld in enumerate(zones.tlds):
        family = 4 if number % 2 else 6
        assert_same(kernel, hook, message(wire(tld), 43, opt=opt(do=do)), family)
        assert_same(kernel, hook, message(wire(b"www", label_of(number % 60 + 1), tld), 1, opt=opt(do=do)), family)
        assert_same(kernel, hook, message(wire(tld.upper()), 2, flags=0x0100), family)


def test_every_gap_between_names(kernel: InKernel, hook: Hook, zones: Zones) -> None:
    missing = {label for tld in zones.tlds for label in (tld + b"\0", tld + b"-", tld[:-1] + bytes([tld[-1] - 1]))}
    missing |= {b"\0", b"\xff" * 63, b"a", b"0", b"zzzz", b"A" * 9, b"local", b"xn--", b"x\0", b"\xdf\x41" * 20}
    for number, label in enumerate(sorted(missing - set(zones.tlds))):
        family = 4 if number % 2 else 6
        assert_same(kernel, hook, message(wire(label), 1, opt=opt()), family)
        assert_same(kernel, hook, message(wire(b"_tcp", b"Local", label), 33), family)


@pytest.mark.parametrize("family", [4, 6])
def test_every_offered_size_meets_every_kind_of_answer_and_every_shift(
    kernel: InKernel, hook: Hook, zones: Zones, family: int
) -> None:
    rng = random.Random(5)
    largest = max(
        zones.table.names(), key=lambda info: len(zones.table.answer(info.referral[1]).body) if info.label else 0
    )
    tlds = [largest.label, b"com", b"arpa", *rng.sample(zones.tlds, 6)]
    anchors = [(tld,) for tld in tlds if tld in zones.tlds] + [(b"nosuchtld",), (b"zz--no",)]
    cuts: Counter[tuple[bool, int]] = Counter()
    for anchor in anchors:
        for prefix in prefixes(len(wire(*anchor))):
            for offered in OFFERS:
                query = message(wire(*prefix, *anchor), 1, opt=opt(offered))
                response = kernel.ask(hook, query, family)
                assert response == kernel.expected(query, family)
                assert isinstance(response, bytes)
                cuts[bool(response[2] & 2), len(response) % 2] += 1
    assert len(cuts) == 4, "whole and truncated responses, of even and of odd size"


@pytest.mark.parametrize("family", [4, 6])
def test_every_type_at_every_name_with_authority(kernel: InKernel, hook: Hook, zones: Zones, family: int) -> None:
    for owner in zones.table.owners():
        for qtype in QTYPES:
            if qtype == 43 and owner.zone == 1:
                continue  # passed up: see test_passes.py
            for tail in (b"", opt(512), opt(700), opt(do=False), opt()):
                assert_same(kernel, hook, message(owner.name, qtype, opt=tail), family)


@pytest.mark.parametrize("flags", [0x0000, 0x0100, 0x0010, 0x0020, 0x0130])
def test_flags_of_resolvers(kernel: InKernel, hook: Hook, flags: int) -> None:
    for qname in (wire(), wire(b"com"), wire(b"nosuchtld")):
        assert_same(kernel, hook, message(qname, flags=flags))
        assert_same(kernel, hook, message(qname, flags=flags, opt=opt()))


CLIENT_COOKIE = bytes.fromhex("2464c4abcf10c957")


def cookie(age: float, secret: bytes = SECRET, family: int = 4) -> bytes:
    source = ipaddress.ip_address(CLIENT[family]).packed
    return ServerCookies(secret).make(CLIENT_COOKIE, source, NOW - age)


@pytest.mark.parametrize("required", [False, True], ids=["cookies-optional", "cookies-required"])
@pytest.mark.parametrize("family", [4, 6])
def test_cookies_of_every_age_and_origin(kernel: InKernel, hook: Hook, family: int, required: bool) -> None:
    kernel.configure(dataclasses.replace(SETTINGS, require_server_cookie=required))
    good = [cookie(age, family=family) for age in (-300, -1, 0, 1, 1799, 1800, 1801, 3599, 3600)]
    older = [cookie(age, PREVIOUS_SECRET, family) for age in (0, 1799, 3600)]
    bad = [cookie(age, family=family) for age in (-301, 3601, 2**31)]
    bad += [cookie(0, bytes(16), family), cookie(0, family=10 - family), good[0][:-1] + bytes([good[0][-1] ^ 1])]
    bad += [
        good[0][:8] + b"\2" + good[0][9:],
        CLIENT_COOKIE,
        *(good[0].ljust(40, b"x")[:size] for size in (16, 23, 25, 40)),
    ]
    for data in (*good, *older, *bad):
        query = message(wire(b"com"), opt=opt(options=option(10, data)))
        response = kernel.ask(hook, query, family)
        if required and data in bad:
            assert response is Reason.COOKIE
        else:
            assert response == kernel.expected(query, family)
    if not required:
        echoed = message(wire(b"com"), opt=opt(options=option(10, good[3])))
        assert kernel.ask(hook, echoed, family)[-24:] == good[3]  # type: ignore[index]


def test_the_cookies_of_rfc_9018(kernel: InKernel, hook: Hook) -> None:
    # Appendix A.1 and A.2: client 198.51.100.100, secret e5e973e5a6b2a43f48e7dc849e37bfcf.
    secret = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
    kernel.configure(dataclasses.replace(SETTINGS, cookies=ServerCookies(secret)), now=1559731985)
    asked = message(wire(b"example", b"com"), opt=opt(options=option(10, CLIENT_COOKIE)))
    sent = dataclasses.replace(frame(asked), source="198.51.100.100")

    response = kernel.ask(hook, sent)

    assert isinstance(response, bytes)
    assert response[-24:].hex() == "2464c4abcf10c957" + "010000005cf79f111f8130c3eee29480"


@pytest.mark.parametrize("options", [
    option(3), option(12, bytes(120)), option(8, b"\0\1\0\0"), option(65001, b"x"), option(3) + option(10, bytes(8)),
    option(10, CLIENT_COOKIE) + option(3) + option(12), option(3) + option(3), option(12) * 7 + option(3),
    option(14, b"\x4f\x66"), option(5, b"\x08"),
], ids=lambda options: options.hex()[:24])  # fmt: skip
def test_options_that_both_ways_understand_or_ignore(kernel: InKernel, hook: Hook, options: bytes) -> None:
    for family in (4, 6):
        for do in (False, True):
            for offered in (512, 1232):
                assert_same(kernel, hook, message(wire(b"com"), opt=opt(offered, do=do, options=options)), family)
                assert_same(
                    kernel, hook, message(wire(b"odd", b"nosuch"), opt=opt(offered, do=do, options=options)), family
                )


def test_an_nsid_of_the_greatest_length_beside_a_cookie(kernel: InKernel, hook: Hook) -> None:
    for size in (0, 1, 4, 127, 128):
        kernel.configure(dataclasses.replace(SETTINGS, nsid=b"n" * size))
        for prefix in prefixes(5):
            query = message(wire(*prefix, b"com"), opt=opt(512, options=option(3) + option(10, CLIENT_COOKIE)))
            assert_same(kernel, hook, query, 6)


def test_without_a_cookie_secret_the_option_is_ignored(kernel: InKernel, hook: Hook) -> None:
    kernel.configure(dataclasses.replace(SETTINGS, cookies=None))

    assert_same(kernel, hook, message(wire(b"com"), opt=opt(options=option(10, CLIENT_COOKIE))))


@pytest.mark.parametrize("maximum", [512, 1232, 1452, 4096])
def test_the_configured_maximum_bounds_what_clients_offer(kernel: InKernel, hook: Hook, maximum: int) -> None:
    kernel.configure(dataclasses.replace(SETTINGS, max_udp_response_octets=maximum))
    for offered in (512, 1300, 4096):
        for qname, qtype in ((wire(), 2), (wire(), 48), (wire(b"com"), 1), (wire(), 255)):
            assert_same(kernel, hook, message(qname, qtype, opt=opt(offered)))


def test_checksums_of_every_kind_of_sender(kernel: InKernel, hook: Hook) -> None:
    for family in (4, 6):
        query = message(wire(b"www", b"example", b"com"), opt=opt())
        assert kernel.ask(hook, frame(query, family)) == kernel.expected(query, family)
        # A local sender's unfinished checksum: XDP finishes it, tc leaves it to whoever finishes it.
        octets = frame(query, family, partial=True).to_octets()
        run = kernel.run(hook, octets)
        assert run.verdict == hook.reply
        received = Frame.from_octets(run.packet)
        assert received.payload == kernel.expected(query, family)
        assert received.partial == (hook.name == "tc")
    query = message(wire(b"com"))
    assert kernel.ask(hook, frame(query, udp_checksum=0)) == kernel.expected(query)


@pytest.mark.parametrize("family", [4, 6])
def test_of_all_checksums_the_right_one_and_the_unfinished_one_alone_are_taken(
    kernel: InKernel, hook: Hook, family: int
) -> None:
    by_checksum: dict[int, bytes] = {}
    for number in range(65_536):
        query = message(wire(b"com"), ident=number)
        by_checksum.setdefault(udp_checksum_of(frame(query, family).to_octets(), family), query)
    # 0 would say that there is none, so 0xffff stands for it, which is the sum's other zero.
    for right in (1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF):
        query = by_checksum[right]
        unfinished = udp_checksum_of(frame(query, family, partial=True).to_octets(), family)
        good = {right, unfinished} | ({0} if family == 4 else set())
        near = {(each + more) & 0xFFFF for each in good for more in (-1, 0, 1)}
        for value in {*range(0, 65_536, 97), *near}:
            run = kernel.run(hook, frame(query, family, udp_checksum=value).to_octets())
            assert run.verdict == (hook.reply if value in good else hook.passed), (hex(right), hex(value))


def test_of_all_checksums_of_an_ipv4_header_the_right_one_alone_is_taken(kernel: InKernel, hook: Hook) -> None:
    query = message(wire(b"com"))
    for identification in (0, 0x1234, 0xFFFF):
        octets = frame(query, identification=identification).to_octets()
        right = int.from_bytes(octets[24:26], "big")
        for value in {*range(0, 65_536, 97), right - 1, right, right + 1}:
            run = kernel.run(hook, octets[:24] + value.to_bytes(2, "big") + octets[26:])
            assert run.verdict == (hook.reply if value == right else hook.passed), (hex(right), hex(value))


def udp_checksum_of(octets: bytes, family: int) -> int:
    at = 14 + (20 if family == 4 else 40) + 6
    return int.from_bytes(octets[at : at + 2], "big")


def test_a_vlan_tag_comes_back(kernel: InKernel) -> None:
    for family in (4, 6):
        query = message(wire(b"www", b"example", b"com"), opt=opt())
        assert kernel.ask(XDP, frame(query, family, vlan=0x6123)) == kernel.expected(query, family)


def test_octets_behind_the_ip_packet_do_not_matter(kernel: InKernel, hook: Hook) -> None:
    for family in (4, 6):
        query = message(wire())
        sent = frame(query, family, trailer=b"padding of the link")
        assert kernel.ask(hook, sent) == kernel.expected(query, family)


def test_the_ipv4_identification_is_not_constant(kernel: InKernel, hook: Hook) -> None:
    # RFC 6864 section 4.3: without "don't fragment" it must be unique among what is in flight.
    octets = frame(message(wire())).to_octets()
    seen = {Frame.from_octets(kernel.run(hook, octets).packet).identification for _ in range(64)}
    assert len(seen) > 56
