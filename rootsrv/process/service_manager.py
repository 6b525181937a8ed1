"""Telling the service manager how this process is: ready, alive, stopping (sd_notify(3), systemd's protocol).

A datagram to the socket that the environment names; without one nothing is sent.  `take` removes what it read from the
environment, so that children do not speak for us.
"""

import math
import os
import socket
import time
from collections.abc import MutableMapping

_BEATS_PER_LIMIT = 4
"""So often within the manager's limit: two late turns of a loop in a row are no death."""

_address: str | None = None
_beat_seconds: float | None = None
_last_beat = -math.inf  # the first beat is due at once, also on a machine that has just booted
_ready = False


def take(environment: MutableMapping[str, str] = os.environ) -> None:
    """Read, and remove, NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID."""
    global _address, _beat_seconds, _ready, _last_beat  # noqa: PLW0603 (a process has one service manager)
    path = environment.pop("NOTIFY_SOCKET", "")
    limit = environment.pop("WATCHDOG_USEC", "")
    wanted_of = environment.pop("WATCHDOG_PID", "")
    # @ stands for the NUL of a socket without a file (unix(7), abstract).
    _address = "\0" + path[1:] if path.startswith("@") else path or None
    watched = limit.isdigit() and int(limit) > 0 and wanted_of in ("", str(os.getpid()))
    _beat_seconds = int(limit) / 1e6 / _BEATS_PER_LIMIT if watched else None
    _ready, _last_beat = False, -math.inf


def ready(status: str) -> None:
    """We do what we are here for; *status* is a word for people.  Sent until the manager has it."""
    global _ready  # noqa: PLW0603
    if not _ready:
        _ready = _send(f"READY=1\nSTATUS={status}")


def alive() -> None:
    """The loop that matters has turned.  Sent as often as the manager wants it."""
    global _last_beat  # noqa: PLW0603
    if _beat_seconds is None:
        return
    now = time.monotonic()
    if now - _last_beat >= _beat_seconds and _send("WATCHDOG=1"):
        _last_beat = now


def stopping() -> None:
    """We have been told to end and are doing so."""
    _send("STOPPING=1")


def _send(text: str) -> bool:
    """Whether the manager has it, or there is none."""
    if _address is None:
        return True
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), _address)
    except OSError:
        return False  # the manager is gone or busy, or no descriptor is left; what we do does not depend on it
    return True
