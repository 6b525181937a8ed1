"""A root zone of the genuine one's likeness, made and signed here: where no genuine zone is at hand it takes its place.

1,438 generated TLDs, and beside them those that the corpus names, with name servers, glue and DS records as many and of
such length as the genuine ones have, so that every size at which something is cut is met again.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rootsrv.demo import generate, signed
from rootsrv.demo.sign import Signing, sign_root
from rootsrv.wire import name as names
from rootsrv.wire.rdata import AAAA, DS, DS_DIGEST_OCTETS, NS, SOA, A
from rootsrv.zone import presentation
from rootsrv.zone.builder import ContentsBuilder
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.instant import from_text

INCEPTION, EXPIRATION = from_text("2025-10-31T04:00:00Z"), from_text("2025-11-13T05:00:00Z")

_DELEGATION_TTL, _DS_TTL = 172_800, 86_400  # seconds
_BOTH, _IPV4_ONLY = (A, AAAA), (A,)

# TLD: its name servers, the types of their addresses, its DS records as (algorithm, digest type).
_NAMED: dict[str, tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[int, int], ...]]] = {
    "aaa": (
        ("a.nic.aaa", "b.nic.aaa", "c.nic.aaa", "ns1.dns.nic.aaa", "ns2.dns.nic.aaa", "ns3.dns.nic.aaa"),
        _BOTH, ((8, 2),),
    ),
    "ae": (("ns1.aedns.ae", "ns2.aedns.ae", "ns4.other.net", "nsext-xyz.aedns.ae"), _BOTH, ()),
    "arpa": (tuple(f"{letter}.ns.arpa" for letter in "abcdefghiklm"), _BOTH, ((8, 2),)),
    "cd": (tuple(f"ns-root-{number}.abcd-network.net" for number in (21, 22, 23)), _IPV4_ONLY, ()),
    "jnj": (tuple(f"{letter}.nic.jnj" for letter in "wxyz"), _BOTH, ((8, 2), (8, 2), (8, 4))),
    "norton": (tuple(f"{letter}.nic.norton" for letter in "abcxyz"), _BOTH, ((8, 2), (8, 2))),
    "sa": (("c1.dns.sa", "c2.dns.sa"), _BOTH, ((8, 2),)),
    "xn--mgberp4a5d4ar": (
        tuple(f"{label}.dns.sa" for label in ("c1", "c2", "i1", "m1", "m2", "n1", "p1", "s1", "s2", "sh1")),
        _BOTH, ((8, 2),),
    ),
    "zw": (
        ("ns1.longoperator.net", "ns2.longoperator.net", "zw-ns.anycast.abc.net", "ns1abc.telabc.co.zw",
         "ns2abc.telabc.co.zw"),
        _BOTH, (),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Likeness:
    """Files in the published layout, and what verifies them."""

    root: Path
    hosts: Path
    anchors: Path


def write(directory: Path) -> Likeness:
    """Make the zones in *directory*; valid at the same time as the genuine root of 2025103100."""
    ksk, zsk = signed.generate_keys()
    unsigned = _with_named(generate.root_contents(serial=2025103100, tlds=1438, seed=0))
    signing = Signing(keys=(ksk, zsk), inception=int(INCEPTION), expiration=int(EXPIRATION), zonemd_hashes=(1,))
    root = sign_root(unsigned, signing)
    made = Likeness(directory / "root.zone", directory / "root-servers.net.zone", directory / "anchors")
    made.root.write_text(_published(root))
    made.hosts.write_text(_published(generate.hosts_contents(serial=2025091000)))
    made.anchors.write_text(signed.GeneratedRoot(root, root, signing).trust_anchor)
    return made


def _published(contents: ZoneContents) -> str:
    """One record a line: owner, TTL, class, type, RDATA; the SOA first."""
    first = [line for line in presentation.to_text(contents).splitlines() if line]
    return "".join(f"{line}\n" for line in first)


def _with_named(contents: ZoneContents) -> ZoneContents:
    """*contents* with the TLDs that the corpus names, and none where it wants a gap."""
    builder = ContentsBuilder(names.ROOT)
    left_out = {tld for tld in contents.delegations if _in_the_way(tld)}
    for rrset in contents.rrsets.values():
        if any(names.is_at_or_below(rrset.owner, tld) for tld in left_out):
            continue
        for rdata in rrset.rdatas:
            octets = _with_long_rname(rdata) if rrset.rtype == SOA else rdata
            builder.add(rrset.owner, rrset.rtype, rrset.ttl, octets)
    for owner, rtype, ttl, rdata in _records():
        builder.add(owner, rtype, ttl, rdata)
    return builder.contents()


def _with_long_rname(soa: bytes) -> bytes:
    """As long as the genuine one's, since every denial carries it."""
    return soa.replace(names.from_text("hostmaster.example."), names.from_text("nstld.an-operator.com."))


def _in_the_way(tld: bytes) -> bool:
    label = tld[1:-1].decode()
    return label in _NAMED or label < "aaa" or "norton" < label <= "nosuch-tld" or label > "zw"


def _records() -> Iterator[tuple[bytes, int, int, bytes]]:
    """Of the TLDs that the corpus names; documentation addresses (RFC 5737, RFC 3849)."""
    numbers = itertools.count(1)
    done: set[str] = set()
    for tld, (servers, types, signers) in _NAMED.items():
        owner = names.from_text(f"{tld}.")
        for server in servers:
            host = names.from_text(f"{server}.")
            yield owner, NS, _DELEGATION_TTL, host
            if server in done:
                continue
            done.add(server)
            number = next(numbers)
            yield host, A, _DELEGATION_TTL, bytes((192, 0, 2, number))
            if AAAA in types:
                yield host, AAAA, _DELEGATION_TTL, bytes.fromhex("20010db8") + bytes(10) + struct.pack("!H", number)
        for algorithm, digest_type in signers:
            tag = next(numbers)
            digest = generate.Draw("likeness", tag).octets(DS_DIGEST_OCTETS[digest_type])
            yield owner, DS, _DS_TTL, struct.pack("!HBB", tag, algorithm, digest_type) + digest
