"""The policy table of health/evidence, row by row."""

import dataclasses
from typing import Any

import pytest

from rootsrv.health.evidence import (
    Cause,
    EvidencePolicy,
    FastPathTest,
    Instance,
    Load,
    Probe,
    ProbeOutcome,
    ProbeTransport,
    Round,
    RoundVerdict,
    judge,
)
from rootsrv.health.floor import Floor, soften

SERVICE = "192.0.2.53"
GOOD = Instance(generation=7, lease_seconds=500_000.0, workers=2, workers_alive=2)
POLICY = EvidencePolicy()


def probes(
    udp: ProbeOutcome = ProbeOutcome.RIGHT, tcp: ProbeOutcome = ProbeOutcome.RIGHT, address: str = SERVICE
) -> tuple[Probe, ...]:
    return tuple(
        Probe(address, transport, question, outcome)
        for transport, outcome in ((ProbeTransport.UDP, udp), (ProbeTransport.TCP, tcp))
        for question in (". SOA", "example. NS", "nosuch. A")
    )


def load(udp: int = 3, tcp: int = 3, *, queue_full: bool = False) -> dict[ProbeTransport, Load]:
    return {ProbeTransport.UDP: Load(udp), ProbeTransport.TCP: Load(tcp, accept_queue_full=queue_full)}


def with_(**changes: Any) -> Instance:
    return dataclasses.replace(GOOD, **changes)


def test_right_answers_of_a_fresh_instance_pass_without_alarm() -> None:
    judgement = judge(Round(probes(), load()), GOOD, POLICY)

    assert (judgement.verdict, judgement.reasons, judgement.degrade, judgement.alarms) == (
        RoundVerdict.PASS,
        (),
        (),
        (),
    )


def test_no_answer_while_nobody_is_answered_fails() -> None:
    judgement = judge(Round(probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT), load(0, 0)), GOOD, POLICY)

    assert judgement.verdict is RoundVerdict.FAIL
    assert judgement.reasons[0] == "UDP 192.0.2.53: no answer to . SOA"


@pytest.mark.parametrize(
    ("seen", "instance", "cause"),
    [
        (probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT), GOOD, Cause.NO_ANSWER),
        (probes(ProbeOutcome.ABSENT, ProbeOutcome.ABSENT), GOOD, Cause.NOT_ON_HOST),
        (probes(ProbeOutcome.CANNOT_TELL), GOOD, Cause.CANNOT_TELL),
        ((), GOOD, Cause.CANNOT_TELL),
        (probes(ProbeOutcome.WRONG, ProbeOutcome.SILENT), with_(silenced=True), Cause.WRONG_DATA),
        (probes(), with_(switchover_failed=True, silenced=True), Cause.SWITCHOVER_FAILED),
        (probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT), with_(silenced=True), Cause.SILENCED),
        (probes(), with_(generation=0), Cause.NO_ZONE),
        (probes(), with_(lease_seconds=0.0), Cause.LEASE_OVER),
        (probes(), with_(behind_seconds=172_800.0), Cause.STALE),
        (probes(), with_(fastpath=FastPathTest.WRONG, fastpath_stuck=True), Cause.FASTPATH_WRONG),
    ],
    ids=lambda value: value.value if isinstance(value, Cause) else "",
)
def test_a_failure_has_the_cause_of_its_first_reason(seen: tuple[Probe, ...], instance: Instance, cause: Cause) -> None:
    judgement = judge(Round(seen, load(0, 0)), instance, POLICY)

    assert judgement.verdict in (RoundVerdict.FAIL, RoundVerdict.CEASE)
    assert judgement.cause is cause


def test_one_dead_transport_fails_although_the_other_answers() -> None:
    for udp, tcp in ((ProbeOutcome.SILENT, ProbeOutcome.RIGHT), (ProbeOutcome.RIGHT, ProbeOutcome.SILENT)):
        round_ = Round(probes(udp, tcp), load(3 * (udp is ProbeOutcome.RIGHT), 3 * (tcp is ProbeOutcome.RIGHT)))
        assert judge(round_, GOOD, POLICY).verdict is RoundVerdict.FAIL


def test_one_dead_transport_can_be_tolerated_but_not_both() -> None:
    policy = EvidencePolicy(transport_dead_fails=False)

    one = judge(Round(probes(tcp=ProbeOutcome.SILENT), load(3, 0)), GOOD, policy)
    both = judge(Round(probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT), load(0, 0)), GOOD, policy)

    assert (one.verdict, one.alarms) == (RoundVerdict.PASS, ("TCP 192.0.2.53: no answer to . SOA",))
    assert both.verdict is RoundVerdict.FAIL


