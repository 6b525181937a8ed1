"""The roles' status sockets: a line of JSON each way."""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_LONGEST_LINE = 1 << 24


class NoAnswer(Exception):
    """A role's status socket did not give an answer."""


_LONGEST_PATH_OCTETS = 107  # sun_path has 108, the last of them zero (unix(7))


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for the socket *path* that fits into a socket address, however long the path is; valid in the context."""
    if len(os.fsencode(path)) <= _LONGEST_PATH_OCTETS:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


async def listen(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], path: Path, limit: int
) -> asyncio.Server:
    """Have *serve* called for each client of the Unix socket *path* (owner and group only); *limit*: octets a line."""
    path.unlink(missing_ok=True)
    before = os.umask(0o117)
    try:
        with reachable(path) as name:
            return await asyncio.start_unix_server(serve, name, limit=limit)
    finally:
        os.umask(before)


async def exchange(path: Path, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """One request to the socket at *path*, one response, within *timeout* seconds.  Raises NoAnswer."""
    writer = None
    try:
        async with asyncio.timeout(timeout):
            with reachable(path) as name:
                reader, writer = await asyncio.open_unix_connection(name, limit=_LONGEST_LINE)
            writer.write(json.dumps(request).encode() + b"\n")
            line = await reader.readline()
        if not line:
            raise NoAnswer(f"{path}: closed without an answer")
        document = json.loads(line)
    except TimeoutError as error:
        raise NoAnswer(f"{path}: no answer in {timeout:g} s") from error
    except OSError as error:
        raise NoAnswer(f"{path}: {error.strerror or error}; is it running?") from error
    except ValueError as error:
        raise NoAnswer(f"{path}: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    if not isinstance(document, dict):
        raise NoAnswer(f"{path}: not a JSON object")
    return document


async def ask(path: Path, request: Mapping[str, Any], timeout: float = 0.5) -> dict[str, Any]:
    """As `exchange`; a response that is an error is none."""
    document = await exchange(path, request, timeout)
    if "error" in document:
        raise NoAnswer(f"{path}: {document['error']}")
    return document
