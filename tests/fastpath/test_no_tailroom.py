"""A driver that has native XDP and no room for replies: found out by its refusals, and left for tc.

A veth stands for the driver: its frames from ordinary sockets have no tailroom, and only its being known for that keeps
`auto` from XDP.  So that is forgotten here; the refusals are the kernel's.
"""

import contextlib
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fastpath.conftest import Zones, message, opt, require_program, wire
from tests.fastpath.site import CLIENT, SERVICE, WIRE, socket_in
from tests.needs import REPOSITORY
from tests.network import network
from tests.server.live import wait_until

QUERY = message(wire(b"nosuchtld"), opt=opt())

# Run in the server's namespace: the owner of the fast path with a table and a page, and no worker behind it.
OWNER = """
import asyncio, json, os, sys, time
from pathlib import Path
from rootsrv.answer.responder import ResponderSettings
from rootsrv.store.table_file import open_table
from rootsrv.answer.table import AnswerTable
from rootsrv.config.fastpath import FastPathConfig
from rootsrv.fastpath import attachment, owner
from rootsrv.page.layout import Page
from rootsrv.page.unique_sources import SourcesKey

directory, interface, service = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
attachment._NO_TAILROOM_KINDS.clear()
page = Page.create(directory / "page")
for zone in (0, 1):
    page.set_deadline(zone, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**12)
page.workers = page.active = page.worker(0).active = 1
page.worker(0).pid = os.getpid()
fastpath = owner.FastPath(
    FastPathConfig(mode="auto", interfaces=(interface,)), addresses=(service,), port=53, responses=ResponderSettings(),
    page=page, sources_key=SourcesKey.random(), open_table=lambda _: open_table(directory / "1.table"),
)

async def main():
    stop = asyncio.Event()
    running = asyncio.create_task(fastpath.run(stop))
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(json.dumps(fastpath.status()), flush=True)
    stop.set()
    await running

asyncio.run(main())
"""


def test_after_a_hundred_refusals_auto_falls_back_to_tc_which_answers(zones: Zones, tmp_path: Path) -> None:
    require_program()
    (tmp_path / "1.table").write_bytes(zones.table.octets)
    with network() as made, contextlib.ExitStack() as stack:
        server, client = made.host("server"), made.host("client")
        made.link(server, client, WIRE, ((f"{SERVICE[4]}/24", f"{CLIENT[4]}/24"),))
        owner = stack.enter_context(
            subprocess.Popen(
                (*server.prefix, sys.executable, "-c", OWNER, str(tmp_path), WIRE, SERVICE[4]),
                cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
        stack.callback(owner.kill)

        def status() -> dict[str, Any]:
            assert owner.stdin is not None
            assert owner.stdout is not None
            owner.stdin.write(b"status\n")
            owner.stdin.flush()
            document: dict[str, Any] = json.loads(owner.stdout.readline())
            return document

        def is_on(*hooks: str) -> bool:
            told = status()
            return told["active"] == 1 and told["interfaces"][0]["hook"] in hooks

        wait_until(lambda: is_on("xdp"), "attached in XDP")
        with socket_in(client, socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.2)

            def is_answered() -> bool:
                asking.sendto(QUERY, (SERVICE[4], 53))
                with contextlib.suppress(TimeoutError):
                    return asking.recv(4096)[3] & 15 == 3
                return False

            for _ in range(99):
                asking.sendto(QUERY, (SERVICE[4], 53))
            wait_until(lambda: status()["counters"]["passes"].get("no_tailroom") == 99, "all have been passed up")
            assert is_on("xdp")
            assert not is_answered()
            wait_until(lambda: is_on("tcx", "clsact"), "fallen back", 30)
            assert "left no room for replies" in status()["interfaces"][0]["why"]
            wait_until(is_answered, "tc answers")
        assert owner.stdin is not None
        owner.stdin.close()
        assert owner.wait(20) == 0
