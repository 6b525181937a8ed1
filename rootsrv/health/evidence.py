"""What was seen of the service, and what follows from it: evidence → judgement."""
# Theory of operation
# -------------------
# One round of probes gives one `Round` for each IP version, and one `Instance` for both.  `judge` turns them into a
# `Judgement` by the policy below; what is done with it over time is state.py's business.
#
#   what was seen                                                    judgement   configurable (AnycastConfig)
#   ---------------------------------------------------------------  ----------  ------------------------------
#   a service address without answer, on both transports             FAIL        fall
#   one transport without answer, the other answers                  FAIL        on_transport_dead: or PASS + alarm
#   a service address that is not on this host                       FAIL        fall
#   wrong data, asked again and wrong again                          CEASE       no
#   switchover failed, or the instance is silenced (D25)             CEASE       no
#   the root zone's lease is over, or nothing is served              CEASE       no
#   newer serial known, not served for stale_hard_seconds            CEASE       on_stale_hard: or degraded
#   newer serial known, not served for stale_soft_seconds            degraded    on_stale_soft: or alarm only
#   a held zone                                                      –           no: never a reason by itself
#   primaries, mesh or the control plane not reachable               alarm       no (D31)
#   overload: no answer in time, but the workers answer others       UNSURE      no: never withdraw for load
#   loss: some probes of a transport answered, some not              PASS+alarm  no
#   some workers dead, state disk not writable, clock not
#   synchronised, another zone's lease over, BGP session down        alarm       no
#   fast path dead or wrong, asyncio right                           detach      on_fastpath_wrong: or CEASE if wrong
#   fast path wrong, and it cannot be detached                       CEASE       no
#
# "Cannot tell" is a failed probe, not a pass: whoever cannot show that the answers are right does not attract traffic.
# Everything that a bad zone, a clock or a primary can bring to all instances at once is either an alarm or has the
# whole of stale_hard_seconds or of the lease before it withdraws anything (D31).

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum


class ProbeTransport(Enum):
    """What a query travels in."""

    UDP = "UDP"
    TCP = "TCP"


class ProbeOutcome(Enum):
    """What became of one probe."""

    RIGHT = "right"
    SILENT = "no answer"
    WRONG = "wrong data"
    """The reply fits no answer table that may be in service, and so did the reply to asking again."""
    ABSENT = "not on this host"
    """The service address is not ours: another instance might have answered, so nothing was asked."""
    NOT_ASKED = "not asked"
    """No socket to ask with, no port, no memory: a fault of the controller's own, which says nothing of the service."""
    CANNOT_TELL = "cannot tell"
    """No table to compare with, or wrong data and then nothing: a failed probe."""


class FastPathTest(Enum):
    """What the test run of the attached program showed."""

    OFF = "off"
    RIGHT = "right"
    WRONG = "wrong"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Probe:
    """One question that was put to one service address."""

    address: str
    transport: ProbeTransport
    question: str
    outcome: ProbeOutcome
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.transport.value} {self.address}: {self.outcome.value} to {self.question}{detail}"


@dataclass(frozen=True, slots=True)
class Load:
    """What the workers did for everybody, on one transport of one IP version, while the round went on."""

    replies: int = 0
    """Replies sent since the last round, to our probes and to others, by all workers."""

    accept_queue_full: bool = False
    """Connections wait, more than the kernel queues (TCP only)."""


