"""Addresses that are held back, all alike or by duplicate address detection: bound all the same, for when they come."""
# A tentative address cannot be bound (RFC 4862 §5.4), nor can one that another host on the link has (dadfailed), nor
# any where IPv6 is switched off (net.ipv6.conf.all.disable_ipv6).  That is no reason to refuse the other addresses, nor
# to ask again and again: with IPV6_FREEBIND the socket is there first, and gets what comes for the address from the
# moment that the address is the host's.  A kernel without IPv6 (ipv6.disable=1) gives no socket to bind: then the
# others are served alone.

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from rootsrv.process import log

_TABLE = Path("/proc/net/if_inet6")
_IPV6_FREEBIND = 78  # linux/in6.h; Python does not know it
_DADFAILED, _TENTATIVE = 0x08, 0x40  # linux/if_addr.h

WATCH_SECONDS = 1.0
_BACKLOG = 128


def why(address: str) -> str:
    """Why this IPv6 address is held back, for people; "" if it is not, or is not on this host."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if parsed.version == 4:
        return ""
    try:
        lines = _TABLE.read_text(encoding="utf-8").splitlines()
    except OSError:  # no IPv6 here
        lines = []
    wanted = parsed.packed.hex()
    for fields in map(str.split, lines):
        if fields[0] != wanted:
            continue
        flags, interface = int(fields[4], 16), fields[5]
        if flags & _DADFAILED:
            return f"duplicate address detection failed: another host on the link of {interface} has it (dadfailed)"
        if flags & _TENTATIVE:
            return f"duplicate address detection is under way on {interface} (tentative)"
        return ""
    return "" if ipv6_is_there() else "IPv6 is switched off on this host"


def ipv6_is_there() -> bool:
    """Whether ::1 can be bound on this host."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def of_known_families(addresses: Sequence[str]) -> Sequence[str]:
    """Those of *addresses* of which there are sockets; all of them if that is none."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return [each for each in addresses if ":" not in each] or addresses
    return addresses


def bind(sock: socket.socket, address: str, port: int) -> None:
    """Bind *sock*, to an address that is held back, too; OSError as from `socket.bind`."""
    try:
        sock.bind((address, port))
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL or not why(address):
            raise
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        sock.bind((address, port))


def bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A datagram socket or a listening one, that does not block, at *address*; OSError if it cannot be bound."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind(sock, address, port)
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def watch(what: str, addresses: Iterable[str]) -> None:
    """Tell whenever one of *addresses* is held back or has come, until cancelled; *what* they are: "service"."""
    known = dict.fromkeys(addresses, "")
    while True:
        for address, before in known.items():
            known[address] = reason = why(address)
            if reason == before:
                continue
            if reason:
                log.alarm(f"{what} address held back", address=address, reason=reason, effect="the others are served")
            else:
                log.event(f"{what} address has come", address=address)
        await asyncio.sleep(WATCH_SECONDS)
