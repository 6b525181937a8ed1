"""Certificates that are replaced while we run: whoever shows them is told when the files have changed."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from rootsrv.config.checks import ConfigError
from rootsrv.process import log

LOOK_SECONDS = 5.0


async def follow(files: Sequence[Path], reload: Callable[[], None], look_seconds: float = LOOK_SECONDS) -> None:
    """Call *reload* when one of *files* has changed, until cancelled; it raises ConfigError if they cannot be used.

    Whoever replaces a certificate replaces two files, one after the other: half of a pair is tried again.
    """
    shown = await asyncio.to_thread(_stamps, files)
    failed = ""
    while True:
        await asyncio.sleep(look_seconds)
        found = await asyncio.to_thread(_stamps, files)
        if found == shown:
            continue
        try:
            reload()
        except ConfigError as error:
            if failed != (failed := str(error)):
                log.alarm("new certificate cannot be used", reason=error, effect="the one before is shown")
            continue
        shown, failed = found, ""
        log.event("new certificate", files=",".join(map(str, files)))


def _stamps(files: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """What changes when a file is replaced or written."""
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return found
