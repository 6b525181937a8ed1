"""What the role maintain tells about itself: the JSON document that its Unix socket `maintain.sock` gives to `status`.

One line with a JSON object {"command": "status"} brings one line back: `Status` as an object, key for field.  Durations
are seconds; *_at and *_until are RFC 3339 in UTC; a serial that does not exist is null.
"""

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class PrimaryStatus:
    """One primary of one zone."""

    name: str
    where: str
    """Address and port, URL or path."""

    authenticated: bool
    serial: int | None
    """The one that it named last."""

    reachable: bool | None
    """Whether the last exchange worked; null before the first."""

    failures: int
    """In a row."""

    backoff_seconds: float
    """Until it is tried again; 0 = any time."""

    last_success_seconds: float | None
    """Since it last answered."""

    notified_seconds: float | None
    """Since its last NOTIFY of something new."""

    last_error: str


@dataclass(kw_only=True)
class HeldStatus:
    """A verified zone that waits for a decision."""

    serial: int
    reasons: list[str]
    source: str
    received_at: str


@dataclass(kw_only=True)
class ZoneStatus:
    """One zone, with its four serials."""

    name: str
    known: int | None
    """The newest serial that verified here or that two primaries – or the only one – name."""

    received: int | None
    """The newest that was transferred, whatever became of it."""

    scheduled: int | None
    """Verified, and staged or waiting for its set time."""

    served: int | None
    known_age_seconds: float | None
    """How long a newer serial than `served` has been known; null = nothing newer is known.  (behind_seconds)"""

    received_age_seconds: float | None
    served_age_seconds: float | None
    """Since `served` went into service."""

    served_at: str | None
    """When `served` went into service, to the millisecond."""

    served_known_at: str | None
    """When the serial `served` was heard of first, to the millisecond; null = that is not known."""

    confirmed_age_seconds: float | None
    """Since a primary last said that `served` is current."""

    lease_seconds: float | None
    """What is left of the lease; ≤ 0: over, answered SERVFAIL.  Null: nothing is in service."""

    lease_until: str | None
    signatures_until: str | None
    refresh_in_seconds: float
    """Until the primaries are asked again, if no NOTIFY comes before."""

    source: str
    """Where `served` came from, and how."""

    held: list[HeldStatus] = field(default_factory=list)
    last_rejection: str = ""
    """Serial, source and reason of the last zone that did not verify or could not be had; empty after a success."""

    alarms: list[str] = field(default_factory=list)
    """Oddities of the zone in service."""

    primaries: list[PrimaryStatus] = field(default_factory=list)


@dataclass(kw_only=True)
class PeerStatus:
    """Somebody who may transfer from us."""

    name: str
    address: str
    zones: list[str]
    last_transfer_at: str | None
    last_transfer: str
    """Zone, serial, kind and octets of the last transfer; empty if none."""

    notify: str
    """What became of the last NOTIFY to it."""


@dataclass(kw_only=True)
class SwitchoverStatus:
    """The latest switchover."""

    state: str
    """none, staging, scheduled, flipped, replacing, void, failed (switchover.py draws them)."""

    generation: int
    activate_at: str | None
    reason: str
    verify_seconds: float | None = None
    """What it took to verify, compile and examine the latest zone, accepted or not."""

    confirm_seconds: float | None = None
    """From the flip until every worker was seen to answer from the new table."""


@dataclass(kw_only=True)
class WorkerStatus:
    """What a worker says in the shared page."""

    slot: int
    pid: int
    staged: int
    active: int
    heartbeat_age_seconds: float


@dataclass(kw_only=True)
class HealthStatus:
    """What of it bears on whether this site should attract traffic (health/evidence.py)."""

    behind_seconds: float
    """For how long a newer root zone has been known and neither served nor held; 0 = none is known.

    A held zone does not count: a hold alone never degrades nor withdraws (D23).
    """

    held_serials: list[int]
    switchover_failed: bool
    primaries_reachable: bool | None
    """Whether any primary of the root answered last time; null = none was asked yet, or there are none."""

    clock_synchronised: bool
    alarms: list[str]


@dataclass(kw_only=True)
class Status:
    """All of it."""

    role: str
    pid: int
    version: str
    configuration_digest: str
    """SHA-256 of the configuration file, first 16 hexadecimal digits: members of a mesh can be compared (D53)."""

    now: str
    """The time that is trusted."""

    test_clock_offset_seconds: float
    clock: str
    """unknown, synchronised, believed (clock.source = "trusted"), free-running or stepped (zone/lease.py)."""

    clock_distance_seconds: float
    """How far the wall clock is from the time that is trusted."""

    generation: int
    """The answer table in service; 0 = none."""

    silenced: bool
    switchover: SwitchoverStatus
    zones: list[ZoneStatus]
    workers: list[WorkerStatus]
    workers_replaced: int
    peers: list[PeerStatus]
    security_events: dict[str, int]
    """Failed TSIG, refused transfers, spoofed NOTIFY, refused control, since start (D51)."""

    counters: dict[str, int]
    state_writable: bool
    files: list[dict[str, str]]
    """What is kept twice: `name`, and what is the `trouble` with one of the copies, empty if there is none."""

    alarms: list[str]
    """What a person should look at now."""

    alarm_entries: list[str]
    """What docs/runbook.md has each of `alarms` under, in their order."""

    health: HealthStatus
