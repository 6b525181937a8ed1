"""What may be ordered: of a leader a set time, of an operator a decision; both name serial *and* digest of a zone."""
# Two zones can have one serial (a mistake at the source, or somebody's intent).  So all of this is about a `Subject`,
# and a member compares it with what it has verified itself.

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rootsrv.mesh.envelope import Envelope, EnvelopeMalformed

E = TypeVar("E", bound=enum.StrEnum)


class Stage(enum.StrEnum):
    """Whom a leader's order is for."""

    CANARY = "canary"
    ALL = "all"
    VOID = "void"


class Decision(enum.StrEnum):
    """What an operator decided of a zone."""

    HOLD = "hold"
    """Nobody goes into service with it, for a day."""

    APPROVE = "approve"
    """It is as it should be: the human that D23 asks for, and the end of a hold."""

    REJECT = "reject"
    """Nobody wants it."""

    EMERGENCY = "emergency"
    """At once (RFC 2870 §3.3.8)."""

    CANARY = "canary"
    """The canaries at once, which it counts as approved for; nobody else before an approval."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One version of one zone."""

    zone: str
    serial: int
    digest: str
    """Of its ZONEMD, hexadecimal digits; of its contents where it has none."""

    def to_content(self) -> dict[str, Any]:
        """For an envelope."""
        return {"zone": self.zone, "serial": self.serial, "digest": self.digest}

    @classmethod
    def of(cls, content: Mapping[str, Any], where: str) -> "Subject":
        """From an envelope's content; Malformed."""
        zone, serial, digest = content.get("zone"), content.get("serial"), content.get("digest")
        if not (isinstance(zone, str) and isinstance(digest, str) and digest and len(digest) <= 256):
            raise EnvelopeMalformed(f"{where}: names no zone and digest")
        if not isinstance(serial, int) or isinstance(serial, bool) or not 0 <= serial < 2**32:
            raise EnvelopeMalformed(f"{where}: serial {serial!r:.40}")
        return cls(zone, serial, digest)


@dataclass(frozen=True, slots=True)
class SetTime:
    """A leader's order."""

    subject: Subject
    stage: Stage
    at: float
    """T, seconds since 1970."""

    by: str
    epoch: float
    seq: int
    reason: str = ""
    canaries_at: float | None = None
    """In an order for all: T of the canaries before it, for who has not heard of theirs."""

    def to_content(self) -> dict[str, Any]:
        """For an envelope."""
        return set_time_content(self.subject, self.stage, self.at, self.reason, self.canaries_at)

    @classmethod
    def of(cls, envelope: Envelope) -> "SetTime":
        """From an envelope that was opened; Malformed."""
        content = envelope.content
        return cls(
            Subject.of(content, envelope.key),
            _one_of(Stage, content, envelope.key),
            _time(content, "at", envelope.key),
            envelope.sender,
            envelope.epoch,
            envelope.seq,
            str(content.get("reason", ""))[:500],
            _time(content, "canaries_at", envelope.key) if content.get("canaries_at") is not None else None,
        )


def set_time_content(
    subject: Subject, stage: Stage, at: float, reason: str, canaries_at: float | None
) -> dict[str, Any]:
    """What a leader signs."""
    content = {**subject.to_content(), "stage": stage.value, "at": at, "reason": reason}
    return content if canaries_at is None else content | {"canaries_at": canaries_at}


@dataclass(frozen=True, slots=True)
class OperatorVerdict:
    """An operator's decision, with who and why."""

    subject: Subject
    decision: Decision
    by: str
    sent: float
    reason: str = ""
    at: float = 0.0
    """T of an emergency, seconds since 1970."""

    def to_content(self) -> dict[str, Any]:
        """For an envelope."""
        return {**self.subject.to_content(), "decision": self.decision.value, "reason": self.reason, "at": self.at}

    @classmethod
    def of(cls, envelope: Envelope) -> "OperatorVerdict":
        """From an envelope that was opened; Malformed."""
        content = envelope.content
        return cls(
            Subject.of(content, envelope.key),
            _one_of(Decision, content, envelope.key),
            envelope.sender,
            envelope.sent,
            str(content.get("reason", ""))[:500],
            _time(content, "at", envelope.key),
        )


def _one_of(kind: type[E], content: Mapping[str, Any], where: str) -> E:
    """What stands under the name of *kind*."""
    try:
        return kind(content.get(kind.__name__.lower(), ""))
    except ValueError as error:
        raise EnvelopeMalformed(f"{where}: {error}") from error


def _time(content: Mapping[str, Any], name: str, where: str) -> float:
    value = content.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or abs(value) > 2**53:
        raise EnvelopeMalformed(f"{where}: {name} is no time")
    return float(value)
