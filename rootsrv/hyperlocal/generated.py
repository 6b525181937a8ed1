"""The configuration of hyperlocal mode: generated from few options, and what is refused in one that somebody wrote."""

import ipaddress
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from rootsrv.config.checks import ConfigError, plain_address
from rootsrv.config.file import Config, ServiceConfig, StateConfig, ZoneConfig
from rootsrv.config.hyperlocal import HyperlocalConfig
from rootsrv.config.zones import AdminConfig, HoldConfig, PrimaryConfig, SwitchoverConfig
from rootsrv.hyperlocal.loopback import told_address
from rootsrv.resolvers import publication_list

PUBLISHERS = Path(__file__).with_name("publishers.toml")
TRUST_ANCHORS = Path(__file__).with_name("root-anchors.ds")

ADDRESS, PORT = "127.12.12.12", 8806
"""The address is that of RFC 8806's examples; the port needs no privilege and is nobody's."""

SERVER_ADDRESS = "127.12.12.53"
"""Where a server is, if one is wanted: not the address at which the zone is given out."""

HTTPS_PORT = 8807

STATE, RUNTIME = Path("/var/lib/rootsrv-hyperlocal"), Path("/run/rootsrv-hyperlocal")

# RFC 8806 §1 and §2: never at an address that others take for a root server's.
ROOT_SERVERS = frozenset(
    (
        "198.41.0.4", "170.247.170.2", "192.33.4.12", "199.7.91.13", "192.203.230.10",
        "192.5.5.241", "192.112.36.4", "198.97.190.53", "192.36.148.17", "192.58.128.30",
        "193.0.14.129", "199.7.83.42", "202.12.27.33",
        "2001:503:ba3e::2:30", "2801:1b8:10::b", "2001:500:2::c", "2001:500:2d::d", "2001:500:a8::e",
        "2001:500:2f::f", "2001:500:12::d0d", "2001:500:1::53", "2001:7fe::53", "2001:503:c27::2:30",
        "2001:7fd::1", "2001:500:9f::42", "2001:dc3::35",
    )
)  # fmt: skip

# A gross change is told, and then taken: nobody looks at a household's held zones (`_end_hold` takes off a minute).
_HOLD_SECONDS = 61.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All that can be chosen."""

    addresses: tuple[str, ...] = (ADDRESS,)
    port: int = PORT
    https_port: int = HTTPS_PORT
    serve: tuple[str, ...] = ()
    serve_port: int = 53
    on_stale: Literal["relay", "servfail"] = "relay"
    notify: tuple[str, ...] = ("127.0.0.1",)
    contribute_to: str = ""
    token_file: str = ""
    state: Path = STATE
    runtime: Path = RUNTIME
    publishers: Path = PUBLISHERS
    trust_anchors: Path = TRUST_ANCHORS


def generate(options: Options) -> Config:
    """The configuration for *options*.  ConfigError names what is wrong with them."""
    check_addresses("admin.addresses", options.addresses)
    addresses = tuple(map(plain_address, options.addresses))
    # Where nothing answers, the section must name an address all the same, and one that is not the other.
    unused = next(each for each in (f"127.0.0.{at + 1}" for at in range(len(addresses) + 1)) if each not in addresses)
    config = Config(
        service=ServiceConfig(addresses=options.serve or (unused,), port=options.serve_port),
        hyperlocal=HyperlocalConfig(
            notify=options.notify,
            answer=bool(options.serve),
            on_stale=options.on_stale,
            https_port=options.https_port,
            contribute_to=options.contribute_to,
            token_file=options.token_file,
            follow_key_rolls=options.trust_anchors == TRUST_ANCHORS,
        ),
        zone=(ZoneConfig(name=".", trust_anchors=str(options.trust_anchors.absolute()), zonemd="required"),),
        state=StateConfig(directory=str(options.state.absolute()), runtime_directory=str(options.runtime.absolute())),
        admin=AdminConfig(addresses=addresses, port=options.port),
        primary=read_publishers(options.publishers),
        hold=HoldConfig(stale_hard_seconds=_HOLD_SECONDS),
        switchover=SwitchoverConfig(align_seconds=0, lead_seconds=0, keep_versions=2),
    )
    refuse(config)
    return config


def refuse(config: Config) -> None:
    """ConfigError if *config* is not one of hyperlocal mode: reachable by others, or verified by less."""
    check_addresses("admin.addresses", config.admin.addresses)
    settings = settings_of(config)
    if settings.answer:
        check_addresses("service.addresses", config.service.addresses)
    for each in settings.notify:
        told_address(each)
    if config.anycast is not None:
        raise ConfigError("anycast: hyperlocal answers this host only (RFC 8806 §1), so nothing may be announced")
    if config.mesh is not None:
        raise ConfigError("mesh: hyperlocal goes by itself")
    if config.peer:
        raise ConfigError("peer: hyperlocal gives the zone to this host only (RFC 8806 §1), without keys")
    if [each.name for each in config.zone] != ["."]:
        raise ConfigError("zone: hyperlocal has the root and no other zone, since ZONEMD has to verify it")
    (root,) = config.zone
    if root.validation != "required":
        raise ConfigError('zone.validation: must be "required": the resolver believes what it gets from here')
    if root.zonemd != "required":
        raise ConfigError(f'zone.zonemd: must be "required" (it covers glue, DNSSEC does not), got "{root.zonemd}"')
    if not root.trust_anchors:
        raise ConfigError("zone.trust_anchors: is missing")
    if not config.primary:
        raise ConfigError("primary: there is no publisher to have the zone from")


def settings_of(config: Config) -> HyperlocalConfig:
    """`[hyperlocal]`, which may be left out."""
    return config.hyperlocal or HyperlocalConfig()


def check_addresses(key: str, addresses: tuple[str, ...]) -> None:
    """ConfigError, which begins with *key*, if one of *addresses* is not this host's own."""
    if not addresses:
        raise ConfigError(f"{key}: an address on loopback is needed")
    for address in addresses:
        try:
            plain = plain_address(address)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        if plain in ROOT_SERVERS:
            raise ConfigError(f"{key}: {address} is a root server's address (RFC 8806 §2)")
        if not ipaddress.ip_address(plain).is_loopback:
            raise ConfigError(f"{key}: {address} is not on loopback (127.0.0.0/8 or ::1; RFC 8806 §1)")


