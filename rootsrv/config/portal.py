"""`[portal]`: the pages on which resolver operators sign up for the LocalRoot service (docs/portal.md)."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from rootsrv.config.checks import ConfigError, check_addresses, check_range, split_url
from rootsrv.resolvers.wanted import CannotConfigure, Publisher

_NAME = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalConfig:
    """`[portal]`: pages, accounts and mails."""

    url: str
    """What people type: https://localroot.example.net.  Requests for another host are refused, and passkeys belong to
    this one.  http only for localhost."""

    addresses: tuple[str, ...] = ("127.0.0.1", "::1")
    """Where HTTP is answered.  Never a service address."""

    port: int = 8443
    tls_certificate: str = ""
    """Certificate chain (PEM), read again when it changes; empty = a proxy on this host does TLS."""

    tls_key: str = ""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed: limits are by the address that it names last."""

    title: str = "LocalRoot"
    """What the service calls itself."""

    contact: str = ""
    """Who is responsible and how to reach them; stands on the privacy page."""

    key_domain: str = ""
    """What the names of TSIG keys end in; empty = localroot.name, else the host of the url."""

    sign_up: Literal["open", "closed"] = "open"
    """"closed": only whoever gets a link from `rootsrv localroot invite`."""

    zones: tuple[str, ...] = ()
    """What may be had; empty = every [[zone]] and [[distribute]]."""

    canary_zone: str = ""
    """One of the zones that changes every few minutes, to try a set-up with; empty = localroot.canary_zone."""

    publishers: tuple[str, ...] = ()
    """Where zones are to be had from, for the generated configurations: ADDRESS[@PORT][#NAME], NAME for XoT; empty =
    where [localroot] listens."""

    zone_url: str = ""
    """The root zone by https; empty = where [localroot] gives it."""

    fallbacks: tuple[str, ...] = ()
    """Others who permit AXFR of the root, ADDRESS[@PORT][#NAME]."""

    private_addresses: bool = False
    """Whether servers may have addresses that nobody else reaches: in a lab."""

    key_grace_hours: float = 72.0
    """How long a key is live after its successor was used first."""

    mail_from: str = ""
    """Sender of mails; empty = there are none, and nobody can sign up but by `rootsrv localroot invite`."""

    smtp_host: str = "127.0.0.1"
    smtp_port: int = 25
    smtp_tls: Literal["none", "starttls", "tls"] = "none"
    """"none" is for a mail server on this host."""

    smtp_user: str = ""
    password_file: str = ""
    """File with the password of smtp_user."""

    unconfirmed_minutes: float = 30.0
    """So long nobody took note of a NOTIFY until a mail says so."""

    missed_serials: int = 3
    """So many versions of a zone were not transferred until a mail says so."""

    def __post_init__(self) -> None:
        _check_url(self.url)
        check_addresses("portal.addresses", self.addresses)
        check_addresses("portal.trusted_proxies", self.trusted_proxies)
        if not self.addresses:
            raise ConfigError("portal.addresses: at least one address is needed")
        check_range("portal.port", self.port, 1, 65535)
        check_range("portal.smtp_port", self.smtp_port, 1, 65535)
        check_range("portal.key_grace_hours", self.key_grace_hours, 0, 24 * 366)
        check_range("portal.unconfirmed_minutes", self.unconfirmed_minutes, 1, 24 * 60)
        check_range("portal.missed_serials", self.missed_serials, 1, 30)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ConfigError("portal.tls_key: goes with portal.tls_certificate")
        open_to_others = [each for each in self.addresses if not ipaddress.ip_address(each).is_loopback]
        if open_to_others and not self.tls_certificate:
            raise ConfigError(f"portal.tls_certificate: is needed on {open_to_others[0]}, which others reach")
        if self.key_domain and not re.fullmatch(_NAME, self.key_domain):
            raise ConfigError(f"portal.key_domain: must be a domain name in lower case, got {self.key_domain!r}")
        if len(self.key_domain or self.host) > 150:
            raise ConfigError("portal.key_domain: at most 150 characters, so that there is room for names of keys")
        for at, zone in enumerate(self.zones):
            if zone != "." and not (zone.endswith(".") and re.fullmatch(_NAME, zone[:-1])):
                raise ConfigError(f"portal.zones[{at}]: must be in lower case and end with a dot, got {zone!r}")
        if self.zones and "." not in self.zones:
            raise ConfigError('portal.zones: "." is missing')
        for key, texts in (("publishers", self.publishers), ("fallbacks", self.fallbacks)):
            for at, text in enumerate(texts):
                try:
                    Publisher.from_text(text)
                except CannotConfigure as error:
                    raise ConfigError(f"portal.{key}[{at}]: {error}") from error
        if self.mail_from and not re.fullmatch(r"[!-~]+@[!-~]+", self.mail_from):
            raise ConfigError(f"portal.mail_from: must be a mail address, got {self.mail_from!r}")
        if bool(self.smtp_user) != bool(self.password_file):
            raise ConfigError("portal.password_file: goes with portal.smtp_user")
        if self.smtp_user and self.smtp_tls == "none":
            raise ConfigError("portal.smtp_tls: a password is not sent without TLS")

    @property
    def host(self) -> str:
        """The host name in the url."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_https(self) -> bool:
        """Whether browsers have the pages over TLS."""
        return self.url.startswith("https://")


def _check_url(url: str) -> None:
    parts, port = split_url("portal.url", url)
    host = parts.hostname or ""
    if not re.fullmatch(r"https?://[a-z0-9.-]+(:\d+)?", url) or not re.fullmatch(_NAME, host) or port == 0:
        raise ConfigError(f"portal.url: must be https://NAME or https://NAME:PORT and no more, got {url!r}")
    if parts.scheme == "http" and host != "localhost" and not host.endswith(".localhost"):
        raise ConfigError(f"portal.url: must be https (http for localhost only), got {url!r}")
