"""A socket that listens, and that has no connection as often as it is told to."""

import os
import socket
from collections.abc import Iterable


class Listening(socket.socket):
    """Like the one it is made of; its next tries to accept fail with *errors*."""

    def __init__(self, listening: socket.socket, errors: Iterable[int] = ()) -> None:
        super().__init__(fileno=listening.detach())
        self.errors = list(errors)
        self.tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        """The next one, or the next error."""
        self.tries += 1
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


def listening(errors: Iterable[int] = ()) -> Listening:
    """At a free port of 127.0.0.1."""
    return Listening(socket.create_server(("127.0.0.1", 0)), errors)
