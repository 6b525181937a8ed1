"""What configuration sections check their values with."""

import functools
import ipaddress
from urllib.parse import SplitResult, urlsplit

from rootsrv.wire import digits


class ConfigError(ValueError):
    """The configuration cannot be used; the text begins with the key (`service.port: must be 1..65535, got 0`)."""


def without_query(url: str) -> str:
    """*url* as it may be shown: neither its query nor its user's name and password, which may be secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is no URL"
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    return f"{shown}?…" if parts.query else shown


def check_range(key: str, value: float, lowest: float, highest: float) -> None:
    """Refuse a *value* outside *lowest* … *highest*."""
    if not lowest <= value <= highest:
        raise ConfigError(f"{key}: must be {lowest}..{highest}, got {value}")


def check_addresses(key: str, addresses: tuple[str, ...]) -> None:
    """Refuse what is not an IP address, or is named twice."""
    for address in addresses:
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
    if len({plain_address(each) for each in addresses}) != len(addresses):
        raise ConfigError(f"{key}: an address is named twice")


@functools.lru_cache(4096)
def plain_address(address: str) -> str:
    """*address* in the one form that addresses are compared in: RFC 5952's, without zone; IPv4 where it is v4-mapped.

    ValueError if it is no address.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found)


def endpoint(key: str, text: str) -> tuple[str, int]:
    """Address (as `plain_address`) and port of `192.0.2.1:5353` or `[2001:db8::1]:5353`; ConfigError names *key*."""
    host, _, port = text.rpartition(":")
    try:
        address = plain_address(host.removeprefix("[").removesuffix("]"))
        if (":" in host) != (host.startswith("[") and host.endswith("]")):
            raise ValueError
        number = digits.whole(port)
    except ValueError:
        raise ConfigError(f"{key}: must be ADDRESS:PORT, an IPv6 address in brackets, got {text!r:.80}") from None
    check_range(key, number, 1, 65535)
    return address, number


def split_url(key: str, url: str) -> tuple[SplitResult, int | None]:
    """*url* in its parts, and its port; ConfigError names *key* where it is none."""
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