def test_silence_while_others_are_answered_is_overload() -> None:
    judgement = judge(Round(probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT), load(40_000, 12)), GOOD, POLICY)

    assert judgement.verdict is RoundVerdict.UNSURE
    assert "overload, 40000 other replies meanwhile" in judgement.alarms[0]


def test_our_own_answered_probes_do_not_excuse_a_silent_address() -> None:
    """Two addresses of one family: the three replies that the counters show are those to our probes of the first."""
    round_ = Round(probes() + probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT, "192.0.2.54"), load(3, 3))

    assert judge(round_, GOOD, POLICY).verdict is RoundVerdict.FAIL


def test_a_full_accept_queue_is_overload_while_workers_wake_up_and_death_when_they_do_not() -> None:
    round_ = Round(probes(tcp=ProbeOutcome.SILENT), load(3, 0, queue_full=True))

    assert judge(round_, GOOD, POLICY).verdict is RoundVerdict.UNSURE
    assert judge(round_, with_(workers_alive=0), POLICY).verdict is RoundVerdict.FAIL


@pytest.mark.parametrize("udp", [ProbeOutcome.NOT_ASKED, ProbeOutcome.RIGHT])
def test_a_controller_that_cannot_ask_withdraws_nothing_that_answers_others(udp: ProbeOutcome) -> None:
    """As it has no descriptor left, or no port: `fall` rounds later the route of each such host would be gone."""
    round_ = Round(probes(udp, ProbeOutcome.NOT_ASKED), load(40_000, 12))
    assert judge(round_, GOOD, POLICY).verdict is RoundVerdict.UNSURE

    idle = judge(Round(probes(udp, ProbeOutcome.NOT_ASKED), load(3 * (udp is ProbeOutcome.RIGHT), 0)), GOOD, POLICY)
    assert (idle.verdict, idle.cause) == (RoundVerdict.FAIL, Cause.CANNOT_TELL)
    assert idle.reasons[-1] == f"TCP {SERVICE}: not asked to . SOA"


def test_some_lost_probes_are_an_alarm() -> None:
    some = probes()
    lost = (dataclasses.replace(some[0], outcome=ProbeOutcome.SILENT), *some[1:])

    judgement = judge(Round(lost, load(2, 3)), GOOD, POLICY)

    assert (judgement.verdict, judgement.alarms) == (RoundVerdict.PASS, ("UDP 192.0.2.53: 1 of 3 probes lost",))


@pytest.mark.parametrize("outcome", [ProbeOutcome.ABSENT, ProbeOutcome.CANNOT_TELL])
def test_what_cannot_be_shown_is_a_failure_whatever_the_load(outcome: ProbeOutcome) -> None:
    assert judge(Round(probes(outcome), load(99_999, 99_999)), GOOD, POLICY).verdict is RoundVerdict.FAIL


def test_a_round_without_probes_fails() -> None:
    assert judge(Round(()), GOOD, POLICY).verdict is RoundVerdict.FAIL


@pytest.mark.parametrize(
    "changes",
    [
        {"switchover_failed": True},
        {"silenced": True},
        {"generation": 0},
        {"lease_seconds": 0.0},
        {"lease_seconds": -5.0},
        {"behind_seconds": 172_800.0},
    ],
    ids=str,
)
def test_ceases_for(changes: dict[str, Any]) -> None:
    assert judge(Round(probes(), load()), with_(**changes), POLICY).verdict is RoundVerdict.CEASE


def test_wrong_data_ceases_even_when_all_else_answers() -> None:
    one = (dataclasses.replace(probes()[0], outcome=ProbeOutcome.WRONG), *probes()[1:])

    assert judge(Round(one, load()), GOOD, POLICY).verdict is RoundVerdict.CEASE


@pytest.mark.parametrize(
    "changes",
    [
        {"control_plane_reachable": False},
        {"primaries_reachable": False},
        {"clock_synchronised": False},
        {"state_writable": False},
        {"workers_alive": 1},
        {"held_serials": (2026112101,)},
        {"other_leases_over": ("root-servers.net.",)},
        {"alarms": ("BGP session upstream4: Active",)},
        {"fastpath": FastPathTest.DEAD},
        {"fastpath": FastPathTest.WRONG},
    ],
    ids=str,
)
def test_is_an_alarm_and_nothing_else(changes: dict[str, Any]) -> None:
    judgement = judge(Round(probes(), load()), with_(**changes), POLICY)

    assert (judgement.verdict, judgement.degrade) == (RoundVerdict.PASS, ())
    assert len(judgement.alarms) == 1


