"""The process that answers over TLS: started and told by the parent of the workers as these are (server/worker.py)."""

import asyncio
import socket
import sys
from typing import Any

import uvloop

from rootsrv.dot import certificate
from rootsrv.dot.connection import PaddedServing, TlsConnections
from rootsrv.dot.libssl import Context, TlsUnavailable
from rootsrv.process import log
from rootsrv.server import worker
from rootsrv.server.leaving import Leaving
from rootsrv.server.turns import Turns
from rootsrv.server.worker_orders import WorkerOrders


async def work() -> None:
    """Follow the orders on standard input until told to stop (SIGTERM, SIGINT, or the parent is gone)."""
    contexts: list[Context] = []

    def prepare(orders: WorkerOrders) -> None:
        assert orders.tls is not None
        contexts.append(_context(orders.tls))

    begun = await worker.begin(PaddedServing, prepare)
    if begun is None:
        return
    turns = Turns(begun.serving, begun.counters)
    connections = TlsConnections(turns, begun.counters, worker.tcp_limits(begun.orders), contexts[0], begun.told)

    def show(document: dict[str, Any]) -> None:
        try:
            connections.context = _context(document)
        except TlsUnavailable as error:  # the parent has looked at it; the old one stays
            log.alarm("certificate cannot be shown", reason=error.strerror)

    follower = worker.follow_changes(begun, show)
    connections.listen([socket.socket(fileno=descriptor) for descriptor in begun.orders.sockets])
    await worker.tick_until_stopped(begun, connections, Leaving(connections))
    follower.cancel()
    connections.stop_listening()
    await worker.finish(connections)
    begun.slot.pid = 0


def _context(document: dict[str, Any]) -> Context:
    return Context(*certificate.from_document(document))


def main() -> int:
    """Be that process; returns the exit status."""
    log.to_standard_error()
    sys.setswitchinterval(worker.GIL_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    return 0


if __name__ == "__main__":
    sys.exit(main())
