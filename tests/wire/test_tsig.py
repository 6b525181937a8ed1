"""What we sign is what dnspython signs, octet for octet, and each fault gets the error that RFC 8945 §5.2 names."""

import hmac
import struct
from typing import Any

import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import pytest
from dns.rdtypes.ANY.TSIG import TSIG
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.wire import tsig
from rootsrv.wire.message import parse
from rootsrv.wire.tsig import Checker, Key, Signer, TsigRefused

NOW = 1_790_000_000
SECRET = b"0123456789abcdef0123456789abcdef"
ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
OWNER = dns.name.from_text("Key.Example.")
_sign: Any = dns.tsig.sign
_validate: Any = dns.tsig.validate
_Tsig: Any = TSIG


def key(algorithm: str = "hmac-sha256") -> Key:
    return Key.make(OWNER.to_wire() or b"", algorithm, SECRET)


def theirs(algorithm: str = "hmac-sha256") -> dns.tsig.Key:
    return dns.tsig.Key(OWNER, SECRET, dns.name.from_text(algorithm))


def request(number: int = 4711) -> bytes:
    return struct.pack("!HHHHHH", number, 0, 1, 0, 0, 0) + b"\0\0\xfc\0\1"


def signed_by_dnspython(messages: list[bytes], algorithm: str, request_mac: bytes) -> list[bytes]:
    context = None
    made = []
    for octets in messages:
        number = int.from_bytes(octets[:2], "big")
        blank = _Tsig(
            dns.rdataclass.ANY, dns.rdatatype.TSIG, theirs(algorithm).algorithm, NOW, 300, b"", number, 0, b""
        )
        rdata, context = _sign(octets, theirs(algorithm), blank, NOW, request_mac, context, len(messages) > 1)
        wire = rdata.to_wire()
        record = (OWNER.canonicalize().to_wire() or b"") + struct.pack("!HHIH", 250, 255, 0, len(wire)) + wire
        made.append(tsig.with_record(octets, record))
    return made


