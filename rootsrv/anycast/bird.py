"""BIRD's control socket: ask, read the numeric reply codes, never guess."""
# The protocol (BIRD's nest/cli.c): each line of a reply begins with a four-digit code and "-" if more lines follow or
# " " if it is the last one; a line that begins with a space goes on with the code of the line before it; a line that
# begins with "+" is not part of the reply but news (BIRD 3 sends them at any time, BIRD 2 when asked to).  Codes:
# 0xxx done, 1xxx a row, 2xxx a heading, 8xxx it did not work, 9xxx the command was not understood.
#
# A reply carries no number that would tie it to its command.  So there is one command at a time, what arrives while
# none is under way is an error, and after any error the connection is given up: a late reply cannot be taken for the
# next one's.  What a reply must name, it is checked to name.

import asyncio
import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from rootsrv.config.anycast import PROTOCOL_NAME

# `show route` for one prefix and `show protocols` are a few hundred octets; a thousand protocols would be 80 KiB.
MAX_REPLY_OCTETS = 256 * 1024

_WELCOME, _OK = 1, 0
_ALREADY_DISABLED, _DISABLED, _ALREADY_ENABLED, _ENABLED = 8, 9, 10, 11
_PROTOCOL_ROW, _ROUTE_ROW, _PROTOCOL_DETAIL = 1002, 1007, 1006
_NOT_FOUND, _SYNTAX_ERROR = 8001, 9001


class BirdError(Exception):
    """BIRD cannot be asked, or its reply cannot be relied on."""


class BirdUnreachable(BirdError):
    """There is no BIRD behind the control socket, or we may not talk to it."""


class BirdSilent(BirdError):
    """BIRD did not reply in time."""


class BirdGarbled(BirdError):
    """What came from the control socket is not a reply to what was asked."""


class BirdRefused(BirdError):
    """BIRD replied that it did not work (8xxx) or that it did not understand (9xxx)."""

    def __init__(self, command: str, code: int, text: str) -> None:
        super().__init__(f"BIRD: {code:04d} {text} (to {command!r})")
        self.code = code


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a reply."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Protocol:
    """One row of `show protocols`."""

    name: str
    kind: str
    """Direct, BGP, BFD, …"""
    up: bool
    info: str

    @property
    def established(self) -> bool:
        """Whether this is a BGP session with its neighbour up."""
        return self.kind == "BGP" and self.up and "Established" in self.info.split()


@dataclass(frozen=True, slots=True)
class Channel:
    """What `show protocols all` says of one channel of a protocol."""

    name: str
    preference: int | None


