"""The zones that everybody serves: generated and test-signed ones, or the operator's own files."""

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from dns.exception import DNSException

from rootsrv.demo import generate, signed
from rootsrv.store import zone_file
from rootsrv.wire import name
from rootsrv.zone import instant, presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.dnssec import ECDSAP256SHA256, RSASHA256
from rootsrv.zone.verify import VerifiedZone, ZoneRejected, verify, verify_hosts

_SEED = 6
_DEMO_SEED = 1  # rootsrv.demo.generate_zones


class ZonesUnusable(Exception):
    """These zones cannot be served for a benchmark."""


@dataclass(frozen=True)
class Zones:
    """Zone files, one record per line, and what verifies them."""

    root: Path
    hosts: Path
    anchors: Path
    clock: str | None = None
    """The instant at which the root verifies, where that is not now (ROOTSRV_TEST_CLOCK)."""

    origin: str = ""
    """Where they come from, for the report."""

    made: signed.GeneratedRoot | None = field(default=None, repr=False)
    """With the keys, where it was generated."""

    @cached_property
    def contents(self) -> ZoneContents:
        """The root zone."""
        return presentation.from_text(self.root.read_bytes(), name.ROOT)

    @cached_property
    def tlds(self) -> list[str]:
        """Its delegations, without final dots."""
        return [name.to_text(owner).rstrip(".") for owner in self.contents.delegations]

    @property
    def now(self) -> float:
        """The time at which the root is judged, seconds since 1970."""
        return instant.from_text(self.clock) if self.clock else time.time()

    def verified(self) -> tuple[VerifiedZone, VerifiedZone]:
        """Root and hosts, verified; raises ZoneRejected."""
        anchors = TrustAnchors.from_text(self.anchors.read_text())
        root = verify(self.contents, anchors, self.now)
        hosts = presentation.from_text(self.hosts.read_bytes(), name.from_text("root-servers.net."))
        return root, verify_hosts(hosts, root, self.now)

    def successor(self, directory: Path) -> "Zones":
        """The next version of a generated root, a few changes further on, written into *directory*."""
        if self.made is None:
            raise ZonesUnusable("only a generated root can be continued: there are no keys for another")
        made = signed.generate_successor(self.made)
        following = replace(self, root=directory / f"root.zone.{made.root.serial}", made=made)
        following.root.write_text(made.root_text)
        return following

    def by_name(self) -> dict[str, Path]:
        """As the peers take them."""
        return {".": self.root, "root-servers.net": self.hosts}


def generated(directory: Path, tlds: int = signed.REAL_ROOT_TLDS, *, signed_twice: bool = False) -> Zones:
    """A root zone of the real one's shape with throw-away keys, written into *directory*.

    *signed_twice*: by RSA and by ECDSA keys, as while the root's algorithm is rolled (RFC 6781 §4.1.4): a signed
    nxdomain then has more than 1,232 octets.
    """
    now = time.time()
    keys = None
    if signed_twice:
        keys = signed.generate_keys(RSASHA256) + signed.generate_keys(ECDSAP256SHA256)
    made = signed.generate_root(inception=now - 3600, expiration=now + 14 * 86400, seed=_SEED, tlds=tlds, keys=keys)
    zones = Zones(
        directory / "root.zone",
        directory / "root-servers.net.zone",
        directory / "root.anchor",
        origin=f"generated: {len(made.root.delegations)} TLDs, {made.root.record_count} records"
        + (", signed twice" if signed_twice else ""),
        made=made,
    )
    zones.root.write_text(made.root_text)
    zones.hosts.write_text(made.hosts_text)
    zones.anchors.write_text(made.trust_anchor)
    return zones


def own(directory: Path, root: Path, hosts: Path, anchors: Path, clock: str | None) -> Zones:
    """The operator's files (plain or gzip), copied into *directory* one record per line; ZonesUnusable says why not."""
    copied = Zones(directory / "root.zone", directory / "root-servers.net.zone", anchors, clock, f"file {root.name}")
    try:
        for source, copy, apex in ((root, copied.root, "."), (hosts, copied.hosts, "root-servers.net.")):
            contents = presentation.from_text(zone_file.read_octets(source), name.from_text(apex))
            copy.write_text(presentation.to_text(contents))
        if clock is not None:
            instant.from_text(clock)
        copied.verified()
    except (OSError, ValueError, DNSException, zone_file.FileUnusable, ZoneRejected) as error:
        raise ZonesUnusable(f"{root}: {error}") from error
    return copied


def tlds_of(root: Path) -> list[str]:
    """The delegations of a root zone file (plain or gzip), without final dots; ZonesUnusable says why not."""
    try:
        contents = presentation.from_text(zone_file.read_octets(root), name.ROOT)
    except (ValueError, DNSException, zone_file.FileUnusable) as error:
        raise ZonesUnusable(f"{root}: {error}") from error
    return [name.to_text(owner).rstrip(".") for owner in contents.delegations]


def demo_tlds() -> list[str]:
    """The delegations of what `rootsrv demo` serves."""
    return generate.tld_labels(signed.REAL_ROOT_TLDS, _DEMO_SEED)
