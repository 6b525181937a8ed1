"""A publisher and root servers on a host of a test's own, with a root whose timers a test can wait for."""

import contextlib
import struct
import time
from pathlib import Path

from bench.peers.daemon import running
from bench.peers.nsd import configuration as nsd_configuration
from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, sign_root
from rootsrv.hyperlocal import generated
from rootsrv.wire import rdata as rdatas
from rootsrv.zone.contents import RRset, ZoneContents
from tests.needs import require_tool
from tests.network import Host
from tests.secondary import versions

ROOT = b"\0"
FIRST = 2026112100
REFRESH, RETRY, EXPIRE = 2, 1, 12
"""Of the SOA, seconds."""

PUBLISHER = "198.51.100.53"


def root_addresses(contents: ZoneContents) -> list[str]:
    """IPv4 addresses of the root servers: those in *contents*, and the genuine ones, which a program has built in."""
    found = [
        ".".join(map(str, rdata))
        for (owner, rtype), rrset in sorted(contents.rrsets.items())
        if rtype == rdatas.A and owner in set(generate.root_hosts())
        for rdata in rrset.rdatas
    ]
    return found + sorted(each for each in generated.ROOT_SERVERS if ":" not in each)


def root(serial: int) -> ZoneContents:
    """A signed root whose timers a test can wait for."""
    unsigned = generate.root_contents(serial=serial, tlds=versions.TLDS, seed=5)
    soa = unsigned.rrsets[ROOT, rdatas.SOA]
    timers = struct.pack("!IIIII", serial, REFRESH, RETRY, EXPIRE, 86400)
    changed = RRset(ROOT, rdatas.SOA, soa.ttl, (soa.rdatas[0][:-20] + timers,))
    now = int(time.time())
    signing = Signing(keys=versions.keys(), inception=now - 3600, expiration=now + 10 * 86_400)
    return sign_root(ZoneContents(ROOT, {**unsigned.rrsets, (ROOT, rdatas.SOA): changed}), signing)


def nsd(
    directory: Path, host: Host, addresses: list[str], rcode: str = "NOERROR"
) -> contextlib.AbstractContextManager[int]:
    """NSD with the root, at *addresses*; everybody may have it.  *rcode*: what it answers."""
    directory.mkdir(exist_ok=True)
    zone = f'zone:\n    name: "."\n    zonefile: "{directory.parent}/root.zone"\n    provide-xfr: 0.0.0.0/0 NOKEY\n'
    path = nsd_configuration(directory, addresses, 53, ("server-count: 1", "zonefiles-check: yes"), zone)
    command = [*host.prefix, require_tool("nsd"), "-d", "-c", str(path)]
    return running("NSD", command, directory / "log", lambda: answers(host, addresses[0], rcode=rcode))


def answers(host: Host, address: str, port: int = 53, rcode: str = "NOERROR") -> bool:
    printed = host.run("dig", f"@{address}", "-p", str(port), "+tries=1", "+time=1", ".", "SOA", check=False)
    return f"status: {rcode}" in printed
