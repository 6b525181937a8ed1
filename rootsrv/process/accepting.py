"""Connections from a socket that listens, on the event loop; where a host has nothing for one, it is tried later."""
# The loop's own servers are not used: uvloop's tries again at once, a million times a second, for as long as somebody
# waits and there is no descriptor or memory for the connection; asyncio's, in Python 3.11, makes of each try as many as
# may wait, and of each of these a next one.  That is a whole core, of those that answer queries.

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Self

from rootsrv.process.descriptors import NOBODY_CAME
from rootsrv.process.troubles import Troubles

AGAIN_SECONDS = 1.0

AT_A_TIME = 16
"""Connections in a turn of the event loop: whoever is here already goes on."""

Take = Callable[[socket.socket, Any], None]
Converse = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
MakeProtocol = Callable[[], asyncio.BaseProtocol]


def conversing(converse: Converse, *, limit: int) -> MakeProtocol:
    """Has each connection conversed with; *limit*: octets that its reader holds."""
    loop = asyncio.get_running_loop()
    return lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=limit, loop=loop), converse, loop=loop)


class Accepting:
    """Hands over each connection until closed; it owns the socket that listens."""

    def __init__(self, listening: socket.socket, take: Take, unaccepted: Troubles) -> None:
        """*take* gets each connection, which does not block, and whose it is: the address that accept(2) tells.

        *unaccepted* is told when a connection cannot be had.
        """
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._take = take
        self._unaccepted = unaccepted
        self._later: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._watch()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take no more; conversations go on."""
        if self._later is not None:
            self._later.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening.fileno())
            self._listening.close()

    def _watch(self) -> None:
        self._later = None
        try:
            self._loop.add_reader(self._listening.fileno(), self._accept)
        except OSError as error:  # no memory for that
            self._put_off(error)

    def _put_off(self, error: OSError) -> None:
        self._unaccepted.met(error.strerror or str(error))
        self._later = self._loop.call_later(AGAIN_SECONDS, self._watch)

    def _accept(self) -> None:
        for _ in range(AT_A_TIME):
            try:
                connection, client = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in NOBODY_CAME:
                    continue  # whoever is behind it waits no longer for that
                self._loop.remove_reader(self._listening.fileno())
                self._put_off(error)
                return
            self._unaccepted.over()
            connection.setblocking(False)
            self._take(connection, client)


class ProtocolServer(Accepting):
    """Gives each connection a protocol until closed."""

    def __init__(self, listening: socket.socket, make_protocol: MakeProtocol, unaccepted: Troubles, **tls: Any) -> None:
        """*tls*: what connect_accepted_socket of the event loop takes."""
        self._make_protocol = make_protocol
        self._tls = tls
        self._beginning: set[asyncio.Task[None]] = set()
        super().__init__(listening, self._give_protocol, unaccepted)

    def close(self) -> None:
        """Take no more; conversations go on."""
        super().close()
        for task in self._beginning:
            task.cancel()

    def _give_protocol(self, connection: socket.socket, _: Any) -> None:
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection, **self._tls)
        except OSError:
            connection.close()  # gone, or no handshake came of it
        except BaseException:
            connection.close()
            raise
