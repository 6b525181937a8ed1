"""Zones given out without `maintain`: a listener, its peers and keys, in a thread of the test's own process."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dns.message
import dns.tsig
import uvloop

from bench.peers.daemon import free_port
from rootsrv.config.zones import AdminConfig, PeerConfig
from rootsrv.distribution.limits import TransferLimits
from rootsrv.distribution.listener import Listener
from rootsrv.distribution.notify import NotifySender
from rootsrv.distribution.offered import KeptVersions, OfferedZone, OfferState
from rootsrv.distribution.requests import Asker, ConfiguredPeers, Requests
from rootsrv.process.security import SecurityEvents
from rootsrv.wire.tsig import Key
from rootsrv.zone.contents import ZoneContents
from tests.framing import framed, receive

ROOT = b"\0"
SECRET = b"0123456789abcdef0123456789abcdef"
KEY = dns.tsig.Key("key.example.", SECRET, "hmac-sha256")


@dataclass
class Service:
    """A running service."""

    address: str
    port: int
    tls_port: int
    zone: OfferedZone
    requests: Requests
    peers: ConfiguredPeers
    loop: asyncio.AbstractEventLoop
    sender: NotifySender
    listener: Listener
    notified: list[tuple[bytes, Asker, Key | None, int | None]] = field(default_factory=list)

    def call(self, work: Callable[[], Any]) -> Any:
        """The result of *work*, done where the service runs."""
        done: list[Any] = []
        ready = threading.Event()

        def there() -> None:
            try:
                done.append(work())
            finally:
                ready.set()

        self.loop.call_soon_threadsafe(there)
        assert ready.wait(20)
        return done[0]

    def put(self, contents: ZoneContents, state: OfferState = OfferState.IN_SERVICE, left: float = 3600.0) -> None:
        """Offer *contents*."""
        until = time.monotonic() + left
        self.call(lambda: self.zone.put(contents, state, lambda: until - time.monotonic()))

    def configure(self, *peers: PeerConfig) -> None:
        """These are the peers."""
        key = Key.make(b"\3key\7example\0", "hmac-sha256", SECRET)
        self.call(lambda: self.peers.configure({key.name: key}, peers))

    def udp(self, octets: bytes, *, address: str | None = None) -> bytes:
        """One response over UDP."""
        target = address or self.address
        with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.sendto(octets, (target, self.port))
            return client.recv(65535)

    def tcp(self, octets: bytes) -> bytes:
        """The first message of the response over TCP."""
        with self.connect() as client:
            send(client, octets)
            return receive(client)

    def connect(self) -> socket.socket:
        """A TCP connection."""
        return socket.create_connection((self.address, self.port), timeout=20)


def send(client: socket.socket, octets: bytes) -> None:
    """One message over TCP."""
    client.sendall(framed(octets))


def query(rtype: str, *, name: str = ".", edns: int = -1, key: dns.tsig.Key | None = KEY, **more: Any) -> bytes:
    """A query in wire format; *edns*: the version, -1 for none."""
    message = dns.message.make_query(name, rtype, use_edns=False if edns < 0 else edns, **more)
    message.flags &= ~0x0100
    if key is not None:
        message.use_tsig(key)
    return message.to_wire()


PEER = PeerConfig(name="peer", address="127.0.0.1", key="key.example.")


@contextlib.contextmanager
def service(
    *,
    tls: dict[str, str] | None = None,
    kept: KeptVersions | None = None,
    limits: TransferLimits = TransferLimits(),  # noqa: B008
    addresses: tuple[str, ...] = ("127.0.0.1",),
    idle_seconds: float = 20.0,
    max_connections: int = 100,
    apex: bytes = ROOT,
) -> Iterator[Service]:
    """Run one on *addresses* until the block ends; nothing is offered yet."""
    port, tls_port = free_port(addresses[0]), free_port(addresses[0])
    loop = uvloop.new_event_loop()  # the one of the role
    zone = OfferedZone(apex, kept)
    peers = ConfiguredPeers(time.time)
    made: list[Service] = []

    def notified(zone: bytes, asker: Asker, key: Key | None, serial: int | None) -> int:
        made[0].notified.append((zone, asker, key, serial))
        return 0

    requests = Requests(lambda name: zone if name == apex else None, peers, SecurityEvents(), notified, limits)
    config = AdminConfig(
        addresses=addresses,
        port=port,
        tls_port=tls_port,
        idle_seconds=idle_seconds,
        max_connections=max_connections,
        **(tls or {}),  # type: ignore[arg-type]
    )
    listener = Listener(config, requests)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(listener.start(), loop).result(20)
        made.append(Service(addresses[0], port, tls_port, zone, requests, peers, loop, NotifySender(), listener))
        made[0].configure(PEER)
        yield made[0]
    finally:
        asyncio.run_coroutine_threadsafe(listener.close(), loop).result(20)
        asyncio.run_coroutine_threadsafe(_end_all(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)
        loop.close()


async def _end_all() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
