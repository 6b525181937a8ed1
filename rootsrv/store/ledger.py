"""What has to survive a restart besides the zones: what is in service and until when, what comes next, decisions."""

from dataclasses import asdict, dataclass, field
from typing import Any

from rootsrv.store.store import StoreFailed
from rootsrv.zone import instant
from rootsrv.zone.lease import Lease, Reading, TrustedClock

FORMAT = 1


@dataclass
class Next:
    """A table that was verified, examined and staged: at T it goes into service, also if we are restarted meanwhile."""

    generation: int
    activate_at: float | None
    """T, seconds since 1970; None = at once."""

    leases: dict[str, Lease]


@dataclass(frozen=True, slots=True)
class Served:
    """Since when a version has been in service; seconds since 1970."""

    serial: int
    served_at: float
    known_at: float | None
    """When its serial was heard of first."""


@dataclass
class Ledger:
    """The contents of ledger.json; zones by their configured names."""

    generation: int = 0
    """The newest answer table that went into service."""

    highest: int = 0
    """The highest number that a table ever had.  None is given twice: whoever maps tables (workers, the kernel's owner,
    who probes) knows them by their numbers, and one that was void or overtaken may be mapped still."""

    leases: dict[str, Lease] = field(default_factory=dict)
    """Of the zones in service."""

    served: dict[str, Served] = field(default_factory=dict)
    """Of the zones in service; what an older version wrote has none."""

    next: Next | None = None
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Serials that the operator rejected."""

    last_seen_wall: float = 0.0
    """The latest moment that is known to have passed, seconds since 1970."""

    trusted_offset: float | None = None
    """TrustedClock.offset, for who starts on this boot after a run that nobody has ended; None = the wall clock says
    what time it is."""

    def to_record(self, boot: str) -> dict[str, Any]:
        """For Store.write_ledger."""
        return {
            "format": FORMAT,
            "boot": boot,
            "last_seen_wall": self.last_seen_wall,
            "trusted_offset": self.trusted_offset,
            "generation": self.generation,
            "highest": self.highest,
            "leases": {name: lease.to_record() for name, lease in self.leases.items()},
            "served": {name: asdict(each) for name, each in self.served.items()},
            "next": None
            if self.next is None
            else {
                "generation": self.next.generation,
                "activate_at": self.next.activate_at,
                "leases": {name: lease.to_record() for name, lease in self.next.leases.items()},
            },
            "dropped": self.dropped,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any], boot: str, clock: TrustedClock, boottime: float) -> "Ledger":
        """From Store.read_ledger; StoreFailed if it is of another format or damaged."""
        if not record:
            return cls()
        try:
            if record["format"] != FORMAT:
                raise StoreFailed(f"ledger.json: format {record['format']}, expected {FORMAT}")
            last_seen = float(record["last_seen_wall"])
            same_boot = bool(boot) and record["boot"] == boot

            def leases(of: dict[str, Any]) -> dict[str, Lease]:
                return {
                    name: Lease.from_record(
                        each, same_boot=same_boot, last_seen_wall=last_seen, clock=clock, boottime=boottime
                    )
                    for name, each in of.items()
                }

            following = record["next"]
            return cls(
                generation=int(record["generation"]),
                highest=int(record.get("highest", record["generation"])),
                leases=leases(record["leases"]),
                served={name: _served(each) for name, each in record.get("served", {}).items()},
                next=None
                if following is None
                else Next(int(following["generation"]), following["activate_at"], leases(following["leases"])),
                dropped={name: [int(each) for each in serials] for name, serials in record["dropped"].items()},
                last_seen_wall=last_seen,
                trusted_offset=trusted_offset(record, boot),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreFailed(f"ledger.json: damaged ({type(error).__name__}: {error})") from error


def trusted_offset(record: dict[str, Any], boot: str) -> float | None:
    """`Ledger.trusted_offset` if the record is of this *boot*; None where there is none that can be used."""
    offset = record.get("trusted_offset")
    same_boot = bool(boot) and record.get("boot") == boot
    return offset if same_boot and isinstance(offset, float) and 0 < offset < instant.LAST else None


def check(record: dict[str, Any]) -> None:
    """StoreFailed if `Ledger.from_record` could not read it, whatever the time is."""
    Ledger.from_record(record, "", TrustedClock(Reading(0.0, 0.0, synchronised=False)), 0.0)


def _served(record: dict[str, Any]) -> Served:
    known_at = record["known_at"]
    return Served(int(record["serial"]), float(record["served_at"]), None if known_at is None else float(known_at))
