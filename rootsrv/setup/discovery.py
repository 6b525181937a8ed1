"""What this host says of itself: the defaults of what `rootsrv setup` asks."""

import ipaddress
import socket
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from rootsrv.process.host_name import host_name

_UNIVERSE = 0  # rtnetlink(7): scope of a global address


@dataclass(frozen=True, slots=True)
class Found:
    """An interface: its global addresses with their prefix lengths, and whether a default route leaves by it."""

    name: str
    addresses: tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]
    default_route: bool


def interfaces() -> list[Found]:
    """All but the loopback; empty where netlink cannot be asked."""
    try:
        with IPRoute() as route:
            names = {
                link["index"]: link.get_attr("IFLA_IFNAME")
                for link in route.get_links()
                if not link["flags"] & 0x8  # IFF_LOOPBACK
            }
            addresses: dict[int, list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = {}
            for each in route.get_addr():
                if each["scope"] == _UNIVERSE:
                    text = each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")
                    addresses.setdefault(each["index"], []).append(
                        ipaddress.ip_interface(f"{text}/{each['prefixlen']}")
                    )
            defaults = {
                each.get_attr("RTA_OIF")
                for family in (socket.AF_INET, socket.AF_INET6)
                for each in route.get_default_routes(family=family)
            }
    except (OSError, NetlinkError):
        return []
    return [Found(name, tuple(addresses.get(index, ())), index in defaults) for index, name in sorted(names.items())]


def defaults() -> dict[str, object]:
    """Answers that this host suggests, by the names of Site's fields; what cannot be seen is left out."""
    found = interfaces()
    answers: dict[str, object] = {"name": host_name()}
    admin = next((each for each in found if each.default_route and each.addresses), None)
    if admin:
        answers["admin_interface"] = admin.name
        answers["admin_addresses"] = [str(each.ip) for each in admin.addresses]
        answers["management"] = [str(each.network) for each in admin.addresses]
    service = [each for each in found if each is not admin and each.addresses and not each.default_route]
    if len(service) == 1:
        answers["service_interface"] = service[0].name
        answers["link_addresses"] = [str(each.ip) for each in service[0].addresses]
        answers["routers"] = [text for each in service[0].addresses if (text := _other_end(each))]
    return answers


def _other_end(address: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> str:
    """The other address of a link for two (RFC 3021, RFC 6164); "" where there are more."""
    others = [each for each in address.network if each != address.ip] if address.network.num_addresses <= 4 else []
    if address.network.num_addresses == 4:
        others = [each for each in others if each in list(address.network.hosts())]
    return str(others[0]) if len(others) == 1 else ""


def derived(answers: dict[str, object]) -> dict[str, object]:
    """What follows from *answers* already given: the prefixes that are announced for service addresses."""
    prefixes = []
    addresses = answers.get("service_addresses")
    for each in addresses if isinstance(addresses, list | tuple) else ():
        try:
            address = ipaddress.ip_address(str(each))
        except ValueError:
            continue
        # What filters let through everywhere: /24 and /48.
        prefixes.append(str(ipaddress.ip_network((address, 24 if address.version == 4 else 48), strict=False)))
    return {"prefixes": list(dict.fromkeys(prefixes))} if prefixes else {}
