"""Records and segments of one octet: a handshake that comes in the smallest pieces there are."""

import contextlib
import socket
import ssl
import struct

import pytest

from tests.dot.client import Dot, client_context, query


class Pieces:
    """TLS over a connection, whose own records the sender may cut."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = client_context().wrap_bio(self._incoming, self._outgoing)

    def begin(self) -> bytes:
        """The ClientHello, as one record."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def finish(self) -> bytes:
        """What the client sends when it has read all that came."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self._take()
            else:
                return self._outgoing.read()

    def _take(self) -> None:
        octets = self._connection.recv(65_536)
        assert octets, "the server has ended it"
        self._incoming.write(octets)

    def encrypted(self, octets: bytes) -> bytes:
        """*octets* in a record."""
        self.tls.write(octets)
        return self._outgoing.read()

    def read(self, size: int) -> bytes:
        """So many octets of plain text."""
        read = b""
        while len(read) < size:
            try:
                read += self.tls.read(size - len(read))
            except ssl.SSLWantReadError:
                self._take()
        return read


def in_records_of_one_octet(record: bytes) -> bytes:
    """The same handshake message, an octet in each record (RFC 8446 §5.1 allows it)."""
    (size,) = struct.unpack_from("!H", record, 3)
    assert len(record) == 5 + size
    return b"".join(record[:3] + b"\0\1" + record[5 + at : 6 + at] for at in range(size))


@pytest.mark.parametrize("records", ["whole", "of one octet"])
@pytest.mark.parametrize("segments", ["whole", "of one octet"])
def test_a_handshake_in_pieces_is_one(dot: Dot, records: str, segments: str) -> None:
    with dot.connect_plainly() as below:
        below.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def send(octets: bytes) -> None:
            for at in range(len(octets)) if segments == "of one octet" else ():
                below.send(octets[at : at + 1])
            if segments == "whole":
                below.sendall(octets)

        client = Pieces(below)
        hello = client.begin()
        send(in_records_of_one_octet(hello) if records == "of one octet" else hello)
        send(client.finish())
        send(client.encrypted(query(7)))
        (size,) = struct.unpack("!H", client.read(2))
        assert client.read(size)[:2] == b"\0\7"
