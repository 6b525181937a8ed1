"""A fault of our own, whatever it is, ends one attempt: the version is marked, service and role go on."""

import asyncio
import errno
import os
import socket
import struct
from pathlib import Path

import pytest

from rootsrv.process.child import ChildFailed, ChildNotStarted, in_child
from rootsrv.store.store import StoreFailed
from tests.secondary.maintained import maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version


class Nothing:
    """Holds nothing that a fork must let go of."""

    def leave_in_child(self) -> None: ...


def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error",
    [struct.error("ubyte"), OverflowError("int"), AssertionError("no"), RecursionError("deep"), OSError(28, "full")],
)
def test_what_nobody_expected_of_a_child_is_its_failure(error: Exception) -> None:
    with pytest.raises(ChildFailed, match=type(error).__name__):
        asyncio.run(in_child(lambda: raising(error), Nothing(), expected=(StoreFailed,)))


def test_what_was_expected_is_raised_as_it_is() -> None:
    with pytest.raises(StoreFailed, match="full"):
        asyncio.run(in_child(lambda: raising(StoreFailed("full")), Nothing(), expected=(StoreFailed,)))


@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_a_process_that_cannot_be_started_leaves_nothing_open(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def try_twice() -> int:
        before = len(os.listdir("/proc/self/fd"))
        with monkeypatch.context() as patched:
            patched.setattr(os, call, lambda: raising(OSError(errno.EAGAIN, "Resource temporarily unavailable")))
            with pytest.raises(ChildNotStarted, match="temporarily unavailable"):
                await in_child(lambda: 1, Nothing())
        assert len(os.listdir("/proc/self/fd")) == before
        return await in_child(lambda: 1, Nothing())

    assert asyncio.run(try_twice()) == 1


def test_a_child_holds_no_socket_of_its_parent() -> None:
    """A fork that outlives the closing of a socket would keep its address taken: no reload could bind it anew."""

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        number, inode = bound.fileno(), os.fstat(bound.fileno()).st_ino

        def holds_it() -> bool:
            try:
                return os.fstat(number).st_ino == inode
            except OSError:
                return False

        assert holds_it()
        assert not asyncio.run(in_child(holds_it, Nothing()))


FAULTS = """
import errno, os, pathlib
from rootsrv.secondary import activation, preparation
compile_table, fork, stage = preparation.compile_table, os.fork, activation.Activation.activate
asked = pathlib.Path(os.environ["FAULTS"])

def wanted(what):
    return (asked / what).exists()

def compiling(root, hosts=None):
    if wanted("compile"):
        raise MemoryError("what nobody expected")
    return compile_table(root, hosts)

def forking():
    if wanted("fork"):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    return fork()

async def activating(self, *arguments, **named):
    if wanted("activate"):
        raise KeyError("what nobody expected")
    return await stage(self, *arguments, **named)

preparation.compile_table = compiling
activation.Activation.activate = activating
os.fork = forking
"""


def test_faults_of_our_own_end_an_attempt_and_neither_service_nor_role(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(FAULTS)
    faults = tmp_path / "faults"
    faults.mkdir()
    environment = {"PYTHONPATH": str(tmp_path / "python"), "FAULTS": str(faults)}
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path / "box", primary_section(primary, "scripted"), environment=environment) as instance:
            instance.wait_for_serial(FIRST)
            pid = instance.status()["pid"]
            serial = FIRST
            for what, told in (
                ("compile", "it cannot be compiled: MemoryError"),
                ("fork", "no process: Resource temporarily unavailable"),
                ("activate", "KeyError"),
            ):
                serial += 1
                (faults / what).touch()
                primary.publish(version(serial))
                instance.order("zone-refresh")
                instance.wait(lambda told=told: told in instance.zone()["last_rejection"], told)
                assert instance.serial() == FIRST
                (faults / what).unlink()
            assert instance.status()["pid"] == pid
            kept = {each["serial"]: each for each in instance.order("zone-list")["versions"]}
            assert kept[FIRST + 1]["verdict"] == "void"

            # What was kept does not end the next start either.
            (faults / "compile").touch()
            instance.kill()
            instance.start()
            instance.wait(lambda: instance.zone().get("served") == FIRST, "served")
            instance.wait_for_serial(FIRST)
            (faults / "compile").unlink()
            primary.publish(version(serial + 1))
            instance.order("zone-refresh")
            instance.wait_for_serial(serial + 1)
