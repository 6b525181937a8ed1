"""Logs: one line in UTC at each change of state, on standard error; none per packet.

    2026-11-21T17:00:00Z zone accepted zone=. serial=2026112101 from=2001:db8::5 verified_ms=1830
    {"at": "2026-11-21T17:00:00Z", "level": "info", "event": "zone accepted", "zone": ".", "serial": 2026112101, …}

journald and syslog take such lines as they are.  What was sent by strangers stands in them escaped, so that nobody can
write lines of his own.
"""

import contextlib
import json
import logging
import os
import select
import sys
import time
from typing import Any, TextIO

FORMAT_VARIABLE = "ROOTSRV_LOG_FORMAT"
"""In the environment, so that all processes of an instance write alike: logfmt or json."""

PATIENCE_SECONDS = 0.05
"""How long a line may wait for room, the first time; while others are lost, not at all."""

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/+,@%<>*~#[]")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}
_SECURITY = "rootsrv.security"
_OWN_KEYS = frozenset({"at", "level", "event", "exception"})


def event(what: str, *, level: int = logging.INFO, logger: str = "rootsrv", **facts: Any) -> None:
    """Log that *what* happened (subject and verb), with *facts* as key=value in the order given."""
    text = " ".join((what, *(f"{key}={_value(value)}" for key, value in facts.items())))
    logging.getLogger(logger).log(level, "%s", text, extra={"what": what, "facts": facts})


def alarm(what: str, **facts: Any) -> None:
    """Log *what* as something that a person should look at."""
    event(what, level=logging.WARNING, **facts)


def security(what: str, **facts: Any) -> None:
    """Log *what* as a security event (D51): a category of its own, which can be told apart and sent elsewhere."""
    event(what, level=logging.WARNING, logger=_SECURITY, **facts)


def failure(what: str, **facts: Any) -> None:
    """Log *what* ended a process or a command."""
    event(what, level=logging.ERROR, **facts)


def _value(value: Any) -> str:
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if text and _PLAIN.issuperset(text):
        return text
    escaped = "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\u{ord(c):04x}") for c in text)
    return f'"{escaped}"'


class _Formatter(logging.Formatter):
    """Logfmt."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self._stamp(record)} {_mark(record)}{record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def _stamp(self, record: logging.LogRecord) -> str:
        return self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ")


class _JsonFormatter(_Formatter):
    """An object per line."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "at": self._stamp(record),
            "level": _mark(record).removesuffix(": ") or "info",
            "event": getattr(record, "what", None) or record.getMessage(),
        }
        for key, value in getattr(record, "facts", {}).items():
            document[f"{key}_" if key in _OWN_KEYS else key] = value
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str, ensure_ascii=False)


class _ForJournal(logging.Formatter):
    """Puts the priority in front of each line, as journald takes it (sd-daemon(3))."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = {logging.WARNING: 4, logging.ERROR: 3}.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in self._inner.format(record).split("\n"))


class _Handler(logging.StreamHandler[TextIO]):
    """Never waits long for whoever reads (a journal, a container's engine): what finds no room is lost, and told of.

    A role that waits for it stops: a controller's route would lapse, and so would each instance's, all alike.
    """

    _PIECE = 1000
    """Characters that are written at once: in UTF-8 no more than a pipe with room at all has room for (PIPE_BUF)."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lost = 0
        self._torn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*, if that can be done at once or soon."""
        try:
            if self._lost and self._has_room():
                lost, self._lost = self._lost, 0
                alarm = {"msg": f"log lines lost lines={lost}", "levelno": logging.WARNING}
                self._write(("\n" if self._torn else "") + self.format(logging.makeLogRecord(alarm)))
                self._torn = False
            if not self._write(self.format(record)):
                self._lost += 1
        except Exception:
            self.handleError(record)

    def _write(self, line: str) -> bool:
        """Whether all of *line* was written."""
        text = line + self.terminator
        for at in range(0, len(text), self._PIECE):
            if not self._has_room():
                self._torn |= at > 0
                return False
            self.stream.write(text[at : at + self._PIECE])
            self.flush()
        return True

    def _has_room(self) -> bool:
        try:
            descriptor = self.stream.fileno()
        except (OSError, ValueError):
            return True  # no file at all
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(0 if self._lost else PATIENCE_SECONDS * 1000))


def _mark(record: logging.LogRecord) -> str:
    if record.name == _SECURITY:
        return "security: "
    return {logging.WARNING: "alarm: ", logging.ERROR: "error: "}.get(record.levelno, "")


def to_standard_error(level: int = logging.INFO) -> None:
    """Send the logs of this process to standard error, in the instance's format; call it once, first thing."""
    formatter: logging.Formatter = _JsonFormatter() if os.environ.get(FORMAT_VARIABLE) == "json" else _Formatter()
    handler = _Handler(sys.stderr)
    handler.setFormatter(_ForJournal(formatter) if _goes_to_journal() else formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def use_format(name: str) -> None:
    """Write in format *name* (logfmt, json) from now on, in this process and those that it starts."""
    os.environ[FORMAT_VARIABLE] = name
    to_standard_error()


def _goes_to_journal() -> bool:
    """Whether journald reads standard error (systemd.exec(5), JOURNAL_STREAM)."""
    with contextlib.suppress(OSError):
        status = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False