@dataclass(frozen=True, slots=True)
class Round:
    """All that one round of probes saw of one IP version."""

    probes: tuple[Probe, ...]
    load: Mapping[ProbeTransport, Load] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Instance:
    """What is true of the instance as a whole, whatever the IP version.  `None` = not known."""

    generation: int
    """The answer table in service; 0 = none."""

    lease_seconds: float
    """What is left of the root zone's lease; ≤ 0 = over."""

    other_leases_over: tuple[str, ...] = ()
    silenced: bool = False
    switchover_failed: bool = False
    workers: int = 1
    workers_alive: int = 1
    """Workers whose process exists and that woke up lately."""

    control_plane_reachable: bool = True
    behind_seconds: float = 0.0
    """For how long a newer serial has been known and not served; 0 = nothing newer is known."""

    held_serials: tuple[int, ...] = ()
    primaries_reachable: bool | None = None
    clock_synchronised: bool | None = None
    state_writable: bool | None = None
    fastpath: FastPathTest = FastPathTest.OFF
    fastpath_detail: str = ""
    fastpath_stuck: bool = False
    """It answers wrongly and could not be detached."""

    alarms: tuple[str, ...] = ()
    """Further things that somebody should know and that decide nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidencePolicy:
    """The rows of the table above that an operator may change."""

    stale_soft_seconds: float = 3900.0
    stale_hard_seconds: float = 172_800.0
    transport_dead_fails: bool = True
    stale_soft_degrades: bool = True
    stale_hard_withdraws: bool = True
    fastpath_wrong_detaches: bool = True


class Cause(Enum):
    """Why the announcement is changed, in one word: what a metric can have as a label."""

    HEALTHY = "healthy"
    """The probes pass, and nothing is stale."""
    STALE = "stale"
    NO_ANSWER = "no_answer"
    NO_WORKER = "no_worker"
    """Nothing answers: no worker is alive that could, and no fast path is seen to."""
    NOT_ON_HOST = "not_on_host"
    CANNOT_TELL = "cannot_tell"
    WRONG_DATA = "wrong_data"
    SWITCHOVER_FAILED = "switchover_failed"
    SILENCED = "silenced"
    NO_ZONE = "no_zone"
    LEASE_OVER = "lease_over"
    FASTPATH_WRONG = "fastpath_wrong"
    OPERATOR = "operator"
    STOPPING = "stopping"


_CAUSES_OF_FAILURE = {ProbeOutcome.ABSENT: Cause.NOT_ON_HOST, ProbeOutcome.CANNOT_TELL: Cause.CANNOT_TELL}


class RoundVerdict(Enum):
    """What one round says about the service of one IP version."""

    PASS = "pass"
    UNSURE = "unsure"
    """Too loaded to be seen: neither a pass nor a failure."""
    FAIL = "fail"
    """No service; `fall` of these in a row withdraw."""
    CEASE = "cease"
    """What would be answered is wrong or too old: withdraw at once."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What follows from one round for one IP version."""

    verdict: RoundVerdict
    reasons: tuple[str, ...] = ()
    """Why it is not a pass, most important first."""

    cause: Cause = Cause.CANNOT_TELL
    """Of a failure: the kind of the first of the reasons."""

    causes: tuple[Cause, ...] = ()
    """Of a failure: the kinds of all reasons, in their order."""

    degrade: tuple[str, ...] = ()
    """Why the route should be less attractive; empty = it should not."""

    alarms: tuple[str, ...] = ()
    lease_seconds: float = float("inf")
    """The promise must not outlive this: what is left of the root zone's lease."""

    @property
    def reason(self) -> str:
        """All reasons in one line."""
        return "; ".join(self.reasons or self.degrade)


def judge(round_: Round, instance: Instance, policy: EvidencePolicy) -> Judgement:
    """The judgement of the policy table; the order of its rows is the order of severity."""
    cease = [*_reasons_to_cease(round_, instance, policy)]
    failures, unsure, alarms = _judge_probes(round_, instance, policy)
    degrade: list[str] = []
    if policy.stale_hard_seconds <= instance.behind_seconds and not policy.stale_hard_withdraws:
        degrade.append(_behind(instance))
    elif policy.stale_soft_seconds <= instance.behind_seconds < policy.stale_hard_seconds:
        (degrade if policy.stale_soft_degrades else alarms).append(_behind(instance))
    alarms += _alarms(instance)
    if cease:
        verdict, failed = RoundVerdict.CEASE, cease + failures
    elif failures:
        verdict, failed = RoundVerdict.FAIL, failures
    elif unsure:
        verdict, failed = RoundVerdict.UNSURE, []
    else:
        verdict, failed = RoundVerdict.PASS, []
    return Judgement(
        verdict,
        tuple(text for _, text in failed) or tuple(unsure),
        cause=failed[0][0] if failed else Cause.CANNOT_TELL,
        causes=tuple(cause for cause, _ in failed),
        degrade=tuple(degrade),
        alarms=tuple(alarms),
        lease_seconds=instance.lease_seconds,
    )


def _reasons_to_cease(round_: Round, instance: Instance, policy: EvidencePolicy) -> Iterable[tuple[Cause, str]]:
    yield from ((Cause.WRONG_DATA, str(probe)) for probe in round_.probes if probe.outcome is ProbeOutcome.WRONG)
    if instance.switchover_failed:
        yield Cause.SWITCHOVER_FAILED, "switchover failed"
    if instance.silenced:
        yield Cause.SILENCED, "the instance is silenced"
    if instance.generation == 0:
        yield Cause.NO_ZONE, "no zone is in service"
    elif instance.lease_seconds <= 0:
        yield Cause.LEASE_OVER, "the root zone's lease is over"
    if policy.stale_hard_withdraws and instance.behind_seconds >= policy.stale_hard_seconds:
        yield Cause.STALE, _behind(instance)
    if instance.fastpath is FastPathTest.WRONG and (instance.fastpath_stuck or not policy.fastpath_wrong_detaches):
        stuck = ", and it cannot be detached" if instance.fastpath_stuck else ""
        yield Cause.FASTPATH_WRONG, f"fast path: wrong data ({instance.fastpath_detail}){stuck}"


