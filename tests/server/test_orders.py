"""What workers are told: however long it is, whenever it changes, and what becomes of one that cannot take it in."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from rootsrv.page.layout import Page
from rootsrv.server.parent import Parent
from rootsrv.server.sockets import ServiceSocket
from rootsrv.server.worker import Begun, follow_changes
from rootsrv.server.worker_orders import WorkerOrders
from tests.control.asking import ask
from tests.server.live import running, wait_until
from tests.server.test_shed_live import is_tc, order

pytestmark = pytest.mark.timeout(120)


def test_a_thousand_exempt_prefixes_and_long_rules_are_followed_and_known_to_the_next_worker(tmp_path: Path) -> None:
    exempt = ", ".join(f'"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number:04x}/128"' for number in range(0x1000, 0x1400))
    with running(tmp_path, zone=f'[limits]\nmode = "dry-run"\nexempt = [{exempt}]\n') as instance:
        labels = ".".join(["\\001" * 60] * 4)
        for number in range(15):
            order(instance, "shed", match=[f"qname-suffix={number:02}.{labels}"], do="tc", seconds=600, reason="long")
        order(instance, "shed", match=["qname-suffix=last.com"], do="tc", seconds=600, reason="short")
        wait_until(lambda: is_tc(instance, "a.last.com."), "the last rule is followed")
        (pid,) = instance.worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: instance.worker_pids() not in ([], [0], [pid]), "another worker")
        wait_until(lambda: is_tc(instance, "a.last.com."), "it has the rule, too")
        assert ask(instance.directory / "run" / "serve.sock", "unshed", rule=15)["ok"]
        wait_until(lambda: not is_tc(instance, "b.last.com."), "it follows")


class Pipe:
    """What a process is told."""

    def __init__(self) -> None:
        self.told = b""

    def write(self, octets: bytes) -> None:
        """As a StreamWriter has it."""
        self.told += octets


def test_what_changes_while_a_worker_is_being_started_is_known_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def started() -> bytes:
        parent = Parent(
            sockets=[ServiceSocket(listening, "127.0.0.1", 0)],
            page=Page.create(tmp_path / "page"),
            tables=tmp_path,
            orders={"responder": {}, "tcp": {}, "account": None, "sources_key": "", "admission": {"rules": "old"}},
        )

        async def start(*_: object, **__: object) -> Any:
            parent.change_admission({"rules": "new"})
            return process

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
        await parent._start(0, tables)
        os.close(parent._handles.pop(0))
        return process.stdin.told

    class Process:
        pid = os.getpid()
        stdin = Pipe()

    process = Process()
    tables = os.open(tmp_path, os.O_RDONLY)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            told = asyncio.run(started())
    finally:
        os.close(tables)
    assert WorkerOrders.from_json(told).admission == {"rules": "new"}


def test_a_worker_that_cannot_take_in_an_order_stops_so_that_another_has_all_of_them() -> None:
    async def stops() -> bool:
        nothing: Any = None
        lines = asyncio.StreamReader(limit=1000)
        orders: Any = type("Orders", (), {"slot": 0})
        begun = Begun(orders, lines, asyncio.Event(), nothing, nothing, nothing, nothing)
        follow_changes(begun)
        lines.feed_data(b'"' + b"x" * 2000 + b'"\n')
        async with asyncio.timeout(10):
            return await begun.stop.wait()

    assert asyncio.run(stops())
