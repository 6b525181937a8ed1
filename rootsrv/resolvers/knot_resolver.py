"""Knot Resolver's configuration: 5 in Lua, 6 in YAML.  It takes a zone by https only, into its cache (prefill)."""
# Tried: it checks no ZONEMD, so that what the publisher gives out must be right.  Aggressive use of NSEC, QNAME
# minimisation and validation are on by themselves.

import json

from rootsrv.resolvers.wanted import CannotConfigure, ResolverSetup

REFRESH_SECONDS = 3600  # less is refused

_HEAD = """\
-- Knot Resolver 5: the root (RFC 8806), put into the cache once an hour.  The module prefill takes it by https only and
-- needs the Lua library http (Debian: lua-http); without it the root servers are asked.
"""


def configuration_5(wanted: ResolverSetup, storage: str) -> str:
    """kresd.conf."""
    _need_url(wanted)
    parts = [_HEAD]
    if wanted.whole:
        parts.append(
            "net.listen('127.0.0.1', 53, { kind = 'dns' })\n"
            "net.listen('::1', 53, { kind = 'dns', freebind = true })\n"
            "cache.size = 100 * MB\n"
        )
    parts.append(f"modules.load('prefill')\nprefill.config({{\n    ['.'] = {{\n        url = '{wanted.url}',\n")
    if wanted.ca_file:
        parts.append(f"        ca_file = '{wanted.ca_file}',\n")
    parts.append(f"        interval = {REFRESH_SECONDS},  -- seconds\n    }}\n}})\n")
    if zones := wanted.zones():
        listed = ", ".join(f"'{each}'" for each in zones)
        parts.append(f"policy.add(policy.suffix(policy.DENY, policy.todnames({{{listed}}})))\n")
    return "".join(parts)


def configuration_6(wanted: ResolverSetup, storage: str) -> str:
    """config.yaml."""
    _need_url(wanted)
    lines = ["# Knot Resolver 6: the root (RFC 8806), put into the cache once an hour."]
    if wanted.whole:
        lines += ["network:", "  listen:", "    - interface: [127.0.0.1, '::1']"]
    lines += [
        "cache:",
        "  prefill:",
        "    - origin: .",
        f"      url: {json.dumps(wanted.url)}",
        "      refresh-interval: 1h",
    ]
    if wanted.ca_file:
        lines.append(f"      ca-file: {wanted.ca_file}")
    if zones := wanted.zones():
        lines += ["local-data:", "  rules:", "    - subtree: empty", f"      name: {json.dumps(list(zones))}"]
    return "\n".join(lines) + "\n"


def _need_url(wanted: ResolverSetup) -> None:
    if not wanted.url:
        raise CannotConfigure("Knot Resolver takes a zone by https only: a url is needed")
