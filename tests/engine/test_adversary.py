"""With etcd's own rights in force, a member's certificate and one of nobody: what they reach, and that it is nothing.

etcd 3.4.23 lets a mere member overwrite by a nested transaction what it may not write, and whoever has a certificate at
all raise alarms (GHSA-rfx7-8w68-q57q, CVE-2026-33413).  So whatever stands there counts only if it is signed.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpclib.client import UnaryUnaryMethod

from bench.peers.etcd import Cluster, cluster
from rootsrv.engine.board import Board
from rootsrv.engine.etcd import EngineGone, Etcd, tls_context
from rootsrv.engine.fleet import Fleet
from rootsrv.engine.messages import make
from rootsrv.mesh.envelope import Envelope, seal
from rootsrv.mesh.member import Now
from rootsrv.mesh.orders import Stage, Subject, set_time_content
from rootsrv.mesh.roster import RosterBook
from tests.mesh.mesh_of import SERVICE, key_of, mesh_of

PREFIX = f"/rootsrv/v1/{SERVICE}/"
KEY = "zone/./order"
MESH = mesh_of(6)
HOST, MEMBER, NOBODY = "m0", "m3", "stranger"
ELECTED = time.time()
"""When the host was."""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Rights as etcd can give them: members read all and write their own, hosts write orders."""
    with cluster(tmp_path_factory.mktemp("rights"), clients=[HOST, MEMBER, NOBODY]) as started:
        for role, writes in ((HOST, PREFIX), (MEMBER, f"{PREFIX}member/{MEMBER}/")):
            started.ctl("role", "add", role)
            started.ctl("role", "grant-permission", "--prefix=true", role, "read", PREFIX)
            started.ctl("role", "grant-permission", "--prefix=true", role, "readwrite", writes)
            started.ctl("user", "add", role, "--no-password")
            started.ctl("user", "grant-role", role, role)
        started.ctl("user", "add", "root", "--no-password")
        started.ctl("user", "grant-role", "root", "root")
        started.ctl("auth", "enable")
        yield started


def connected(engine: Cluster, name: str) -> Etcd:
    files = engine.certificates
    return Etcd(engine.endpoints, tls_context(files.ca, files.certificate(name), files.key(name)))


class Member:
    """What a member that is not the adversary knows: a real board, and what it makes of it."""

    def __init__(self, engine: Cluster, directory: Path) -> None:
        book = RosterBook(SERVICE, MESH.roster.signing_keys[:1])
        book.offer(MESH.octets, 0.0)
        self.fleet = Fleet(SERVICE, book, directory / "roster")
        self.fleet._public = MESH.roster.keys_of(each.name for each in MESH.roster.member)
        self.board = Board(connected(engine, HOST), PREFIX, time.monotonic)

    def hear(self) -> None:
        now = Now(time.time(), time.monotonic(), True)
        while self.board.dirty:
            key = self.board.dirty.pop()
            self.fleet.take(key, self.board.entries.get(key), now)

    def value(self) -> bytes | None:
        """What stands under the order's key."""
        entry = self.board.entries.get(KEY)
        return None if entry is None else entry.value

    async def until(self, condition: Any, what: str) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.board.changed.clear()
                self.hear()
                if condition():
                    return
                try:
                    async with asyncio.timeout(0.2):
                        await self.board.changed.wait()
                except TimeoutError:
                    pass
        assert condition(), what


def order(serial: int, seq: int, *, by: str = HOST) -> bytes:
    content = set_time_content(Subject(".", serial, "ab"), Stage.ALL, time.time() + 60, "", None)
    return seal(Envelope(KEY, by, ELECTED, seq, time.time(), 2.0**50, content), SERVICE, key_of(by))


async def nested(etcd: Etcd, *operations: Any) -> None:
    """*operations* in a transaction within a transaction."""
    inner = make("TxnRequest", success=list(operations))
    outer = make("TxnRequest", success=[make("RequestOp", request_txn=inner)])
    await etcd._call("KV/Txn", outer, "TxnResponse")


