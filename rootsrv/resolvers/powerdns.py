"""PowerDNS Recursor's configuration: 4.8 in Lua, 5 in YAML.  It puts the zone into its cache (zoneToCache)."""
# Tried: with a TSIG key the ZONEMD digest fails, so the key is left out; it knows no NOTIFY, and asks a root server
# once for each gap between two TLDs.  One source is all it takes.

import json

from rootsrv.resolvers.wanted import CannotConfigure, ResolverSetup

_HEAD = """\
-- PowerDNS Recursor: the root (RFC 8806), put into the cache.  The file belongs to the setting lua-config-file, beside
-- which recursor.conf needs dnssec=validate; qname-minimization and the aggressive NSEC cache are on by themselves.
"""


def configuration_4(wanted: ResolverSetup, storage: str) -> str:
    """The file of the setting lua-config-file."""
    method, source = _source(wanted, "auth-zones in recursor.conf")
    return f'{_HEAD}zoneToCache(".", "{method}", "{source}", {{ zonemd="require", dnssec="require" }})\n'


def configuration_5(wanted: ResolverSetup, storage: str) -> str:
    """recursor.yml."""
    method, source = _source(wanted, "recursor.auth_zones")
    lines = ["# PowerDNS Recursor 5: the root (RFC 8806), put into the cache."]
    if wanted.whole:
        lines += ["incoming:", "  listen: [127.0.0.1, '::1']"]
    lines += ["dnssec:", "  validation: validate", "recordcache:", "  zonetocaches:", "    - zone: ."]
    lines += [f"      method: {method}", f"      sources: [{json.dumps(source)}]"]
    lines += ["      zonemd: require", "      dnssec: require"]
    return "\n".join(lines) + "\n"


def _source(wanted: ResolverSetup, private_zones: str) -> tuple[str, str]:
    """Method and source of zoneToCache; *private_zones*: where it has those."""
    if wanted.zones():
        raise CannotConfigure(f"private zones: PowerDNS Recursor has them as {private_zones}, with a file for each")
    plain = [each for each in (*wanted.publishers, *wanted.fallbacks) if not each.tls_name]
    if plain:
        return "axfr", plain[0].with_port
    if wanted.url and not wanted.ca_file:
        return "url", wanted.url
    raise CannotConfigure("PowerDNS Recursor takes a zone by AXFR without TLS, or from a url that the system believes")
