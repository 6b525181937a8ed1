"""New keys in TLS 1.3 (KeyUpdate, RFC 8446 §4.6.3): what there is in place of renegotiation, and what it may cost."""

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dot.client import Dot, query
from tests.dot.test_hostile import is_answered, is_over

_REQUESTED = 1  # SSL_KEY_UPDATE_REQUESTED: each wants one of ours


class Client:
    """One of OpenSSL's: Python's `ssl` asks for no new keys."""

    def __init__(self, connection: socket.socket) -> None:
        self._library = library = ctypes.CDLL("libssl.so.3")
        for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new"):
            getattr(library, name).restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_client_method())))
        self._ssl = ctypes.c_void_p(library.SSL_new(self._context))
        library.SSL_set_fd(self._ssl, connection.fileno())
        assert library.SSL_connect(self._ssl) == 1

    def send_new_keys(self) -> None:
        """Send a KeyUpdate."""
        assert self._library.SSL_key_update(self._ssl, _REQUESTED) == 1
        assert self._library.SSL_do_handshake(self._ssl) == 1

    def send(self, octets: bytes) -> None:
        """Send *octets* in a record."""
        assert self._library.SSL_write(self._ssl, octets, len(octets)) == len(octets)

    def receive(self) -> bytes:
        """What the next record has."""
        room = ctypes.create_string_buffer(16_384)
        size = self._library.SSL_read(self._ssl, room, len(room))
        return room.raw[: max(0, size)]

    def free(self) -> None:
        """Give its memory back."""
        self._library.SSL_free(self._ssl)
        self._library.SSL_CTX_free(self._context)


@contextlib.contextmanager
def client_of(dot: Dot) -> Iterator[tuple[Client, socket.socket]]:
    """A client whose handshake is over, and its connection."""
    with dot.connect_plainly() as below:
        below.settimeout(None)
        client = Client(below)
        try:
            yield client, below
        finally:
            client.free()


@contextlib.contextmanager
def at_once(dot: Dot) -> Iterator[Any]:
    """What is sent meanwhile comes in one read."""
    pid = dot.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("amount", [1, 16])
def test_a_query_behind_new_keys_is_answered(dot: Dot, amount: int) -> None:
    with client_of(dot) as (client, _):
        for number in range(3):
            with at_once(dot):
                for _ in range(amount):
                    client.send_new_keys()
                client.send(query(number))
            assert client.receive()[2:4] == number.to_bytes(2, "big")


def test_who_sends_new_keys_and_nothing_else_by_the_dozen_is_cut_off(dot: Dot) -> None:
    with client_of(dot) as (client, below):
        with at_once(dot):
            for _ in range(40):
                client.send_new_keys()
        assert is_over(below, 5)
    assert is_answered(dot)
