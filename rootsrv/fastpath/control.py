"""What the status socket of *serve* does for the fast path."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rootsrv.fastpath.owner import FastPath
from rootsrv.fastpath.tap import clocks, to_pcap

Command = Callable[[dict[str, Any]], dict[str, Any]]


def commands(fastpath: FastPath) -> dict[str, Command]:
    """Name → function of the request that makes the response."""

    def attach(request: dict[str, Any]) -> dict[str, Any]:
        # In a thread of its own: netlink sockets do not go with the event loop that runs here.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(fastpath.attach_again, replace=request.get("replace") is True).result()
        return fastpath.status()

    def detach(request: dict[str, Any]) -> dict[str, Any]:
        fastpath.detach(str(request.get("reason") or "by order"))
        return fastpath.status()

    def suspend(request: dict[str, Any]) -> dict[str, Any]:
        wanted = request.get("wanted")
        fastpath.suspend(wanted if isinstance(wanted, int) else 0, str(request.get("reason") or "by order"))
        return fastpath.status()

    def tap(_: dict[str, Any]) -> dict[str, Any]:
        pcap = to_pcap(fastpath.samples(), *clocks())
        return {"pcap": base64.b64encode(pcap).decode(), "counters": fastpath.status().get("counters", {})}

    def count(request: dict[str, Any]) -> dict[str, Any]:
        fastpath.count()
        return {}

    return {
        "fastpath-count": count,
        "fastpath-tap": tap,
        "fastpath-status": lambda _: fastpath.status(),
        "fastpath-probe": lambda _: dict(fastpath.probe()),
        "fastpath-attach": attach,
        "fastpath-detach": detach,
        "fastpath-suspend": suspend,
    }
