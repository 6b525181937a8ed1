"""BIND's configuration (named.conf(5)), 9.18 and 9.20."""
# Tried: `type secondary` takes a bad root and answers without AD, so it is a mirror, which validates but knows no
# ZONEMD: what the publisher gives out must be right.  An unsigned zone cannot be a mirror.  9.18 takes a zone "." of
# type hint beside a mirror; with any other second zone "." it does not start.

from rootsrv.resolvers.wanted import CannotConfigure, Publisher, ResolverSetup

_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_EMPTY = "/etc/bind/db.empty"

_HEAD = """\
// BIND: the root (RFC 8806) as a mirror, validated.  It takes the place of a zone "." of type hint: remove that one
// (BIND has the root servers' addresses built in).  They are asked when the mirror is gone or over.
"""

_OPTIONS = """\
options {{
    directory "{storage}";
    listen-on {{ 127.0.0.1; }};
    listen-on-v6 {{ ::1; }};
    allow-recursion {{ 127.0.0.0/8; ::1; }};
    recursion yes;
    dnssec-validation auto;
    synth-from-dnssec yes;          // RFC 8198
    qname-minimization relaxed;     // RFC 9156
    empty-zones-enable yes;         // RFC 6303
}};
"""

_NOTE = """\
// It needs `dnssec-validation auto` in `options`; synth-from-dnssec (RFC 8198), qname-minimization (RFC 9156) and the
// empty zones of RFC 6303 are on unless they were switched off there.
"""


def configuration(wanted: ResolverSetup, storage: str) -> str:
    """The text."""
    if not wanted.publishers:
        raise CannotConfigure("BIND takes zones by AXFR only: a publisher is needed")
    parts = [_HEAD, _OPTIONS.format(storage=storage) if wanted.whole else _NOTE]
    if (key := wanted.key) is not None:
        parts.append(f'key "{key.name}" {{\n    algorithm {key.algorithm};\n    secret "{key.secret}";\n}};\n')
    names = sorted({each.tls_name for each in (*wanted.publishers, *wanted.fallbacks) if each.tls_name})
    for name in names:
        parts.append(
            f'tls "{name}" {{\n    remote-hostname "{name}";\n    ca-file "{_CERTIFICATES}";\n'
            "    protocols { TLSv1.3; };\n};\n"
        )
    primaries = [*(_primary(each, wanted) for each in wanted.publishers), *map(_primary, wanted.fallbacks)]
    parts.append(_zone(".", "mirror", primaries, f"{storage}/rootsrv-root.mirror"))
    if wanted.hosts:
        proved = [_primary(each, wanted) for each in wanted.publishers if wanted.key or each.tls_name]
        parts.append(_zone("root-servers.net.", "secondary", proved, f"{storage}/rootsrv-hosts.zone"))
    if wanted.canary:
        ours = [_primary(each, wanted) for each in wanted.publishers]
        parts.append(_zone(wanted.canary, "secondary", ours, f"{storage}/rootsrv-canary.zone"))
    parts += [f'zone "{each}" {{ type primary; file "{_EMPTY}"; }};\n' for each in wanted.zones()]
    return "".join(parts)


def _zone(name: str, kind: str, primaries: list[str], file: str) -> str:
    listed = "".join(f"        {each};\n" for each in primaries)
    return f'zone "{name}" {{\n    type {kind};\n    primaries {{\n{listed}    }};\n    file "{file}";\n}};\n'


def _primary(publisher: Publisher, wanted: ResolverSetup | None = None) -> str:
    key = f' key "{wanted.key.name}"' if wanted is not None and wanted.key is not None else ""
    tls = f' tls "{publisher.tls_name}"' if publisher.tls_name else ""
    return f"{publisher.address} port {publisher.port}{key}{tls}"
