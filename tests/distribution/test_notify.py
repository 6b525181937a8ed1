"""NOTIFY from one socket to thousands, tried again by a heap until it is confirmed."""

import asyncio
import errno
import os
import resource
import struct
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rootsrv.demo import generate
from rootsrv.distribution import notify as module
from rootsrv.distribution.notify import NotifyOutcome, NotifySender, NotifyTarget, Told
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.message import parse
from rootsrv.wire.tsig import Checker, Key, Signer
from rootsrv.zone.contents import Soa
from tests.waiting import until

ROOT = b"\0"
ONE, TWO = (generate.root_contents(serial=serial, tlds=12, seed=serial) for serial in (1, 2))
KEY = Key.make(b"\3key\0", "hmac-sha256", b"0123456789abcdef")
OTHER = Key.make(b"\3key\0", "hmac-sha256", b"another secret..")


class Peers(asyncio.DatagramProtocol):
    """Secondaries behind one port, told apart by address (127.x.y.z)."""

    def __init__(self, rcode: int = 0, key: Key | None = None, deaf: int = 0) -> None:
        self.rcode = rcode
        self.key = key
        self.deaf = deaf
        """Datagrams that get no answer first."""
        self.seen: list[tuple[int, int]] = []
        """(source port, serial)"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        message = parse(data)
        assert message.opcode == 4
        assert message.answers[0][1] == rdatas.SOA
        self.seen.append((addr[1], Soa.from_rdata(message.answers[0][3]).serial))
        if len(self.seen) <= self.deaf:
            return
        assert message.question is not None
        answer = struct.pack("!HHHHHH", message.id, 0xA400 | self.rcode, 1, 0, 0, 0) + b"\0\0\6\0\1"
        if self.key is not None:
            assert message.tsig is not None
            mac = Checker(self.key).signed(data, message.tsig, time.time()).mac if self.key is KEY else b"m" * 32
            answer = Signer(self.key, mac).sign(answer, time.time())
        self.transport.sendto(answer, addr)  # type: ignore[attr-defined]


@contextmanager
def quick(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.02) -> Iterator[None]:
    monkeypatch.setattr(module, "RETRY_SECONDS", (seconds,) * 5)
    yield


def offered() -> OfferedZone:
    zone = OfferedZone(ROOT)
    zone.put(ONE, OfferState.IN_SERVICE, lambda: 100.0)
    return zone


_transports: list[asyncio.DatagramTransport] = []


def run(work: Coroutine[Any, Any, None]) -> None:
    async def all_of_it() -> None:
        try:
            await work
        finally:
            for each in _transports:
                each.close()
            _transports.clear()
            await asyncio.sleep(0)

    asyncio.run(all_of_it())


async def listening(peers: Peers, address: str = "127.0.0.1") -> int:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: peers, local_addr=(address, 0))
    _transports.append(transport)
    return int(transport.get_extra_info("sockname")[1])


async def done(sender: NotifySender) -> None:
    await until(lambda: not sender.on_their_way)


def target(port: int, told: Callable[[Told], None], address: str = "127.0.0.1", key: Key | None = None) -> NotifyTarget:
    return NotifyTarget(f"peer {address}", address, port, key, told)


@pytest.mark.parametrize("key", [None, KEY], ids=["unsigned", "signed"])
def test_two_thousand_peers_are_told_with_fifty_descriptors(key: Key | None) -> None:
    async def work() -> None:
        peers = Peers(key=key)
        port = await listening(peers, "0.0.0.0")
        told: dict[str, Told] = {}
        addresses = [f"127.9.{number >> 8}.{number & 255}" for number in range(2000)]

        def teller(address: str) -> Callable[[Told], None]:
            return lambda what: told.__setitem__(address, what)

        sender = NotifySender()
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Those of the tests before, which a process may still have open, and fifty.
        used = max(int(each) for each in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, limits[1]))
        try:
            sender.tell(offered(), [target(port, teller(each), each, key) for each in addresses], 0.0004)
            await until(lambda: len(peers.seen) >= 2000)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert len({port for port, _ in peers.seen}) == 1
        assert {each.outcome for each in told.values()} == {NotifyOutcome.SENT}
        await sender.close()

    run(work())


def test_an_answer_confirms_and_a_lost_one_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        peers = Peers(key=KEY, deaf=2)
        told: list[Told] = []
        sender = NotifySender(["127.0.0.1"])
        sender.tell(offered(), [target(await listening(peers), told.append, key=KEY)])
        await done(sender)
        assert [each.outcome for each in told] == [NotifyOutcome.SENT, NotifyOutcome.CONFIRMED]
        assert (told[-1].tries, told[-1].rcode, str(told[-1])) == (3, 0, "1: confirmed")

    with quick(monkeypatch):
        run(work())


@pytest.mark.parametrize(
    ("peers", "key", "text"),
    [
        (Peers(deaf=9), None, "1: not confirmed"),
        (Peers(rcode=5), None, "1: not confirmed (rcode 5)"),
        (Peers(rcode=4), None, "1: refused (rcode 4)"),
        (Peers(), KEY, "1: not confirmed (rcode 0)"),  # an answer that is not signed confirms nothing
        (Peers(key=OTHER), KEY, "1: not confirmed (rcode 0)"),
    ],
    ids=["silent", "refusing", "without NOTIFY", "unsigned", "another secret"],
)
def test_what_is_no_confirmation(peers: Peers, key: Key | None, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        told: list[Told] = []
        sender = NotifySender()
        sender.tell(offered(), [target(await listening(peers), told.append, key=key)])
        await done(sender)
        assert str(told[-1]) == text
        assert len(peers.seen) == (1 if peers.rcode == 4 else 5)

    with quick(monkeypatch):
        run(work())


def test_a_newer_version_takes_the_place_of_what_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        peers = Peers(deaf=2)
        told: list[Told] = []
        zone = offered()
        one = target(await listening(peers), told.append)
        sender = NotifySender()
        sender.tell(zone, [one])
        await until(lambda: peers.seen)
        zone.put(TWO, OfferState.IN_SERVICE, lambda: 100.0)
        sender.tell(zone, [one])
        assert sender.on_their_way == 1
        await done(sender)
        assert str(told[-1]) == "2: confirmed"
        assert [serial for _, serial in peers.seen][-1] == 2

    with quick(monkeypatch, 0.05):
        run(work())


@pytest.mark.parametrize("where", ["socket", "sendto"])
def test_an_error_of_the_socket_is_a_try_that_failed_and_not_the_end(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENETUNREACH, "Network is unreachable")]

    async def work() -> None:
        peers = Peers()
        told: list[Told] = []
        port = await listening(peers)
        honest = module.NotifySender._socket

        class Broken:
            def sendto(self, *_: object) -> int:
                raise failing.pop()

        def sometimes(self: NotifySender, family: int) -> object:
            if failing:
                if where == "socket":
                    raise failing.pop()
                return Broken()
            return honest(self, family)

        monkeypatch.setattr(module.NotifySender, "_socket", sometimes)
        sender = NotifySender()
        sender.tell(offered(), [target(port, told.append)])
        await done(sender)
        assert [str(each) for each in told] == [
            "1: Network is unreachable",
            "1: Too many open files",
            "1: confirmed",
        ]

    with quick(monkeypatch):
        run(work())


def test_they_are_paced() -> None:
    """One every *spacing_seconds*, by the clock that it is given."""
    now = 0.0

    async def work() -> None:
        nonlocal now
        peers = Peers(deaf=99)
        port = await listening(peers)
        sender = NotifySender(clock=lambda: now)
        sender.tell(offered(), [target(port, lambda _: None, f"127.0.0.{n}") for n in range(1, 6)], 0.1)
        sent = []
        for step in range(5):
            now = step * 0.1 + 0.01
            sender._send_due()
            sent.append(sum(1 for each in sender._pending.values() if each.tries))
        assert sent == [1, 2, 3, 4, 5]
        await sender.close()

    run(work())


def test_two_zones_share_the_line() -> None:
    now = 0.0

    async def work() -> None:
        port = await listening(Peers(deaf=99))
        sender = NotifySender(clock=lambda: now)
        peers = [target(port, lambda _: None, f"127.0.0.{n}") for n in range(1, 4)]
        other = OfferedZone(b"\4arpa\0")
        other.put(TWO, OfferState.IN_SERVICE, lambda: 100.0)
        sender.tell(offered(), peers, 0.1)
        sender.tell(other, peers, 0.01)
        due = sorted(at for at, _, _ in sender._heap)
        assert due == pytest.approx([0.0, 0.1, 0.2, 0.21, 0.22, 0.23])
        sender.tell(offered(), peers, 0.1)  # in place of those before
        due = sorted(at for at, _, each in sender._heap if not each.over)
        assert due == pytest.approx([0.21, 0.22, 0.23, 0.33, 0.43, 0.53])
        await sender.close()

    run(work())


def test_the_spacing_is_what_the_transfers_take_of_the_bandwidth() -> None:
    assert module.spacing(1_250_000, 1000) == pytest.approx(0.01)
    assert module.spacing(1_250_000, 0) == 0.0


def test_ipv6_and_v4_mapped_addresses() -> None:
    async def work() -> None:
        told: list[Told] = []
        sender = NotifySender(["127.0.0.1", "::1"])
        for address, bound in (("0:0:0:0:0:0:0:1", "::1"), ("::ffff:127.0.0.1", "127.0.0.1")):
            port = await listening(Peers(), bound)
            sender.tell(offered(), [target(port, told.append, address)])
            await done(sender)
        assert [each.outcome for each in told if each.outcome is not NotifyOutcome.SENT] == [
            NotifyOutcome.CONFIRMED
        ] * 2

    run(work())


def test_there_is_no_socket_while_nobody_is_to_be_told() -> None:
    async def work() -> None:
        sender = NotifySender()
        sender.tell(offered(), [target(await listening(Peers()), lambda _: None)])
        await done(sender)
        assert sender._running is not None
        await sender._running
        assert not sender._sockets

    run(work())
