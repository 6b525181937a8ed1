"""The kernel's side of the promise: addresses with a lifetime, service addresses, accept queues."""
# The route hangs on the anchor address, and the anchor address on a lifetime that the kernel counts down: nothing of
# ours has to be alive for it to go.  The kernel counts in whole seconds and looks about four times a second, so an
# address goes between its lifetime and 0.4 s more after the last renewal (measured: 3.3 s for 3).

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.diag import DiagSocket
from pyroute2.netlink.exceptions import NetlinkError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface

FOREVER = 0xFFFFFFFF
_TIMEOUT_SECONDS = 1.0  # the kernel replies in well under a millisecond
_TCP_LISTEN = 10
_NO_DAD = 0x02  # IFA_F_NODAD: no duplicate address detection (RFC 4862 §5.4)


class NetlinkFailed(Exception):
    """The kernel refused, or did not reply to, what we asked of an interface or address."""


class ServiceInterface:
    """The interface that holds anchors and service addresses.  Use it as an async context manager.

    All methods raise NetlinkFailed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._index = 0
        self._netlink: AsyncIPRoute | None = None

    async def __aenter__(self) -> "ServiceInterface":
        self._netlink = AsyncIPRoute()
        await self._netlink.__aenter__()
        try:
            async with self._asking("look-up"):
                found = await self._netlink.link_lookup(ifname=self.name)
            if not found:
                raise NetlinkFailed(f"interface {self.name}: does not exist")
            self._index = found[0]
        except BaseException:
            await self._netlink.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._netlink is not None
        await self._netlink.__aexit__(kind, value, trace)

    async def promise(self, anchor: Interface, seconds: int) -> None:
        """Hold *anchor* for *seconds* from now: put it there, or renew its lifetime."""
        await self._address("replace", anchor, preferred_lft=seconds, valid_lft=seconds)

    async def put(self, address: Interface) -> None:
        """Hold *address* until it is removed."""
        await self._address("replace", address)

    async def remove(self, address: Interface) -> None:
        """Take *address* away; it is no error if it is not there."""
        await self._address("del", address)

    async def addresses(self) -> dict[Interface, int]:
        """The addresses of this interface, each with its lifetime in seconds when it was last renewed, or FOREVER."""
        return {address: lifetime async for index, address, lifetime in self._all() if index == self._index}

    async def host_addresses(self) -> frozenset[Address]:
        """All addresses of this host, on whatever interface."""
        return frozenset([address.ip async for _, address, _ in self._all()])

    async def _address(self, what: str, address: Interface, **attributes: int) -> None:
        assert self._netlink is not None
        if address.version == 6 and what != "del":
            # Without it the address is tentative for an instant, even on lo: neither bound to nor exported.
            attributes["ifa_flags"] = _NO_DAD
        async with self._asking(f"{what} {address}"):
            try:
                await self._netlink.addr(
                    what, index=self._index, address=str(address.ip), prefixlen=address.network.prefixlen, **attributes
                )
            except NetlinkError as error:
                gone = what == "del" and error.code in (99, 3)  # EADDRNOTAVAIL, ESRCH
                if not gone:
                    raise

    async def _all(self) -> AsyncIterator[tuple[int, Interface, int]]:
        assert self._netlink is not None
        async with self._asking("list addresses"):
            async for message in await self._netlink.get_addr():
                # IFA_LOCAL is ours and IFA_ADDRESS the peer's on a point-to-point link; else they are the same.
                address = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
                lifetime = (message.get("IFA_CACHEINFO") or {}).get("ifa_valid", FOREVER)
                yield message["index"], ipaddress.ip_interface(f"{address}/{message['prefixlen']}"), lifetime

    @contextlib.asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                yield
        except NetlinkError as error:
            hint = " (needs CAP_NET_ADMIN)" if error.code == 1 else ""
            raise NetlinkFailed(f"interface {self.name}: {what}: {error.args[-1]}{hint}") from error
        except TimeoutError as error:
            raise NetlinkFailed(f"interface {self.name}: {what}: no reply within {_TIMEOUT_SECONDS} s") from error


async def full_accept_queues(port: int, addresses: Iterable[Address]) -> Mapping[Address, bool]:
    """Of each address whether, on TCP *port*, connections wait that nobody accepts, as many as the kernel queues.

    With several listening sockets (SO_REUSEPORT) one full queue is enough: the kernel chooses one by hash.  Raises
    NetlinkFailed.
    """
    try:
        # pyroute2's diagnostics run an event loop of their own, which they can only have in another thread.
        return await asyncio.to_thread(_full_accept_queues, port, addresses)
    except (OSError, NetlinkError) as error:
        raise NetlinkFailed(f"TCP port {port}: socket diagnostics: {error}") from error


def _full_accept_queues(port: int, addresses: Iterable[Address]) -> Mapping[Address, bool]:
    full = dict.fromkeys(addresses, False)
    with DiagSocket() as diagnostics:
        for family in {socket.AF_INET if address.version == 4 else socket.AF_INET6 for address in full}:
            for each in diagnostics.get_sock_stats(family=family, states=1 << _TCP_LISTEN):
                address = ipaddress.ip_address(each["idiag_src"])
                if each["idiag_sport"] == port and address in full:
                    full[address] |= each["idiag_rqueue"] >= each["idiag_wqueue"]
    return full
