"""What the kernel does not fully understand goes up as it came, with a reason of its own."""

import dataclasses
import ipaddress
import random
import struct

import pytest

from bench.frames import Frame, checksum
from rootsrv.answer.responder import Transport
from rootsrv.fastpath.layout import Reason
from rootsrv.fastpath.program import Interface
from tests.fastpath.conftest import (
    CLIENT,
    LOOPBACK_IFINDEX,
    SERVICE,
    TC,
    XDP,
    Hook,
    InKernel,
    frame,
    message,
    opt,
    option,
    wire,
)

GOOD = message(wire(b"www", b"com"), opt=opt())
COOKIE = bytes.fromhex("2464c4abcf10c957")


def with_flags(flags: int) -> bytes:
    return message(wire(b"com"), flags=flags)


def with_counts(*counts: int) -> bytes:
    return GOOD[:4] + struct.pack("!4H", *counts) + GOOD[12:]


MESSAGES = {
    "response": (with_flags(0x8000), Reason.RESPONSE),
    "notify": (with_flags(4 << 11), Reason.OPCODE),
    "update": (with_flags(5 << 11), Reason.OPCODE),
    "aa": (with_flags(0x0400), Reason.FLAGS),
    "tc": (with_flags(0x0200), Reason.FLAGS),
    "ra": (with_flags(0x0080), Reason.FLAGS),
    "z": (with_flags(0x0040), Reason.FLAGS),
    "rcode": (with_flags(0x0001), Reason.FLAGS),
    "no question": (with_counts(0, 0, 0, 1), Reason.COUNTS),
    "two questions": (with_counts(2, 0, 0, 1), Reason.COUNTS),
    "answer": (with_counts(1, 1, 0, 0), Reason.COUNTS),
    "authority": (with_counts(1, 0, 1, 0), Reason.COUNTS),
    "two additional": (with_counts(1, 0, 0, 2), Reason.COUNTS),
    "opt not announced": (with_counts(1, 0, 0, 0), Reason.TRAILING),
    "opt announced and not there": (message(wire(b"com"))[:11] + b"\1" + message(wire(b"com"))[12:], Reason.OPT),
    "pointer": (message(b"\3www\xc0\x0c"), Reason.QNAME),
    "label type 01": (message(b"\x41a\0"), Reason.QNAME),
    "name of 256 octets": (message(wire(b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 62)), Reason.QNAME),
    "name cut off": (message(b"\3com"), Reason.QNAME),
    "no qtype": (message(b"\3com\0")[:-4], Reason.QNAME),
    "short qclass": (message(b"\3com\0")[:-1], Reason.QNAME),
    "chaos": (message(wire(b"version", b"bind"), 16, qclass=3), Reason.QCLASS),
    "class any": (message(wire(b"com"), qclass=255), Reason.QCLASS),
    "axfr": (message(wire(), 252), Reason.QTYPE),
    "ixfr": (message(wire(), 251), Reason.QTYPE),
    "tsig": (message(wire(), 250), Reason.QTYPE),
    "tkey": (message(wire(), 249), Reason.QTYPE),
    "type 0": (message(wire(), 0), Reason.QTYPE),
    "type opt": (message(wire(), 41), Reason.QTYPE),
    "octets behind the question": (message(wire(b"com")) + b"\0", Reason.TRAILING),
    "octets behind opt": (GOOD + b"\0", Reason.TRAILING),
    "opt cut off": (GOOD[:-1], Reason.OPT),
    "opt whose owner is not the root": (message(wire(b"com"), opt=b"\1a" + opt()), Reason.OPT),
    "not an opt": (message(wire(b"com"), opt=b"\0" + struct.pack("!HHIH", 1, 1, 0, 0)), Reason.OPT),
    "edns version 1": (message(wire(b"com"), opt=opt(ttl=0x00010000)), Reason.OPT),
    "extended rcode": (message(wire(b"com"), opt=opt(ttl=0x01000000)), Reason.OPT),
    "zoneversion": (message(wire(), 6, opt=opt(options=option(19))), Reason.OPTION),
    "keepalive": (message(wire(), 6, opt=opt(options=option(11))), Reason.OPTION),
    "expire": (message(wire(), 6, opt=opt(options=option(9))), Reason.OPTION),
    "extended error": (message(wire(), 6, opt=opt(options=option(15, b"\0\0"))), Reason.OPTION),
    "cookie of 7": (message(wire(), opt=opt(options=option(10, COOKIE[:7]))), Reason.COOKIE),
    "cookie of 9": (message(wire(), opt=opt(options=option(10, COOKIE + b"x"))), Reason.COOKIE),
    "cookie of 41": (message(wire(), opt=opt(options=option(10, bytes(41)))), Reason.COOKIE),
    "two cookies": (message(wire(), opt=opt(options=option(10, COOKIE) * 2)), Reason.COOKIE),
    "option cut off": (message(wire(), opt=opt(options=option(3) + b"\0\3\0")), Reason.OPT),
    "option too long": (message(wire(), opt=opt(options=b"\0\x0c\0\5abcd")), Reason.OPT),
    "nine options": (message(wire(), opt=opt(options=option(12) * 9)), Reason.OPT),
    "trust anchor signal": (message(wire(b"_ta-4f66"), 10), Reason.TRUST_ANCHOR_SIGNAL),
    "trust anchor signal in capitals": (message(wire(b"_TA-4F66"), 10, opt=opt()), Reason.TRUST_ANCHOR_SIGNAL),
    "below the host zone": (message(wire(b"www", b"root-servers", b"net")), Reason.HOST_ZONE),
    "below a host": (message(wire(b"x", b"a", b"Root-Servers", b"NET")), Reason.HOST_ZONE),
    "the host zone's ds": (message(wire(b"root-servers", b"net"), 43, opt=opt()), Reason.HOST_ZONE),
    "no octets": (b"", Reason.MESSAGE_SIZE),
    "a header": (GOOD[:12], Reason.MESSAGE_SIZE),
    "sixteen octets": (message(wire())[:16], Reason.MESSAGE_SIZE),
    "more than 512 octets": (message(wire(), opt=opt(options=option(12, bytes(481)))), Reason.MESSAGE_SIZE),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_for_the_responder(kernel: InKernel, hook: Hook, name: str) -> None:
    query, reason = MESSAGES[name]

    for family in (4, 6):
        assert kernel.ask(hook, query, family) == reason


def test_names_next_to_the_host_zone_are_answered(kernel: InKernel, hook: Hook) -> None:
    for labels in ((b"xroot-servers", b"net"), (b"root-servers", b"com"), (b"root-server", b"net"), (b"net",),
                   (b"a", b"\x0croot-servers", b"net"), (b"x\x0croot-servers", b"net")):  # fmt: skip
        query = message(wire(*labels), opt=opt())
        assert kernel.ask(hook, query) == kernel.expected(query)


def test_a_message_of_512_octets_is_answered(kernel: InKernel, hook: Hook) -> None:
    query = message(wire(), opt=opt(options=option(12, bytes(480))))
    assert len(query) == 512
    assert kernel.ask(hook, query) == kernel.expected(query)


SOURCES = {
    4: ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "203.0.113.99", SERVICE[4]),
    6: ("::", "::1", "ff02::1", "::ffff:198.51.100.7", "2001:db8::99", SERVICE[6]),
}