@given(
    algorithm=st.sampled_from(ALGORITHMS),
    mac=st.sampled_from((b"", b"m" * 32)),
    bodies=st.lists(st.binary(max_size=40), min_size=1, max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_the_messages_of_a_stream_are_signed_as_dnspython_signs_them(
    algorithm: str, mac: bytes, bodies: list[bytes]
) -> None:
    messages = [request() + body for body in bodies]
    signer = Signer(key(algorithm), mac)
    assert [signer.sign(each, NOW) for each in messages] == signed_by_dnspython(messages, algorithm, mac)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("octets", [1, 63, 64, 65, 127, 128, 129, 300])
def test_the_mac_is_hmac_for_secrets_of_any_length(algorithm: str, octets: int) -> None:
    secret = bytes(range(1, 256)) * 2
    made = Key.make(b"\3key\0", algorithm, secret[:octets])
    expected = hmac.new(secret[:octets], b"one, two", algorithm.removeprefix("hmac-"))
    assert made.mac((b"one,", b"", b" two")) == expected.digest()
    assert made.mac((b"one, two",)) == expected.digest()  # and what was signed before changes nothing


def test_a_stream_with_messages_between_that_are_not_signed_is_judged_as_a_whole() -> None:
    messages = [request(), request(), request()]
    digest = Signer(key(), b"m" * 32)
    first = digest.sign(messages[0], NOW)
    # RFC 8945 §5.3.1: the signature of the third covers the second.
    record = digest.record((messages[1], messages[2]), 4711, NOW)
    last = tsig.with_record(messages[2], record)
    for tampered in (False, True):
        checker = Checker(key(), b"m" * 32)
        checker.signed(first, parse(first).tsig, NOW)  # type: ignore[arg-type]
        checker.unsigned(messages[1] + (b"!" if tampered else b""))
        if tampered:
            with pytest.raises(TsigRefused, match="MAC"):
                checker.signed(last, parse(last).tsig, NOW)  # type: ignore[arg-type]
        else:
            checker.signed(last, parse(last).tsig, NOW)  # type: ignore[arg-type]


def judge(octets: bytes, known: Key | None, now: float = NOW) -> TsigRefused | None:
    found = parse(octets).tsig
    assert found is not None
    try:
        Checker(known).signed(octets, found, now)
    except TsigRefused as refused:
        return refused
    return None


def cut(octets: bytes, size: int) -> bytes:
    """*octets* with its MAC cut to *size* octets."""
    found = parse(octets).tsig
    assert found is not None
    read = tsig.Tsig.parse(found.rdata)
    mac = (read.mac + bytes(64))[:size]
    plain = octets[:10] + bytes(2) + octets[12 : found.start]
    return tsig.with_record(plain, tsig.record(found.owner, read.algorithm, read.timers, mac, 4711, 0, b""))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_fault_has_its_error(algorithm: str) -> None:
    good = Signer(key(algorithm)).sign(request(), NOW)
    full = key(algorithm).mac_octets
    other = next(each for each in ALGORITHMS if each != algorithm)
    assert judge(good, key(algorithm)) is None
    assert judge(good, key(algorithm), NOW + 300) is None
    rows = [
        (good, None, NOW, tsig.NOTAUTH, tsig.BADKEY),
        (good, key(other), NOW, tsig.NOTAUTH, tsig.BADKEY),
        (good, Key.make(OWNER.to_wire() or b"", algorithm, b"x" * 16), NOW, tsig.NOTAUTH, tsig.BADSIG),
        (good, key(algorithm), NOW + 301, tsig.NOTAUTH, tsig.BADTIME),
        (good, key(algorithm), NOW - 301, tsig.NOTAUTH, tsig.BADTIME),
        (cut(good, full - 1), key(algorithm), NOW, tsig.NOTAUTH, tsig.BADTRUNC),
        (cut(good, full // 2), key(algorithm), NOW, tsig.NOTAUTH, tsig.BADTRUNC),
        (cut(good, full // 2 - 1), key(algorithm), NOW, tsig.FORMERR, 0),
        (cut(good, 0), key(algorithm), NOW, tsig.FORMERR, 0),
        (cut(good, full + 1), key(algorithm), NOW, tsig.FORMERR, 0),
        # The MAC is judged before the time and before its length.
        (cut(good, full - 1), key(algorithm), NOW + 301, tsig.NOTAUTH, tsig.BADTIME),
    ]
    for octets, known, now, rcode, error in rows:
        refused = judge(octets, known, now)
        assert refused is not None
        assert (refused.rcode, refused.error) == (rcode, error)


def test_dnspython_accepts_the_signed_errors_and_reads_both_times() -> None:
    late = Signer(key()).sign(request(), NOW - 1000)
    refused = judge(late, key())
    assert refused is not None
    response = struct.pack("!HHHHHH", 4711, 0x8009, 1, 0, 0, 0) + b"\0\0\xfc\0\1"
    answer = tsig.refusal(response, b"", refused, key(), NOW)
    found = parse(answer).tsig
    assert found is not None
    assert refused.tsig is not None
    told = Checker(key(), refused.tsig.mac).signed(answer, found, NOW - 1000)  # signed with the client's time
    assert (told.error, int.from_bytes(told.other, "big")) == (tsig.BADTIME, NOW)
    rdata: Any = dns.rdata.from_wire("ANY", "TSIG", found.rdata, 0, len(found.rdata))
    with pytest.raises(dns.tsig.PeerBadTime):
        _validate(answer, theirs(), OWNER, rdata, NOW - 1000, refused.tsig.mac, found.start, None, False)


def test_an_error_of_the_key_is_told_without_a_signature() -> None:
    good = Signer(key()).sign(request(), NOW)
    refused = judge(good, None)
    assert refused is not None
    response = struct.pack("!HHHHHH", 4711, 0x8009, 1, 0, 0, 0) + b"\0\0\xfc\0\1"
    found = parse(tsig.refusal(response, b"\3Key\7Example\0", refused, None, NOW)).tsig
    assert found is not None
    told = tsig.Tsig.parse(found.rdata)
    assert (told.mac, told.error, found.owner) == (b"", tsig.BADKEY, b"\3Key\7Example\0")


@given(st.binary(max_size=120))
@settings(max_examples=300, deadline=None)
def test_whatever_the_rdata_it_is_read_or_malformed(rdata: bytes) -> None:
    try:
        read = tsig.Tsig.parse(rdata)
    except tsig.TsigMalformed:
        return
    assert tsig.record(b"", read.algorithm, read.timers, read.mac, read.original_id, read.error, read.other)[10:] == (
        read.algorithm + rdata[len(read.algorithm) :]
    )
