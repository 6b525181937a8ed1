"""Who takes what it asked for slowly gets all of it."""

import contextlib
import functools
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.demo import generate
from rootsrv.wire.message import parse
from rootsrv.zone.contents import ZoneContents
from tests.distribution.service import Service, query, receive, send, service
from tests.secondary.certificates import Authority
from tests.server.live import wait_until

IDLE_SECONDS = 0.6
QUERIES = 30
"""Each for a whole zone, all at once: more than fits into any buffer."""


@functools.cache
def root() -> ZoneContents:
    return generate.root_contents(serial=5, tlds=1440, seed=1)


class Answered:
    """Counts what the service has answered, to the last message."""

    def __init__(self, made: Service) -> None:
        self.times = 0
        self._answer = made.requests.answer
        made.requests.answer = self.answer  # type: ignore[method-assign,assignment]

    async def answer(self, *arguments: Any) -> AsyncIterator[Any]:
        """As the service's."""
        async with contextlib.aclosing(self._answer(*arguments)) as messages:
            async for parts in messages:
                yield parts
        self.times += 1


def connected(made: Service, *, over_tls: bool) -> socket.socket:
    """A client with little room for what comes."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.settimeout(20)
    plain.connect((made.address, made.tls_port if over_tls else made.port))
    if not over_tls:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["dot"])
    return context.wrap_socket(plain, suppress_ragged_eofs=False)


@pytest.mark.parametrize(
    ("over_tls", "half_closes"),
    [(False, False), (False, True), (True, False)],
    ids=["plain", "half-closed", "tls"],
)
def test_the_last_messages_reach_who_stops_reading_for_a_while(
    tmp_path: Path, over_tls: bool, half_closes: bool
) -> None:
    contents = root()  # before anybody is connected and idle
    certified = Authority(tmp_path).certify("admin.example")
    files = {"tls_certificate": str(certified.certificate), "tls_key": str(certified.key)}
    with (
        service(tls=files, idle_seconds=IDLE_SECONDS) as made,
        contextlib.closing(connected(made, over_tls=over_tls)) as client,
    ):
        made.put(contents)
        answered = Answered(made)
        for _ in range(QUERIES):
            send(client, query("AXFR"))
        if half_closes:
            client.shutdown(socket.SHUT_WR)
        first = receive(client)
        octets = bytearray()
        while answered.times < QUERIES:
            octets += client.recv(2048)
        time.sleep(IDLE_SECONDS * 1.3)  # longer than a client may be idle, shorter than it may take for the rest
        while part := client.recv(65_536):  # ssl.SSLEOFError if nobody says that it is the end
            octets += part
        sizes = [len(first)]
        at = 0
        while at < len(octets):
            sizes.append(int.from_bytes(octets[at : at + 2], "big"))
            at += 2 + sizes[-1]
        assert at == len(octets), "cut off within a message"
        assert parse(first).rcode == 0
        assert len(sizes) == QUERIES * (len(sizes) // QUERIES)
        assert sizes == sizes[: len(sizes) // QUERIES] * QUERIES
        wait_until(lambda: made.call(lambda: made.requests.counts.running) == 0, "its place is free")
