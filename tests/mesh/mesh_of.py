"""A roster of any size, with everybody's keys."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rootsrv.mesh import roster as rosters
from rootsrv.mesh.roster import Group, Member, Operator, Roster, Site, Timing, public_text

SERVICE = "x-root"

QUICK = Timing(
    align=1, lead=0, wait=8, offer=1, notice=1, soak=1, max_delay=8, void=20, hold=600, stale_soft=3900, token=6
)
"""For tests with real instances: a zone goes round in some ten seconds."""


def key_of(name: str) -> Ed25519PrivateKey:
    """Always the same for the same name."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


@dataclass(frozen=True)
class Mesh:
    """A roster and the keys that it names."""

    roster: Roster

    @property
    def octets(self) -> bytes:
        """Signed by the first signing key."""
        return rosters.sign(self.roster, key_of("first signer"), 0.0)

    def changed(self, **changes: Any) -> "Mesh":
        """Another version of the roster."""
        return Mesh(replace(self.roster, **changes))


def mesh_of(n: int, *, k: int = 1, hosts: int = 2, canaries: int = 2, timing: Timing | None = None) -> Mesh:
    """*n* members m0, m1, … in one group; the first ones are distribution hosts, the last ones canaries."""
    members = tuple(
        Member(
            name=f"m{number}",
            public_key=public_text(key_of(f"m{number}")),
            site="here" if number % 2 else "there",
            group="all",
            canary=number >= n - canaries,
            distribution_host=number < hosts,
        )
        for number in range(n)
    )
    roster = Roster(
        service=SERVICE,
        version=1,
        signing_keys=(public_text(key_of("first signer")), public_text(key_of("second signer"))),
        timing=timing or Timing(),
        site=(
            Site(name="here", city="Zürich", country="CH", latitude=47.4, longitude=8.5),
            Site(name="there", city="Nairobi", country="KE", latitude=-1.3, longitude=36.8),
        ),
        group=(Group(name="all", k=k),),
        member=members,
        operator=(Operator(name="alice", public_key=public_text(key_of("alice"))),),
    )
    return Mesh(roster)
