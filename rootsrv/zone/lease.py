"""Until when a zone may be answered from (D27), on two clocks."""
# Theory of operation
# -------------------
# A lease ends at the earliest of
#   * the last confirmed refresh + SOA expire (or the EXPIRE option, RFC 7314),
#   * the last confirmed refresh + the operator's limit,
#   * the earliest expiration of the zone's signatures.
# The first two are durations: they are held on CLOCK_BOOTTIME, which nothing steps, and a step of the wall clock cannot
# touch them.  The third is a date, so somebody has to say what time it is: `TrustedClock`.
#
#               synchronised, not before our records
#        UNKNOWN ─────────────────────────────────▶ SYNCHRONISED ◀──────────────┐
#           │                                          │      │                 │ synchronised again and
#           │ clock_wait over           unsynchronised │      │ jumped by more  │ within MAX_STEP of what
#           ▼                                          │      │ than MAX_STEP   │ we hold
#        FREE-RUNNING ◀────────────────────────────────┘      └───▶ STEPPED ────┤
#           └───────────────────────────────────────────────────────────────────┘
#           └── it never was synchronised in this run: as from UNKNOWN
#
# Only while SYNCHRONISED, or BELIEVED for the operator says so, is the wall clock read; in the other states time goes
# on from what was last trusted, at the rate of CLOCK_BOOTTIME.  A synchronised clock may correct itself by at most
# MAX_STEP_SECONDS at a time; more is not believed while we run (ntpd's panic threshold), or one bad time server would
# expire every instance of a mesh at once (D31).  It is believed after a restart, which somebody has to order, and when
# it comes back.  Nobody orders that a role is killed: who starts on the same boot after one that did not end of itself
# goes on from the time that was trusted there (*offset*).  What is held before the first synchronisation is a guess (a
# clock without battery, and our records), so that one is believed however far it is ahead, and however late it comes;
# but never if it is before what our records know to have passed.
#
# What has to survive a restart is `Lease.to_record`.  On the same boot the durations go on where they were.  After a
# reboot what is left is counted on the wall clock, never from earlier than the last moment that was written down: a
# restart never lengthens a lease.  The clock may be synchronised only later, so such a lease goes by the time that is
# trusted until it is renewed (`by_wall`).

import enum
from dataclasses import dataclass, replace

MAX_STEP_SECONDS = 1000.0  # the panic threshold of ntpd(8)


class ClockState(enum.StrEnum):
    """Whether the wall clock can be believed."""

    UNKNOWN = "unknown"
    SYNCHRONISED = "synchronised"
    BELIEVED = "believed"
    FREE_RUNNING = "free-running"
    STEPPED = "stepped"

    @property
    def can_be_believed(self) -> bool:
        """Whether set times can be kept together with others."""
        return self in (ClockState.SYNCHRONISED, ClockState.BELIEVED)


CAN_BE_BELIEVED = frozenset(each.value for each in ClockState if each.can_be_believed)
"""Of these, as a status names them."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment; seconds."""

    wall: float
    boottime: float
    synchronised: bool
    by_kernel: bool = True
    """Whether it is the kernel that says so; else the operator does, whatever that says."""


