"""Asking a role over its status socket: a line of JSON each way."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LONGEST_LINE = 1 << 22


class NoAnswer(Exception):
    """A role's status socket did not give an answer."""


async def ask(path: Path, request: Mapping[str, Any], timeout: float = 0.5) -> dict[str, Any]:
    """One request to the status socket at *path*: a line of JSON each way.  Raises NoAnswer."""
    writer = None
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=_LONGEST_LINE)
            writer.write(json.dumps(request).encode() + b"\n")
            document = json.loads(await reader.readline())
    except (OSError, ValueError, TimeoutError) as error:
        raise NoAnswer(f"{path}: {error or type(error).__name__}") from error
    finally:
        if writer is not None:
            writer.close()
    if not isinstance(document, dict):
        raise NoAnswer(f"{path}: not a JSON object")
    if "error" in document:
        raise NoAnswer(f"{path}: {document['error']}")
    return document
