"""From what a primary sent to a table that could be switched to: verify, keep, judge, compile, examine.

Runs in a process of its own (child.py) and touches nothing but new files in the state directory.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from rootsrv.answer import examination
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import TableUnusable
from rootsrv.store.store import Provenance, Store
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.record import ZoneMalformed
from rootsrv.zone import plausibility, presentation
from rootsrv.zone.anchors import AnchorsMalformed, TrustAnchors
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.delivery import Delivery
from rootsrv.zone.verify import NEWER_SOFTWARE, VerifiedZone, ZoneRejected, accept_unverified, verify, verify_hosts


class AnchorsUnreadable(Exception):
    """The trust anchors cannot be read, so that no zone can be judged; that says nothing about any zone."""


@dataclass(frozen=True, slots=True)
class ZonePolicy:
    """How one zone is judged."""

    name: str
    apex: bytes
    validation: Literal["required", "none"]
    zonemd: Literal["required", "if-supported", "off"]
    anchors: Callable[[], str] = field(repr=False)
    """Reads the trust anchors; ConfigError or OSError if they cannot be had."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was found about one candidate."""

    outcome: Literal["accepted", "held", "rejected"]
    serial: int
    reasons: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    signatures_until: float | None = None


@dataclass(frozen=True, slots=True)
class PreparedTable:
    """All that came out.  There is a table only if `table_octets` says so."""

    root: Assessment | None
    hosts: Assessment | None
    has_hosts: bool = False
    """Whether the table answers for the zone of the hosts."""

    table_octets: int = 0
    table_digest: str = ""
    """SHA-256, hexadecimal digits."""

    void: str = ""
    """Why the table must not be switched to, or could not be made: a fault of ours, whatever the zone is."""

    differs: bool = False
    """Whether the stored table is another one than these zones make."""

    milliseconds: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preparation:
    """What to prepare: candidates beside what is in service, where there is no candidate."""

    store: Store
    generation: int
    now: float
    root_policy: ZonePolicy
    hosts_policy: ZonePolicy | None
    limits: plausibility.ChangeLimits
    root: Delivery
    hosts: Delivery | None
    new_root: bool
    new_hosts: bool
    serving_root: ZoneContents | None
    serving_hosts: Delivery | None = None
    """What the root goes on with if new hosts do not fit it: one bad zone of hosts must not hold up every root."""

    keep_only: bool = False
    """Verify, keep and judge; make no table, but compare with the one of this generation, if there is one."""

    existing: bool = False
    """Examine the table of this generation, which is there already, instead of making one; nothing is written."""

    def run(self) -> PreparedTable:
        """Do it all.

        Raises StoreFailed when the state directory cannot be written, AnchorsUnreadable when nothing can be judged;
        OSError and MemoryError when the machine refuses something, which is no verdict on the zone.
        """
        timer = _Timer()
        try:
            root = self._verify_root()
        except ZoneRejected as error:
            return PreparedTable(_rejected(self.root, error), None, milliseconds=timer.marks)
        except ZoneMalformed as error:
            return PreparedTable(_rejected(self.root, error), None, milliseconds=timer.marks)
        timer.mark("verify")
        verdict = self._judge(root)
        hosts, hosts_verdict = self._verify_hosts(root, self.hosts)
        new_hosts = hosts
        if self.new_root and self.new_hosts and hosts is None:
            hosts, _ = self._verify_hosts(root, self.serving_hosts)
        contradicted = hosts is None and hosts_verdict is not None and hosts_verdict.outcome == "rejected"
        if self.new_root and contradicted and hosts_verdict and not self.root.approved:
            reason = f"{self.hosts_policy.name if self.hosts_policy else 'hosts'}: {hosts_verdict.reasons[0]}"
            if self.serving_root is None:
                # The root is verified, and to hold it would be silence: it goes on without the zone of its hosts.
                verdict = replace(verdict, alarms=(*verdict.alarms, f"served without {reason}"))
            else:
                verdict = replace(verdict, outcome="held", reasons=(*verdict.reasons, reason))
            if not self.new_hosts:
                hosts_verdict = None
        timer.mark("judge")
        if self.new_root and not self.root.kept:
            self._keep(self.root_policy, self.root, verdict, root)
        if new_hosts and hosts_verdict and self.hosts_policy and self.hosts and self.new_hosts and not self.hosts.kept:
            self._keep(self.hosts_policy, self.hosts, hosts_verdict, new_hosts)
        timer.mark("keep")
        prepared = PreparedTable(
            verdict if self.new_root else None,
            hosts_verdict if self.new_hosts else None,
            has_hosts=hosts is not None,
            milliseconds=timer.marks,
        )
        useless = not self.new_root and hosts is None and self.new_hosts
        if verdict.outcome == "held" or useless or (self.keep_only and not self.generation):
            return prepared
        if self.existing:
            return replace(prepared, void=self._examine(root, hosts))
        try:
            octets = compile_table(root, hosts)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            return replace(prepared, void=f"it cannot be compiled: {type(error).__name__}: {error}")
        timer.mark("compile")
        if self.keep_only:
            return replace(prepared, differs=self.store.table(self.generation).read_bytes() != octets)
        self.store.put_table(self.generation, octets)
        timer.mark("write")
        void = self._examine(root, hosts)
        timer.mark("examine")
        digest = hashlib.sha256(octets).hexdigest()
        return replace(prepared, table_octets=len(octets), table_digest=digest, void=void)

    def _verify_root(self) -> VerifiedZone:
        policy, contents = self.root_policy, self.root.contents
        if policy.validation == "none":
            return accept_unverified(contents, self.now)
        anchors = read_anchors(policy)
        zonemd = policy.zonemd if self.root.authenticated else "required"
        return verify(contents, anchors, self.now, zonemd=zonemd)

    def _judge(self, root: VerifiedZone) -> Assessment:
        accepted = Assessment(
            "accepted", self.root.serial, alarms=root.alarms, checks=root.checks, signatures_until=root.signatures_until
        )
        if root.limits:
            # Approved or not, with something in service or nothing: there is no table that could hold it.
            return replace(accepted, outcome="held", reasons=root.limits)
        if not self.new_root:
            return accepted
        judgement = plausibility.judge(
            self.root.contents, self.serving_root, root.signatures_until, self.now, self.limits
        )
        accepted = replace(accepted, alarms=(*root.alarms, *judgement.oddities))
        if isinstance(judgement, plausibility.Hold):
            # With nothing in service there is nothing to go on with: a hold would be silence.
            if self.root.approved or self.serving_root is None:
                return replace(accepted, alarms=(*accepted.alarms, *judgement.reasons))
            return replace(accepted, outcome="held", reasons=judgement.reasons)
        return accepted

    def _verify_hosts(
        self, root: VerifiedZone, candidate: Delivery | None
    ) -> tuple[VerifiedZone | None, Assessment | None]:
        if candidate is None or self.hosts_policy is None:
            return None, None
        try:
            anchors = None
            if self.hosts_policy.validation == "required":
                anchors = read_anchors(self.hosts_policy)
            hosts = verify_hosts(
                candidate.contents, root, self.now, zonemd=self.hosts_policy.zonemd, trust_anchors=anchors
            )
        except (ZoneRejected, AnchorsUnreadable) as error:
            if isinstance(error, AnchorsUnreadable) and self.serving_root is not None:
                raise  # what is in service goes on, hosts included, until they can be judged
            return None, _rejected(candidate, error)
        verdict = Assessment(
            "accepted",
            candidate.serial,
            alarms=hosts.alarms,
            checks=hosts.checks,
            signatures_until=hosts.signatures_until,
        )
        if not hosts.limits:
            return hosts, verdict
        verdict = replace(verdict, outcome="held", reasons=hosts.limits)
        if self.new_hosts and not candidate.kept:
            self._keep(self.hosts_policy, candidate, verdict, hosts)
        return None, verdict

    def _keep(self, policy: ZonePolicy, candidate: Delivery, verdict: Assessment, zone: VerifiedZone) -> None:
        provenance = Provenance(
            zone=policy.name,
            serial=candidate.serial,
            source=candidate.origin.source,
            how=candidate.origin.how,
            received_at=candidate.origin.received_at,
            verified_at=zone.verified_at,
            signatures_until=zone.signatures_until,
            expire_seconds=candidate.expire_seconds,
            verdict=verdict.outcome,
            reasons=verdict.reasons,
            alarms=verdict.alarms,
            zonemd=zonemd_of(candidate.contents),
            records=candidate.contents.record_count,
        )
        self.store.put_version(policy.apex, provenance, presentation.to_text(candidate.contents).encode())

    def _examine(self, root: VerifiedZone, hosts: VerifiedZone | None) -> str:
        """Map the file as a worker would and ask it; why it is void, or nothing.  OSError passes through."""
        try:
            table = self.store.open_table(self.generation)
            asked, differences = examination.examine(table, root.contents, hosts.contents if hosts else None)
        except (OSError, MemoryError):
            raise
        except TableUnusable as error:
            return f"the table cannot be used: {error}"
        except Exception as error:
            return f"it cannot be examined: {type(error).__name__}: {error}"
        if differences:
            return f"{len(differences)} differences in {asked} questions, the first: {differences[0]}"
        return ""


