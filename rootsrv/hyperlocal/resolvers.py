"""What a resolver is told so that it has the root from us: its part of the configuration, and where that goes."""
# As tried with Debian 12's Unbound 1.17, BIND 9.18 and pdns-recursor 4.8 (docs/hyperlocal.md).  A stub, a forward or
# hints to a server on loopback end in SERVFAIL when that is stale, in every one of them; an auth-zone or mirror falls
# back to the root servers by itself.

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rootsrv.process import whole_file


class CannotInstall(Exception):
    """The resolver's part cannot be written; the text names file and cause."""


@dataclass(frozen=True, slots=True)
class Software:
    """One kind of resolver."""

    name: str
    make: Callable[[str, int, str], str]
    """Address, port, directory for the copy → its part."""

    file: Path
    """Where Debian's package looks for it, or is told to by one line."""

    storage: str
    """The directory in which it may write."""

    then: str
    """What is left to do."""


def _unbound(address: str, port: int, storage: str) -> str:
    return f"""\
# Unbound: the root from rootsrv hyperlocal (RFC 8806).  It needs the root's trust anchor (auto-trust-anchor-file), and
# goes back to the root servers by itself when the copy is gone, wrong or expired.
auth-zone:
    name: "."
    primary: {address}@{port}
    allow-notify: {address}
    fallback-enabled: yes
    for-downstream: no
    for-upstream: yes
    zonemd-check: yes
    zonemd-reject-absence: yes
    zonefile: "{storage}/rootsrv-root.zone"
"""


def _bind(address: str, port: int, storage: str) -> str:
    return f"""\
// BIND: the root from rootsrv hyperlocal (RFC 8806).  A mirror needs dnssec-validation, and takes the place of a zone
// "." of type hint: remove that one (BIND has the root servers' addresses built in).
zone "." {{
    type mirror;
    primaries {{ {address} port {port}; }};
    file "{storage}/rootsrv-root.mirror";
}};
"""


def _pdns(address: str, port: int, storage: str) -> str:
    target = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    return f"""\
-- PowerDNS Recursor: the root from rootsrv hyperlocal (RFC 8806), put into the cache; it knows no NOTIFY, and asks a
-- root server for each name that does not exist.  The file belongs to the setting lua-config-file.
zoneToCache(".", "axfr", "{target}", {{ zonemd="require", dnssec="require" }})
"""


SOFTWARE: Mapping[str, Software] = {
    each.name: each
    for each in (
        Software(
            "unbound",
            _unbound,
            Path("/etc/unbound/unbound.conf.d/rootsrv-hyperlocal.conf"),
            "/var/lib/unbound",
            "unbound-checkconf && systemctl reload unbound",
        ),
        Software(
            "bind",
            _bind,
            Path("/etc/bind/rootsrv-hyperlocal.conf"),
            "/var/cache/bind",
            'add to named.conf: include "{file}"; remove the zone "." of type hint (Debian: in'
            " named.conf.default-zones); named-checkconf && systemctl reload named",
        ),
        Software(
            "pdns",
            _pdns,
            Path("/etc/powerdns/rootsrv-hyperlocal.lua"),
            "/var/lib/powerdns",
            "set lua-config-file={file} in recursor.conf; systemctl restart pdns-recursor",
        ),
    )
}


def install(path: Path, text: str) -> Path | None:
    """Write *text* to *path*; where the file that was there before is kept, if it was another.  CannotInstall.

    The old file stands beside it with `.before-rootsrv`, which Unbound's `*.conf` does not take in.  The very first
    one is kept, whatever comes later.
    """
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = None
    except OSError as error:
        raise CannotInstall(f"{path}: {error.strerror}") from error
    kept = path.with_name(path.name + ".before-rootsrv")
    try:
        if before == text.encode():
            return None
        if before is not None and not kept.exists():
            os.link(path, kept)
        whole_file.replace(path, text.encode(), 0o644)
    except OSError as error:
        raise CannotInstall(f"{path}: {error.strerror}") from error
    return kept if before is not None else None