def test_unknown_is_no_alarm() -> None:
    unknown = with_(primaries_reachable=None, clock_synchronised=None, state_writable=None)

    assert judge(Round(probes(), load()), unknown, POLICY).alarms == ()


def test_a_wrong_fast_path_is_an_alarm_while_it_can_be_detached_and_ceases_when_not() -> None:
    wrong = with_(fastpath=FastPathTest.WRONG, fastpath_detail="eth0")
    stuck = with_(fastpath=FastPathTest.WRONG, fastpath_detail="eth0", fastpath_stuck=True)

    assert judge(Round(probes(), load()), wrong, POLICY).verdict is RoundVerdict.PASS
    assert (
        judge(Round(probes(), load()), wrong, EvidencePolicy(fastpath_wrong_detaches=False)).verdict
        is RoundVerdict.CEASE
    )
    assert judge(Round(probes(), load()), stuck, POLICY).reasons == (
        "fast path: wrong data (eth0), and it cannot be detached",
    )


def test_stale_data_degrades_between_the_soft_and_the_hard_limit() -> None:
    def degraded(seconds: float, policy: EvidencePolicy = POLICY) -> bool:
        return bool(judge(Round(probes(), load()), with_(behind_seconds=seconds), policy).degrade)

    assert [degraded(seconds) for seconds in (0, 3899, 3900, 172_799)] == [False, False, True, True]
    assert not degraded(3900, EvidencePolicy(stale_soft_degrades=False))
    hard = judge(Round(probes(), load()), with_(behind_seconds=172_800), EvidencePolicy(stale_hard_withdraws=False))
    assert (hard.verdict, bool(hard.degrade)) == (RoundVerdict.PASS, True)


def test_what_an_operator_reads_is_told_in_full_most_important_first() -> None:
    all_of_it = with_(
        switchover_failed=True, silenced=True, generation=0, behind_seconds=172_800.0, workers_alive=1,
        control_plane_reachable=False, primaries_reachable=False, clock_synchronised=False, state_writable=False,
        held_serials=(2026112101,), other_leases_over=("root-servers.net.",), alarms=("BGP session upstream4: Active",),
        fastpath=FastPathTest.WRONG, fastpath_detail="eth0", fastpath_stuck=True,
    )  # fmt: skip
    wrong = Probe(SERVICE, ProbeTransport.UDP, ". SOA", ProbeOutcome.WRONG, "serial 7")

    judgement = judge(Round((wrong,), load(0, 0)), all_of_it, POLICY)

    behind = "a newer serial has been known and not served for 172800 s"
    assert judgement.reasons == (
        "UDP 192.0.2.53: wrong data to . SOA (serial 7)",
        "switchover failed",
        "the instance is silenced",
        "no zone is in service",
        behind,
        "fast path: wrong data (eth0), and it cannot be detached",
    )
    assert judgement.causes == (
        *(Cause.WRONG_DATA, Cause.SWITCHOVER_FAILED, Cause.SILENCED, Cause.NO_ZONE, Cause.STALE, Cause.FASTPATH_WRONG),
    )
    assert judgement.alarms == (
        "1 of 2 workers alive",
        "the control plane (maintain) cannot be reached",
        "no primary can be reached",
        "the clock is not synchronised",
        "the state directory is not writable",
        "fast path: wrong data (eth0)",
        "held zone, serial 2026112101: a decision is needed",
        "the lease of zone root-servers.net. is over",
        "BGP session upstream4: Active",
    )


def test_a_lease_ends_when_it_is_over_and_not_before_and_goes_into_the_promise() -> None:
    last = judge(Round(probes(), load()), with_(lease_seconds=0.5), POLICY)
    over = judge(Round(probes(), load()), with_(lease_seconds=0.0), POLICY)

    assert (last.verdict, last.lease_seconds) == (RoundVerdict.PASS, 0.5)
    assert over.reasons == ("the root zone's lease is over",)


