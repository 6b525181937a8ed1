"""Configuration of DNS over TLS on the service addresses."""

from dataclasses import dataclass

from rootsrv.config.checks import ConfigError, check_range


@dataclass(frozen=True, slots=True, kw_only=True)
class DotConfig:
    """`[dot]`: DNS over TLS on the service addresses (RFC 7858); without the section there is none."""

    port: int = 853
    certificate: str = ""
    """PEM file: the certificate and the chain above it.  Empty = a self-signed one is made at start: encrypted, not
    authenticated (RFC 9539 §3.1)."""

    key: str = ""
    """PEM file: its private key, without a passphrase."""

    connections: int = 1000
    """Connections, as far as the limit of open files allows; over it one goes for another (D10)."""

    connections_per_client: int = 100
    """Connections per client address."""

    idle_seconds: float = 10.0
    """Idle time after which a connection is closed; also what EDNS keepalive announces (RFC 7828)."""

    def __post_init__(self) -> None:
        check_range("dot.port", self.port, 1, 65535)
        check_range("dot.connections", self.connections, 1, 1_000_000)
        check_range("dot.connections_per_client", self.connections_per_client, 1, 1_000_000)
        check_range("dot.idle_seconds", self.idle_seconds, 0.1, 3600)
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise ConfigError(f"dot.{missing}: is missing beside dot.{'certificate' if self.certificate else 'key'}")


def check_dot(dot: DotConfig, service_port: int) -> None:
    """Refuse the port of DNS without TLS."""
    if dot.port == service_port:
        raise ConfigError(f"dot.port: {dot.port} is service.port; DNS over TLS needs one of its own (RFC 7858: 853)")
