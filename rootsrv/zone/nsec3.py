"""What the NSEC3 record of a zone's apex says that there is (RFC 5155): only there is a ZONEMD denied or affirmed."""

import base64
import hashlib

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.name import to_text
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.rejection import NsecChainBroken

_SHA1 = 1  # the only hash (RFC 5155 §11)
_BASE32 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789abcdefghijklmnopqrstuv")  # RFC 4648 §7

MAX_ITERATIONS = 150  # more need not be believed (RFC 9276 §3.2, its appendix A)


def hashed_owner(apex: bytes, iterations: int, salt: bytes) -> bytes:
    """Owner of the NSEC3 record of *apex* (RFC 5155 §5, §3)."""
    digest = apex
    for _ in range(iterations + 1):
        digest = hashlib.sha1(digest + salt, usedforsecurity=False).digest()
    label = base64.b32encode(digest).translate(_BASE32)
    return bytes((len(label),)) + label + apex


def types_at_apex(contents: ZoneContents) -> frozenset[int]:
    """Types that the NSEC3 record of the apex lists, which was verified; NsecChainBroken if it cannot be found."""
    parameters = contents.rrset(contents.apex, rdatas.NSEC3PARAM)
    for rdata in parameters.rdatas if parameters else ():
        if len(rdata) < 5 or rdata[0] != _SHA1:
            continue
        iterations, salt = int.from_bytes(rdata[2:4], "big"), rdata[5 : 5 + rdata[4]]
        if iterations > MAX_ITERATIONS:
            raise NsecChainBroken(f"NSEC3 of {to_text(contents.apex)}: {iterations} iterations (RFC 9276 §3.2)")
        found = contents.rrset(hashed_owner(contents.apex, iterations, salt), rdatas.NSEC3)
        if found is not None and len(found.rdatas) == 1:
            nsec3 = found.rdatas[0]
            at = 5 + nsec3[4]
            return rdatas.types_in_bitmap(nsec3[at + 1 + nsec3[at] :])
    raise NsecChainBroken(
        f"{to_text(contents.apex)} has no NSEC3 record of its own: nothing says whether it has ZONEMD"
    )
