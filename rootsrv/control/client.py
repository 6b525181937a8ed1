"""The one client of the control protocol (protocol.py): one request, one response, in time."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootsrv.control.protocol import Document
from rootsrv.control.server import reachable
from rootsrv.process import json_text

_LONGEST_LINE_OCTETS = 1 << 24


class NoAnswer(Exception):
    """The role did not answer, or what came is no answer."""


class NotDone(NoAnswer):
    """The role answered that it cannot be done; the text is its reason."""


async def exchange(
    path: Path, request: Mapping[str, Any], timeout: float, octets: bytes = b""
) -> tuple[Document, bytes]:
    """One *request*, with *octets* behind it, to the socket at *path*: the response, with what is behind it.

    All within *timeout* seconds.  Raises NoAnswer; a response that is an error is none here.
    """
    writer = None
    try:
        async with asyncio.timeout(timeout):
            with reachable(path) as name:
                reader, writer = await asyncio.open_unix_connection(name, limit=_LONGEST_LINE_OCTETS)
            line = {**request, "octets": len(octets)} if octets else request
            writer.write(json.dumps(line).encode() + b"\n")
            writer.write(octets)
            answer = await reader.readline()
            if not answer:
                raise NoAnswer(f"{path}: closed without an answer")
            document = json_text.parse(answer, infinite=True)
            if not isinstance(document, dict):
                raise NoAnswer(f"{path}: not a JSON object")
            follow = document.pop("octets", 0)
            if not isinstance(follow, int) or follow < 0:
                raise NoAnswer(f"{path}: says that {follow!r} octets follow")
            return document, await reader.readexactly(follow)
    except TimeoutError as error:
        raise NoAnswer(f"{path}: no answer in {timeout:g} s") from error
    except asyncio.IncompleteReadError as error:
        raise NoAnswer(f"{path}: closed in the middle of an answer") from error
    except OSError as error:
        raise NoAnswer(f"{path}: {error.strerror or error}; is it running?") from error
    except ValueError as error:
        raise NoAnswer(f"{path}: {error}") from error
    finally:
        if writer is not None:
            writer.close()


async def ask_for_octets(
    path: Path, request: Mapping[str, Any], timeout: float = 0.5, octets: bytes = b""
) -> tuple[Document, bytes]:
    """As `exchange`; NotDone where the response is an error."""
    document, answer = await exchange(path, request, timeout, octets)
    if document.get("ok", "error" not in document) is not True:
        raise NotDone(str(document.get("error", "not done")))
    return document, answer


async def ask(path: Path, request: Mapping[str, Any], timeout: float = 0.5) -> Document:
    """As `ask_for_octets`, where neither side has any."""
    return (await ask_for_octets(path, request, timeout))[0]
