"""`[mesh]`: this instance as a member of a mesh (docs/mesh.md)."""

from dataclasses import dataclass

from rootsrv.config.checks import ConfigError, check_addresses, check_range, split_url

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """`[mesh]`: who this member is, whose roster it obeys, and where the engine (etcd) is."""

    service: str
    """Name of the service, as in the roster: the prefix of its keys in the engine."""

    member: str
    """Name of this instance, as in the roster."""

    key: str
    """This member's signing key (`rootsrv mesh key`), readable by its owner alone."""

    roster_keys: tuple[str, ...]
    """Public keys, 64 hexadecimal digits each, one of which signs the first roster; later ones are named in it."""

    roster: str = ""
    """File with the signed roster, besides the one in the engine; the newest one counts."""

    endpoints: tuple[str, ...] = ()
    """URLs of the engine's nodes: https://etcd1.example:2379; plain http only on loopback."""

    tls_ca: str = ""
    """Certificate of the authority that signed the nodes' certificates (PEM)."""

    tls_certificate: str = ""
    """This member's certificate for the engine (PEM)."""

    tls_key: str = ""
    """And its private key (PEM)."""

    outside: tuple[str, ...] = ()
    """Addresses of other letters, asked from the admin interface for the serial that they serve: a fact, no order.

    Empty for a root of one's own, which no other letter serves.
    """

    request_seconds: float = 2.0
    """After so long without an answer a node of the engine counts as gone, and another one is tried."""

    def __post_init__(self) -> None:
        for name in ("service", "member", "key"):
            if not getattr(self, name):
                raise ConfigError(f"mesh.{name}: must not be empty")
        if not self.roster_keys:
            raise ConfigError("mesh.roster_keys: at least one is needed")
        for each in self.roster_keys:
            if len(each) != 64 or not all(c in "0123456789abcdefABCDEF" for c in each):
                raise ConfigError(f"mesh.roster_keys: a public key has 64 hexadecimal digits, got {each!r}")
        check_range("mesh.request_seconds", self.request_seconds, 0.1, 30)
        if not self.endpoints:
            raise ConfigError("mesh.endpoints: at least one is needed")
        check_addresses("mesh.outside", self.outside)
        for each in self.endpoints:
            self._check_endpoint(each)

    def _check_endpoint(self, text: str) -> None:
        url, port = split_url(f"mesh.endpoints: {text}", text)
        if url.scheme not in {"http", "https"} or not url.hostname or not port or url.path not in {"", "/"}:
            raise ConfigError(f"mesh.endpoints: must be https://HOST:PORT, got {text}")
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            raise ConfigError(f"mesh.endpoints: {text}: plain http only on loopback; the engine is reached by https")
        if url.scheme == "https":
            for name in ("tls_ca", "tls_certificate", "tls_key"):
                if not getattr(self, name):
                    raise ConfigError(f"mesh.{name}: is missing beside an https endpoint")