class TrustedClock:
    """The wall-clock time that deadlines are computed from.  Feed it a Reading every second."""

    def __init__(self, reading: Reading, not_before: float = 0.0, offset: float | None = None) -> None:
        """*not_before*: a moment (wall, seconds) that is known to have passed, from the last run's records.

        *offset*: `offset` of a run on this boot that nobody has ended.
        """
        going_on = reading.wall if offset is None else reading.boottime + offset
        self._offset = max(going_on, not_before) - reading.boottime
        self.distance = reading.wall - reading.boottime - self._offset
        """How far the wall clock is from the time that is trusted; seconds."""
        self._passed = not_before - reading.boottime
        """The offset of what is known to have passed."""

        self._was_synchronised = offset is not None
        self.state = ClockState.UNKNOWN if offset is None else ClockState.FREE_RUNNING
        if self.distance < -MAX_STEP_SECONDS and reading.synchronised:
            self.state = ClockState.STEPPED  # we have been at a later time than this
        elif reading.synchronised:
            self.observe(reading)

    def observe(self, reading: Reading) -> None:
        """Take both clocks into account."""
        offset = reading.wall - reading.boottime
        self.distance = offset - self._offset
        if not reading.synchronised:
            if self.synchronised:
                self.state = ClockState.FREE_RUNNING
        elif abs(self.distance) <= MAX_STEP_SECONDS or self._is_first(offset):
            self.state = ClockState.SYNCHRONISED if reading.by_kernel else ClockState.BELIEVED
            self._offset = offset
            self._was_synchronised = True
            self.distance = 0.0
        else:
            self.state = ClockState.STEPPED

    def _is_first(self, offset: float) -> bool:
        """Whether nobody has said what time it is before, and this may be it."""
        return not self._was_synchronised and offset >= self._passed - MAX_STEP_SECONDS

    def settle(self) -> None:
        """Go on without a synchronised clock: nobody will synchronise it soon."""
        if self.state is ClockState.UNKNOWN:
            self.state = ClockState.FREE_RUNNING

    @property
    def synchronised(self) -> bool:
        """Whether set times can be kept together with others."""
        return self.state.can_be_believed

    @property
    def offset(self) -> float | None:
        """How far the time that is trusted is ahead of CLOCK_BOOTTIME, seconds; None where it is a guess."""
        return self._offset if self._was_synchronised else None

    def wall(self, boottime: float) -> float:
        """The time (seconds since 1970) that is trusted at *boottime*."""
        return boottime + self._offset


@dataclass(frozen=True, slots=True)
class Lease:
    """How long one version of a zone may be answered from; *_boottime on CLOCK_BOOTTIME, *_wall since 1970, seconds."""

    serial: int
    confirmed_wall: float
    confirmed_boottime: float
    duration_seconds: float
    """From the confirmed refresh: SOA expire, the EXPIRE option or the operator's limit, whichever is least."""

    signatures_until: float | None
    """Earliest expiration of the zone's signatures (wall); None where they do not count."""

    by_wall: bool = False
    """Whether it was confirmed before this boot, so that only the wall clock knows how long ago that was."""

    def deadline(self, clock: TrustedClock, boottime: float) -> float:
        """The last moment (CLOCK_BOOTTIME, seconds) at which the zone may be answered from."""
        end = self.confirmed_boottime + self.duration_seconds
        if self.by_wall:
            end = min(end, boottime + self.confirmed_wall + self.duration_seconds - clock.wall(boottime))
        if self.signatures_until is not None:
            end = min(end, boottime + self.signatures_until - clock.wall(boottime))
        return end

    def renewed(self, clock: TrustedClock, boottime: float, duration_seconds: float) -> "Lease":
        """After a confirmed refresh just now.  A shorter EXPIRE than what is left shortens nothing (RFC 7314 §4)."""
        left = replace(self, signatures_until=None).deadline(clock, boottime) - boottime
        return replace(
            self,
            by_wall=False,
            confirmed_wall=clock.wall(boottime),
            confirmed_boottime=boottime,
            duration_seconds=max(duration_seconds, left),
        )

    def to_record(self) -> dict[str, float | int | bool | None]:
        """For `from_record` after a restart."""
        return {
            "serial": self.serial,
            "confirmed_wall": self.confirmed_wall,
            "confirmed_boottime": self.confirmed_boottime,
            "duration_seconds": self.duration_seconds,
            "signatures_until": self.signatures_until,
            "by_wall": self.by_wall,
        }

    @classmethod
    def from_record(
        cls,
        record: dict[str, float | int | bool | None],
        *,
        same_boot: bool,
        last_seen_wall: float,
        clock: TrustedClock,
        boottime: float,
    ) -> "Lease":
        """The lease of the run before, which wrote down *last_seen_wall* last.  KeyError, TypeError: not one."""
        numbers = {key: record[key] for key in ("serial", "confirmed_wall", "confirmed_boottime", "duration_seconds")}
        if not all(isinstance(value, int | float) for value in numbers.values()):
            raise TypeError(f"not numbers: {numbers}")
        until = record["signatures_until"]
        lease = cls(
            int(numbers["serial"] or 0),
            float(numbers["confirmed_wall"] or 0),
            float(numbers["confirmed_boottime"] or 0),
            float(numbers["duration_seconds"] or 0),
            None if until is None else float(until),
            record.get("by_wall") is True,
        )
        if same_boot:
            return lease
        age = max(clock.wall(boottime), last_seen_wall) - lease.confirmed_wall
        return replace(lease, confirmed_boottime=boottime - max(age, 0.0), by_wall=True)
