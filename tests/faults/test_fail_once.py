"""Every system call that can fail fails once, in turn, in an instance under load: over updates, restarts, a day's turn.

Whatever fails: no answer is wrong, older than one before or of a zone that was not verified, and when the fault is over
the instance takes the next zone by itself.  The fault is made by a preloaded library (fail_once.c).
"""

import contextlib
import errno
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.control.asking import ask
from tests.needs import require_tool
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version

HERE = Path(__file__).parent
STEP_CLOCK = HERE.parent / "secondary" / "step_clock.c"

CALLS = ("open", "write", "fsync", "rename", "fork", "pipe", "accept", "mmap")
ROLES = ("maintain", "serve", "report", "worker")
ERRORS = {
    "open": (errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.EIO),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.ENOSPC, errno.EIO),
    "fork": (errno.EAGAIN, errno.ENOMEM),
    "pipe": (errno.EMFILE, errno.ENFILE),
    "accept": (errno.EMFILE, errno.ECONNABORTED, errno.ENOBUFS),
    "mmap": (errno.ENOMEM, errno.ENODEV),
}
ALL = [(role, call, error) for role in ROLES for call in CALLS for error in ERRORS[call]]
SHORT = [
    ("maintain", "write", errno.ENOSPC),
    ("maintain", "rename", errno.ENOSPC),
    ("maintain", "fork", errno.EAGAIN),
    ("worker", "mmap", errno.ENOMEM),
    ("serve", "fork", errno.EAGAIN),
]


@dataclass
class Load:
    """Asks for the serial all the time, and keeps what must not be."""

    service: tuple[str, int]
    wrong: list[str] = field(default_factory=list)
    answered: int = 0
    newest: int = FIRST
    published: int = FIRST
    may_be_silent: bool = False
    """Whether SERVFAIL is right: nothing has been loaded."""

    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        query = dns.message.make_query(".", "SOA")
        while not self._stop.is_set():
            published = self.published
            try:
                response = dns.query.udp(query, self.service[0], port=self.service[1], timeout=0.5)
            except (OSError, dns.exception.DNSException):
                continue
            self.answered += 1
            if response.rcode() != dns.rcode.NOERROR:
                if not self.may_be_silent:
                    self.wrong.append(f"{dns.rcode.to_text(response.rcode())} while {self.newest} was in service")
                continue
            serial = int(response.answer[0][0].serial)
            if serial < self.newest or serial > max(published, self.published):
                self.wrong.append(f"serial {serial} after {self.newest}, published: {self.published}")
            self.newest = max(self.newest, serial)
            self._stop.wait(0.002)

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()


