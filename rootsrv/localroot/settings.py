"""What a configuration of the service must be, and what it means for transfers."""

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.config.localroot import LocalRootConfig
from rootsrv.config.zones import AdminConfig
from rootsrv.distribution.limits import TransferLimits


def refuse(config: Config) -> LocalRootConfig:
    """The section; ConfigError if *config* is not one of a LocalRoot service."""
    if config.localroot is None:
        raise ConfigError("localroot: there is no section [localroot]")
    for key in ("anycast", "mesh", "hyperlocal", "peer"):
        if getattr(config, key):
            raise ConfigError(f"{key}: has no place beside [localroot], which gives zones out and announces nothing")
    for zone in config.zone:
        if zone.name == "." and zone.validation != "required":
            raise ConfigError('zone.validation: must be "required": resolvers believe what they get from here')
        if zone.name == "." and zone.zonemd != "required":
            raise ConfigError(f'zone.zonemd: must be "required" (it covers glue, DNSSEC does not), got "{zone.zonemd}"')
    return config.localroot


def limits_of(settings: LocalRootConfig) -> TransferLimits:
    """The limits of transfers."""
    return TransferLimits(
        at_a_time=settings.transfers_at_a_time,
        of_one_peer=settings.transfers_per_server,
        of_one_prefix=settings.transfers_per_prefix,
        whole_per_serial=settings.whole_zones_per_serial,
        unproved_at_a_time=settings.without_key_at_a_time,
        unproved_whole_per_serial=settings.without_key_per_serial,
    )


def listening_of(settings: LocalRootConfig) -> AdminConfig:
    """Where it listens, in the form of a listener."""
    return AdminConfig(
        addresses=settings.addresses,
        port=settings.port,
        tls_port=settings.tls_port,
        tls_certificate=settings.tls_certificate,
        tls_key=settings.tls_key,
        max_connections=settings.max_connections,
        idle_seconds=settings.idle_seconds,
    )
