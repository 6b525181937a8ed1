"""Logs: one line in UTC at each change of state, in logfmt, on standard error; none per packet.

    2026-11-21T17:00:00Z zone accepted zone=. serial=2026112101 from=2001:db8::5 verified_ms=1830

journald and syslog take such lines as they are.
"""

import logging
import sys
import time
from typing import Any

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:/+,@%<>*~#[]")


def event(what: str, *, level: int = logging.INFO, **facts: Any) -> None:
    """Log that *what* happened (subject and verb), with *facts* as key=value in the order given."""
    logging.getLogger("rootsrv").log(level, "%s", " ".join((what, *(f"{k}={_value(v)}" for k, v in facts.items()))))


def alarm(what: str, **facts: Any) -> None:
    """Log *what* as something that a person should look at."""
    event(what, level=logging.WARNING, **facts)


def failure(what: str, **facts: Any) -> None:
    """Log *what* ended a process or a command."""
    event(what, level=logging.ERROR, **facts)


def _value(value: Any) -> str:
    text = {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    if text and _PLAIN.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


class _Formatter(logging.Formatter):
    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ")
        mark = {logging.WARNING: "alarm: ", logging.ERROR: "error: "}.get(record.levelno, "")
        line = f"{stamp} {mark}{record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def to_standard_error(level: int = logging.INFO) -> None:
    """Send the logs of this process to standard error; call it once, first thing."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
