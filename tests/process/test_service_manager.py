"""What the service manager is told, by the module and by roles that really run."""

import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from rootsrv.process import service_manager
from tests.server.live import configure, start, wait_until


class Manager:
    """The receiving end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self._socket.settimeout(0)

    def told(self) -> list[str]:
        """All that has come since the last call."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@contextmanager
def manager(path: str) -> Iterator[Manager]:
    made = Manager(path)
    try:
        yield made
    finally:
        made.close()
        service_manager.take({})


def test_what_the_manager_did_not_get_is_told_again(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"}
    try:
        service_manager.take(environment)
        service_manager.ready("nobody is there")
        service_manager.alive()
        with manager(path) as there:
            service_manager.take(environment | {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1000000"})
            with no_descriptors():
                service_manager.ready("first")
                service_manager.alive()
            assert there.told() == []
            for _ in range(2):
                service_manager.ready("second")
                service_manager.alive()
            assert there.told() == ["READY=1\nSTATUS=second", "WATCHDOG=1"]
    finally:
        service_manager.take({})


@contextmanager
def no_descriptors() -> Iterator[None]:
    """As where a flood has taken them all."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("kind", ["a_file", "an_abstract_name"])
def test_ready_is_told_once(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "notify") if kind == "a_file" else f"@rootsrv-test-{os.getpid()}"
    with manager(path) as there:
        environment = {"NOTIFY_SOCKET": path, "OTHER": "stays"}
        service_manager.take(environment)
        service_manager.ready("first")
        service_manager.ready("second")
        service_manager.stopping()

        assert environment == {"OTHER": "stays"}
        assert there.told() == ["READY=1\nSTATUS=first", "STOPPING=1"]


def test_the_watchdog_is_fed_only_where_there_is_one_of_ours(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with manager(path) as there:
        for environment, expected in (
            ({}, []),
            ({"WATCHDOG_USEC": "3600000000", "WATCHDOG_PID": "1"}, []),
            ({"WATCHDOG_USEC": "3600000000"}, ["WATCHDOG=1"]),
            ({"WATCHDOG_USEC": "3600000000", "WATCHDOG_PID": str(os.getpid())}, ["WATCHDOG=1"]),
            ({"WATCHDOG_USEC": "1"}, ["WATCHDOG=1"] * 2),
        ):
            service_manager.take({"NOTIFY_SOCKET": path, **environment})
            service_manager.alive()
            service_manager.alive()
            assert there.told() == expected


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    try:
        service_manager.take({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1"})
        service_manager.ready("alone")
        service_manager.alive()
    finally:
        service_manager.take({})


def test_each_role_tells_when_it_does_its_work_and_that_it_lives(tmp_path: Path) -> None:
    port = free_port()
    path = configure(tmp_path, port, 1)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for role in ("maintain", "serve", "report"):
            with manager(str(tmp_path / f"{role}.notify")) as there:
                environment = {"NOTIFY_SOCKET": there.path, "WATCHDOG_USEC": "1000000"}
                instance = start(path, port, 1, environment, role)
                processes.append(instance.process)
                told: list[str] = []

                def is_up(told: list[str] = told, there: Manager = there) -> bool:
                    told += there.told()
                    return any("READY=1" in each for each in told) and "WATCHDOG=1" in told

                wait_until(is_up, f"{role} is ready: {told} {instance.log}", 60)
                if role == "maintain":
                    assert instance.page.active  # what it is ready for
                if role == "serve":
                    assert instance.ask(".", "SOA").answer
                    (worker,) = instance.worker_pids()
                    assert b"NOTIFY_SOCKET" not in Path(f"/proc/{worker}/environ").read_bytes()
                if role == "report":
                    instance.process.terminate()
                    assert instance.process.wait(20) == 0
                    assert "STOPPING=1" in there.told()
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            process.wait(20)
