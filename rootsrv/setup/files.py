"""The files of a box, made from its Site and the examples in deploy/.

Pure: text in, text out.  What is not asked for stands in the examples and nowhere else.
"""

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rootsrv.config.checks import ConfigError
from rootsrv.setup.site import SiteAnswers, of_version, to_text

SITE, CONFIGURATION, NETWORK, BIRD = "site.toml", "rootsrv.toml", "network.conf", "bird.conf"
SOURCES_KEY = "sources.key"


@dataclass(frozen=True, slots=True)
class Examples:
    """Of deploy/: what the files are made from."""

    network: str
    bird_global: str
    bird_local: str


def make(site: SiteAnswers, examples: Examples, mesh_section: str = "") -> dict[str, str]:
    """Name → text of everything that *site* decides.  ConfigError if the examples are not those of this version."""
    bird = examples.bird_local if site.reach == "local" else examples.bird_global
    # Answers of before there was such a key make what they made then.
    key = {SOURCES_KEY: site.sources_key + "\n"} if site.sources_key else {}
    return {
        **key,
        SITE: to_text(site),
        CONFIGURATION: _configuration(site, mesh_section),
        NETWORK: _network(site, examples.network),
        BIRD: _bird(site, bird),
    }


def toml(value: object) -> str:
    """A string, a number or a list of them, as TOML has it."""
    return json.dumps(value, ensure_ascii=False)


def primary_sections(primaries: Sequence[str], zones: Callable[[bool], list[str]] | None = None) -> Iterator[str]:
    """`[[primary]]` of each `ADDRESS` or `ADDRESS@KEY`, and then `[[key]]` of each key.

    *zones*: what a primary is asked for, by whether it has a key; None = all that are configured.
    """
    keys: dict[str, str] = {}
    for number, each in enumerate(primaries, 1):
        address, _, key = each.partition("@")
        text = f'[[primary]]\nname = "primary{number}"\naddress = {toml(address)}'
        if zones is not None:
            text += f"\nzones = {toml(zones(bool(key)))}"
        if key:
            keys[key] = f"[[key]]\nname = {toml(key)}\nsecret_file = {toml(f'/etc/rootsrv/keys/{key}')}"
            text += f"\nkey = {toml(key)}"
        yield text
    yield from keys.values()


def _configuration(site: SiteAnswers, mesh_section: str) -> str:
    parts = [
        "# Made by `rootsrv setup` from site.toml.  share/rootsrv/deploy/rootsrv.toml in the installation explains\n"
        "# each key; what is not here has its default.",
        f"[service]\naddresses = {toml(list(site.service_addresses))}",
        f"[identity]\nnsid = {toml(site.name)}",
        f"[cookies]\nsecret = {toml(site.cookie_secret)}",
        '[[zone]]\nname = "."\nfile = "/etc/rootsrv/root.zone"\ntrust_anchors = "/etc/rootsrv/root-anchors.xml"',
        '[[zone]]\nname = "root-servers.net."\nfile = "/etc/rootsrv/root-servers.net.zone"\nvalidation = "none"',
        f"[admin]\naddresses = {toml(list(site.admin_addresses))}",
    ]
    parts += primary_sections(site.primaries)
    anycast = ["[anycast]"]
    for version in site.versions():
        anycast.append(f"prefix_v{version} = {toml(of_network(version, site))}")
        anycast.append(f'bgp_v{version} = ["upstream{version}"]')
    anycast.append("manage_addresses = true")
    parts.append("\n".join(anycast))
    parts.append(f"[fastpath]\ninterfaces = {toml([site.service_interface])}")
    if site.sources_key:
        parts.append(f'[report]\nsources_key_file = "/etc/rootsrv/{SOURCES_KEY}"')
    if mesh_section:
        parts.append(mesh_section.strip())
    return "\n\n".join(parts) + "\n"


def of_network(version: int, site: SiteAnswers) -> str:
    """The announced prefix of IP *version*."""
    return next(each for each in site.prefixes if (":" in each) == (version == 6))


def _network(site: SiteAnswers, example: str) -> str:
    values = {
        "ADMIN_INTERFACE": [site.admin_interface],
        "ADMIN_ADDRESSES": site.admin_addresses,
        "MANAGEMENT": site.management,
        "TRANSFER_PEERS": dict.fromkeys((*(each.partition("@")[0] for each in site.primaries), *site.peers)),
        "SERVICE_INTERFACE": [site.service_interface],
        "SERVICE_ADDRESSES": site.service_addresses,
        "LINK_ADDRESSES": site.link_addresses,
        "ROUTERS": site.routers,
    }
    text = example
    for name, each in values.items():
        text = _put(text, rf"^{name}=.*$", f'{name}="{" ".join(each)}"', name)
    return text


def _bird(site: SiteAnswers, example: str) -> str:
    four = of_version(4, site.link_addresses)
    text = example
    for version in (4, 6):
        if version not in site.versions():
            text = _without(version, text)
            continue
        (link,), (router,) = of_version(version, site.link_addresses), of_version(version, site.routers)
        text = _put(text, rf"^define SERVICE{version} = .*$", f"define SERVICE{version} = {of_network(version, site)};")
        text = _put(text, rf"(?<=^protocol bgp upstream{version} from upstream {{\n) *local .*$", f"    local {link};")
        text = _put(
            text, rf"^ *neighbor \S+ as UPSTREAM_AS;(?=\n *ipv{version} )", f"    neighbor {router} as UPSTREAM_AS;"
        )
    # A router id has four octets (RFC 6286); a box with IPv6 alone takes them from its AS and its address.
    text = _put(text, r"^router id .*$", f"router id {four[0] if four else _invented_id(site)};")
    text = _put(text, r"^define LOCAL_AS .*$", f"define LOCAL_AS    = {site.local_as};")
    text = _put(text, r"^define UPSTREAM_AS .*$", f"define UPSTREAM_AS = {site.router_as};")
    return _put(text, r'^ *password ".*";$', f'    password "{site.session_password}";')


def _invented_id(site: SiteAnswers) -> str:
    octets = hashlib.sha256(f"{site.local_as} {site.link_addresses}".encode()).digest()
    return str(ipaddress.IPv4Address(bytes((10, *octets[:3]))))


def _without(version: int, text: str) -> str:
    """BIRD's configuration without what belongs to IP *version* alone."""
    lines = rf"^(define SERVICE{version} |filter only_service{version} |protocol direct anycast{version}_).*\n"
    text = re.sub(lines, "", text, flags=re.MULTILINE)
    blocks = rf"^(filter announce{version}|protocol bgp upstream{version} from upstream) {{\n(?:.*\n)*?}}\n\n?"
    return re.sub(blocks, "", text, flags=re.MULTILINE)


def _put(text: str, pattern: str, line: str, what: str = "") -> str:
    """*text* with *line* in the one place that *pattern* finds."""
    made, count = re.subn(pattern, lambda _: line, text, flags=re.MULTILINE)
    if count != 1:
        raise ConfigError(f"the examples in deploy/ are of another version: {what or pattern} is there {count} times")
    return made
