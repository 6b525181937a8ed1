"""What a resolver's configuration is to say, whatever the software; checked, so that no text can end another."""

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from rootsrv.wire import digits


class CannotConfigure(Exception):
    """Such a configuration cannot be made; the text names what is wrong, or what the software cannot do."""


DNS_PORT, TLS_PORT = 53, 853


@dataclass(frozen=True, slots=True)
class Publisher:
    """Where the zones are to be had by AXFR."""

    address: str
    port: int = DNS_PORT
    tls_name: str = ""
    """Name in its certificate, for transfers over TLS (RFC 9103); empty = not over TLS."""

    @classmethod
    def from_text(cls, text: str) -> "Publisher":
        """`ADDRESS[@PORT][#NAME]`, as Unbound writes it; CannotConfigure if it is not that."""
        place, _, tls_name = text.partition("#")
        address, at, port = place.partition("@")
        try:
            number = digits.whole(port, 1, 65_535) if at else TLS_PORT if tls_name else DNS_PORT
        except ValueError as error:
            raise CannotConfigure(f"publisher: {address}: the port {error}") from None
        return cls(address, number, tls_name)

    def __post_init__(self) -> None:
        try:
            ipaddress.ip_address(self.address)
        except ValueError as error:
            raise CannotConfigure(f"publisher: {error}") from error
        if "%" in self.address:
            raise CannotConfigure(f"publisher: {self.address}: an address with a scope is no place for others")
        if not 1 <= self.port <= 65_535:
            raise CannotConfigure(f"publisher: {self.address}: the port must be 1..65535, got {self.port}")
        if self.tls_name:
            _name("publisher", self.tls_name)

    @property
    def with_port(self) -> str:
        """As most software writes it."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class ResolverKey:
    """The resolver's TSIG key at the service."""

    name: str
    secret: str
    """Base64."""

    algorithm: str = "hmac-sha256"

    def __post_init__(self) -> None:
        _name("key", self.name)
        if self.algorithm not in {"hmac-sha256", "hmac-sha384", "hmac-sha512"}:
            raise CannotConfigure(f"key: {self.algorithm}: must be hmac-sha256, hmac-sha384 or hmac-sha512")
        try:
            base64.b64decode(self.secret, validate=True)
        except (binascii.Error, ValueError):
            raise CannotConfigure(f"key {self.name}: the secret is not base64") from None
        if not self.secret:
            raise CannotConfigure(f"key {self.name}: the secret is missing")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverSetup:
    """All that a configuration says."""

    publishers: tuple[Publisher, ...]
    """The service, which also notifies."""

    fallbacks: tuple[Publisher, ...] = ()
    """Others who permit AXFR, without a key, in this order."""

    url: str = ""
    """The root zone by https."""

    ca_file: str = ""
    """Certificate that the URL's is signed by; empty = the system's."""

    key: ResolverKey | None = None
    storage: str = ""
    """Directory in which the resolver may write; empty = where its package has it."""

    hosts: bool = False
    """Whether root-servers.net is wanted as well: unsigned, so only from where key or TLS prove who gives it."""

    canary: str = ""
    """A zone of the publishers' that changes every few minutes, to see whether new versions come; empty = not wanted.
    Software that takes the root alone, or knows no NOTIFY, has no use for it."""

    private_zones: tuple[str, ...] = ()
    """Reverse or other zones of one's own that are answered here with NXDOMAIN, beside those of RFC 6303."""

    whole: bool = False
    """A configuration that can stand alone, rather than a part to be included."""

    def __post_init__(self) -> None:
        if not self.publishers and not self.url:
            raise CannotConfigure("publisher: there is none, and no url")
        for key, text in (("storage", self.storage), ("ca_file", self.ca_file)):
            # What no quoting of four languages lets through untouched is not in a path of theirs.
            if text and not re.fullmatch(r"/[A-Za-z0-9._/@:+-]*", text):
                raise CannotConfigure(f"{key}: must be an absolute path of letters, digits and ._/@:+-, got {text!r}")
        plain = re.fullmatch(r"https://[A-Za-z0-9._~:/?&=%@\[\]-]+", self.url)
        if self.url and (not plain or not urlsplit(self.url).hostname):
            raise CannotConfigure(f"url: must be https and without quotes, got {self.url!r}")
        for each in self.private_zones:
            _name("private zone", each)
        if self.canary:
            _name("canary", self.canary)
        if self.hosts and self.key is None and not any(each.tls_name for each in self.publishers):
            raise CannotConfigure("hosts: root-servers.net is not signed: it needs a key or TLS")

    def zones(self) -> tuple[str, ...]:
        """The private zones, fully qualified."""
        return tuple(f"{each.lower().rstrip('.')}." for each in self.private_zones)


def _name(key: str, text: str) -> None:
    """CannotConfigure if *text* is no name in the preferred syntax (RFC 1034 §3.5) or with underscores."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", text):
        raise CannotConfigure(f"{key}: {text!r} is no name of letters, digits, hyphens and dots")
    import dns.exception  # where text is met: every role reads a configuration and starts sooner without it
    import dns.name

    try:
        dns.name.from_text(text)
    except dns.exception.DNSException as error:
        raise CannotConfigure(f"{key}: {text}: {error}") from error
