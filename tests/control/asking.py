"""The tests' own client of the control sockets: what goes over the wire is written here, not by what is tested."""

import json
import socket
from pathlib import Path
from typing import Any

SECONDS = 20.0


def ask_for_octets(
    path: Path, command: str, octets: bytes = b"", patience: float = SECONDS, **facts: Any
) -> tuple[dict[str, Any], bytes]:
    """One request to the socket at *path*, with *octets* behind it: the response, and what is behind that."""
    request = {"command": command, **facts} | ({"octets": len(octets)} if octets else {})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(patience)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n" + octets)
        with connection.makefile("rb") as stream:
            document: dict[str, Any] = json.loads(stream.readline())
            return document, stream.read(document.get("octets", 0))


def ask(path: Path, command: str, octets: bytes = b"", patience: float = SECONDS, **facts: Any) -> dict[str, Any]:
    """The response alone."""
    return ask_for_octets(path, command, octets, patience, **facts)[0]
