"""Invariant: whatever arrives over UDP or TCP, the same worker goes on answering and does not grow."""

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.processes import memory_octets
from tests.conformance import queries
from tests.conformance.corpus import load_cases
from tests.fuzz.messages import mutated
from tests.server.live import Instance, running

DATAGRAMS, CONNECTIONS, MESSAGES_PER_CONNECTION = 30_000, 300, 10
MAX_GROWTH_KIB = 16 * 1024
"""Of a worker that holds some 40 MB; a leak of 600 octets a message would show."""


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with running(tmp_path_factory.mktemp("fuzzed")) as running_instance:
        yield running_instance


@pytest.fixture(scope="module")
def seeds() -> list[bytes]:
    return [case.query for path in Path(queries.__file__).parent.glob("*.txt") for case in load_cases(path)]


def resident_kib(pid: int) -> int:
    return memory_octets(pid, "VmRSS") // 1024


def send_datagrams(instance: Instance, seeds: list[bytes], count: int, seed: int) -> int:
    """Send, and read what comes back now and then; how many responses came."""
    received = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", instance.port))
        for number, message in enumerate(mutated(random.Random(seed), seeds, count)):
            with contextlib.suppress(OSError):  # larger than a datagram can be
                client.send(message[:65507])
            if number % 32 == 0:
                instance.ask(".", "SOA")  # it keeps up
                with contextlib.suppress(BlockingIOError):
                    while response := client.recv(65535, socket.MSG_DONTWAIT):
                        assert len(response) >= 12
                        assert response[2] & 0x80
                        received += 1
    return received


def open_connections(instance: Instance, seeds: list[bytes], count: int, seed: int) -> None:
    """Streams of messages with right and wrong lengths, cut off anywhere."""
    source = random.Random(seed)
    for _ in range(count):
        stream = b"".join(
            struct.pack("!H", source.choice((len(message), len(message), source.randrange(65536))) & 0xFFFF) + message
            for message in mutated(source, seeds, MESSAGES_PER_CONNECTION)
        )
        with instance.connect() as client, contextlib.suppress(OSError):
            # The server may have closed first: a length that is none ends a connection.
            client.sendall(stream[: source.randrange(len(stream) + 1)])
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass


def test_a_worker_survives_octets_of_any_kind_and_does_not_grow(instance: Instance, seeds: list[bytes]) -> None:
    (pid,) = instance.worker_pids()
    # Buffers and caches reach their size first.
    send_datagrams(instance, seeds, DATAGRAMS // 5, 1)
    open_connections(instance, seeds, CONNECTIONS // 5, 1)
    before = resident_kib(pid)

    assert send_datagrams(instance, seeds, DATAGRAMS, 2) > DATAGRAMS // 3
    open_connections(instance, seeds, CONNECTIONS, 2)

    assert instance.worker_pids() == [pid]
    assert resident_kib(pid) - before < MAX_GROWTH_KIB
    assert instance.ask("com.", "DS").rcode() == 0
    assert instance.ask("com.", "DS", tcp=True).rcode() == 0
    assert "Traceback" not in instance.log
