"""The control protocol: what people and roles ask of a role over its Unix socket."""
# A request is a line: a JSON object with `command`, and what that command takes.  The response is a line: a JSON object
# with `ok`, true, and what was asked for, or false and `error`, one sentence.  There is no other error: whatever is odd
# about a request, it is answered so, and the connection goes on.
#
#   → {"command": "block", "prefix": "192.0.2.0/24", "seconds": 600, "reason": "flood"}
#   ← {"ok": true, "blocks": [...]}
#   → {"command": "block", "prefix": 7}
#   ← {"ok": false, "error": "prefix: must be a string, got an integer (7)"}
#
# Octets (a zone file) follow the line that says, in `octets`, how many they are, in either direction.
#
# Who may open the socket may do all of it: owner and group of the process (mode 0660).  Who it was is asked of the
# kernel and recorded with every order that changes something; nothing in a request is believed about that.

import json
import math
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from rootsrv.config.checks import ConfigError
from rootsrv.config.typed import build

LONGEST_LINE_OCTETS = 262_144
"""Of a request: what a mesh of fifty tells of its members.  Responses are as long as they are."""

LONGEST_REASON = 500
"""Characters; every order that changes much has one, and it is shown wherever what was ordered is."""

_LONGEST_QUOTED = 40
_LONGEST_ERROR = 2000
"""Characters: what was odd is told, not all of it."""

Document = dict[str, Any]
P = TypeVar("P")


class Refused(Exception):
    """The order cannot be carried out; the text says why, to whoever gave it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of the socket, as the kernel says."""

    uid: int
    pid: int
    user: str = ""
    """The account's name; empty where it has none."""

    login: str = ""
    """The account that logged in and became *user* (sudo, su), where the kernel keeps that and it is another one."""

    def __str__(self) -> str:
        who = f"uid {self.uid}, pid {self.pid}"
        name = f"{self.login} as {self.user or f'uid {self.uid}'}" if self.login else self.user
        return f"{name} ({who})" if name else who

    @classmethod
    def of(cls, connection: socket.socket) -> "Caller":
        """Of a connected Unix socket (SO_PEERCRED, socket(7)); without names."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        pid, uid, _ = _PEER.unpack(raw)
        return cls(uid, pid)

    def named(self) -> "Caller":
        """With names.  It may take long: accounts can be kept far away."""
        login = _login_uid(self.pid)
        known = "" if login in (None, self.uid) else _name(login) or f"uid {login}"
        return Caller(self.uid, self.pid, _name(self.uid), known)


_PEER = struct.Struct("3i")
_NO_LOGIN = 2**32 - 1


def _login_uid(pid: int) -> int | None:
    """The account that *pid*'s session began as (audit's loginuid); None where nobody logged in, or it is not told."""
    try:
        uid = int(Path(f"/proc/{pid}/loginuid").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return None if uid == _NO_LOGIN else uid


def _name(uid: int | None) -> str:
    try:
        return "" if uid is None else pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


@dataclass(frozen=True, slots=True)
class Nothing:
    """What a command takes that takes nothing."""


@dataclass(frozen=True, slots=True)
class Order(Generic[P]):
    """One request, as its command gets it."""

    wanted: P
    caller: Caller
    octets: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response with octets behind it."""

    document: Mapping[str, Any]
    octets: bytes


Run = Callable[[Order[P]], Awaitable[Mapping[str, Any] | Reply]]
"""What carries out an order; Refused when it cannot be done."""


def refusing(run: Run[P], faults: tuple[type[Exception], ...]) -> Run[P]:
    """*run*, whose *faults* are told to who asked as they are: not ours, but of what it works with."""

    async def refused(order: Order[P]) -> Mapping[str, Any] | Reply:
        try:
            return await run(order)
        except faults as error:
            raise Refused(str(error)) from error

    return refused


@dataclass(frozen=True, slots=True)
class Command(Generic[P]):
    """Something that a role can be asked."""

    run: Run[P]

    takes: type[P]
    """A frozen dataclass; its fields are what the request may have besides `command`."""

    changes: bool = True
    """Whether it changes anything: then it is in the log, with who gave it."""

    longest_octets: int = 0
    """How many octets may follow; 0 = none may."""


Commands = Mapping[str, Command[Any]]


@dataclass(frozen=True, slots=True)
class RequestLine:
    """A request line that has been read: which command, with what, and how many octets follow."""

    name: str
    command: Command[Any]
    wanted: Any
    octets: int = 0
    given: Document = field(default_factory=dict)


def read_request(line: bytes, commands: Commands) -> RequestLine:
    """What *line* asks for; Refused, whatever is odd about it."""
    document = _object(line)
    name = document.pop("command", None)
    if not isinstance(name, str) or name not in commands:
        raise Refused(f"a line is a JSON object with a command: {', '.join(sorted(commands))}")
    command = commands[name]
    octets = document.pop("octets", 0)
    if not isinstance(octets, int) or isinstance(octets, bool) or not 0 <= octets <= command.longest_octets:
        raise Refused(f"octets: must be 0..{command.longest_octets}")
    try:
        wanted = build(command.takes, document)
    except ConfigError as error:
        raise Refused(str(error)) from error
    reason = getattr(wanted, "reason", "")
    if len(reason) > LONGEST_REASON or not reason.isprintable():
        raise Refused(f"reason: must be a line of at most {LONGEST_REASON} characters")
    return RequestLine(name, command, wanted, octets, document)


def _object(line: bytes) -> Document:
    try:
        document = json.loads(line, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise Refused("not JSON: nested too deeply") from None
    except ValueError as error:
        raise Refused(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise Refused("a line is a JSON object")
    return document


def _once(pairs: list[tuple[str, Any]]) -> Document:
    """An object, in which each key is said once: of two, one would be obeyed, and both be in the log."""
    document: Document = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"{key[:_LONGEST_QUOTED]!r} is said twice")
        document[key] = value
    return document


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text[:_LONGEST_QUOTED])


def response_line(document: Mapping[str, Any], octets: int = 0) -> bytes:
    """*document* as it goes out: with `ok`, unless it says so itself, and how many octets follow."""
    whole = {"ok": True, **document}
    if octets:
        whole["octets"] = octets
    return json.dumps(whole).encode() + b"\n"


def failure(reason: str) -> Document:
    """The one shape of an error."""
    return {"ok": False, "error": reason if len(reason) <= _LONGEST_ERROR else f"{reason[:_LONGEST_ERROR]}…"}


_LONGEST_PATH_OCTETS = 107  # sun_path has 108, the last of them zero (unix(7))


def is_too_long(path: Path) -> bool:
    """Whether *path* does not fit into a socket address."""
    return len(os.fsencode(path)) > _LONGEST_PATH_OCTETS