@pytest.mark.parametrize("family", [4, 6])
def test_senders_that_the_stack_must_judge(kernel: InKernel, hook: Hook, family: int) -> None:
    kernel.program.set_own_addresses(["203.0.113.99", SERVICE[4], "2001:db8::99", SERVICE[6]])
    try:
        for source in SOURCES[family]:
            sent = Frame(source=source, destination=SERVICE[family], payload=GOOD)
            assert kernel.ask(hook, sent) is Reason.SOURCE
        for port in (0, 53):
            assert kernel.ask(hook, frame(GOOD, family, source_port=port)) is Reason.SOURCE
        assert kernel.ask(hook, frame(GOOD, family)) == kernel.expected(GOOD, family)
    finally:
        kernel.program.set_own_addresses([])


@pytest.mark.parametrize("count", [40, 2_000, 16_384 + 40])
def test_a_host_may_have_any_number_of_addresses(kernel: InKernel, hook: Hook, count: int) -> None:
    """What comes from any of them is for the stack; hardly anything else is passed, and nothing once they are gone."""
    own = [str(ipaddress.IPv4Address(0x0A000000 + number)) for number in range(count // 2)]
    own += [str(ipaddress.IPv6Address((0xFD << 120) + number)) for number in range(count - len(own))]
    others = [f"198.51.{number}.7" for number in range(100, 200)] + [f"2001:db8:7::{n:x}" for n in range(1, 101)]

    def asked_by(source: str) -> "bytes | Reason":
        family = 6 if ":" in source else 4
        return kernel.ask(hook, Frame(source=source, destination=SERVICE[family], payload=GOOD))

    try:
        kernel.program.set_own_addresses(own)
        assert {asked_by(source) for source in [*own[:: max(1, count // 200)], own[-1]]} == {Reason.SOURCE}
        passed = sum(asked_by(source) is Reason.SOURCE for source in others)
        assert passed == 0 or count > 16_384
        kernel.program.set_own_addresses(own[:1])
        assert asked_by(own[0]) is Reason.SOURCE
        assert asked_by(own[1]) == asked_by(others[0]) == kernel.expected(GOOD, 4)
    finally:
        kernel.program.set_own_addresses([])


def test_queries_to_more_service_addresses_than_it_knows_are_passed(kernel: InKernel, hook: Hook) -> None:
    many = {4: [f"192.0.2.{number}" for number in range(100, 170)], 6: [f"2001:db8:53::{n:x}" for n in range(1, 71)]}
    try:
        assert kernel.program.set_service(many[4] + many[6], 53) == many[4][64:] + many[6][64:]
        for family, addresses in many.items():
            for address in (addresses[0], addresses[63]):
                sent = Frame(source=CLIENT[family], destination=address, payload=GOOD)
                assert kernel.ask(hook, sent) == kernel.expected(GOOD, family)
            sent = Frame(source=CLIENT[family], destination=addresses[64], payload=GOOD)
            assert kernel.ask(hook, sent) is Reason.DESTINATION
    finally:
        kernel.program.set_service(list(SERVICE.values()), 53)


def test_on_the_loopback_interface_our_own_addresses_are_good_senders(kernel: InKernel, hook: Hook) -> None:
    usual = Interface(LOOPBACK_IFINDEX, 65536, bytes(6), virtual=True, loopback=False)
    kernel.program.set_own_addresses([SERVICE[4], SERVICE[6]])
    kernel.program.set_interfaces([dataclasses.replace(usual, loopback=True)])
    try:
        for family, sources in {4: ("127.0.0.1", SERVICE[4]), 6: ("::1", SERVICE[6])}.items():
            for source in sources:
                query = message(wire(b"com"))
                sent = Frame(source=source, destination=SERVICE[family], payload=query)
                assert kernel.ask(hook, sent) == kernel.expected(query, family)
        assert kernel.ask(hook, Frame(source="::", destination=SERVICE[6], payload=GOOD)) is Reason.SOURCE
    finally:
        kernel.program.set_own_addresses([])
        kernel.program.set_interfaces([usual])


@pytest.mark.parametrize("family", [4, 6])
def test_what_is_not_for_the_service(kernel: InKernel, hook: Hook, family: int) -> None:
    elsewhere = {4: ("192.0.2.54", "224.0.0.1", "255.255.255.255", "0.0.0.0"), 6: ("2001:db8::54", "ff02::1", "::")}
    for destination in elsewhere[family]:
        sent = Frame(source=CLIENT[family], destination=destination, payload=GOOD)
        assert kernel.ask(hook, sent) is Reason.DESTINATION
    for port in (0, 52, 54, 5353, 0x3500):
        assert kernel.ask(hook, frame(GOOD, family, destination_port=port)) is Reason.PORT


def changed(octets: bytes, at: int, *values: int) -> bytes:
    return octets[:at] + bytes(values) + octets[at + len(values) :]


def ipv4_changed(at: int, *values: int) -> bytes:
    """The good frame with other octets in its IPv4 header, whose checksum is made right again."""
    octets = changed(frame(GOOD).to_octets(), 14 + at, *values)
    header = changed(octets[14:34], 10, 0, 0)
    return octets[:24] + struct.pack("!H", checksum(header)) + octets[26:]


IPV4_SIZE = 28 + len(GOOD)
FRAMES = {
    "arp": (changed(frame(GOOD).to_octets(), 12, 0x08, 0x06), Reason.NOT_IP),
    "ip options": (ipv4_changed(0, 0x46), Reason.IP_OPTIONS),
    "version 5": (ipv4_changed(0, 0x55), Reason.IP_OPTIONS),
    "first fragment": (ipv4_changed(6, 0x20, 0), Reason.FRAGMENT),
    "later fragment": (ipv4_changed(6, 0, 1), Reason.FRAGMENT),
    "reserved flag": (ipv4_changed(6, 0x80, 0), Reason.FRAGMENT),
    "tcp": (ipv4_changed(9, 6), Reason.NOT_UDP),
    "icmp": (ipv4_changed(9, 1), Reason.NOT_UDP),
    "longer than the frame": (ipv4_changed(2, *divmod(IPV4_SIZE + 1, 256)), Reason.IP_LENGTH),
    "shorter than its headers": (ipv4_changed(2, 0, 27), Reason.IP_LENGTH),
    "shorter than udp says": (ipv4_changed(2, *divmod(IPV4_SIZE - 1, 256)), Reason.UDP_LENGTH),
    "wrong header checksum": (changed(frame(GOOD).to_octets(), 24, 0, 0), Reason.IP_CHECKSUM),
    "wrong udp checksum": (frame(GOOD, udp_checksum=0x1234).to_octets(), Reason.UDP_CHECKSUM),
    "ipv6 without udp checksum": (frame(GOOD, 6, udp_checksum=0).to_octets(), Reason.UDP_CHECKSUM),
    "ipv6 hop-by-hop": (changed(frame(GOOD, 6).to_octets(), 20, 0), Reason.NOT_UDP),
    "ipv6 fragment": (changed(frame(GOOD, 6).to_octets(), 20, 44), Reason.NOT_UDP),
    "ipv6 jumbogram": (changed(frame(GOOD, 6).to_octets(), 18, 0, 0), Reason.IP_LENGTH),
    "ipv6 longer than the frame": (changed(frame(GOOD, 6).to_octets(), 18, 0x10, 0), Reason.IP_LENGTH),
    "ipv6 of version 4": (changed(frame(GOOD, 6).to_octets(), 14, 0x40), Reason.NOT_IP),
    "udp too short": (changed(frame(GOOD).to_octets(), 38, 0, 7), Reason.UDP_LENGTH),
    "from a group": (frame(GOOD, source_mac=bytes.fromhex("010000000001")).to_octets(), Reason.NOT_FOR_US),
    "a short ipv4 frame": (frame(GOOD).to_octets()[:40], Reason.SHORT),
    "a short ipv6 frame": (frame(GOOD, 6).to_octets()[:60], Reason.SHORT),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_for_the_stack(kernel: InKernel, hook: Hook, name: str) -> None:
    octets, reason = FRAMES[name]

    run = kernel.run(hook, octets)

    assert (run.verdict, run.packet) == (hook.passed, octets)
    assert kernel.reason() == reason


def test_frames_to_others_are_passed(kernel: InKernel) -> None:
    for mac in (b"\xff" * 6, bytes.fromhex("01005e000001"), bytes.fromhex("020000000099")):
        assert kernel.ask(XDP, frame(GOOD, destination_mac=mac)) is Reason.NOT_FOR_US
        assert kernel.ask(TC, frame(GOOD, destination_mac=mac)) is Reason.NOT_FOR_US


def test_two_vlan_tags_are_one_too_many(kernel: InKernel) -> None:
    octets = frame(GOOD, vlan=5).to_octets()
    doubled = octets[:12] + b"\x88\xa8\0\7" + octets[12:]

    run = kernel.run(XDP, doubled)

    assert (run.verdict, kernel.reason()) == (XDP.passed, Reason.NOT_IP)


def test_on_an_interface_with_a_far_end_an_unfinished_checksum_is_a_wrong_one(kernel: InKernel, hook: Hook) -> None:
    usual = Interface(LOOPBACK_IFINDEX, 65536, bytes(6), virtual=True, loopback=False)
    kernel.program.set_interfaces([dataclasses.replace(usual, virtual=False)])
    try:
        assert kernel.ask(hook, frame(GOOD, partial=True)) is Reason.UDP_CHECKSUM
        assert kernel.ask(hook, frame(GOOD)) == kernel.expected(GOOD)
    finally:
        kernel.program.set_interfaces([usual])


def test_a_response_that_the_interface_does_not_take_is_left_to_the_stack(kernel: InKernel, hook: Hook) -> None:
    usual = Interface(LOOPBACK_IFINDEX, 65536, bytes(6), virtual=True, loopback=False)
    query = message(wire(), 48, opt=opt())
    response = kernel.expected(query)
    assert response is not None
    try:
        for family, headers in ((4, 28), (6, 48)):
            for mtu, fits in ((headers + len(response), True), (headers + len(response) - 1, False)):
                kernel.program.set_interfaces([dataclasses.replace(usual, mtu=mtu)])
                assert kernel.ask(hook, query, family) == (response if fits else Reason.MTU)
    finally:
        kernel.program.set_interfaces([usual])


def test_an_interface_that_is_not_ours_is_not_answered(kernel: InKernel, hook: Hook) -> None:
    usual = Interface(LOOPBACK_IFINDEX, 65536, bytes(6), virtual=True, loopback=False)
    kernel.program.control.interfaces[0].ifindex = 77
    try:
        assert kernel.ask(hook, GOOD) is Reason.INTERFACE
    finally:
        kernel.program.set_interfaces([usual])


# ── Mutations: whatever the octets, PASS with the packet unchanged, or the Responder's response ──


def mutated(rng: random.Random, octets: bytes) -> bytes:
    """*octets* with bits flipped, cut off, extended, or with pieces repeated."""
    changed = bytearray(octets)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        kind = rng.randrange(8)
        at = rng.randrange(len(changed)) if changed else 0
        if kind <= 2 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 3 and changed:
            changed[at] = rng.choice((0, 1, 63, 64, 0xC0, 0xFF, rng.randrange(256)))
        elif kind == 4:
            del changed[rng.randrange(len(changed) + 1) :]
        elif kind == 5:
            changed += rng.randbytes(rng.randrange(1, 40))
        elif kind == 6:
            changed[at:at] = changed[at : at + rng.randrange(1, 24)]
        else:
            del changed[at : at + rng.randrange(1, 8)]
    return bytes(changed)


def soup(rng: random.Random) -> bytes:
    """An OPT record of many options, most of them well-formed."""
    options = b""
    for _ in range(rng.randrange(1, 15)):
        code = rng.choice((3, 8, 10, 10, 11, 12, 15, 19, rng.randrange(65536)))
        size = rng.choice((0, 0, 8, 24, rng.randrange(45)))
        options += option(code, rng.randbytes(size))
    return opt(rng.choice((0, 512, 1232, 4096)), do=rng.random() < 0.8, options=options)


def mutate(kernel: InKernel, hook: Hook, count: int, seed: int) -> tuple[int, int]:
    """Feed *count* mutated packets; how many were passed up and how many answered."""
    rng = random.Random(seed)
    names = [wire(), wire(b"com"), wire(b"www", b"example", b"net"), wire(b"a", b"root-servers", b"net"),
             wire(b"nosuch"), wire(b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 57, b"org")]  # fmt: skip
    passed = answered = 0
    for _ in range(count):
        query = message(
            rng.choice(names), rng.choice((1, 2, 6, 43, 48, 255)), opt=soup(rng) if rng.random() < 0.5 else opt()
        )
        family = rng.choice((4, 6))
        level = rng.randrange(3)
        if level == 0:  # the message, in headers that are right
            query = mutated(rng, query)
        sent = frame(query, family)
        octets = sent.to_octets()
        if level == 1:  # headers and all
            octets = mutated(rng, octets)
        elif level == 2:  # headers inside headers
            at = rng.randrange(len(octets))
            octets = octets[:at] + frame(query, 10 - family).to_octets()[rng.choice((0, 14)) :]
        if len(octets) < 54:
            continue  # the kernel refuses test runs of less than the headers
        run = kernel.run(hook, octets)
        if run.verdict == hook.passed:
            assert run.packet == octets
            passed += 1
            continue
        assert run.verdict == hook.reply, octets.hex()
        # Whoever sent it: the reply goes back to where the packet says that it came from.
        received = Frame.from_octets(run.packet)
        at = 14 + (20 if octets[12:14] == b"\x08\0" else 40)
        if octets[12:14] == b"\x81\0" and hook is XDP:
            at = 18 + (20 if octets[16:18] == b"\x08\0" else 40)
        (size,) = struct.unpack_from("!H", octets, at + 4)
        asked = octets[at + 8 : at + size]
        source = ipaddress.ip_address(received.destination).packed
        assert received.payload == kernel.responder.respond(asked, source, Transport.UDP, kernel.now), octets.hex()
        answered += 1
    return passed, answered


def test_mutated_packets(kernel: InKernel, hook: Hook) -> None:
    passed, answered = mutate(kernel, hook, 50_000, seed=1)

    print(f"{hook}: {passed} passed, {answered} answered")
    assert passed > 10_000
    assert answered > 500


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_many_mutated_packets(kernel: InKernel, hook: Hook) -> None:
    passed, answered = mutate(kernel, hook, 500_000, seed=2)

    assert passed > 100_000
    assert answered > 5_000
