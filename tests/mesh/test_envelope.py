"""What is on the board counts only if it is signed by who may write there, is new, and is meant for that place."""

import math
from dataclasses import replace

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from rootsrv.mesh.envelope import (
    CONTEXT,
    LONGEST_OCTETS,
    Envelope,
    EnvelopeForged,
    EnvelopeMalformed,
    EnvelopeRefused,
    Freshness,
    OutOfDate,
    Replayed,
    UnknownVersion,
    WrongPlace,
    open_envelope,
    seal,
)
from tests.mesh.mesh_of import SERVICE, key_of

NOW = 1_800_000_000.0
SAID = Envelope("zone/./order", "m0", NOW - 100, 7, NOW - 1, NOW + 60, {"serial": 2026112101})
WRITERS = {name: key_of(name).public_key() for name in ("m0", "m1")}


def opened(octets: bytes, *, key: str = SAID.key, now: float | None = NOW) -> Envelope:
    return open_envelope(octets, service=SERVICE, key=key, writers=WRITERS, now=now)


def signed_body(document: object, key: Ed25519PrivateKey | None = None) -> bytes:
    body = document if isinstance(document, bytes) else cbor2.dumps(document)
    return cbor2.dumps([body, (key or key_of("m0")).sign(CONTEXT + body)])


def body(**changes: object) -> dict[str, object]:
    sealed = cbor2.loads(cbor2.loads(seal(SAID, SERVICE, key_of("m0")))[0])
    return {**sealed, **changes}


def test_what_was_sealed_is_what_is_opened() -> None:
    octets = seal(SAID, SERVICE, key_of("m0"))

    assert opened(octets) == SAID
    assert len(octets) < 300


HOSTILE = {
    "empty": (b"", EnvelopeMalformed),
    "garbage": (b"\xff" * 300, EnvelopeMalformed),
    "no_list": (cbor2.dumps({"a": 1}), EnvelopeMalformed),
    "more_behind_it": (seal(SAID, SERVICE, key_of("m0")) + b"x", EnvelopeMalformed),
    "truncated": (seal(SAID, SERVICE, key_of("m0"))[:-1], EnvelopeMalformed),
    "of_indefinite_length": (b"\x9f" + seal(SAID, SERVICE, key_of("m0"))[1:] + b"\xff", EnvelopeMalformed),
    "huge": (b"\x82\x5a" + bytes(LONGEST_OCTETS), EnvelopeMalformed),
    "a_length_beyond_its_end": (b"\x82\x5a\xff\xff\xff\xff" + bytes(100), EnvelopeMalformed),
    "signed_by_a_stranger": (seal(SAID, SERVICE, key_of("stranger")), EnvelopeForged),
    "signed_by_a_member_as_another": (seal(SAID, SERVICE, key_of("m1")), WrongPlace),
    "one_octet_changed": (bytes([*seal(SAID, SERVICE, key_of("m0"))[:-1], 0]), EnvelopeForged),
    "of_another_service": (seal(SAID, "y-root", key_of("m0")), WrongPlace),
    "of_another_version": (signed_body(body(version=2)), UnknownVersion),
    "without_a_version": (signed_body({"key": "a long enough body"}), UnknownVersion),
    "a_body_that_is_no_cbor": (signed_body(b"\xff" * 40), EnvelopeMalformed),
    "a_body_that_is_no_map": (signed_body([1] * 40), EnvelopeMalformed),
    "a_body_nested_without_end": (signed_body(b"\x81" * 20_000), EnvelopeMalformed),
    "an_epoch_that_is_no_number": (signed_body(body(epoch=math.nan)), EnvelopeMalformed),
    "an_epoch_beyond_all_floats": (signed_body(body(epoch=10**400)), EnvelopeMalformed),
    "a_seq_that_is_true": (signed_body(body(seq=True)), EnvelopeMalformed),
    "content_that_is_a_text": (signed_body(body(content="x" * 10)), EnvelopeMalformed),
    "an_epoch_in_the_future": (seal(replace(SAID, epoch=NOW + 301), SERVICE, key_of("m0")), OutOfDate),
    "its_time_is_over": (seal(replace(SAID, not_after=NOW - 1), SERVICE, key_of("m0")), OutOfDate),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_octets_are_refused_for_what_is_wrong_with_them(name: str) -> None:
    octets, kind = HOSTILE[name]

    with pytest.raises(kind):
        opened(octets)


def test_a_value_copied_to_another_key_is_refused() -> None:
    with pytest.raises(WrongPlace):
        opened(seal(SAID, SERVICE, key_of("m0")), key="zone/root-servers.net./order")


def test_unknown_fields_are_ignored() -> None:
    assert opened(signed_body(body(colour="blue"))) == SAID


@given(st.binary(max_size=400))
def test_whatever_the_octets_they_are_refused_and_nothing_else_happens(octets: bytes) -> None:
    for each in (octets, b"\x82" + octets, b"\x82\x58" + octets, signed_body(octets or b"x")):
        with pytest.raises(EnvelopeRefused):
            opened(each)


def test_nothing_counts_twice_and_nothing_older_counts() -> None:
    freshness = Freshness()
    freshness.admit(SAID)

    for old in (SAID, replace(SAID, seq=6), replace(SAID, epoch=SAID.epoch - 1, seq=99)):
        with pytest.raises(Replayed):
            freshness.admit(old)
    freshness.admit(replace(SAID, seq=8))
    freshness.admit(replace(SAID, sender="m1", seq=1))  # each writer counts by itself


def test_where_leaders_take_turns_the_later_election_wins_whoever_won_it() -> None:
    freshness = Freshness()
    freshness.admit(replace(SAID, sender="m1", epoch=NOW, seq=1), shared=True)

    with pytest.raises(Replayed):
        freshness.admit(replace(SAID, sender="m0", epoch=NOW - 50, seq=9), shared=True)
    freshness.admit(replace(SAID, sender="m0", epoch=NOW + 1, seq=1), shared=True)
