"""What is not an ordinary question: EDNS, errors, other classes and opcodes, identity (D5, D11–D13)."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.tsig
import dns.tsigkeyring
import pytest

from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, ResponderSettings, Transport, not_ready
from tests.answer.ask import SOURCE, ask, described, query
from tests.answer.conftest import NOW, SECRET, SETTINGS, Compiled

CLIENT_COOKIE = bytes.fromhex("2464c4abcf10c957")
COOKIE, NSID, KEEPALIVE, ZONEVERSION, PADDING = 10, 3, 11, 19, 12


def option(code: int, data: bytes = b"") -> dns.edns.Option:
    return dns.edns.GenericOption(code, data)


def options_of(message: dns.message.Message) -> dict[int, bytes]:
    return {int(each.otype): each.to_wire() or b"" for each in message.options}


def raw(
    question: bytes, *, counts: tuple[int, int, int, int] = (1, 0, 0, 0), rest: bytes = b"", flags: int = 0
) -> bytes:
    return struct.pack("!6H", 0x1234, flags, *counts) + question + rest


A_COM = b"\3com\0\0\1\0\1"
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


# ── silence ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "octets",
    [b"", b"\x12", raw(b"")[:11], raw(A_COM, flags=0x8000), raw(A_COM, flags=0x8400)],
    ids=["empty", "one octet", "eleven octets", "a response", "an authoritative response"],
)
def test_what_has_no_id_or_is_a_response_is_dropped(responder: Responder, octets: bytes) -> None:
    assert responder.respond(octets, SOURCE, Transport.UDP, NOW) is None


# ── FORMERR ─────────────────────────────────────────────────────────────────────────────────────────────────────

FORMERR_CASES = {
    "no question": raw(b"", counts=(0, 0, 0, 0)),
    "a question that is not there": raw(b""),
    "two questions": raw(A_COM + A_COM, counts=(2, 0, 0, 0)),
    "question cut off": raw(A_COM[:-1]),
    "name cut off": raw(b"\3co"),
    "compressed qname": raw(b"\xc0\x0c\0\1\0\1"),
    "compressed qname that looks like a name": raw(b"\3www\xc0\x0c\0\1\0\1"),
    "label type 01": raw(b"\x41" + b"a" * 65 + b"\0\0\1\0\1"),
    "name of 256 octets": raw(b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 2 + b"\x3e" + b"a" * 62 + b"\0\0\1\0\1"),
    "octets behind the question": raw(A_COM + b"\0"),
    "octets behind the OPT": raw(A_COM, counts=(1, 0, 0, 1), rest=OPT + b"\0"),
    "an answer record": raw(A_COM, counts=(1, 1, 0, 0), rest=b"\0\0\1\0\1\0\0\0\0\0\4\1\2\3\4"),
    "an authority record": raw(A_COM, counts=(1, 0, 1, 0), rest=b"\0\0\1\0\1\0\0\0\0\0\4\1\2\3\4"),
    "OPT announced, not there": raw(A_COM, counts=(1, 0, 0, 1)),
    "two OPT records": raw(A_COM, counts=(1, 0, 0, 2), rest=OPT + OPT),
    "OPT not at the root": raw(A_COM, counts=(1, 0, 0, 1), rest=b"\1a" + OPT),
    "OPT shorter than it says": raw(A_COM, counts=(1, 0, 0, 1), rest=OPT[:-1] + b"\4"),
    "option longer than its OPT": raw(A_COM, counts=(1, 0, 0, 1), rest=OPT[:-1] + b"\4\xff\xff\0\1"),
    "option cut off": raw(A_COM, counts=(1, 0, 0, 1), rest=OPT[:-1] + b"\3\0\3\0"),
    "three additional records": raw(A_COM, counts=(1, 0, 0, 3), rest=OPT),
}


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("octets", FORMERR_CASES.values(), ids=FORMERR_CASES.keys())
def test_what_cannot_be_understood_is_formerr(responder: Responder, octets: bytes, transport: Transport) -> None:
    response = ask(responder, octets, transport)
    assert response.rcode() == dns.rcode.FORMERR
    assert (response.answer, response.authority, response.additional) == ([], [], [])


@pytest.mark.parametrize("size", [0, 1, 7, 9, 15, 41])
def test_a_cookie_of_bad_length_is_formerr(responder: Responder, size: int) -> None:
    response = ask(responder, query("com", "NS", options=[option(COOKIE, bytes(size))]))
    assert response.rcode() == dns.rcode.FORMERR
    assert response.edns == 0


def test_formerr_keeps_the_question_where_it_could_be_read(responder: Responder) -> None:
    response = ask(responder, FORMERR_CASES["two OPT records"])
    assert response.question[0].name.to_text() == "com."


# ── other opcodes, classes and types ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(responder: Responder, opcode: int) -> None:
    response = ask(responder, raw(A_COM, flags=opcode << 11))
    assert response.rcode() == dns.rcode.NOTIMP
    assert response.opcode() == opcode


def test_notify_and_update_are_not_implemented_here(responder: Responder) -> None:
    notify = dns.message.make_query(".", "SOA")
    notify.set_opcode(dns.opcode.NOTIFY)
    notify.flags |= dns.flags.AA
    assert ask(responder, notify).rcode() == dns.rcode.NOTIMP
    update = raw(A_COM, counts=(1, 0, 1, 0), rest=b"\0\0\1\0\1\0\0\0\0\0\0", flags=5 << 11)
    assert ask(responder, update).rcode() == dns.rcode.NOTIMP


@pytest.mark.parametrize("rclass", ["HS", "ANY", "NONE", "CLASS7"])
def test_other_classes_are_refused_with_an_extended_error(responder: Responder, rclass: str) -> None:
    response = ask(responder, query("com", "NS", rclass=rclass, size=1232))
    assert response.rcode() == dns.rcode.REFUSED
    assert options_of(response)[15] == b"\0\x14"  # 20: not authoritative


@pytest.mark.parametrize("transport", list(Transport))
@pytest.mark.parametrize("qname", [".", "root-servers.net", "com", "nosuchtld"])
def test_transfers_are_refused_on_the_service_address(responder: Responder, qname: str, transport: Transport) -> None:
    axfr = ask(responder, query(qname, "AXFR", size=1232), transport)
    assert (axfr.rcode(), options_of(axfr)[15]) == (dns.rcode.REFUSED, b"\0\x12")  # 18: prohibited
    ixfr = query(qname, "IXFR").to_wire()
    soa = b"\0\0\6\0\1\0\0\0\0\0\x16\0\0" + bytes(20)
    octets = ixfr[:8] + b"\0\1" + ixfr[10:] + soa
    assert ask(responder, octets, transport).rcode() == dns.rcode.REFUSED


def test_a_query_signed_with_a_key_is_told_that_none_is_known(responder: Responder) -> None:
    signed = query("com", "NS")
    signed.use_tsig(dns.tsigkeyring.from_text({"key.example.": "c2VjcmV0c2VjcmV0"}), algorithm=dns.tsig.HMAC_SHA256)
    octets = responder.respond(signed.to_wire(), SOURCE, Transport.UDP, NOW)
    assert octets is not None
    assert octets[3] & 0xF == dns.rcode.NOTAUTH
    # The TSIG's last six octets: original id, error BADKEY, no other data.
    assert octets[-6:] == octets[:2] + b"\0\x11\0\0"
    assert octets[10:12] == b"\0\1"
    with pytest.raises(dns.message.UnknownTSIGKey):
        dns.message.from_wire(octets)


# ── EDNS ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_response_has_an_opt_record_only_when_the_query_has(responder: Responder) -> None:
    assert ask(responder, query("com", "NS")).edns == -1
    with_edns = ask(responder, query("com", "NS", size=4096))
    assert (with_edns.edns, with_edns.payload, with_edns.ednsflags) == (0, 1232, 0)


def test_do_is_copied(responder: Responder) -> None:
    assert ask(responder, query("com", "NS", do=True)).ednsflags == dns.flags.DO


def test_a_later_edns_version_is_badvers_even_with_options_of_its_own(responder: Responder) -> None:
    opt = b"\0\0\x29\x04\xd0\0\1\x80\0\0\3abc"
    response = ask(responder, raw(A_COM, counts=(1, 0, 0, 1), rest=opt))
    assert response.rcode() == dns.rcode.BADVERS
    assert (response.edns, response.answer) == (0, [])


def test_unknown_options_are_ignored(responder: Responder) -> None:
    plain = ask(responder, query("com", "NS", size=1232))
    unknown = ask(responder, query("com", "NS", size=1232, options=[option(65001, b"x"), option(PADDING, bytes(9))]))
    assert described(unknown) == described(plain)
    assert options_of(unknown) == {}


@pytest.mark.parametrize("others", [8, 31])
def test_no_option_is_passed_over(responder: Responder, others: int) -> None:
    many = [option(65001)] * others
    told = ask(responder, query("com", "NS", options=[*many, option(NSID)]))
    assert (told.rcode(), options_of(told)) == (dns.rcode.NOERROR, {NSID: b"lax1a.example"})
    malformed = ask(responder, query("com", "NS", options=[*many, option(COOKIE, bytes(7))]))
    assert malformed.rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize("number", [33, 1000, 16_000])
def test_more_options_than_anybody_needs_are_formerr(responder: Responder, number: int) -> None:
    rdata = struct.pack("!HH", 65001, 0) * number
    octets = raw(A_COM, counts=(1, 0, 0, 1), rest=OPT[:-2] + len(rdata).to_bytes(2) + rdata)
    response = ask(responder, octets, Transport.TCP)
    assert (response.rcode(), response.edns, response.question[0].name.to_text()) == (dns.rcode.FORMERR, 0, "com.")


DO_OPT = b"\0\0\x29\x04\xd0\0\0\x80\0"
FORMERR_WITH_DO = {
    "cookie of 7 octets": raw(A_COM, counts=(1, 0, 0, 1), rest=DO_OPT + b"\0\x0b\0\x0a\0\7" + bytes(7)),
    "option cut off": raw(A_COM, counts=(1, 0, 0, 1), rest=DO_OPT + b"\0\3\0\3\0"),
    "ZONEVERSION with data": raw(A_COM, counts=(1, 0, 0, 1), rest=DO_OPT + b"\0\5\0\x13\0\1\0"),
    "ZONEVERSION twice": raw(A_COM, counts=(1, 0, 0, 1), rest=DO_OPT + b"\0\x08" + b"\0\x13\0\0" * 2),
    "two OPT records": raw(A_COM, counts=(1, 0, 0, 2), rest=DO_OPT + b"\0\0" + OPT),
    "OPT not at the root": raw(A_COM, counts=(1, 0, 0, 1), rest=b"\1a" + DO_OPT + b"\0\0"),
    "octets behind the OPT": raw(A_COM, counts=(1, 0, 0, 1), rest=DO_OPT + b"\0\0\0"),
    "a record behind the OPT that is cut off": raw(A_COM, counts=(1, 0, 0, 2), rest=DO_OPT + b"\0\0\0\0"),
    "a TSIG behind the OPT that is cut off": raw(
        A_COM, counts=(1, 0, 0, 2), rest=DO_OPT + b"\0\0" + b"\0\0\xfa\0\xff\0\0\0\0\0\1\0"
    ),
    "no question": raw(b"", counts=(0, 0, 0, 1), rest=DO_OPT + b"\0\0"),
}


@pytest.mark.parametrize("octets", FORMERR_WITH_DO.values(), ids=FORMERR_WITH_DO.keys())
def test_formerr_copies_do(responder: Responder, octets: bytes) -> None:
    """RFC 3225 §3; with or without answers to give."""
    without_do = octets.replace(DO_OPT, DO_OPT[:-2] + b"\0\0")
    for asked, flags in ((octets, dns.flags.DO), (without_do, 0)):
        ready, unready = ask(responder, asked), dns.message.from_wire(not_ready(asked) or b"")
        for response in (ready, unready) if asked[5] else (ready,):
            assert (response.rcode(), response.edns, response.ednsflags) == (dns.rcode.FORMERR, 0, flags)


LONGEST_NAME = b"\x3f" + b"k" * 63 + b"\x3f" + b"k" * 63 + b"\x3f" + b"k" * 63 + b"\x3d" + b"k" * 61 + b"\0"


def signed_with(key_name: bytes, algorithm: bytes, question: bytes, opt: bytes = b"") -> bytes:
    rdata = algorithm + bytes(6) + b"\x01\x2c" + b"\0\x20" + bytes(32) + b"\x12\x34" + bytes(4)
    tsig = key_name + struct.pack("!HHIH", 250, 255, 0, len(rdata)) + rdata
    return raw(question, counts=(1, 0, 0, 1 + bool(opt)), rest=opt + tsig)


@pytest.mark.parametrize("offered", [0, 512, 700, 1232], ids="UDP payload size {}".format)
@pytest.mark.parametrize("key_name", [b"\1k\0", LONGEST_NAME], ids=["short key name", "longest key name"])
@pytest.mark.parametrize("algorithm", [b"\1a\0", LONGEST_NAME], ids=["short algorithm", "longest algorithm"])
@pytest.mark.parametrize("qname", [b"\0", LONGEST_NAME], ids=["short question", "longest question"])
def test_no_udp_response_to_a_signed_query_is_too_long(
    responder: Responder, qname: bytes, algorithm: bytes, key_name: bytes, offered: int
) -> None:
    opt = OPT[:3] + offered.to_bytes(2) + OPT[5:] if offered else b""
    octets = signed_with(key_name, algorithm, qname + b"\0\1\0\1", opt)
    over_tcp = responder.respond(octets, SOURCE, Transport.TCP, NOW) or b""
    over_udp = responder.respond(octets, SOURCE, Transport.UDP, NOW) or b""
    assert over_udp[3] & 15 == over_tcp[3] & 15 == dns.rcode.NOTAUTH
    assert key_name + b"\0\xfa\0\xff" in over_tcp
    limit = offered or 512
    if len(over_tcp) <= limit:
        assert over_udp == over_tcp
    else:
        assert len(over_udp) <= limit
        assert over_udp[2] & 2  # TC
        assert dns.message.from_wire(over_udp).question[0].name.to_wire() == qname


def test_no_identity_is_too_long_for_a_response_over_udp() -> None:
    with pytest.raises(ValueError, match="128"):
        ResponderSettings(nsid=bytes(129))


@pytest.mark.parametrize("transport", list(Transport))
def test_nsid_is_told_when_asked(responder: Responder, transport: Transport) -> None:
    response = ask(responder, query("nosuchtld", "A", do=True, options=[option(NSID)]), transport)
    assert options_of(response) == {NSID: b"lax1a.example"}


def test_keepalive_is_answered_on_tcp_only(responder: Responder) -> None:
    asked = query("com", "NS", options=[option(KEEPALIVE)])
    assert options_of(ask(responder, asked, Transport.TCP)) == {KEEPALIVE: b"\0\x64"}  # 10 s in units of 100 ms
    assert options_of(ask(responder, asked)) == {}
    timed = query("com", "NS", options=[option(KEEPALIVE, b"\0\1")])
    assert options_of(ask(responder, timed, Transport.TCP)) == {KEEPALIVE: b"\0\x64"}
    assert (ask(responder, timed).rcode(), options_of(ask(responder, timed))) == (dns.rcode.NOERROR, {})


@pytest.mark.parametrize(
    ("qname", "labels", "number"), [(".", 0, 0), ("www.com", 0, 0), ("nosuchtld", 0, 0), ("a.root-servers.net", 2, 1)]
)
def test_zoneversion_is_the_serial_of_the_zone_that_answers(
    responder: Responder, qname: str, labels: int, number: int
) -> None:
    response = ask(responder, query(qname, "A", options=[option(ZONEVERSION)]))
    serial = responder.table.zones[number].serial
    assert options_of(response) == {ZONEVERSION: bytes((labels, 0)) + serial.to_bytes(4)}


def test_a_refused_transfer_tells_the_version_too(responder: Responder) -> None:
    response = ask(responder, query("com", "AXFR", options=[option(ZONEVERSION)]), Transport.TCP)
    assert response.rcode() == dns.rcode.REFUSED
    assert options_of(response)[ZONEVERSION] == bytes(2) + responder.table.zones[0].serial.to_bytes(4)


# ── cookies ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("qname", ["com", "www.example.com", "nosuchtld", "."])
def test_a_client_cookie_gets_a_server_cookie(responder: Responder, qname: str) -> None:
    response = ask(responder, query(qname, "A", do=True, options=[option(COOKIE, CLIENT_COOKIE)]))
    assert options_of(response) == {COOKIE: ServerCookies(SECRET).make(CLIENT_COOKIE, SOURCE, NOW)}


def test_a_good_young_cookie_comes_back(responder: Responder) -> None:
    cookie = ServerCookies(SECRET).make(CLIENT_COOKIE, SOURCE, NOW - 1799)
    assert options_of(ask(responder, query("com", "A", options=[option(COOKIE, cookie)]))) == {COOKIE: cookie}
    older = ServerCookies(SECRET).make(CLIENT_COOKIE, SOURCE, NOW - 1800)
    renewed = ServerCookies(SECRET).make(CLIENT_COOKIE, SOURCE, NOW)
    assert options_of(ask(responder, query("com", "A", options=[option(COOKIE, older)]))) == {COOKIE: renewed}


@pytest.fixture(scope="session")
def strict(compiled: Compiled) -> Responder:
    return Responder(
        compiled.table,
        ResponderSettings(cookies=ServerCookies(SECRET), require_server_cookie=True),
    )


def test_a_required_server_cookie_that_is_missing_is_badcookie_on_udp(strict: Responder) -> None:
    asked = query("com", "A", options=[option(COOKIE, CLIENT_COOKIE)])
    response = ask(strict, asked)
    assert response.rcode() == dns.rcode.BADCOOKIE
    fresh = options_of(response)[COOKIE]
    assert ask(strict, asked, Transport.TCP).rcode() == dns.rcode.NOERROR
    assert ask(strict, query("com", "A", options=[option(COOKIE, fresh)])).rcode() == dns.rcode.NOERROR
    assert ask(strict, query("com", "A")).rcode() == dns.rcode.NOERROR


def test_a_cookie_without_a_question_is_answered(responder: Responder) -> None:
    opt = OPT[:-1] + b"\x0c\0\x0a\0\x08" + CLIENT_COOKIE
    response = ask(responder, raw(b"", counts=(0, 0, 0, 1), rest=opt))
    assert (response.rcode(), response.question) == (dns.rcode.NOERROR, [])
    assert options_of(response)[COOKIE][:8] == CLIENT_COOKIE


def test_without_a_secret_cookies_are_ignored(compiled: Compiled) -> None:
    responder = Responder(compiled.table, ResponderSettings())
    assert options_of(ask(responder, query("com", "A", options=[option(COOKIE, CLIENT_COOKIE)]))) == {}


# ── identity ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("qname", "text"),
    [
        ("id.server", "lax1a.example"),
        ("hostname.bind", "lax1a.example"),
        ("VERSION.bind", "rootsrv"),
        ("version.server", "rootsrv"),
    ],
)
@pytest.mark.parametrize("rtype", ["TXT", "ANY"])
def test_an_instance_names_itself(responder: Responder, qname: str, text: str, rtype: str) -> None:
    response = ask(responder, query(qname, rtype, rclass="CH", size=1232))
    (rrset,) = response.answer
    assert (rrset.rdclass, rrset.ttl, rrset[0].strings) == (dns.rdataclass.CH, 0, (text.encode(),))
    assert response.flags & dns.flags.AA


def test_what_is_not_told_is_refused(responder: Responder, compiled: Compiled) -> None:
    silent = Responder(compiled.table, ResponderSettings(nsid=SETTINGS.nsid))
    assert ask(silent, query("version.bind", "TXT", rclass="CH")).rcode() == dns.rcode.REFUSED
    assert ask(responder, query("authors.bind", "TXT", rclass="CH")).rcode() == dns.rcode.REFUSED
    assert ask(responder, query("id.server", "A", rclass="CH")).rcode() == dns.rcode.REFUSED


# ── a zone that has expired, an instance that is not ready ──────────────────────────────────────────────────────


@pytest.mark.parametrize("transport", list(Transport))
def test_what_comes_from_an_expired_zone_is_servfail(compiled: Compiled, transport: Transport) -> None:
    responder = Responder(compiled.table, SETTINGS)

    def rcodes() -> list[dns.rcode.Rcode]:
        names = (".", "www.com", "nosuchtld", "a.root-servers.net", "x.root-servers.net")
        return [ask(responder, query(name, "A"), transport).rcode() for name in names]

    whole = rcodes()
    responder.set_expired(frozenset((1,)))
    assert rcodes() == [*whole[:3], dns.rcode.SERVFAIL, dns.rcode.SERVFAIL]
    responder.set_expired(frozenset((0,)))
    assert rcodes() == [*[dns.rcode.SERVFAIL] * 3, *whole[3:]]
    assert ask(responder, query("id.server", "TXT", rclass="CH")).rcode() == dns.rcode.NOERROR
    responder.set_expired(frozenset())
    assert rcodes() == whole


@pytest.mark.parametrize(("qname", "labels", "number"), [("www.com", 0, 0), ("a.root-servers.net", 2, 1)])
def test_after_the_lease_it_says_why_and_of_which_version(
    compiled: Compiled, qname: str, labels: int, number: int
) -> None:
    """RFC 9660 §3.2 (SERVFAIL), RFC 8914 §4.15 (not ready), §4.25 (invalid data: "too old or having expired")."""
    responder = Responder(compiled.table, SETTINGS)
    responder.set_expired(frozenset((0, 1)))
    response = ask(responder, query(qname, "A", options=[option(ZONEVERSION)]))
    assert response.rcode() == dns.rcode.SERVFAIL
    told = [(int(each.otype), each.to_wire()) for each in response.options]
    version = bytes((labels, 0)) + compiled.table.zones[number].serial.to_bytes(4)
    assert told == [(15, b"\0\x0e"), (15, b"\0\x18"), (ZONEVERSION, version)]
    assert ask(responder, query(qname, "A")).edns == -1


def test_an_instance_that_is_not_ready_says_so() -> None:
    response = dns.message.from_wire(not_ready(query("com", "NS", size=1232).to_wire()) or b"")
    assert response.rcode() == dns.rcode.SERVFAIL
    assert options_of(response) == {15: b"\0\x0e"}
    later = dns.message.from_wire(not_ready(raw(A_COM, counts=(1, 0, 0, 1), rest=OPT[:6] + b"\1" + OPT[7:])) or b"")
    assert later.rcode() == dns.rcode.BADVERS
    assert not_ready(raw(A_COM, flags=0x8000)) is None
    assert not_ready(raw(b"\3co")) == raw(b"", counts=(0, 0, 0, 0), flags=0x8001)
