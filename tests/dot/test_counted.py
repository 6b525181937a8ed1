"""What came over UDP, TCP and TLS, of both families, is in status, metrics and RSSAC002 files as it was sent."""

import contextlib
import datetime
import os
import random
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

import yaml

from bench.peers.daemon import free_port
from tests.dot.client import Dot, query
from tests.framing import receive
from tests.server.live import Instance, running, wait_until

ADDRESSES = {"ipv4": "127.0.0.1", "ipv6": "::1"}
NAMES = (".", "com.", "nosuch-one.")

Sent = Counter[tuple[str, str]]
"""Queries by transport and family."""


def ask(dot: Dot, rng: random.Random, sent: Sent, rcodes: Counter[int], times: int) -> None:
    """That often over some transport and family, with up to four queries on a connection."""
    for _ in range(times):
        family, transport = rng.choice([*ADDRESSES]), rng.choice(("udp", "tcp", "tls"))
        name, rtype = rng.choice(NAMES), rng.choice(("SOA", "A", "DNSKEY"))
        if transport == "udp":
            rcodes[dot.instance.ask(name, rtype, address=ADDRESSES[family]).rcode()] += 1
            sent[transport, family] += 1
            continue
        amount = rng.randrange(1, 5)
        connected = (dot.instance if transport == "tcp" else dot).connect(ADDRESSES[family])
        with connected:
            for number in range(amount):
                connected.sendall(query(number, name, rtype))
            for _ in range(amount):
                rcodes[receive(connected)[3] & 15] += 1
        sent[transport, family] += amount


def is_back(dot: Dot, role: int, process: int) -> bool:
    """Whether other processes answer in place of these."""
    with contextlib.suppress(AssertionError, OSError, ValueError):
        told = dot.instance.status()
        return bool(
            told["pid"] != role and told["dot"]["pid"] != process and told["dot"]["ready"] and dot.instance.is_ready()
        )
    return False


def exported(instance: Instance) -> dict[str, dict[str, int]]:
    """The files of today, as far as they are written, by metric."""
    output = instance.directory / "out"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    command = [sys.executable, "-m", "rootsrv", "rssac002"]
    config = str(instance.directory / "rootsrv.toml")
    subprocess.run(
        [*command, "export", "--config", config, "--day", today, "--output", str(output)], check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    subprocess.run([*command, "validate", "--sums", str(output)], check=True, stdout=subprocess.DEVNULL)
    found = (yaml.safe_load(path.read_text()) for path in output.rglob("*.yaml"))
    return {each["metric"]: each for each in found}


def test_all_is_counted_once_whoever_is_killed_meanwhile(tmp_path: Path) -> None:
    rng, sent, rcodes = random.Random(18), Sent(), Counter[int]()
    port, reports = free_port(), free_port()
    service = f'[dot]\nport = {port}\n[report]\naddresses = ["127.0.0.2"]\nport = {reports}\n'
    with running(tmp_path, workers=2, service=service) as instance:
        dot = Dot(instance, port)
        wait_until(lambda: dot.status()["ready"], "DNS over TLS answers")
        ask(dot, rng, sent, rcodes, 60)
        process = dot.status()["pid"]
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: is_back(dot, 0, process), "another process of DNS over TLS")
        ask(dot, rng, sent, rcodes, 60)
        process, role = dot.status()["pid"], instance.status()["pid"]
        os.kill(role, signal.SIGKILL)
        wait_until(lambda: is_back(dot, role, process), "the role again", 60)
        ask(dot, rng, sent, rcodes, 60)

        def volume() -> dict[str, int]:
            with contextlib.suppress(subprocess.CalledProcessError):
                return exported(instance)["traffic-volume"]
            return {}

        def key(transport: str, what: str, family: str) -> str:
            return f"{'x-' if transport == 'tls' else ''}dns-{transport}-{what}-{family}"

        expected = {
            key(transport, what, family): sent[transport, family]
            for transport, family in sent
            for what in ("queries-received", "responses-sent")
        }
        assert len(expected) == 12
        wait_until(lambda: expected.items() <= volume().items(), f"{expected}, not {volume()}", 40)
        told = exported(instance)["rcode-volume"]
        assert {rcode: told[rcode] for rcode in rcodes} == rcodes
        counters = instance.status()
        assert counters["dot"]["counters"]["queries"] == {each: sent["tls", each] for each in ADDRESSES}
        assert counters["counters"]["queries"] == {
            f"{transport}-{family}": sent[transport, family] for transport in ("udp", "tcp") for family in ADDRESSES
        }
        with urllib.request.urlopen(f"http://127.0.0.2:{reports}/metrics", timeout=10) as page:
            metrics = page.read().decode()
        for family in ADDRESSES:
            for what in ("queries", "responses"):
                assert f'rootsrv_tls_{what}_total{{family="{family}"}} {sent["tls", family]:.1f}\n' in metrics
