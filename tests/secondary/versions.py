"""Versions of a small signed root and of the zone of its hosts: what primaries publish in these tests."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, SigningKey, sign_root
from rootsrv.demo.signed import generate_keys
from rootsrv.wire import rdata as rdatas
from rootsrv.zone import presentation
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.dnssec import ECDSAP256SHA256

TLDS = 30
FIRST = 2026112100


@cache
def keys() -> tuple[SigningKey, SigningKey]:
    """Throw-away KSK and ZSK, the same for all tests of a run."""
    return generate_keys(ECDSAP256SHA256)


def anchor(*more: SigningKey) -> str:
    """The KSK, and *more* of them, as trust anchors."""
    seps = [key for key in (*keys(), *more) if key.is_sep]
    return "".join(f". IN DNSKEY {rdatas.to_text(rdatas.DNSKEY, key.dnskey)}\n" for key in seps)


Change = Callable[[dict[tuple[bytes, int], RRset]], None]


@dataclass(frozen=True)
class Recipe:
    """How a version is made."""

    serial: int = FIRST
    tlds: int = TLDS
    inception: float = field(default_factory=lambda: time.time() - 3600)
    expiration: float = field(default_factory=lambda: time.time() + 10 * 86_400)
    keys: tuple[SigningKey, ...] = field(default_factory=keys)

    def make(self) -> ZoneContents:
        """Signed, with ZONEMD."""
        unsigned = generate.root_contents(serial=self.serial, tlds=self.tlds, seed=5)
        return sign_root(
            unsigned, Signing(keys=self.keys, inception=int(self.inception), expiration=int(self.expiration))
        )


def version(serial: int, **changes: object) -> ZoneContents:
    """A version with this *serial*; *changes* are fields of Recipe."""
    return replace(Recipe(), serial=serial, **changes).make()  # type: ignore[arg-type]


def hosts(serial: int = FIRST) -> ZoneContents:
    """The zone of the hosts."""
    return generate.hosts_contents(serial=serial)


def text(contents: ZoneContents) -> bytes:
    """As a zone file."""
    return presentation.to_text(contents).encode()


def with_rdata(contents: ZoneContents, rtype: int, change: Callable[[bytes], bytes]) -> ZoneContents:
    """*contents* with the first RRset of *rtype* changed (below the apex but for DNSKEY, ZONEMD), nothing re-signed."""
    for key, rrset in contents.rrsets.items():
        if rrset.rtype == rtype and rrset.rdatas and (key[0] != b"\0" or rtype in {rdatas.DNSKEY, rdatas.ZONEMD}):
            changed = replace(rrset, rdatas=(change(rrset.rdatas[0]), *rrset.rdatas[1:]))
            return ZoneContents(contents.apex, {**contents.rrsets, key: changed})
    raise AssertionError(f"no RRset of type {rtype}")


def without(contents: ZoneContents, rtype: int) -> ZoneContents:
    """*contents* without any RRset of *rtype*."""
    return ZoneContents(contents.apex, {k: v for k, v in contents.rrsets.items() if v.rtype != rtype})


def without_zonemd(serial: int) -> ZoneContents:
    """A version that is signed and has no ZONEMD at all."""
    recipe = Recipe(serial=serial)
    unsigned = generate.root_contents(serial=serial, tlds=recipe.tlds, seed=5)
    validity = {"inception": int(recipe.inception), "expiration": int(recipe.expiration)}
    return sign_root(unsigned, Signing(keys=recipe.keys, zonemd_hashes=(), **validity))
