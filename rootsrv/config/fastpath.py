"""Configuration of the kernel fast path: whether and where the kernel answers."""

from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError, check_range

Mode = Literal["auto", "xdp", "tc", "off"]
MAX_INTERFACES = 7  # the program has room for eight, and one is for its self-test


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPathConfig:
    """`[fastpath]`: answers from the kernel (docs/fastpath.md).

    Without it, and for whatever it does not understand, the workers answer.
    """

    mode: Mode = "auto"
    """"auto": native XDP where the driver lets replies grow, else tc, else off; "xdp" or "tc": that or not at all."""

    interfaces: tuple[str, ...] = ()
    """Interfaces on which queries come in; none = off."""

    replace: bool = False
    """Take the place of a program that is attached already, whoever's it is."""

    keep_attached: bool = False
    """Leave the program on when its owner dies: it goes on answering for `orphan_seconds`."""

    orphan_seconds: float = 60.0
    """How long the kernel answers without its owner, and never past a zone's lease; renewed every quarter of it.

    The default is what a restart takes, several times over; more would let an instance that nobody watches answer on.
    """

    owner_cpus: tuple[int, ...] = ()
    """CPUs for the process that looks after the program, and after the workers; empty = any.

    Those that take no packets: what it does then delays no answer.  The workers are not concerned.
    """

    tap_every: int = 0
    """Copy one of so many responses, with its query, to the tap; 0 = off."""

    syns_per_core: int = 0
    """SYNs to service addresses that each core takes a second, in XDP alone; what is over is dropped and counted.

    0 = as many as come: the kernel's SYN cookies cope with floods, and a dropped SYN may be a client's.
    """

    def __post_init__(self) -> None:
        if len(self.interfaces) > MAX_INTERFACES:
            raise ConfigError(f"fastpath.interfaces: at most {MAX_INTERFACES}, got {len(self.interfaces)}")
        if len(set(self.interfaces)) != len(self.interfaces):
            raise ConfigError("fastpath.interfaces: an interface is named twice")
        for name in self.interfaces:
            if not 0 < len(name.encode()) < 16 or "/" in name:
                raise ConfigError(f"fastpath.interfaces: {name!r} is not an interface's name")
        for cpu in self.owner_cpus:
            check_range("fastpath.owner_cpus", cpu, 0, 8191)
        check_range("fastpath.orphan_seconds", self.orphan_seconds, 4, 3600)
        check_range("fastpath.tap_every", self.tap_every, 0, 2**31 - 1)
        check_range("fastpath.syns_per_core", self.syns_per_core, 0, 100_000_000)
