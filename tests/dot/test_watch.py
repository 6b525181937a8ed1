"""DNS over TLS as the role advertise and `rootsrv doctor` see it."""

import asyncio
import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from rootsrv.answer.responder import Responder, ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.anycast import dot_watch
from rootsrv.anycast.dot_watch import DotWatch
from rootsrv.anycast.probe import Expectations
from rootsrv.config.file import Config, read
from rootsrv.doctor import dot as doctor
from rootsrv.doctor.finding import Grade
from tests.dot.client import DAY, Dot, serving_dot, write_certificate
from tests.server.live import tables, wait_until

ADDRESSES = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))


def expectations(dot: Dot, version: int = 0) -> Expectations:
    """Right is what the table of this *version* says."""
    table = AnswerTable(tables()[version])
    return Expectations(dot.instance.page, lambda _: Responder(table, ResponderSettings()), 5.0)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dot_watch, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(dot_watch, "TIMEOUT_SECONDS", 1.0)


def seen(watch: DotWatch, expected: Expectations) -> dict[int, tuple[str, ...]]:
    async def look() -> None:
        await expected.refresh()
        await watch.look()

    asyncio.run(look())
    return {version: watch.alarms(version) for version in (4, 6)}


def test_what_answers_right_is_no_alarm_and_what_does_not_is_one_by_family(tmp_path: Path) -> None:
    with serving_dot(tmp_path) as dot:
        expected = expectations(dot)
        watch = DotWatch(ADDRESSES, dot.port, expected)
        assert seen(watch, expected) == {4: (), 6: ()}
        other = expectations(dot, 1)
        assert seen(DotWatch(ADDRESSES, dot.port, other), other) == {
            4: ("DNS over TLS 127.0.0.1: a wrong answer",),
            6: ("DNS over TLS ::1: a wrong answer",),
        }
        with socket.create_server(("127.0.0.1", 0)) as silent:
            hung = DotWatch(ADDRESSES[:1], silent.getsockname()[1], expected)
            assert seen(hung, expected)[4] == ("DNS over TLS 127.0.0.1: no answer",)
        os.kill(dot.status()["pid"], signal.SIGKILL)
        wait_until(lambda: seen(watch, expected) == {4: (), 6: ()}, "another process answers", 30)
        nothing = DotWatch(ADDRESSES, free_port(), expected)
        assert seen(nothing, expected)[6] == ("DNS over TLS ::1: Connection refused",)
        elsewhere = DotWatch([ipaddress.ip_address("192.0.2.53")], dot.port, expected)
        assert "DNS over TLS 192.0.2.53: " in seen(elsewhere, expected)[4][0]  # not sent to where that may be


def findings(config: Config) -> list[tuple[Grade, str]]:
    return [(each.grade, each.found) for each in doctor.checks(config)]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """One that everybody can look into, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="rs-dot-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_doctor_looks_at_certificate_key_and_port(open_directory: Path) -> None:
    tmp_path = open_directory
    certificate, key = write_certificate(tmp_path, "good")
    late, late_key = write_certificate(tmp_path, "late", ends=3 * DAY)
    os.chmod(key, 0o600)
    os.chmod(late_key, 0o644)
    port = free_port()

    def config(certificate: Path, key: Path) -> Config:
        dot = {"port": port, "certificate": str(certificate), "key": str(key)}
        return read({"service": {"addresses": ["127.0.0.1"]}, "dot": dot})

    assert findings(Config()) == []
    found = findings(config(certificate, key))
    assert [grade for grade, _ in found] == [Grade.GOOD, Grade.GOOD]
    assert "59 days" in found[0][1] or "60 days" in found[0][1]
    assert found[1][1] == "is free"
    found = findings(config(late, late_key))
    assert [grade for grade, _ in found] == [Grade.BAD, Grade.BAD, Grade.GOOD]
    assert found[1][1] == "can be read by everybody"
    found = findings(config(tmp_path / "nothing", key))
    assert [grade for grade, _ in found] == [Grade.BAD, Grade.GOOD]
    with socket.create_server(("127.0.0.1", port)):
        found = findings(read({"service": {"addresses": ["127.0.0.1"]}, "dot": {"port": port}}))
        assert [grade for grade, _ in found] == [Grade.REMARK, Grade.GOOD]
        assert found[1][1] == "something listens: rootsrv, if it runs"
