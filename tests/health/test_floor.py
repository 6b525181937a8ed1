"""The floor's classes: what withdraws at once, what needs a token, what only degrades."""

from dataclasses import replace

import pytest

from rootsrv.health.evidence import Cause, Judgement, RoundVerdict
from rootsrv.health.floor import CLASSES, Class, Floor, failed, needs_token, soften

NO_TOKEN, WITH_TOKEN = Floor(), Floor(token=True)


def failing(*causes: Cause, verdict: RoundVerdict = RoundVerdict.FAIL) -> Judgement:
    return Judgement(verdict, tuple(each.value for each in causes), causes[0], causes, lease_seconds=-1.0)


def test_every_cause_has_a_class() -> None:
    assert set(CLASSES) == set(Cause)


@pytest.mark.parametrize("cause", [each for each in Cause if CLASSES[each] is Class.HARD])
def test_what_is_hard_waits_for_no_token(cause: Cause) -> None:
    softened = soften(failing(cause, verdict=RoundVerdict.CEASE), NO_TOKEN)
    assert (softened.verdict, softened.cause) == (RoundVerdict.CEASE, cause)


@pytest.mark.parametrize("cause", [each for each in Cause if CLASSES[each] is Class.SOFT])
def test_what_is_soft_degrades_without_a_token_and_withdraws_with_one(cause: Cause) -> None:
    without, with_one = soften(failing(cause), NO_TOKEN), soften(failing(cause), WITH_TOKEN)
    assert (without.verdict, bool(without.degrade)) == (RoundVerdict.PASS, True)
    assert (with_one.verdict, with_one.cause) == (RoundVerdict.FAIL, cause)
    assert needs_token(failing(cause))


@pytest.mark.parametrize("cause", [each for each in Cause if CLASSES[each] is Class.NEVER])
def test_what_comes_to_all_alike_degrades_even_with_a_token(cause: Cause) -> None:
    softened = soften(failing(cause, verdict=RoundVerdict.CEASE), WITH_TOKEN)
    assert (softened.verdict, bool(softened.degrade)) == (RoundVerdict.PASS, True)
    assert softened.lease_seconds == float("inf")
    assert not needs_token(failing(cause, verdict=RoundVerdict.CEASE))


def test_of_several_reasons_the_hard_one_withdraws() -> None:
    judgement = replace(failing(Cause.STALE, Cause.NO_ANSWER, Cause.NO_WORKER), degrade=("old",))
    softened = soften(judgement, NO_TOKEN)
    assert (softened.verdict, softened.causes, softened.cause) == (
        RoundVerdict.FAIL,
        (Cause.NO_WORKER,),
        Cause.NO_WORKER,
    )
    assert softened.reasons == (Cause.NO_WORKER.value,)
    assert softened.degrade == ("old", "stale", "no_answer (no token)")
    assert softened.lease_seconds == float("inf")


def test_of_two_that_withdraw_the_first_is_the_cause() -> None:
    softened = soften(failing(Cause.NO_ANSWER, Cause.STALE, Cause.NO_WORKER), WITH_TOKEN)
    assert (softened.causes, softened.cause) == ((Cause.NO_ANSWER, Cause.NO_WORKER), Cause.NO_ANSWER)
    assert softened.reasons == ("no_answer", "no_worker")
    assert softened.degrade == ("stale",)


def test_what_only_degrades_says_why_there_is_no_token_and_withdraws_for_nothing() -> None:
    softened = soften(failing(Cause.OPERATOR), Floor(why="the engine is gone"))
    assert (softened.verdict, softened.reasons, softened.causes) == (RoundVerdict.PASS, (), ())
    assert softened.degrade == ("operator (the engine is gone)",)


@pytest.mark.parametrize("verdict", [RoundVerdict.PASS, RoundVerdict.UNSURE])
def test_what_does_not_speak_against_announcing_stays_and_needs_no_token(verdict: RoundVerdict) -> None:
    judgement = Judgement(verdict, ("overload",), degrade=("old",), lease_seconds=5.0)
    assert not failed(judgement)
    assert soften(judgement, NO_TOKEN) == replace(judgement, lease_seconds=float("inf"))
    assert needs_token(judgement) == ""
    assert needs_token(replace(failing(Cause.NO_ANSWER), verdict=verdict)) == ""


def test_a_token_is_needed_for_the_first_reason_that_is_soft() -> None:
    assert failed(failing(Cause.NO_ANSWER))
    assert needs_token(failing(Cause.STALE, Cause.NO_WORKER, Cause.OPERATOR, Cause.NO_ANSWER)) == "operator"
    assert needs_token(failing(Cause.NO_WORKER, verdict=RoundVerdict.CEASE)) == ""


def test_a_reason_without_its_cause_is_our_own_fault_and_raises() -> None:
    judgement = replace(failing(Cause.OPERATOR), causes=())
    for judging in (lambda: soften(judgement, NO_TOKEN), lambda: needs_token(judgement)):
        with pytest.raises(ValueError, match="zip"):
            judging()
