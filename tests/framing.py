"""DNS messages over a stream (RFC 1035 §4.2.2)."""

import socket
import struct


def framed(message: bytes) -> bytes:
    """With the length before it."""
    return struct.pack("!H", len(message)) + message


def receive(connection: socket.socket) -> bytes:
    """The next message; EOFError at the end of the stream."""
    return exactly(connection, int.from_bytes(exactly(connection, 2), "big"))


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many octets; EOFError where the stream ends before."""
    octets = b""
    while len(octets) < size:
        more = connection.recv(size - len(octets))
        if not more:
            raise EOFError
        octets += more
    return octets
