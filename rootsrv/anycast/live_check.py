"""Does this host, and its BIRD, have what the configuration says?  Asked at start and by `check-config --live`."""

import ipaddress
from collections.abc import AsyncIterator

from rootsrv.anycast.bird import Bird, BirdError, Protocol
from rootsrv.anycast.netlink import FOREVER, NetlinkFailed, ServiceInterface
from rootsrv.config.anycast import AnycastConfig
from rootsrv.config.file import Config
from rootsrv.process import held_back


async def problems(config: Config, *, to_begin: bool = False) -> list[str]:
    """What is wrong, each beginning with the key that it is about; empty = nothing is.  Changes nothing.

    *to_begin*: without what is no reason not to announce the other IP version (an address that is held back).
    """
    assert config.anycast is not None
    found = [problem async for problem in _interface_problems(config, config.anycast, to_begin)]
    return found + [problem async for problem in _bird_problems(config.anycast)]


async def _interface_problems(config: Config, anycast: AnycastConfig, to_begin: bool) -> AsyncIterator[str]:
    try:
        async with ServiceInterface(anycast.interface) as interface:
            there = await interface.addresses()
            on_host = await interface.host_addresses()
    except NetlinkFailed as error:
        yield f"anycast.interface: {error}"
        return
    for version in anycast.versions():
        anchor = anycast.anchor(version)
        if anchor in there and there[anchor] == FOREVER:
            yield (
                f"anycast.anchor_v{version}: {anchor} is on {anycast.interface} for ever; somebody else has put it "
                f"there, and its route would outlive the service (ip address del {anchor} dev {anycast.interface})"
            )
    if not anycast.manage_addresses:
        for text in config.service.addresses:
            if ipaddress.ip_address(text) not in on_host and not (to_begin and held_back.why(text)):
                yield f"service.addresses: {text} is not on this host (or set anycast.manage_addresses)"


async def _bird_problems(anycast: AnycastConfig) -> AsyncIterator[str]:
    bird = Bird(anycast.bird_socket)
    try:
        protocols = await bird.protocols()
        for version in anycast.versions():
            async for problem in _family_problems(bird, protocols, anycast, version):
                yield problem
    except BirdError as error:
        yield f"anycast.bird_socket: {error}"
    finally:
        bird.close()


async def _family_problems(
    bird: Bird, protocols: dict[str, Protocol], anycast: AnycastConfig, version: int
) -> AsyncIterator[str]:
    direct: tuple[str, ...] = getattr(anycast, f"direct_v{version}")
    bgp: tuple[str, ...] = getattr(anycast, f"bgp_v{version}")
    preferences = []
    for key, kind, names in (("direct", "Direct", direct), ("bgp", "BGP", bgp)):
        for name in names:
            where = f"anycast.{key}_v{version}"
            if name not in protocols:
                known = ", ".join(sorted(each.name for each in protocols.values() if each.kind == kind))
                yield f"{where}: BIRD has no protocol {name} (of this kind it has: {known or 'none'})"
                continue
            if protocols[name].kind != kind:
                yield f"{where}: {name} is a {protocols[name].kind} protocol, {kind} is needed"
                continue
            channels = {channel.name: channel for channel in await bird.channels(name)}
            if f"ipv{version}" not in channels:
                yield f"{where}: {name} has no ipv{version} channel"
            elif key == "direct":
                preferences.append(channels[f"ipv{version}"].preference or 0)
    if len(preferences) == 3 and not preferences[0] < preferences[1] < preferences[2]:
        yield (
            f"anycast.direct_v{version}: the preferences must rise ({', '.join(direct)} have "
            f"{', '.join(map(str, preferences))}), or a change of state would not change the route"
        )
    anchor = anycast.anchor(version)
    assert anchor is not None
    foreign = await bird.sources(str(anchor.network)) - set(direct)
    if foreign:
        yield (
            f"anycast.prefix_v{version}: BIRD has a route to {anchor.network} from {', '.join(sorted(foreign))}; it "
            f"would stay when the service is gone"
        )