def _judge_probes(
    round_: Round, instance: Instance, policy: EvidencePolicy
) -> tuple[list[tuple[Cause, str]], list[str], list[str]]:
    """(failures, what could not be seen for load, alarms) of the probes alone."""
    failures: list[tuple[Cause, str]] = []
    unsure: list[str] = []
    alarms: list[str] = []
    if not round_.probes:
        return [(Cause.CANNOT_TELL, "nothing was probed")], unsure, alarms
    groups: dict[tuple[str, ProbeTransport], list[Probe]] = {}
    for probe in round_.probes:
        groups.setdefault((probe.address, probe.transport), []).append(probe)
    dead: dict[str, dict[ProbeTransport, str]] = {}
    for (address, transport), probes in groups.items():
        broken = [probe for probe in probes if probe.outcome in (ProbeOutcome.ABSENT, ProbeOutcome.CANNOT_TELL)]
        silent = [probe for probe in probes if probe.outcome is ProbeOutcome.SILENT]
        not_asked = [probe for probe in probes if probe.outcome is ProbeOutcome.NOT_ASKED]
        if not_asked and not broken:
            # It is load, too, that takes the last descriptor or port; where others are answered the service is there.
            load = _load_reason(round_, instance, transport)
            if load:
                unsure.append(f"{not_asked[0]}: {load}")
            else:
                failures.append((Cause.CANNOT_TELL, str(not_asked[0])))
        elif broken:
            failures.append((_CAUSES_OF_FAILURE[broken[0].outcome], str(broken[0])))
        elif len(silent) == len(probes):
            load = _load_reason(round_, instance, transport)
            if load:
                unsure.append(f"{silent[0]}: overload, {load}")
            else:
                dead.setdefault(address, {})[transport] = str(silent[0])
        elif silent:
            alarms.append(f"{transport.value} {address}: {len(silent)} of {len(probes)} probes lost")
    for address, by_transport in dead.items():
        asked = {transport for (each, transport) in groups if each == address}
        # Only a transport that dies alone is a matter of policy, and only where the other one is seen to answer.
        answering = [
            transport
            for transport in asked - set(by_transport)
            if any(probe.outcome is ProbeOutcome.RIGHT for probe in groups[address, transport])
        ]
        keep = answering and not policy.transport_dead_fails
        if keep:
            alarms += by_transport.values()
        else:
            # Without workers the kernel goes on, and has most of the answers.
            answers = instance.workers_alive or instance.fastpath is FastPathTest.RIGHT
            cause = Cause.NO_ANSWER if answers else Cause.NO_WORKER
            failures += [(cause, text) for text in by_transport.values()]
    alarms += unsure
    return failures, unsure, alarms


def _load_reason(round_: Round, instance: Instance, transport: ProbeTransport) -> str:
    """Why silence on *transport* is load and not death; empty where it is death."""
    load = round_.load.get(transport, Load())
    # Each of our own probes that was answered is among the replies: what is more went to others, or came too late.
    answered = sum(probe.transport is transport and probe.outcome is ProbeOutcome.RIGHT for probe in round_.probes)
    others = load.replies - answered
    if others > 0:
        return f"{others} other replies meanwhile"
    # A full queue in front of workers that no longer wake up is a dead service, not a busy one.
    if load.accept_queue_full and instance.workers_alive:
        return "the accept queue is full"
    return ""


def _behind(instance: Instance) -> str:
    return f"a newer serial has been known and not served for {instance.behind_seconds:.0f} s"


def _alarms(instance: Instance) -> list[str]:
    facts = (
        (instance.workers_alive < instance.workers, f"{instance.workers_alive} of {instance.workers} workers alive"),
        (not instance.control_plane_reachable, "the control plane (maintain) cannot be reached"),
        (instance.primaries_reachable is False, "no primary can be reached"),
        (instance.clock_synchronised is False, "the clock is not synchronised"),
        (instance.state_writable is False, "the state directory is not writable"),
        (instance.fastpath is FastPathTest.WRONG, f"fast path: wrong data ({instance.fastpath_detail})"),
        (instance.fastpath is FastPathTest.DEAD, f"fast path: no answer ({instance.fastpath_detail})"),
    )
    alarms = [text for seen, text in facts if seen]
    alarms += [f"held zone, serial {serial}: a decision is needed" for serial in instance.held_serials]
    alarms += [f"the lease of zone {name} is over" for name in instance.other_leases_over]
    return alarms + list(instance.alarms)