@dataclass
class Faulty:
    """An instance under load whose system calls fail by order."""

    instance: Maintained
    primary: ScriptedPrimary
    load: Load
    file: Path
    clock: Path

    def arm(self, role: str, call: str, error: int) -> None:
        """From now on the next *call* in *role* fails."""
        order = struct.pack("=5i", 1, ROLES.index(role), CALLS.index(call), error, 0)
        with self.file.open("r+b") as stream:
            stream.write(order)

    def disarm(self) -> bool:
        """The fault is over; whether anything failed."""
        with self.file.open("r+b") as stream:
            failed = struct.unpack("=5i", stream.read(20))[4]
            stream.seek(0)
            stream.write(bytes(4))
        return bool(failed)

    def update(self) -> None:
        """Publish a newer zone; back when it is answered."""
        serial = self.load.published + 1
        contents = version(serial)
        self.load.published = serial
        self.primary.publish(contents)
        self._until_answered(serial)

    def _until_answered(self, serial: int) -> None:
        deadline = time.monotonic() + 60
        at = 0.0
        while self.load.newest != serial:
            assert not self.load.wrong, self.load.wrong
            assert time.monotonic() < deadline, f"{serial} is not answered\n{self.instance.log[-4000:]}"
            if time.monotonic() > at + 2:  # as a primary does, and an operator who looks
                at = time.monotonic()
                with contextlib.suppress(OSError, dns.exception.DNSException, ValueError):
                    self.instance.notify(serial)
            time.sleep(0.01)

    def under(self, fault: tuple[str, str, int]) -> bool:
        """An update while *fault* is armed, and another when it is over; whether anything failed."""
        role, call, error = fault
        self.arm(role, call, error)
        if role == "serve" and call in {"fork", "pipe", "mmap", "open"}:
            self._replace_a_worker()
        if call == "accept":
            with contextlib.suppress(OSError, dns.exception.DNSException):
                self.instance.ask(tcp=True)
        try:
            self.update()
        finally:
            failed = self.disarm()
        self.update()
        assert not self.load.wrong, (fault, self.load.wrong)
        assert self.instance.process.poll() is None, self.instance.log[-4000:]
        self.instance.wait(self.answers_over_tcp, f"TCP answers after {fault}")
        return failed

    def answers_over_tcp(self) -> bool:
        """One try; the connection may wait for a worker that is only just replaced."""
        try:
            return bool(self.instance.ask(tcp=True).answer)
        except (OSError, EOFError, dns.exception.DNSException):  # a write that failed has closed the connection
            return False

    def _replace_a_worker(self) -> None:
        status = self.instance.wait(self._serve_status, "serve tells")
        os.kill(status["workers"][0]["pid"], signal.SIGKILL)

    def _serve_status(self) -> dict[str, Any]:
        try:
            document = ask(self.instance.directory / "run" / "serve.sock", "status", patience=5)
        except (OSError, ValueError):
            return {}
        return document if document["workers"][0]["pid"] else {}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    directory = tmp_path_factory.mktemp("faults")
    libraries = []
    for source in (HERE / "fail_once.c", STEP_CLOCK):
        library = directory / source.with_suffix(".so").name
        command = [
            require_tool("clang"),
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            "-o",
            str(library),
            str(source),
        ]
        subprocess.run([*command, "-ldl"], check=True, timeout=60)
        libraries.append(str(library))
    faults, clock = directory / "order", directory / "step"
    faults.write_bytes(bytes(20))
    clock.write_bytes(bytes(8))
    environment = {
        "LD_PRELOAD": " ".join(libraries),
        "FAULT_FILE": str(faults),
        "STEP_CLOCK_FILE": str(clock),
    }
    with scripted(version(FIRST)) as primary:
        section = primary_section(primary, "scripted")
        with maintained(directory / "instance", section, environment=environment, workers=2) as instance:
            instance.wait_for_serial(FIRST)
            load = Load(instance.service)
            with load.running():
                yield Faulty(instance, primary, load, faults, clock)


def sweep(faulty: Faulty, faults: list[tuple[str, str, int]]) -> int:
    """How many of *faults* came about."""
    before = faulty.load.answered
    failed = sum(faulty.under(fault) for fault in faults)
    assert faulty.load.answered > before
    return failed


def test_an_update_survives_what_fails_most_often(faulty: Faulty) -> None:
    assert sweep(faulty, SHORT) >= len(SHORT) - 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_an_update_survives_whatever_fails(faulty: Faulty) -> None:
    assert sweep(faulty, ALL) >= len(ALL) // 3  # not every role makes every call in an update


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("role", ROLES)
def test_a_restart_survives_whatever_fails(faulty: Faulty, role: str) -> None:
    instance = faulty.instance
    for call in CALLS:
        faulty.load.may_be_silent = True
        instance.kill()
        faulty.arm(role, call, ERRORS[call][0])
        instance.start()
        deadline = time.monotonic() + 60
        while instance.serial() != faulty.load.newest:
            assert time.monotonic() < deadline, (role, call, instance.log[-4000:])
            if instance.process.poll() is not None:
                instance.start()  # as a service manager does
            time.sleep(0.05)
        faulty.disarm()
        faulty.load.may_be_silent = False
        faulty.update()
        assert not faulty.load.wrong, (role, call, faulty.load.wrong)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_days_turn_survives_whatever_fails(faulty: Faulty) -> None:
    for call in ("open", "write", "fsync", "rename", "mmap"):
        for role in ("worker", "report"):
            faulty.arm(role, call, ERRORS[call][0])
            now = time.time()
            with faulty.clock.open("r+b") as stream:  # a second after the next midnight; each time a day later
                stream.write(int(86_401 - now % 86_400).to_bytes(8, "little", signed=True))
            faulty.instance.wait(faulty.answers_over_tcp, "answers after midnight")
            faulty.disarm()
            with faulty.clock.open("r+b") as stream:
                stream.write(bytes(8))
            assert not faulty.load.wrong, (role, call, faulty.load.wrong)
    faulty.update()
