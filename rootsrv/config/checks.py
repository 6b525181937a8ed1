"""What configuration sections check their values with."""

import ipaddress
from urllib.parse import urlsplit


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
    if len(set(addresses)) != len(addresses):
        raise ConfigError(f"{key}: an address is named twice")
