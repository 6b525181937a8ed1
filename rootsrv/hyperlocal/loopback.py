"""Who may have the zone in hyperlocal mode: this host, without a key; and where its resolver is told of new ones."""

import ipaddress
from collections import Counter
from dataclasses import dataclass

from rootsrv.config.checks import ConfigError, plain_address
from rootsrv.distribution.requests import Asker, Given
from rootsrv.process import log
from rootsrv.wire import digits
from rootsrv.wire.tsig import Key, TsigRefused

RESOLVER_PORT = 53


@dataclass(frozen=True, slots=True)
class Resolver:
    """Somebody on this host, told apart by address."""

    name: str
    counters: "Counter[str]"

    proved = True
    over_tcp_only = False

    def told(self, zone: str, serial: int) -> None:
        """See Recipient."""

    def given(self, what: Given) -> None:
        """See Recipient."""
        self.counters["transfers_out"] += 1
        log.event("zone given", to=self.name, serial=what.serial, transfer=what.how, octets=what.octets)


class ThisHost:
    """The AccessList of hyperlocal mode: 127/8 and ::1 may have the zone, others nothing (RFC 8806 §1).

    No key is asked for: who is on this host is trusted by the host, and what is given is signed by the root.
    """

    def __init__(self, counters: "Counter[str]") -> None:
        self._counters = counters

    def key(self, name: bytes) -> Key | None:
        """See AccessList."""
        return None

    def recipient(self, asker: Asker, key: Key | None, apex: bytes) -> Resolver | None:
        """See AccessList."""
        if not ipaddress.ip_address(asker.address).is_loopback:
            return None
        return Resolver(asker.address, self._counters)

    def tsig_failed(self, asker: Asker, owner: bytes, refused: TsigRefused) -> None:
        """See AccessList; the security event says it all."""


def told_address(text: str) -> tuple[str, int]:
    """Address and port of `ADDRESS[@PORT]`, a resolver that is told of new zones.  ConfigError if it is not here."""
    plain, number = resolver_at("notify", text)
    if not ipaddress.ip_address(plain).is_loopback:
        raise ConfigError(f"notify: {text}: is not on loopback: NOTIFY goes to this host only")
    return plain, number


def resolver_at(key: str, text: str) -> tuple[str, int]:
    """Address and port of `ADDRESS[@PORT]`, wherever that is.  ConfigError, which begins with *key*, if it is none."""
    address, _, port = text.partition("@")
    try:
        plain = plain_address(address)
    except ValueError as error:
        raise ConfigError(f"{key}: {text}: {error}") from error
    try:
        number = digits.whole(port, 1, 65_535) if port else RESOLVER_PORT
    except ValueError as error:
        raise ConfigError(f"{key}: {address}: the port {error}") from None
    return plain, number
