"""The one server of the control protocol (protocol.py); each role has a socket and commands of its own."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from rootsrv.control.protocol import (
    LONGEST_LINE_OCTETS,
    Caller,
    Commands,
    Document,
    Order,
    Refused,
    Reply,
    RequestLine,
    failure,
    is_too_long,
    read_request,
    response_line,
)
from rootsrv.process import log
from rootsrv.process.accepting import ProtocolServer, conversing
from rootsrv.process.persistence import persistently
from rootsrv.process.troubles import Troubles

_LONGEST_LOGGED = 1000
_LINGER_SECONDS = 1.0
_BACKLOG = 100
"""Of connections that wait until the loop takes them."""

MAX_CONNECTIONS = 64
"""At a time; over it the one goes that we have waited for longest.

Who opens and asks nothing, announces octets that never come, or does not take its answers keeps nobody else out.
"""

OCTETS_SECONDS = 60.0
"""How long the octets that a request announces may take, and the last response after the end of all requests."""


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for the socket *path* that fits into a socket address, however long the path is; valid in the context."""
    if not is_too_long(path):
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def socket_for_the_group(path: Path) -> socket.socket:
    """A stream socket that listens at *path*, for owner and group only; OSError if it cannot be made.

    It takes the place of what was there in one step: whoever finds a socket there can connect to it.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.unlink(missing_ok=True)
        with reachable(aside) as name:
            try:
                made.bind(name)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                # A file system without an inode left (a full /run) has that of the one whose place it takes.
                path.unlink(missing_ok=True)
                made.bind(name)
            # Not by the umask, which is the whole process's: files that others make meanwhile would have it, too.
            # Until somebody listens nobody can connect.
            os.chmod(name, 0o660)
        made.listen(_BACKLOG)
        aside.replace(path)
    except OSError:
        made.close()
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    return made


class ControlServer:
    """Answers whoever connects to the socket."""

    def __init__(self, commands: Commands, refused: Callable[[str, str], None] | None = None) -> None:
        """*refused* is told of what is no request: who it came from, and why."""
        self.commands = commands
        self._refused = refused or (lambda caller, reason: log.event("control refused", by=caller, reason=reason))
        self._open: set[asyncio.StreamWriter] = set()
        self._awaited: dict[asyncio.StreamWriter, None] = {}
        """Those whose other end is to do something, the one that is waited for longest first."""

        self._listening: asyncio.Task[None] | None = None
        self._server: ProtocolServer | None = None
        self._path = Path()

    def start(self, path: Path) -> None:
        """Listen on the Unix socket *path* until `close`; a socket that cannot be had is tried again, with an alarm.

        Not to be asked is no reason not to work: a /run without an inode left may have one later.
        """
        self._path = path
        self._listening = asyncio.create_task(persistently("control socket", self._listen), name="control socket")

    async def _listen(self) -> None:
        self._server = await self.listen(self._path)

    def close(self) -> None:
        """Listen no more, after `start`."""
        if self._listening is not None:
            self._listening.cancel()
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    async def listen(self, path: Path) -> ProtocolServer:
        """Listen on the Unix socket *path*, for owner and group only."""
        unaccepted = Troubles("control connection is not accepted", "control connections are accepted again")
        return ProtocolServer(
            socket_for_the_group(path), conversing(self._converse, limit=LONGEST_LINE_OCTETS), unaccepted
        )

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS and self._awaited:
            longest = next(iter(self._awaited))
            self._open.discard(longest)
            del self._awaited[longest]
            longest.transport.abort()
        self._open.add(writer)
        try:
            if len(self._open) > MAX_CONNECTIONS:
                return  # all the others wait for what they asked for
            caller = Caller.of(writer.get_extra_info("socket"))
            while await self._answer_one(reader, writer, caller):
                pass
            # Closing while octets wait unread would reset the connection before the other end has read the response.
            writer.write_eof()
            async with asyncio.timeout(_LINGER_SECONDS):
                while await reader.read(LONGEST_LINE_OCTETS):
                    pass
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # gone, or in the middle of something
        finally:
            writer.close()
            try:
                with contextlib.suppress(OSError, TimeoutError):
                    async with self._waits_for(writer, OCTETS_SECONDS):
                        await writer.wait_closed()
            finally:
                self._open.discard(writer)
                writer.transport.abort()

    @contextlib.asynccontextmanager
    async def _waits_for(self, writer: asyncio.StreamWriter, seconds: float | None = None) -> AsyncIterator[None]:
        """In the context it is for the other end of *writer* to do something; TimeoutError after *seconds*."""
        if writer in self._open:
            self._awaited[writer] = None
        try:
            async with asyncio.timeout(seconds):
                yield
        finally:
            self._awaited.pop(writer, None)

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caller: Caller) -> bool:
        """Read a request and answer it; whether another one may follow on this connection."""
        goes_on = True
        octets = b""
        try:
            try:
                async with self._waits_for(writer):
                    line = await reader.readline()
            except ValueError:  # beyond the limit; where the next line begins is not known
                goes_on = False
                raise Refused(f"a request is at most {LONGEST_LINE_OCTETS} octets") from None
            if not line:
                return False
            # Octets that follow a line which is refused would be read as lines.
            goes_on = b'"octets"' not in line
            asked = read_request(line, self.commands)
            goes_on = True
            async with self._waits_for(writer, OCTETS_SECONDS):
                given = await reader.readexactly(asked.octets)
        except Refused as error:
            self._refused(str(caller), str(error)[:_LONGEST_LOGGED])
            response = response_line(failure(str(error)))
        else:
            response, octets = await self._carry_out(asked, caller, given)
        writer.write(response)
        writer.write(octets)
        async with self._waits_for(writer):
            await writer.drain()
        return goes_on

    async def _carry_out(self, asked: RequestLine, caller: Caller, octets: bytes) -> tuple[bytes, bytes]:
        try:
            if asked.command.changes:
                caller = await asyncio.to_thread(caller.named)
                told = " ".join([asked.name, *(f"{key}={value}" for key, value in asked.given.items())])
                log.event("control", by=caller, order=told[:_LONGEST_LOGGED])
            answer = await asked.command.run(Order(asked.wanted, caller, octets))
            if isinstance(answer, Reply):
                return response_line(answer.document, len(answer.octets)), answer.octets
            return response_line(answer), b""
        except Refused as error:
            return response_line(failure(str(error) or type(error).__name__)), b""
        except Exception as error:
            # Our fault, and no reason for the role to end: who asked sees it, and so does who reads the log.
            log.failure("control failed", order=asked.name, by=caller, error=f"{type(error).__name__}: {error}")
            return response_line(_fault(error)), b""


def _fault(error: Exception) -> Document:
    return failure(f"{type(error).__name__}: {error}")
