"""The roles' status sockets."""

import asyncio
import json
import socket
import stat
from pathlib import Path

import pytest

from rootsrv.control import status_socket


@pytest.mark.parametrize("length", [20, 200], ids=["short", "longer than a socket address"])
def test_a_socket_is_reached_however_long_its_path_is(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("d" * length) / "serve.sock"
    path.parent.mkdir()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.readline())
        writer.write(json.dumps({"heard": request}).encode() + b"\n")
        await writer.drain()
        writer.close()

    async def both_ends() -> dict[str, object]:
        server = await status_socket.listen(serve, path, 1000)
        async with server:
            return await status_socket.ask(path, {"command": "status"}, timeout=30)

    assert asyncio.run(both_ends()) == {"heard": {"command": "status"}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


def test_a_role_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(status_socket.NoAnswer, match=r"serve\.sock: .*No such file"):
        asyncio.run(status_socket.ask(tmp_path / "serve.sock", {"command": "status"}))


def test_a_role_that_hangs_up_or_stays_silent_is_told_apart(tmp_path: Path) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()

    async def ask_both() -> None:
        async with await status_socket.listen(hang_up, tmp_path / "serve.sock", 1000):
            with pytest.raises(status_socket.NoAnswer, match="closed without an answer"):
                await status_socket.exchange(tmp_path / "serve.sock", {}, 20)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "silent.sock"))
            silent.listen()
            with pytest.raises(status_socket.NoAnswer, match=r"no answer in 0\.01 s"):
                await status_socket.exchange(tmp_path / "silent.sock", {}, 0.01)

    asyncio.run(ask_both())
