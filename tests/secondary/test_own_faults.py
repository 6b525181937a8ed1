"""A fault of our own, whatever it is, ends one attempt: the version is marked, service and role go on."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import dns.rcode
import pytest

from rootsrv.process.child import ChildFailed, ChildHindered, in_child
from rootsrv.store.store import StoreFailed
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
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
            with pytest.raises(ChildHindered, match="temporarily unavailable"):
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
from rootsrv.store import store
open_table = store.open_table
compile_table, fork, stage = preparation.compile_table, os.fork, activation.Activation.activate
asked = pathlib.Path(os.environ["FAULTS"])

def wanted(what):
    return (asked / what).exists()

def compiling(root, hosts=None):
    if wanted("compile"):
        raise LookupError("what nobody expected")
    if wanted("memory"):
        raise MemoryError("no memory")
    return compile_table(root, hosts)

def opening(path):
    if wanted("open") and path.suffix == ".table":
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    return open_table(path)

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
store.open_table = opening
os.fork = forking
"""


@contextlib.contextmanager
def with_faults(tmp_path: Path) -> Iterator[tuple[Maintained, ScriptedPrimary, Path]]:
    """An instance that serves FIRST, its primary, and the directory where a file's name orders a fault."""
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(FAULTS)
    faults = tmp_path / "faults"
    faults.mkdir()
    environment = {"PYTHONPATH": str(tmp_path / "python"), "FAULTS": str(faults)}
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path / "box", primary_section(primary, "scripted"), environment=environment) as instance:
            instance.wait_for_serial(FIRST)
            yield instance, primary, faults


def test_faults_of_our_own_end_an_attempt_and_neither_service_nor_role(tmp_path: Path) -> None:
    with with_faults(tmp_path) as (instance, primary, faults):
        pid = instance.status()["pid"]
        serial = FIRST
        for what, told in (("compile", "it cannot be compiled: LookupError"), ("activate", "KeyError")):
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


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("fork", "no process: Resource temporarily unavailable"),
        ("memory", "MemoryError: no memory"),
        ("open", "Cannot allocate memory"),
    ],
)
def test_what_the_machine_refuses_is_no_verdict_on_the_zone(what: str, told: str, tmp_path: Path) -> None:
    """It is tried again by itself, and no primary is left alone for it."""
    with with_faults(tmp_path) as (instance, primary, faults):
        (faults / what).touch()
        primary.publish(version(FIRST + 1))
        instance.order("zone-refresh")
        instance.wait(lambda: told in instance.zone()["last_rejection"], told)
        assert instance.serial() == FIRST
        assert [each["failures"] for each in instance.zone()["primaries"]] == [0]
        primary.rcode = dns.rcode.REFUSED  # what it delivered is not lost
        (faults / what).unlink()
        instance.wait_for_serial(FIRST + 1)
        assert not any(each["verdict"] == "void" for each in instance.order("zone-list")["versions"])