def put(value: bytes) -> Any:
    return make("RequestOp", request_put=make("PutRequest", key=(PREFIX + KEY).encode(), value=value))


def delete() -> Any:
    return make("RequestOp", request_delete_range=make("DeleteRangeRequest", key=(PREFIX + KEY).encode()))


def run(work: Any) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


def test_whatever_a_members_certificate_reaches_the_order_that_was_signed_stands(
    engine: Cluster, tmp_path: Path
) -> None:
    async def work() -> None:
        member, adversary = Member(engine, tmp_path), connected(engine, MEMBER)
        running = asyncio.create_task(member.board.run())
        try:
            await member.until(lambda: not member.board.gone, "there")
            first, second = order(2026112101, 1), order(2026112102, 2)
            for value in (first, second):
                await member.board.etcd.put(PREFIX + KEY, value)
                await member.until(lambda value=value: member.value() == value, "written")
                member.hear()
            stands = member.fleet.orders["."]
            assert [each.subject.serial for each in stands] == [2026112101, 2026112102]

            with pytest.raises(EngineGone, match="permission denied"):
                await adversary.put(PREFIX + KEY, b"garbage")
            refused = 0
            for value in (b"garbage", order(2026112103, 3, by=MEMBER), first, bytes(100_000)):
                try:
                    await nested(adversary, put(value))
                except EngineGone as error:  # a version without the hole
                    assert "permission denied" in str(error)  # noqa: PT017
                    await member.board.etcd.put(PREFIX + KEY, value)
                refused += 1
                await member.until(lambda n=refused: member.fleet.refused >= n, f"refusal {refused}")
                assert member.fleet.orders["."] == stands
            try:
                await nested(adversary, delete())
            except EngineGone:
                await member.board.etcd.delete(PREFIX + KEY, member.board.entries[KEY].create_revision)
            await member.until(lambda: KEY not in member.board.entries, "deleted")
            assert member.fleet.orders["."] == stands
            assert member.fleet.refused == refused
            # Whoever may sign goes on as if nothing had been.
            await member.board.etcd.put(PREFIX + KEY, order(2026112104, 4))
            await member.until(lambda: member.fleet.orders["."] != stands, "the next order")
            assert member.fleet.orders["."][-1].subject.serial == 2026112104
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            adversary.close()
            member.board.etcd.close()

    run(work())


def alarm_messages() -> tuple[Any, Any]:
    """AlarmRequest and AlarmResponse of etcd's rpc.proto: the product has no use for them."""
    file = descriptor_pb2.FileDescriptorProto(name="alarm.proto", package="adversary", syntax="proto3")
    request = file.message_type.add(name="AlarmRequest")
    for number, name in enumerate(("action", "memberID", "alarm"), 1):
        request.field.add(name=name, number=number, type=4, label=1)  # uint64, optional
    file.message_type.add(name="AlarmResponse")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"adversary.{n}"))
        for n in ("AlarmRequest", "AlarmResponse")
    )
    return next(found), next(found)


def test_an_alarm_that_a_certificate_of_nobody_raises_is_the_engine_gone_and_passes(
    engine: Cluster, tmp_path: Path
) -> None:
    async def work() -> None:
        member, adversary = Member(engine, tmp_path), connected(engine, NOBODY)
        running = asyncio.create_task(member.board.run())
        try:
            await member.until(lambda: not member.board.gone, "there")
            request, response = alarm_messages()
            method = UnaryUnaryMethod(adversary._connection(), "/etcdserverpb.Maintenance/Alarm", request, response)
            await method(request(action=1, alarm=1))  # ACTIVATE, NOSPACE
            member.board.publish("member/m0/status", b"something new")
            await member.until(lambda: "space exceeded" in member.board.gone, "gone")
            engine.ctl("alarm", "disarm")
            await member.until(lambda: not member.board.gone, "there again")
            await member.until(lambda: "member/m0/status" in member.board.entries, "published")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            adversary.close()
            member.board.etcd.close()

    run(work())
