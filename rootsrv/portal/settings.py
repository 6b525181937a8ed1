"""What `[portal]` leaves out and `[localroot]` beside it says."""

import dataclasses

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.config.portal import PortalConfig


def settings_of(config: Config) -> PortalConfig:
    """The section, filled in.  ConfigError if there is none, or it and the zones contradict each other."""
    if config.portal is None:
        raise ConfigError("portal: the section is missing (docs/portal.md)")
    portal, service = config.portal, config.localroot
    given_out = (*(each.name for each in config.zone), *(each.name for each in config.distribute))
    canary_zone = portal.canary_zone
    if service is not None and service.canary_zone:
        given_out = (*given_out, service.canary_zone)
        canary_zone = canary_zone or service.canary_zone
    zones = portal.zones or given_out or (".",)
    if given_out and (missing := [each for each in zones if each not in given_out]):
        raise ConfigError(f"portal.zones: {missing[0]} is neither a [[zone]] nor a [[distribute]]")
    if portal.canary_zone and portal.canary_zone not in zones:
        raise ConfigError(f"portal.canary_zone: {portal.canary_zone} is not one of {', '.join(zones)}")
    portal = dataclasses.replace(portal, canary_zone=canary_zone if canary_zone in zones else "")
    if service is None:
        return dataclasses.replace(portal, zones=zones)
    publishers = [f"{each}@{service.port}" for each in service.addresses]
    if service.tls_certificate:
        publishers += [f"{each}@{service.tls_port}#{service.name}" for each in service.addresses]
    url = ""
    if service.https_port:
        port = "" if service.https_port == 443 else f":{service.https_port}"
        url = f"https://{service.name}{port}/root.zone"
    return dataclasses.replace(
        portal,
        zones=zones,
        key_domain=portal.key_domain or service.name,
        publishers=portal.publishers or tuple(publishers),
        zone_url=portal.zone_url or url,
    )
