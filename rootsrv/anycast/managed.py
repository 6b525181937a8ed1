"""Service addresses that rootsrv puts on the interface itself (`manage_addresses`)."""

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rootsrv.anycast.netlink import Interface, NetlinkFailed, ServiceInterface
from rootsrv.process import held_back, json_text, log, whole_file


@contextlib.contextmanager
def service_addresses(interface_name: str, addresses: Sequence[str], note: Path) -> Iterator[None]:
    """Have *addresses* on the interface, as /32 and /128, for the block; then remove those that were put there.

    What was put there is written to *note* first, so that a run after a kill still knows it.  Raises NetlinkFailed.
    """
    wanted = [_whole(ipaddress.ip_address(text)) for text in addresses]
    ours = asyncio.run(_put(interface_name, wanted, note))
    try:
        yield
    finally:
        asyncio.run(_remove(interface_name, ours))
        note.unlink(missing_ok=True)


async def _put(interface_name: str, wanted: Sequence[Interface], note: Path) -> list[Interface]:
    async with ServiceInterface(interface_name) as interface:
        on_host = await interface.host_addresses()
        earlier = _read(note)
        ours = [each for each in wanted if each.ip not in on_host or each in earlier]
        try:
            whole_file.replace(note, json.dumps([str(each) for each in ours]).encode())
        except OSError as error:  # a full /run: after a kill they stay, which is better than not to be there now
            log.alarm("service addresses are not noted", file=note, reason=error.strerror)
        put = [each for each in ours if await _is_put(interface, each)]
    if put:
        log.event("service addresses put", interface=interface_name, addresses=",".join(map(str, put)))
    return ours


async def _is_put(interface: ServiceInterface, address: Interface) -> bool:
    """Put it there, unless it is held back: then the others are served.  NetlinkFailed."""
    try:
        await interface.put(address)
    except NetlinkFailed as error:
        if not held_back.why(str(address.ip)):
            raise
        log.alarm("service address not put", address=address, reason=error, effect="the others are served")
        return False
    return True


async def _remove(interface_name: str, ours: Sequence[Interface]) -> None:
    async with ServiceInterface(interface_name) as interface:
        for each in ours:
            await interface.remove(each)


def _whole(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Interface:
    return ipaddress.ip_interface(f"{address}/{address.max_prefixlen}")


def _read(note: Path) -> frozenset[Interface]:
    try:
        return frozenset(ipaddress.ip_interface(text) for text in json_text.parse(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return frozenset()
