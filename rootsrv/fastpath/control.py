"""What the control socket of *serve* does for the fast path."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rootsrv.control.protocol import Command, Commands, Nothing, Order, Reply
from rootsrv.fastpath.owner import FastPath
from rootsrv.fastpath.tap import clocks, to_pcap


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachOrder:
    """`fastpath-attach`."""

    replace: bool = False
    """In place of another program that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachOrder:
    """`fastpath-detach`."""

    reason: str = "by order"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendOrder:
    """`fastpath-suspend`: pass everything up until the next switchover."""

    wanted: int = 0
    """The generation that the kernel should be at."""

    reason: str = "by order"


def commands(fastpath: FastPath) -> Commands:
    """What can be asked of *fastpath*."""

    # What waits for tables that are being changed, or for the kernel, is in a thread: the loop looks after the workers.

    async def attach(order: Order[AttachOrder]) -> Mapping[str, Any]:
        await asyncio.to_thread(fastpath.attach_again, replace=order.wanted.replace)
        return fastpath.status()

    async def detach(order: Order[DetachOrder]) -> Mapping[str, Any]:
        await asyncio.to_thread(fastpath.detach, order.wanted.reason or "by order")
        return fastpath.status()

    async def suspend(order: Order[SuspendOrder]) -> Mapping[str, Any]:
        fastpath.suspend(order.wanted.wanted, order.wanted.reason or "by order")
        return fastpath.status()

    async def tap(_: Order[Nothing]) -> Reply:
        pcap = to_pcap(fastpath.samples(), *clocks())
        return Reply({"counters": fastpath.status().get("counters", {})}, pcap)

    async def count(_: Order[Nothing]) -> Mapping[str, Any]:
        fastpath.count()
        return {}

    async def status(_: Order[Nothing]) -> Mapping[str, Any]:
        return fastpath.status()

    async def probe(_: Order[Nothing]) -> Mapping[str, Any]:
        return dict(await asyncio.to_thread(fastpath.probe))

    return {
        "fastpath-count": Command(count, Nothing, changes=False),
        "fastpath-tap": Command(tap, Nothing, changes=False),
        "fastpath-status": Command(status, Nothing, changes=False),
        "fastpath-probe": Command(probe, Nothing, changes=False),
        "fastpath-attach": Command(attach, AttachOrder),
        "fastpath-detach": Command(detach, DetachOrder),
        "fastpath-suspend": Command(suspend, SuspendOrder),
    }
