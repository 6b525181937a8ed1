"""The configuration as the roster completes it: `[[key]]`, `[[primary]]` and `[[peer]]` that nobody has to write."""
# What is written by hand of a partner's name wins: an operator may want TLS, another address, or no NOTIFY.

import base64
from dataclasses import replace

from rootsrv.config.file import Config
from rootsrv.config.zones import KeyConfig, PeerConfig, PrimaryConfig
from rootsrv.mesh.transfers import Partner, Partners


def completed(config: Config, partners: Partners) -> Config:
    """*config* with all zones from *partners*.givers and to its takers; ConfigError if that cannot be."""
    zones = tuple(each.name for each in config.zone)
    written = {each.name for each in config.primary}
    givers = [each for each in partners.givers if each.name not in written]
    written = {each.name for each in config.peer}
    takers = [each for each in partners.takers if each.name not in written]
    if not (givers or takers):
        return config
    return replace(
        config,
        key=(*config.key, *map(_key, (*givers, *takers))),
        primary=(
            *config.primary,
            *(PrimaryConfig(name=e.name, address=e.address, port=e.port, key=e.key, zones=zones) for e in givers),
        ),
        peer=(
            *config.peer,
            *(PeerConfig(name=e.name, address=e.address, port=e.port, key=e.key, zones=zones) for e in takers),
        ),
    )


def _key(partner: Partner) -> KeyConfig:
    return KeyConfig(name=partner.key, secret=base64.b64encode(partner.secret).decode())
