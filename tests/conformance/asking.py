"""Asking servers for the same things: one query at a time, or many in flight."""

import select
import socket
import struct
import time
from collections.abc import Sequence

IN_FLIGHT = 64
"""Fewer than any server's default socket buffer holds, so that none is lost on loopback."""

PIPELINED = 512
"""Over TCP nothing is lost; so many questions fit into a socket buffer while nobody reads."""

RETRY_SECONDS = 1.0
TRIES = 5


class NoAnswer(Exception):
    """The server was silent."""


def over_udp(address: str, port: int, query: bytes, timeout_seconds: float = 3.0) -> bytes:
    """The response to one query over UDP; NoAnswer after *timeout_seconds*."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as client:
        client.settimeout(timeout_seconds)
        client.connect((address, port))
        client.send(query)
        try:
            return client.recv(65535)
        except TimeoutError as error:
            raise NoAnswer(f"UDP {address} port {port}: silent for {timeout_seconds} s") from error


def over_tcp(address: str, port: int, query: bytes, timeout_seconds: float = 3.0) -> bytes:
    """The response to one query over TCP; NoAnswer when the connection ends or stays silent."""
    return over_tcp_pipelined(address, port, [query], timeout_seconds)[0]


def over_tcp_pipelined(address: str, port: int, queries: Sequence[bytes], timeout_seconds: float = 10.0) -> list[bytes]:
    """The responses to *queries* sent over one TCP connection, in their order; ids are given and restored here."""
    responses: list[bytes | None] = [None] * len(queries)
    with socket.create_connection((address, port), timeout_seconds) as client:
        stream = client.makefile("rb")
        for start in range(0, len(queries), PIPELINED):
            batch = queries[start : start + PIPELINED]
            client.sendall(b"".join(struct.pack("!HH", len(query), at) + query[2:] for at, query in enumerate(batch)))
            for _ in batch:
                try:
                    head = stream.read(2)
                    octets = stream.read(struct.unpack("!H", head)[0])
                except (TimeoutError, ConnectionResetError, struct.error) as error:
                    raise NoAnswer(f"TCP {address} port {port}: {error}") from error
                at = start + int.from_bytes(octets[:2], "big")
                assert responses[at] is None, f"two responses to {queries[at].hex()}"
                responses[at] = queries[at][:2] + octets[2:]
    return [response for response in responses if response is not None]


def many_over_udp(address: str, port: int, queries: Sequence[bytes]) -> list[bytes]:
    """The responses to *queries* in their order, up to IN_FLIGHT outstanding; ids are given and restored here."""
    responses: list[bytes | None] = [None] * len(queries)
    with socket.socket(_family(address), socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        client.setblocking(False)
        client.connect((address, port))
        following = 0
        outstanding: dict[int, tuple[float, int]] = {}
        while following < len(queries) or outstanding:
            while following < len(queries) and len(outstanding) < IN_FLIGHT:
                ident = following & 0xFFFF
                client.send(struct.pack("!H", ident) + queries[following][2:])
                outstanding[following] = (time.monotonic() + RETRY_SECONDS, 1)
                following += 1
            if not select.select([client], [], [], RETRY_SECONDS)[0]:
                _send_again(client, queries, outstanding, address, port)
                continue
            while True:
                try:
                    octets = client.recv(65535)
                except BlockingIOError:
                    break
                # At most IN_FLIGHT are outstanding, so the id tells them apart.
                base = following - 1 - ((following - 1 - int.from_bytes(octets[:2], "big")) & 0xFFFF)
                if base in outstanding:
                    del outstanding[base]
                    responses[base] = queries[base][:2] + octets[2:]
    return [response for response in responses if response is not None]


def _send_again(
    client: socket.socket, queries: Sequence[bytes], outstanding: dict[int, tuple[float, int]], address: str, port: int
) -> None:
    now = time.monotonic()
    for at, (due, tries) in outstanding.items():
        if due > now:
            continue
        if tries == TRIES:
            raise NoAnswer(f"UDP {address} port {port}: silent on {queries[at].hex()}")
        client.send(struct.pack("!H", at & 0xFFFF) + queries[at][2:])
        outstanding[at] = (now + RETRY_SECONDS, tries + 1)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
