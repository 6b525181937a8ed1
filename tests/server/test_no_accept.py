"""Where no connection can be accepted for a while: nobody else suffers, nothing is spun on, and then all goes on.

The errors are those of a host without memory or descriptors, which no test may bring about: a preloaded library has
accept4 fail (tests/faults/fail_once.c).
"""

import contextlib
import errno
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.test_fail_once import CALLS, ROLES
from tests.needs import REPOSITORY, require_tool
from tests.server.live import Instance, serving, wait_until
from tests.server.test_tcp import counted, is_answered, query, receive

PLACES = 100
FARM = 48
TRIES = 24
"""In which a farm that gave up an eighth at each would be gone."""


class Faulty:
    """An instance whose accept4 can be made to fail."""

    def __init__(self, instance: Instance, order: Path) -> None:
        self.instance = instance
        self._order = order

    @contextlib.contextmanager
    def accept_fails(self, error: int, role: str = "worker") -> Iterator[None]:
        """In *role*, with *error*, as often as it is tried."""
        with self._order.open("r+b", buffering=0) as stream:  # mapped by all: it must not become shorter
            stream.write(struct.pack("=5i", 1 << 30, ROLES.index(role), CALLS.index("accept"), error, 0))
            try:
                yield
            finally:
                stream.seek(0)
                stream.write(bytes(4))

    def tries(self) -> int:
        """How often it has failed."""
        failed: int = struct.unpack("=5i", self._order.read_bytes())[4]
        return failed


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("library") / "fail_once.so"
    source = REPOSITORY / "tests" / "faults" / "fail_once.c"
    command = [require_tool("clang"), "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


@pytest.fixture
def faulty(tmp_path: Path, library: Path) -> Iterator[Faulty]:
    """Each test has one that has given up no place yet."""
    order = tmp_path / "order"
    order.write_bytes(bytes(20))
    with serving(
        tmp_path,
        service=f"tcp_max_connections = {PLACES}\ntcp_max_connections_per_client = {PLACES}\ntcp_idle_seconds = 60",
        by=("env", f"LD_PRELOAD={library}", f"FAULT_FILE={order}"),
    ) as instance:
        yield Faulty(instance, order)


@pytest.mark.parametrize("error", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE], ids=errno.errorcode.get)
def test_a_host_that_can_give_no_connection_costs_those_who_have_one_little(faulty: Faulty, error: int) -> None:
    instance = faulty.instance
    with contextlib.ExitStack() as stack:
        farm = [stack.enter_context(instance.connect()) for _ in range(FARM)]
        assert all(map(is_answered, farm))
        before = counted(instance, "accepted")
        with faulty.accept_fails(error):
            began = time.monotonic()
            newcomer = stack.enter_context(instance.connect())
            newcomer.sendall(query(77))
            while faulty.tries() < TRIES:
                farm = [each for each in farm if is_answered(each)]
                assert instance.ask(".", "SOA").answer
            seconds = time.monotonic() - began
            assert faulty.tries() <= 10 * seconds + 3, "tried at each tick, and not again and again"
        assert (receive(newcomer) or b"")[:2] == b"\0\x4d"
        assert is_answered(stack.enter_context(instance.connect()))
        assert counted(instance, "accepted") == before + 2
        if error != errno.EMFILE:  # which is this process's, so what it gives up always helps
            assert len(farm) >= FARM - FARM // 8 - 1  # and one for the newcomer
    wait_until(lambda: counted(instance, "open") == 0, "all connections closed")


@pytest.mark.parametrize("error", [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE], ids=errno.errorcode.get)
def test_a_role_that_is_asked_meanwhile_takes_no_core_for_that(faulty: Faulty, error: int) -> None:
    """The parent of the workers runs where they do."""
    path = str(faulty.instance.directory / "run" / "serve.sock")
    with socket.socket(socket.AF_UNIX) as asking:
        with faulty.accept_fails(error, "serve"):
            began = time.monotonic()
            asking.connect(path)
            asking.sendall(b'{"command": "status"}\n')
            wait_until(lambda: faulty.tries() > 1, "it has been tried again")
            assert faulty.tries() <= time.monotonic() - began + 2
            assert faulty.instance.ask(".", "SOA").answer
        asking.settimeout(10)
        assert asking.recv(9) == b'{"ok": tr'
    assert faulty.instance.log.count("control connection is not accepted") == 1
    assert faulty.instance.log.count("control connections are accepted again") == 1
