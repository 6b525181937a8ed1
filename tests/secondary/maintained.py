"""A real instance (roles maintain and serve) that has its zones from primaries, and what one can ask it."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.message
import dns.opcode
import dns.query
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.update

from bench import instance
from bench.peers.daemon import free_port
from bench.peers.primaries import KEY
from tests.control.asking import ask
from tests.secondary import versions

REPOSITORY = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS = 40.0  # the machine may be busy with other tests

SMALL_LIMITS = """
[refresh]
min_seconds = 1
max_seconds = 3600
backoff_seconds = 0.1
query_timeout_seconds = 5
transfer_seconds = 15
stall_seconds = 3
max_octets = 300000
max_records = 1000
"""


@dataclass
class Maintained:
    """A running instance."""

    directory: Path
    service: tuple[str, int]
    admin: tuple[str, int]
    process: "subprocess.Popen[bytes]"
    environment: dict[str, str]

    @property
    def configuration(self) -> Path:
        """Its configuration file."""
        return self.directory / "rootsrv.toml"

    @property
    def log(self) -> str:
        """All that it has logged."""
        return (self.directory / "log").read_text()

    def journal(self) -> list[dict[str, Any]]:
        """All decisions."""
        lines = (self.directory / "state" / "journal.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def order(self, command: str, octets: bytes = b"", **facts: Any) -> dict[str, Any]:
        """One request over the control socket."""
        return ask(self.directory / "run" / "maintain.sock", command, octets, WAIT_SECONDS, **facts)

    def status(self) -> dict[str, Any]:
        """The status document; empty while nobody answers."""
        try:
            return self.order("status")
        except (OSError, ValueError):
            return {}

    def zone(self, name: str = ".") -> dict[str, Any]:
        """The status of one zone."""
        return next((each for each in self.status().get("zones", []) if each["name"] == name), {})

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`rootsrv …` as an operator types it."""
        return subprocess.run(
            [sys.executable, "-m", "rootsrv", *arguments, "--config", str(self.configuration)],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=WAIT_SECONDS,
            check=False,
        )

    def ask(self, name: str = ".", rtype: str = "SOA", *, tcp: bool = False, **options: Any) -> dns.message.Message:
        """What the service address answers."""
        query = dns.message.make_query(name, rtype, **options)
        send = dns.query.tcp if tcp else dns.query.udp
        return send(query, self.service[0], port=self.service[1], timeout=3)

    def serial(self) -> int | None:
        """The serial that is answered; None if there is no good answer."""
        with contextlib.suppress(OSError, dns.exception.DNSException):
            answer = self.ask().answer
            if answer:
                return int(answer[0][0].serial)
        return None

    def rcode(self) -> int | None:
        """The rcode of what is answered; None without an answer."""
        with contextlib.suppress(OSError, dns.exception.DNSException):
            return int(self.ask().rcode())
        return None

    def notify(
        self, serial: int | None = None, *, key: dns.tsig.Key | None = KEY, zone: str = "."
    ) -> dns.message.Message:
        """Send a NOTIFY to the administrative address.

        It carries *serial* as a primary's does (RFC 1996 §3.7); without it the fourth of a row waits for five seconds.
        """
        message = dns.message.make_query(zone, "SOA")
        message.set_opcode(dns.opcode.NOTIFY)
        message.flags = (message.flags & ~0x0100) | 0x0400
        if serial is not None:
            message.answer.append(dns.rrset.from_text(zone, 0, "IN", "SOA", f". . {serial} 0 0 0 0"))
        if key is not None:
            message.use_tsig(key)
        return dns.query.udp(message, self.admin[0], port=self.admin[1], timeout=3)

    def wait_for_serial(self, serial: int) -> None:
        """Until *serial* is answered."""
        self.wait(lambda: self.serial() == serial, f"serial {serial} answered (now {self.serial()})")

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
        """The first true value of *condition*."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what}\n{self.log[-4000:]}")
            time.sleep(0.03)
        return value

    def kill(self) -> None:
        """kill -9 of every process."""
        instance.kill(self.process)

    def start(self, *arguments: str) -> None:
        """Start it (again)."""
        self.process = instance.start(self.configuration, *arguments, environment=self.environment)


def configure(
    directory: Path,
    sections: str,
    *,
    anchors: str | None = None,
    switchover: str = "align_seconds = 0",
    limits: str = SMALL_LIMITS,
    **settings: Any,
) -> Path:
    """As `bench.instance.configure`, with the anchor of the tests' versions and limits that a test reaches."""
    anchors = versions.anchor() if anchors is None else anchors
    return instance.configure(directory, sections, anchors=anchors, switchover=switchover, limits=limits, **settings)


@contextlib.contextmanager
def maintained(
    directory: Path, sections: str, *, environment: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[Maintained]:
    """An instance with *sections* in its configuration; ended whatever happens."""
    service, admin = ("127.0.0.2", free_port("127.0.0.2")), ("127.0.0.1", free_port())
    configure(directory, sections, service=service, admin=admin, **settings)
    inherited = {**os.environ, **(environment or {})}
    made = Maintained(directory, service, admin, None, inherited)  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        instance.end(made.process)