def read_publishers(path: Path) -> tuple[PrimaryConfig, ...]:
    """The publishers in the list at *path*, one primary for each address and URL.  ConfigError names the fault.

    The list is TOML as the shipped one, or of the format of resolvers/publication_list.py.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if publication_list.is_list(text):
            return _listed(path, text)
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"publishers: {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, publication_list.ListMalformed) as error:
        raise ConfigError(f"publishers: {path}: {error}") from error
    listed = document.pop("publisher", None)
    if document or not isinstance(listed, list) or not listed:
        raise ConfigError(f"publishers: {path}: must be one or more [[publisher]] and nothing else")
    found = tuple(primary for each in listed for primary in _primaries(path, each))
    names = [each.name for each in found]
    if len(set(names)) != len(names):
        raise ConfigError(f"publishers: {path}: a publisher is named twice")
    return found


def _listed(path: Path, text: str) -> tuple[PrimaryConfig, ...]:
    """Of a publication list: what gives the root by AXFR, by address, and what gives it by https.

    Names of hosts are those of the shipped publishers: there may be no resolver before we run.  Without a name that its
    certificate could have, XoT proves nothing, so that it is passed over.
    """
    known: dict[str, list[str]] = {}
    for each in read_publishers(PUBLISHERS):
        if each.address:
            known.setdefault(each.name.partition("/")[0], []).append(each.address)
    found: dict[str, PrimaryConfig] = {}
    for point in publication_list.from_text(text):
        if point.scheme == "https" and urlsplit(point.url).path.endswith("/root.zone"):
            found[point.url] = PrimaryConfig(name=point.url, url=point.url)
        elif point.scheme in {"axfr", "ixfr"} and point.zone == ".":
            for address in known.get(point.host.rstrip("."), [point.host]):
                try:
                    plain = plain_address(address)
                except ValueError:
                    continue
                name = f"{plain}@{point.port}"
                found[name] = PrimaryConfig(name=name, address=plain, port=point.port)
    if not found:
        raise ConfigError(f"publishers: {path}: lists nothing that gives the root and can be used")
    return tuple(found.values())


_KNOWN = {"name": str, "organisation": str, "addresses": list, "port": int, "url": str, "ca": str}


def _primaries(path: Path, publisher: Any) -> list[PrimaryConfig]:
    if not isinstance(publisher, dict) or not isinstance(name := publisher.get("name"), str) or not name:
        raise ConfigError(f"publishers: {path}: a publisher without name")
    for key, value in publisher.items():
        if key not in _KNOWN or type(value) is not _KNOWN[key]:
            known = ", ".join(sorted(_KNOWN))
            raise ConfigError(f"publishers: {path}: {name}: {key}: unknown key or wrong type (known: {known})")
    addresses = publisher.get("addresses", [])
    if not all(isinstance(each, str) for each in addresses):
        raise ConfigError(f"publishers: {path}: {name}: addresses: must be strings")
    if not addresses and "url" not in publisher:
        raise ConfigError(f"publishers: {path}: {name}: neither addresses nor url")
    port = publisher.get("port", 0)
    found = [PrimaryConfig(name=f"{name}/{each}", address=each, port=port) for each in addresses]
    if "url" in publisher:
        found.append(PrimaryConfig(name=name, url=publisher["url"], tls_ca=publisher.get("ca", "")))
    return found