def test_what_can_be_detached_is_not_called_stuck() -> None:
    wrong = with_(fastpath=FastPathTest.WRONG, fastpath_detail="eth0")

    judgement = judge(Round(probes(), load()), wrong, EvidencePolicy(fastpath_wrong_detaches=False))

    assert judgement.reasons == ("fast path: wrong data (eth0)",)


def test_without_a_worker_that_is_alive_silence_is_called_so() -> None:
    silent = Round(probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT), load(0, 0))

    assert judge(silent, with_(workers_alive=0), POLICY).causes == (Cause.NO_WORKER, Cause.NO_WORKER)
    assert judge(silent, GOOD, POLICY).causes == (Cause.NO_ANSWER, Cause.NO_ANSWER)


@pytest.mark.parametrize("state", FastPathTest)
def test_where_the_kernel_answers_what_workers_would_not_nothing_does(state: FastPathTest) -> None:
    """A query that kills workers may come to all instances: in a mesh the floor holds for that (health/floor.py)."""
    silent = Round(probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT), load(0, 0))

    judgement = judge(silent, with_(workers_alive=0, fastpath=state), POLICY)

    cause = Cause.NO_ANSWER if state is FastPathTest.RIGHT else Cause.NO_WORKER
    assert judgement.verdict is RoundVerdict.FAIL
    assert judgement.causes == (cause, cause)
    in_a_mesh = soften(judgement, Floor())
    assert in_a_mesh.verdict is (RoundVerdict.PASS if state is FastPathTest.RIGHT else RoundVerdict.FAIL)
    assert "0 of 2 workers alive" in in_a_mesh.alarms


def test_silence_adds_to_what_else_was_found() -> None:
    seen = (*probes(ProbeOutcome.ABSENT), *probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT, "192.0.2.54"))

    judgement = judge(Round(seen, load(0, 3)), GOOD, POLICY)

    assert judgement.causes[0] is Cause.NOT_ON_HOST
    assert Cause.NO_ANSWER in judgement.causes[1:]


def test_why_nothing_could_be_seen_is_told() -> None:
    one_more = judge(Round(probes(ProbeOutcome.SILENT), load(1, 3)), GOOD, POLICY)
    queue = judge(Round(probes(tcp=ProbeOutcome.SILENT), load(3, 0, queue_full=True)), GOOD, POLICY)
    not_asked = judge(Round(probes(ProbeOutcome.NOT_ASKED), load(1, 3)), GOOD, POLICY)

    assert one_more.reasons == ("UDP 192.0.2.53: no answer to . SOA: overload, 1 other replies meanwhile",)
    assert queue.reasons == ("TCP 192.0.2.53: no answer to . SOA: overload, the accept queue is full",)
    assert not_asked.verdict is RoundVerdict.UNSURE
    assert not_asked.reasons[0].endswith(": 1 other replies meanwhile")
    assert judge(Round(()), GOOD, POLICY).reasons == ("nothing was probed",)


def test_a_single_probe_without_answer_under_load_is_no_failure() -> None:
    alone = (Probe(SERVICE, ProbeTransport.UDP, ". SOA", ProbeOutcome.SILENT),)

    assert judge(Round(alone, load(9, 0)), GOOD, POLICY).verdict is RoundVerdict.UNSURE


def test_a_transport_of_which_nothing_is_counted_is_judged_by_its_probes() -> None:
    assert judge(Round(probes(ProbeOutcome.SILENT, ProbeOutcome.SILENT)), GOOD, POLICY).verdict is RoundVerdict.FAIL


def test_what_cannot_be_shown_says_so() -> None:
    judgement = judge(Round(probes(ProbeOutcome.CANNOT_TELL), load()), GOOD, POLICY)

    assert judgement.reasons == (str(probes(ProbeOutcome.CANNOT_TELL)[0]),)


def test_how_far_behind_is_told_where_it_degrades_and_where_it_is_an_alarm() -> None:
    def told(seconds: float, **policy: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        judgement = judge(Round(probes(), load()), with_(behind_seconds=seconds), EvidencePolicy(**policy))
        return judgement.degrade, judgement.alarms

    def behind(seconds: int) -> tuple[str]:
        return (f"a newer serial has been known and not served for {seconds} s",)

    assert told(3900) == (behind(3900), ())
    assert told(3900, stale_soft_degrades=False) == ((), behind(3900))
    assert told(172_800, stale_hard_withdraws=False) == (behind(172_800), ())
    assert told(10, stale_hard_withdraws=False) == ((), ())
    assert told(172_800)[0] == ()
