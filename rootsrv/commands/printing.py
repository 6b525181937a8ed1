"""What commands print, for a person's terminal: text is text, whatever is in it."""
# A zone's name, a reason, a primary's error come from others.  rich takes "[/x]" for markup, and a terminal obeys
# control characters: neither gets any.

import io
import os
import select
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rootsrv.process.children import describe_error

_WIDE = frozenset({"trouble", "why held", "last transfer", "alarms"})
"""Columns that may be folded."""


def shown(text: object) -> str:
    """*text* on one line, with nothing in it that a terminal would obey; an error of the system without its number."""
    if isinstance(text, OSError):
        text = describe_error(text)
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def reason_of(error: BaseException) -> str:
    """What *error* says, beside the name of the file that it is about."""
    return getattr(error, "strerror", None) or str(error)


def say(text: object) -> None:
    """A line."""
    print(shown(text))


def complain(reason: object) -> None:
    """Why a command did not do what it was told to, on standard error."""
    print(f"rootsrv: {shown(reason)}", file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """*rows* below *columns*, as wide as the terminal; into a pipe or a file nothing is folded."""
    # Here, so that no command waits for rich that prints no table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(Text(column), no_wrap=column not in _WIDE)
    for row in rows:
        made.add_row(*(Text(shown(cell)) for cell in row))
    (Console() if sys.stdout.isatty() else Console(width=200)).print(made)


def prepare_streams() -> None:
    """However they were left to us: one that is closed leads nowhere, and what one cannot say is told as \\x…."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the next file to be opened would be our output
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  until the end
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def output_is_lost() -> bool:
    """Whether nobody takes what we print; then nothing is printed any more, at the end of the interpreter either."""
    lost = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
        else:
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if not any(event & select.POLLERR for _, event in poll.poll(0)):  # a pipe without reader (poll(2))
                continue
        lost = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return lost
