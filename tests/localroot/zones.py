"""A signed root that delegates `arpa.` and `cc.`, and these two, signed: what a LocalRoot service gives out."""

import hashlib
import time
from functools import cache

from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, SigningKey, sign_root
from rootsrv.demo.signed import generate_keys
from rootsrv.wire import name as names
from rootsrv.wire import rdata as rdatas
from rootsrv.zone import presentation
from rootsrv.zone.contents import RRset, ZoneContents
from rootsrv.zone.dnssec import ECDSAP256SHA256
from tests.secondary import versions

ARPA, CC = names.from_text("arpa."), names.from_text("cc.")
DELEGATED = (ARPA, CC)
TIMERS = "2 30 600 60"


@cache
def keys_of(apex: bytes) -> tuple[SigningKey, SigningKey]:
    """Throw-away KSK and ZSK of a delegated zone, the same for all tests of a run."""
    return generate_keys(ECDSAP256SHA256)


def ds_of(apex: bytes, digest_type: int = 2) -> bytes:
    """DS RDATA of its KSK (RFC 4509)."""
    key = keys_of(apex)[0]
    hashed = hashlib.new({1: "sha1", 2: "sha256", 4: "sha384"}[digest_type], apex + key.dnskey).digest()
    return key.tag.to_bytes(2, "big") + bytes((key.algorithm, digest_type)) + hashed


def signing(*keys: SigningKey, zonemd: bool = True, seconds: float = 10 * 86_400) -> Signing:
    """From an hour ago on, for so many seconds."""
    now = int(time.time())
    hashes = (1,) if zonemd else ()
    return Signing(keys=keys, inception=now - 3600, expiration=now + int(seconds), zonemd_hashes=hashes)


def root(serial: int, *, tlds: int = versions.TLDS, without_ds: tuple[bytes, ...] = ()) -> ZoneContents:
    """The root, which delegates both."""
    unsigned = dict(generate.root_contents(serial=serial, tlds=tlds, seed=5).rrsets)
    for apex in DELEGATED:
        host = b"\1a\2ns" + apex
        unsigned[apex, rdatas.NS] = RRset(apex, rdatas.NS, 172_800, (host,))
        unsigned[host, rdatas.A] = RRset(host, rdatas.A, 172_800, (bytes((192, 0, 2, 53)),))
        if apex not in without_ds:
            unsigned[apex, rdatas.DS] = RRset(apex, rdatas.DS, 86_400, (ds_of(apex),))
    return sign_root(ZoneContents(b"\0", unsigned), signing(*versions.keys()))


def delegated(apex: bytes, serial: int, *, zonemd: bool = True, seconds: float = 10 * 86_400) -> ZoneContents:
    """One of them: a few names, a delegation with and one without DS, glue."""
    zone = names.to_text(apex)
    text = f"""\
{zone}\t3600\tIN\tSOA\ta.ns.{zone} hostmaster.{zone} {serial} {TIMERS}
{zone}\t3600\tIN\tNS\ta.ns.{zone}
a.ns.{zone}\t3600\tIN\tA\t192.0.2.53
www.{zone}\t3600\tIN\tAAAA\t2001:db8::80
*.wild.{zone}\t3600\tIN\tTXT\t"any"
child.{zone}\t3600\tIN\tNS\tns.child.{zone}
ns.child.{zone}\t3600\tIN\tA\t192.0.2.54
signed.{zone}\t3600\tIN\tNS\tns.child.{zone}
signed.{zone}\t3600\tIN\tDS\t12345 13 2 {"ab" * 32}
"""
    unsigned = presentation.from_text(text.encode(), apex)
    return sign_root(unsigned, signing(*keys_of(apex), zonemd=zonemd, seconds=seconds))
