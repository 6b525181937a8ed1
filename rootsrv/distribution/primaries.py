"""Whose NOTIFY it is (RFC 1996): by key, and by address among those who share one."""
# A NOTIFY without TSIG, and one with a key that is not the primary's own, proves nothing: it comes from an address that
# anybody can write into a datagram.  It makes us ask that primary, seldom (zone/refresh.py), and the serial that it
# names counts for nothing.

from collections.abc import Iterable
from dataclasses import dataclass

from rootsrv.config.checks import plain_address
from rootsrv.config.zones import PrimaryConfig
from rootsrv.wire import name as names


@dataclass(frozen=True, slots=True)
class Notifier:
    """A primary as a NOTIFY shows it."""

    name: str
    addresses: frozenset[str]
    """In the form of `plain_address`."""

    key_name: bytes
    """Wire format; empty where it has none."""

    apexes: frozenset[bytes]

    @classmethod
    def from_config(cls, primary: PrimaryConfig) -> "Notifier":
        """What is configured."""
        addresses = {plain_address(each) for each in (primary.address, *primary.notify_from) if each}
        key_name = names.from_text(primary.key) if primary.key else b""
        return cls(primary.name, frozenset(addresses), key_name, frozenset(map(names.from_text, primary.zones)))


def notified_by(
    notifiers: Iterable[Notifier], apex: bytes, address: str, key_name: bytes
) -> tuple[tuple[Notifier, ...], bool]:
    """(who may have sent it, whether it is proved who); *key_name* is empty where the NOTIFY was not signed.

    Several where a shared key says that it was one of them and the address does not say which.
    """
    of_zone = [each for each in notifiers if apex in each.apexes]
    keyed = [each for each in of_zone if key_name and each.key_name == key_name]
    if here := [each for each in keyed if address in each.addresses]:
        keyed = here
    if keyed:
        return tuple(keyed), len(keyed) == 1
    return tuple(each for each in of_zone if not each.key_name and address in each.addresses), False
