"""Silence needs the proof that the failure is local."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rootsrv.mesh.orders import Subject
from rootsrv.mesh.quorum import Done, failed_canaries, may_fall_silent
from tests.mesh.mesh_of import mesh_of

ZONE = Subject(".", 7, "ab")
OTHER = replace(ZONE, serial=6)
ROSTER = mesh_of(8, k=2).roster


def done(ok: int, failed: int = 0, subject: Subject = ZONE) -> dict[str, Done]:
    """By members other than m7."""
    return {f"m{number}": Done(subject, number < ok) for number in range(ok + failed)}


def test_half_that_switched_are_the_proof() -> None:
    assert may_fall_silent(ZONE, "m7", ROSTER, done(4)).allowed
    assert not may_fall_silent(ZONE, "m7", ROSTER, done(3)).allowed


def test_without_an_engine_or_a_roster_there_is_no_proof() -> None:
    assert not may_fall_silent(ZONE, "m7", ROSTER, None).allowed
    assert not may_fall_silent(ZONE, "m7", None, done(7)).allowed
    assert not may_fall_silent(ZONE, "stranger", ROSTER, done(7)).allowed


def test_more_than_k_that_fail_alike_have_a_common_cause() -> None:
    assert may_fall_silent(ZONE, "m7", ROSTER, done(5, failed=1)).allowed
    silence = may_fall_silent(ZONE, "m7", ROSTER, done(5, failed=2))
    assert (silence.allowed, "the cause is common" in silence.why) == (False, True)


def test_what_was_signed_of_another_serial_or_by_somebody_unlisted_does_not_count() -> None:
    assert not may_fall_silent(ZONE, "m7", ROSTER, done(7, subject=OTHER)).allowed
    assert not may_fall_silent(ZONE, "m7", ROSTER, {f"x{n}": Done(ZONE, True) for n in range(9)}).allowed


@given(st.sets(st.integers(0, 7)))
def test_of_any_number_that_fail_at_once_never_more_than_k_fall_silent(failing: set[int]) -> None:
    signed = {f"m{n}": Done(ZONE, n not in failing) for n in range(8)}
    silent = [n for n in failing if may_fall_silent(ZONE, f"m{n}", ROSTER, signed).allowed]

    assert len(silent) <= ROSTER.k_of("all")
    assert not silent or 2 * (8 - len(failing)) >= 8


def test_a_canary_that_failed_before_does_not_count() -> None:
    signed = {"m6": Done(ZONE, False), "m7": Done(ZONE, False), "m1": Done(ZONE, False)}

    assert failed_canaries(ZONE, ROSTER, signed, frozenset()) == 2
    assert failed_canaries(ZONE, ROSTER, signed, frozenset({"m6"})) == 1
    assert failed_canaries(OTHER, ROSTER, signed, frozenset()) == 0
