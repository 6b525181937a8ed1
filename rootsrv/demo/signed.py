"""Generated, test-signed root zones: the demo's data, and what tests transfer and switch between.

The zones follow from the seed; keys and signatures are made here, since the pure core knows no randomness.
"""

import concurrent.futures
import os
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from rootsrv.demo import generate
from rootsrv.demo.sign import PrivateKey, Signing, SigningKey, sign_root
from rootsrv.wire import rdata
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.dnssec import ECDSAP256SHA256, ECDSAP384SHA384, ED25519, RSASHA256

REAL_ROOT_TLDS = 1440


@dataclass(frozen=True)
class GeneratedRoot:
    """A signed root zone, the zone of its hosts, and what one needs to verify and to continue them."""

    root: ZoneContents
    hosts: ZoneContents
    signing: Signing = field(repr=False)
    seed: int = 0

    @cached_property
    def root_text(self) -> str:
        """The root zone as a zone file."""
        return presentation.to_text(self.root)

    @cached_property
    def hosts_text(self) -> str:
        """The zone of the hosts as a zone file."""
        return presentation.to_text(self.hosts)

    @property
    def trust_anchor(self) -> str:
        """The key-signing keys as DNSKEY records, one a line: for TrustAnchors.from_text and for resolvers."""
        return "".join(
            f". IN DNSKEY {rdata.to_text(rdata.DNSKEY, key.dnskey)} ; key tag {key.tag}\n"
            for key in self.signing.keys
            if key.is_sep
        )


def generate_keys(algorithm: int = RSASHA256) -> tuple[SigningKey, SigningKey]:
    """A throw-away KSK and ZSK (RSA-2048/SHA-256 by default, as the root has; 13, 14 and 15 are known too)."""
    return SigningKey(_private_key(algorithm), is_sep=True), SigningKey(_private_key(algorithm), is_sep=False)


def _private_key(algorithm: int) -> PrivateKey:
    if algorithm == RSASHA256:
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    if algorithm == ECDSAP256SHA256:
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == ECDSAP384SHA384:
        return ec.generate_private_key(ec.SECP384R1())
    if algorithm == ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"algorithm: must be 8, 13, 14 or 15, got {algorithm}")


def generate_root(
    *,
    inception: float,
    expiration: float,
    serial: int = 2026010100,
    tlds: int = REAL_ROOT_TLDS,
    seed: int = 0,
    algorithm: int = RSASHA256,
    keys: tuple[SigningKey, ...] | None = None,
    zonemd_hashes: tuple[int, ...] = (1,),
) -> GeneratedRoot:
    """Generate and sign a root zone with *tlds* delegations (at least 3) and the zone of its hosts.

    Signatures are valid from *inception* until *expiration*, seconds since 1970.  *keys* default to new ones of
    *algorithm*; the same seed gives the same zone but for keys and signatures.
    """
    unsigned = generate.root_contents(serial=serial, tlds=tlds, seed=seed)
    signing = Signing(
        keys=keys or generate_keys(algorithm),
        inception=int(inception),
        expiration=int(expiration),
        zonemd_hashes=zonemd_hashes,
    )
    return GeneratedRoot(_sign(unsigned, signing, None), generate.hosts_contents(serial=serial), signing, seed)


def generate_successor(
    previous: GeneratedRoot,
    *,
    serial: int | None = None,
    changes: int = 5,
    inception: float | None = None,
    expiration: float | None = None,
    keys: tuple[SigningKey, ...] | None = None,
) -> GeneratedRoot:
    """The next version of a generated root: serial + 1 unless given, *changes* small changes, signed anew.

    With the same keys and validity only what changed gets new signatures; otherwise everything does.
    """
    serial = previous.root.serial + 1 & 0xFFFFFFFF if serial is None else serial
    signing = Signing(
        keys=keys or previous.signing.keys,
        inception=previous.signing.inception if inception is None else int(inception),
        expiration=previous.signing.expiration if expiration is None else int(expiration),
        zonemd_hashes=previous.signing.zonemd_hashes,
    )
    unsigned = generate.successor_contents(previous.root, serial=serial, changes=changes, seed=previous.seed)
    reuse = previous.root if signing == previous.signing else None
    return GeneratedRoot(_sign(unsigned, signing, reuse), previous.hosts, signing, previous.seed)


def _sign(unsigned: ZoneContents, signing: Signing, reuse: ZoneContents | None) -> ZoneContents:
    # An RSA-2048 signature takes half a millisecond outside the interpreter's lock: 2,900 of them are worth threads.
    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as executor:
        return sign_root(unsigned, signing, reuse=reuse, parallel_map=executor.map)