def read_anchors(policy: ZonePolicy) -> TrustAnchors:
    """The trust anchors of a zone; AnchorsUnreadable says why they cannot be had."""
    try:
        return TrustAnchors.from_text(policy.anchors())
    except (AnchorsMalformed, OSError, UnicodeDecodeError) as error:
        raise AnchorsUnreadable(f"the trust anchors cannot be read: {error}") from error


def zonemd_of(contents: ZoneContents) -> str:
    """The digest in the ZONEMD record, hexadecimal; empty if there is none."""
    zonemd = contents.rrset(contents.apex, rdatas.ZONEMD)
    return zonemd.rdatas[0][6:].hex() if zonemd and zonemd.rdatas else ""


def _rejected(candidate: Delivery, error: Exception) -> Assessment:
    fault = (type(error).__doc__ or type(error).__name__).split("\n")[0].rstrip(".")
    return Assessment("rejected", candidate.serial, reasons=(f"{fault}: {error}",))


def is_beyond_us(reasons: tuple[str, ...]) -> bool:
    """Whether a zone is held since this version of the software cannot serve it: nobody can decide anything."""
    return any(reason.startswith(NEWER_SOFTWARE) for reason in reasons)


class _Timer:
    def __init__(self) -> None:
        self.marks: dict[str, int] = {}
        self._last = time.monotonic()

    def mark(self, step: str) -> None:
        now = time.monotonic()
        self.marks[step] = round(1000 * (now - self._last))
        self._last = now