class ReplyReader:
    """Octets in, replies out; it does no I/O."""

    def __init__(self) -> None:
        self._octets = bytearray()
        self._lines: list[Line] = []
        self._size = 0

    @property
    def is_inside_a_reply(self) -> bool:
        """Whether the stream would be cut in the middle of a reply if it ended now."""
        return bool(self._octets or self._lines)

    def receive(self, octets: bytes) -> list[tuple[Line, ...]]:
        """Take what arrived; returns the replies that are complete now.  Raises BirdGarbled."""
        replies = []
        self._octets += octets
        self._size += len(octets)
        while (end := self._octets.find(b"\n")) >= 0:
            text = self._octets[:end].decode(errors="replace")
            del self._octets[: end + 1]
            if self._take(text):
                replies.append(tuple(self._lines))
                self._lines = []
                self._size = len(self._octets)
        if self._size > MAX_REPLY_OCTETS:
            raise BirdGarbled(f"BIRD: a reply of more than {MAX_REPLY_OCTETS} octets")
        return replies

    def _take(self, text: str) -> bool:
        """Take one line; True if it was the last of a reply."""
        if text.startswith("+"):
            return False
        if text.startswith(" ") and self._lines:
            self._lines.append(Line(self._lines[-1].code, text[1:]))
            return False
        match = re.fullmatch(r"([0-9]{4})([ -])(.*)", text, re.ASCII | re.DOTALL)
        if match is None:
            raise BirdGarbled(f"BIRD: a line without reply code: {text[:80]!r}")
        self._lines.append(Line(int(match[1]), match[3]))
        return match[2] == " "


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._reader = ReplyReader()
        self._waiting: asyncio.Future[tuple[Line, ...]] | None = None
        self._fault: BirdError | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, octets: bytes) -> None:
        try:
            replies = self._reader.receive(octets)
            asked = 0 if self._waiting is None or self._waiting.done() else 1
            if len(replies) > asked:
                last = replies[-1][-1]
                raise BirdGarbled(f"BIRD: a reply that nobody asked for: {last.code:04d} {last.text!r}")
            if replies and self._waiting is not None:
                self._waiting.set_result(replies[0])
        except BirdGarbled as fault:
            self._fail(fault)

    def connection_lost(self, error: Exception | None) -> None:
        if self._reader.is_inside_a_reply:
            self._fail(BirdGarbled("BIRD: closed the connection in the middle of a reply"))
        else:
            self._fail(BirdUnreachable("BIRD: closed the connection"))

    def _fail(self, fault: BirdError) -> None:
        self._fault = self._fault or fault
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._fault)
        self.close()

    def expect(self) -> "asyncio.Future[tuple[Line, ...]]":
        """The next reply; raises at once what already went wrong on this connection."""
        if self._fault is not None:
            raise self._fault
        self._waiting = asyncio.get_running_loop().create_future()
        return self._waiting

    @property
    def was_closed_by_bird(self) -> bool:
        """Whether the connection ended while nothing was under way."""
        return isinstance(self._fault, BirdUnreachable)

    def forget(self) -> None:
        """Whatever comes now was not asked for."""
        self._waiting = None

    def send(self, octets: bytes) -> None:
        assert self._transport is not None
        self._transport.write(octets)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Bird:
    """A client of the control socket at *path*.  It connects when needed and again after any error.

    Every method raises BirdError, within *timeout_seconds*, if BIRD cannot be asked or its reply cannot be relied on.
    """

    def __init__(self, path: str | Path, timeout_seconds: float = 1.0) -> None:
        self.path = Path(path)
        self._timeout = timeout_seconds
        self._connection: _Connection | None = None
        self._turn = asyncio.Lock()

    async def command(self, text: str) -> tuple[Line, ...]:
        """Send one command; its whole reply.  Raises BirdRefused for codes 8xxx and 9xxx."""
        if "\n" in text:
            raise ValueError("a command is one line")
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout):
                    connection = await self._connect()
                    reply = connection.expect()
                    connection.send(text.encode() + b"\n")
                    lines = await reply
                    connection.forget()
            except TimeoutError:
                self.close()
                raise BirdSilent(f"BIRD: no reply to {text!r} within {self._timeout} s") from None
            except BaseException:
                self.close()
                raise
        if lines[-1].code >= 8000:
            raise BirdRefused(text, lines[-1].code, lines[-1].text)
        return lines

    def close(self) -> None:
        """Give up the connection; the next command makes a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _connect(self) -> _Connection:
        if self._connection is not None and self._connection.was_closed_by_bird:
            self._connection = None  # BIRD was restarted since the last command
        if self._connection is not None:
            return self._connection
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(_Connection, str(self.path))
        except PermissionError as error:
            raise BirdUnreachable(
                f"{self.path}: permission denied; BIRD's control socket belongs to its group (bird -g), join it"
            ) from error
        except FileNotFoundError as error:
            raise BirdUnreachable(
                f"{self.path}: no control socket; is BIRD running, with this path (bird -s)?"
            ) from error
        except ConnectionRefusedError as error:
            raise BirdUnreachable(f"{self.path}: nobody listens; BIRD has ended and left its socket") from error
        except OSError as error:
            raise BirdUnreachable(f"{self.path}: {error.strerror or error}") from error
        self._connection = connection
        greeting = await connection.expect()
        connection.forget()
        if greeting[-1].code != _WELCOME:
            raise BirdGarbled(f"{self.path}: greets with {greeting[-1].code:04d} {greeting[-1].text!r}; is this BIRD?")
        return connection

    async def version(self) -> str:
        """What BIRD calls itself, "BIRD 2.0.12"."""
        return (await self.command("show status"))[0].text

    async def protocols(self) -> dict[str, Protocol]:
        """All protocols by name."""
        found = {}
        for line in await self.command("show protocols"):
            if line.code == _PROTOCOL_ROW:
                fields = line.text.split()
                if len(fields) < 4:
                    raise BirdGarbled(f"BIRD: not a row of `show protocols`: {line.text!r}")
                name, kind, _table, state = fields[:4]
                found[name] = Protocol(name, kind, state == "up", " ".join(fields[4:]))
        return found

    async def channels(self, protocol: str) -> tuple[Channel, ...]:
        """The channels of *protocol*."""
        channels: list[Channel] = []
        lines = await self.command(f"show protocols all {quoted(protocol)}")
        if not any(line.code == _PROTOCOL_ROW and line.text.split()[:1] == [protocol] for line in lines):
            raise BirdGarbled(f"BIRD: the reply to `show protocols all {protocol}` is about something else")
        for line in lines:
            if line.code != _PROTOCOL_DETAIL:
                continue
            words = line.text.split()
            if words[:1] == ["Channel"] and len(words) == 2:
                channels.append(Channel(words[1], None))
            elif words[:1] == ["Preference:"] and channels:
                with contextlib.suppress(ValueError):
                    channels[-1] = Channel(channels[-1].name, int(words[1]))
        return tuple(channels)

    async def enable(self, protocol: str) -> None:
        """Enable *protocol*; it is no error if it is."""
        await self._switch("enable", protocol, (_ENABLED, _ALREADY_ENABLED))

    async def disable(self, protocol: str) -> None:
        """Disable *protocol*; it is no error if it is."""
        await self._switch("disable", protocol, (_DISABLED, _ALREADY_DISABLED))

    async def _switch(self, verb: str, protocol: str, good: tuple[int, ...]) -> None:
        lines = await self.command(f"{verb} {quoted(protocol)}")
        if not any(line.code in good and line.text.startswith(f"{protocol}:") for line in lines):
            said = "; ".join(f"{line.code:04d} {line.text}" for line in lines)
            raise BirdGarbled(f"BIRD: `{verb} {protocol}` was answered with {said}")

    async def exported(self, bgp: str, prefix: str) -> frozenset[str]:
        """The protocols whose route to *prefix* is announced by the BGP protocol *bgp*; empty = none is."""
        command = f"show route {prefix} export {quoted(bgp)}"
        try:
            lines = await self.command(command)
        except BirdRefused as refusal:
            if refusal.code == _NOT_FOUND:
                return frozenset()
            # A session that is down exports to no table ("No valid tables"); the code is that of a syntax error, so
            # only the protocol's own state tells the two apart.
            if refusal.code == _SYNTAX_ERROR:
                state = (await self.protocols()).get(bgp)
                if state is not None and not state.established:
                    return frozenset()
            raise
        return _sources(command, lines)

    async def sources(self, prefix: str) -> frozenset[str]:
        """The protocols that have a route to *prefix*, announced or not."""
        command = f"show route {prefix}"
        try:
            return _sources(command, await self.command(command))
        except BirdRefused as refusal:
            if refusal.code == _NOT_FOUND:
                return frozenset()
            raise


def _sources(command: str, lines: tuple[Line, ...]) -> frozenset[str]:
    """The protocols named in the rows of `show route`: `192.0.2.0/24  unicast [anycast4_up 18:24:58.086] * (240)`."""
    rows = [line.text for line in lines if line.code == _ROUTE_ROW]
    # Everything from "[" to the blank is the name: a name in quotes may hold dashes and dots, which others may have
    # chosen.  A row whose source cannot be read is an error: it may be the one that must not be there.
    sources = set()
    for row in rows:
        if row.startswith(("Table ", "\t")):  # a heading, a next hop
            continue
        if (match := re.search(r"\[(\S+) ", row)) is None:
            raise BirdGarbled(f"BIRD: no protocol in a row of the reply to {command!r}: {row!r}")
        sources.add(match[1])
    if rows and not sources:
        raise BirdGarbled(f"BIRD: no route in the reply to {command!r}: {rows[0]!r}")
    return frozenset(sources)


def quoted(name: str) -> str:
    """A protocol's name as it stands in a command; ValueError for what is none (PROTOCOL_NAME)."""
    if not re.fullmatch(PROTOCOL_NAME, name):
        raise ValueError(f"not a name of a BIRD protocol: {name!r}")
    return f"'{name}'"
