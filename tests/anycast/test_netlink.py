"""The promise in the kernel, in a network namespace of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import REPOSITORY
from tests.network import Host, network

ANCHORS = ("192.0.2.1/24", "2001:db8::1/48")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with network() as net:
        yield net.host("lo")


def there(host: Host, program: str, *arguments: str) -> str:
    """What the asynchronous *program*, which has `interface`, prints when it runs on *host*."""
    source = (
        "import asyncio, sys, ipaddress, time\n"
        "from rootsrv.anycast.netlink import *\n"
        "async def main():\n"
        "    async with ServiceInterface('lo') as interface:\n"
        + "".join(f"        {line}\n" for line in program.strip().splitlines())
        + "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [*host.prefix, sys.executable, "-W", "error", "-c", source, *arguments],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_promise_that_is_not_renewed_lapses_and_one_that_is_does_not(host: Host, anchor: str) -> None:
    printed = there(
        host,
        """
anchor = ipaddress.ip_interface(sys.argv[1])
await interface.promise(anchor, 2)
await asyncio.sleep(1.2)
await interface.promise(anchor, 2)
await asyncio.sleep(1.2)
print(anchor in await interface.addresses())
began = time.monotonic()
while anchor in await interface.addresses():
    await asyncio.sleep(0.05)
print(round(time.monotonic() - began + 1.2, 1))
""",
        anchor,
    )
    renewed, lapsed = printed.split()

    assert renewed == "True"
    assert 1.9 <= float(lapsed) <= 3.5  # 2 s, the kernel's 0.4 s, and a busy machine


def test_removing_what_is_not_there_is_no_error_and_what_is_there_is_listed(host: Host) -> None:
    printed = there(
        host,
        """
anchor = ipaddress.ip_interface(sys.argv[1])
await interface.remove(anchor)
await interface.put(anchor)
print((await interface.addresses())[anchor] == FOREVER, anchor.ip in await interface.host_addresses())
await interface.remove(anchor)
print(anchor in await interface.addresses())
""",
        "2001:db8::7/128",
    )
    assert printed.split() == ["True", "True", "False"]


def test_without_privilege_the_error_names_the_capability(host: Host) -> None:
    printed = there(
        host,
        """
import os
os.setuid(65534)
try:
    await interface.put(ipaddress.ip_interface('192.0.2.9/32'))
except NetlinkFailed as error:
    print(error)
""",
    )
    assert printed.strip() == "interface lo: replace 192.0.2.9/32: Operation not permitted (needs CAP_NET_ADMIN)"


def test_an_accept_queue_that_nobody_empties_is_seen(host: Host) -> None:
    printed = there(
        host,
        """
import socket
listener = socket.create_server(('127.0.0.1', 5353), backlog=1)
address = ipaddress.ip_address('127.0.0.1')
print((await full_accept_queues(5353, [address]))[address])
clients = [socket.create_connection(('127.0.0.1', 5353)) for _ in range(2)]
print((await full_accept_queues(5353, [address]))[address])
for each in (listener, *clients):
    each.close()
""",
    )
    assert printed.split() == ["False", "True"]


def test_service_addresses_are_put_and_only_those_are_removed(host: Host, tmp_path: Path) -> None:
    host.ip("address", "add", "192.0.2.53/32", "dev", "lo")
    printed = there(
        host,
        """
from pathlib import Path
from rootsrv.anycast import managed
wanted = [ipaddress.ip_interface(text) for text in ("192.0.2.53/32", "2001:db8::53/128")]
note = Path(sys.argv[1])
ours = await managed._put("lo", wanted, note)
print(*ours)
again = await managed._put("lo", wanted, note)  # as after a kill
print(again == ours)
await managed._remove("lo", again)
print(*(each for each in await interface.addresses() if each in wanted))
""",
        str(tmp_path / "note.json"),
    )
    assert printed.split() == ["2001:db8::53/128", "True", "192.0.2.53/32"]
