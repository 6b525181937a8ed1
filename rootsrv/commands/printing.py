"""What commands print, for a person's terminal: text is text, whatever is in it."""
# A zone's name, a reason, a primary's error come from others.  rich takes "[/x]" for markup, and a terminal obeys
# control characters: neither gets any.

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
