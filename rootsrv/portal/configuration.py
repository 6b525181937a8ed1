"""The configuration of one server, by rootsrv/resolvers: what the service gives, and what its operator chooses."""

import base64
from dataclasses import dataclass

from rootsrv.config.portal import PortalConfig
from rootsrv.localroot.servers import Server
from rootsrv.localroot.subscribers import LiveKey, secret_text
from rootsrv.resolvers.software import SOFTWARE
from rootsrv.resolvers.wanted import CannotConfigure, Publisher, ResolverKey, ResolverSetup

PLACEHOLDER = "the-secret-of-this-key"
"""Stands where the secret does, which is shown once and not known any more."""

_STAND_IN = base64.b64encode(b"\x00" * 31 + b"\x01").decode()

MARKS = {"bind": "//", "kresd": "--", "pdns": "--"}
"""How a line of comment begins, where not by #."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the operator chooses."""

    whole: bool = False
    storage: str = ""
    private_zones: tuple[str, ...] = ()
    tls: bool = False
    """Publishers over TLS rather than without."""


def configuration(config: PortalConfig, server: Server, choice: Choice, key: LiveKey | None = None) -> str:
    """The text for *server*.  CannotConfigure says what its software cannot do, or what the service lacks.

    *key*: with its secret; without, the newest of the server's keys is named, and PLACEHOLDER stands for its secret.
    """
    software = SOFTWARE[server.software]
    publishers = tuple(map(Publisher.from_text, config.publishers))
    by_tls = tuple(each for each in publishers if bool(each.tls_name) == choice.tls)
    if not publishers and not config.zone_url:
        raise CannotConfigure("the service names no publishers yet")
    if not by_tls and publishers:
        raise CannotConfigure("zones are not given out over TLS" if choice.tls else "zones are given out over TLS only")
    signed, secret_known = None, key is not None
    if key is not None:
        signed = ResolverKey(key.name, secret_text(key.secret), key.algorithm)
    elif server.keys:
        newest = server.keys[-1]
        signed = ResolverKey(newest.name, _STAND_IN, newest.algorithm)
    wanted = ResolverSetup(
        publishers=by_tls,
        fallbacks=tuple(map(Publisher.from_text, config.fallbacks)),
        url=config.zone_url if server.software != "bind" else "",
        key=signed,
        storage=choice.storage,
        hosts="root-servers.net." in server.zones and _proves_hosts(server, choice, signed),
        canary=config.canary_zone if config.canary_zone in server.zones else "",
        private_zones=choice.private_zones,
        whole=choice.whole,
    )
    text = software.configuration(wanted)
    if not secret_known:
        text = text.replace(_STAND_IN, PLACEHOLDER)
    mark = MARKS.get(server.software, "#")
    tried = "" if software.checked else ", which no test has tried"
    place = "Then" if choice.whole else str(software.file)
    return f"{mark} For {software.title}{tried}.\n{text}{mark} {place}: {software.then.format(file=software.file)}\n"


def _proves_hosts(server: Server, choice: Choice, key: ResolverKey | None) -> bool:
    """Whether root-servers.net, which is not signed, comes from whom TLS or a key proves."""
    if server.software == "bind":
        return choice.tls or key is not None
    return choice.tls and server.software in {"unbound", "opnsense", "pihole"}


def proof(config: PortalConfig, key: LiveKey, server: Server) -> list[str]:
    """Commands that prove the addresses of a server whose software signs nothing: one each, to be run on it."""
    plain = [each for each in map(Publisher.from_text, config.publishers) if not each.tls_name]
    if server.software == "bind":
        return []  # its transfers are signed
    commands = []
    for address in server.addresses:
        same = [each for each in plain if (":" in each.address) == (":" in address)]
        if same:
            place = f"-p {same[0].port} @{same[0].address}"
            signed = f"-y {key.algorithm}:{key.name}:{secret_text(key.secret)}"
            commands.append(f"dig +tcp -b {address} {place} {signed} . SOA")
    return commands
