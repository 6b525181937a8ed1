"""One server for all roles: whatever is asked, one kind of response; who asked is what the kernel says."""
# Over 500 lines: the one protocol that all roles speak, with every odd input and both of its ends.

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootsrv.control import client
from rootsrv.control.protocol import (
    LONGEST_LINE_OCTETS,
    Command,
    Commands,
    Nothing,
    Order,
    Refused,
    Reply,
    RequestLine,
    read_request,
    response_line,
)
from rootsrv.control.server import MAX_CONNECTIONS, ControlServer, socket_for_the_group
from rootsrv.process import persistence
from tests.control.asking import ask, ask_for_octets
from tests.needs import REPOSITORY, require_root
from tests.server.live import wait_until
from tests.waiting import until


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """One field of each kind."""

    text: str
    number: int = 0
    share: float = 0.0
    flag: bool = False
    numbers: tuple[int, ...] = ()
    perhaps: int | None = None
    reason: str = ""
    one_of: Literal["this", "that"] = "this"


def commands() -> Commands:
    async def echo(order: Order[Everything]) -> Mapping[str, Any]:
        wanted = order.wanted
        return {"text": wanted.text, "number": wanted.number, "numbers": list(wanted.numbers), "by": str(order.caller)}

    async def refuse(_: Order[Nothing]) -> Mapping[str, Any]:
        raise Refused("not today")

    async def fail(_: Order[Nothing]) -> Mapping[str, Any]:
        raise KeyError("ours")

    async def quote(order: Order[Everything]) -> Mapping[str, Any]:
        raise Refused(f"{order.wanted.text}: there is no such thing")

    async def odd(_: Order[Nothing]) -> Mapping[str, Any]:
        return {"not": {"JSON"}}

    async def reverse(order: Order[Nothing]) -> Reply:
        return Reply({"octets given": len(order.octets)}, order.octets[::-1])

    return {
        "echo": Command(echo, Everything),
        "quote": Command(quote, Everything, changes=False),
        "refuse": Command(refuse, Nothing, changes=False),
        "fail": Command(fail, Nothing, changes=False),
        "odd": Command(odd, Nothing, changes=False),
        "reverse": Command(reverse, Nothing, changes=False, longest_octets=1_000_000),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A socket, served by an event loop in another thread."""
    path = tmp_path_factory.mktemp("control") / "role.sock"
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = asyncio.run_coroutine_threadsafe(ControlServer(commands()).listen(path), loop).result(10)

    async def end() -> None:
        made.close()
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    try:
        yield path
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def lines_of(path: Path, octets: bytes) -> list[dict[str, Any]]:
    """All that comes back for *octets*, after which nothing is sent any more."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(octets)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            return [json.loads(line) for line in stream]


def test_a_command_gets_typed_values_and_who_asks(server: Path) -> None:
    told = ask(server, "echo", text="ä", number=7, numbers=[4, 6])

    assert told["ok"] is True
    assert (told["text"], told["number"], told["numbers"]) == ("ä", 7, [4, 6])
    assert told["by"].endswith(f"(uid {os.getuid()}, pid {os.getpid()})")


ODD = {
    "not_json": b"nonsense",
    "nothing": b"",
    "not_an_object": b"[]",
    "a_number": b"7",
    "null": b"null",
    "no_command": b"{}",
    "an_unknown_command": b'{"command": "rm"}',
    "a_command_that_is_a_list": b'{"command": []}',
    "a_command_that_is_an_object": b'{"command": {}}',
    "a_command_that_is_a_number": b'{"command": 1}',
    "a_key_that_is_missing": b'{"command": "echo"}',
    "a_key_that_is_unknown": b'{"command": "echo", "text": "", "who": "anna"}',
    "a_number_for_a_text": b'{"command": "echo", "text": 7}',
    "a_text_for_a_number": b'{"command": "echo", "text": "", "number": "7"}',
    "true_for_a_number": b'{"command": "echo", "text": "", "number": true}',
    "a_fraction_for_a_whole_number": b'{"command": "echo", "text": "", "number": 7.5}',
    "1e400": b'{"command": "echo", "text": "", "share": 1e400}',
    "minus_1e400": b'{"command": "echo", "text": "", "share": -1e400}',
    "NaN": b'{"command": "echo", "text": "", "share": NaN}',
    "Infinity": b'{"command": "echo", "text": "", "share": Infinity}',
    "a_huge_whole_number_for_a_share": b'{"command": "echo", "text": "", "share": 1' + b"0" * 400 + b"}",
    "more_digits_than_python_converts": b'{"command": "echo", "text": "", "number": 1' + b"0" * 5000 + b"}",
    "a_choice_that_there_is_not": b'{"command": "echo", "text": "", "one_of": "' + b"x" * 200_000 + b'"}',
    "what_is_told_again_is_long": b'{"command": "quote", "text": "' + b"x" * 200_000 + b'"}',
    "a_reason_that_is_no_line": b'{"command": "echo", "text": "", "reason": "a\\nb"}',
    "a_reason_that_moves_a_cursor": b'{"command": "echo", "text": "", "reason": "\\u001b[2J"}',
    "a_reason_that_is_a_book": b'{"command": "echo", "text": "", "reason": "' + b"x" * 501 + b'"}',
    "nested_deeply": b'{"command": "echo", "text": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "nested_where_a_list_belongs": b'{"command": "echo", "text": "", "numbers": [[4]]}',
    "unhashable_values": b'{"command": "echo", "text": "", "numbers": [{}, []]}',
    "a_key_that_is_said_twice": b'{"command": "refuse", "text": "", "command": "echo"}',
    "half_a_surrogate_pair": b'{"command": "echo", "text": "\\ud800"}',
    "half_a_surrogate_pair_in_a_key": b'{"command": "echo", "text": "", "\\ud800": 1}',
    "not_utf_8": b'{"command": "echo", "text": "\xff"}',
    "zero_octets": b"\0\0\0",
    "octets_where_none_may_follow": b'{"command": "refuse", "octets": 5}',
    "fewer_than_no_octets": b'{"command": "reverse", "octets": -1}',
    "octets_that_are_a_text": b'{"command": "reverse", "octets": "5"}',
    "octets_that_are_true": b'{"command": "reverse", "octets": true}',
    "more_octets_than_may_follow": b'{"command": "reverse", "octets": 1000001}',
    "refused": b'{"command": "refuse"}',
    "our_own_fault": b'{"command": "fail"}',
    "a_response_that_is_no_json": b'{"command": "odd"}',
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_odd_input_gets_the_one_kind_of_error_and_the_connection_goes_on(server: Path, case: str) -> None:
    told = lines_of(server, ODD[case] + b"\n" + b'{"command": "echo", "text": "next"}\n')

    assert {key: type(value) for key, value in told[0].items()} == {"ok": bool, "error": str}
    assert told[0]["ok"] is False
    assert 0 < len(told[0]["error"]) < 2002
    # Behind octets that were not taken no line can be found.
    if "octets" not in case:
        assert told[1]["text"] == "next"


def test_a_line_that_is_too_long_is_an_error_like_any_other(server: Path) -> None:
    (told,) = lines_of(server, b'{"command": "echo", "text": "' + b"x" * (2 * LONGEST_LINE_OCTETS) + b'"}\n')

    assert told == {"ok": False, "error": f"a request is at most {LONGEST_LINE_OCTETS} octets"}


@pytest.mark.parametrize("case", ["a_choice_that_there_is_not", "a_key_that_is_long"])
def test_what_is_odd_is_logged_and_not_all_of_it(server: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    """A line of 200,000 characters in a log is 200 writes in the loop, and no journal keeps it in one piece."""
    odd = {**ODD, "a_key_that_is_long": b'{"command": "echo", "text": "", "' + b"x" * 200_000 + b'": 1}'}
    with caplog.at_level(logging.INFO, "rootsrv"):
        (told,) = lines_of(server, odd[case] + b"\n")
    (line,) = [record.getMessage() for record in caplog.records if "control refused" in record.getMessage()]
    assert max(len(line), len(told["error"])) < 1200


def test_a_refusal_is_told_no_longer_than_a_line_of_the_log(tmp_path: Path) -> None:
    """Whatever makes it long: names of a hundred commands, here."""
    noted: list[str] = []
    many = {f"{'x' * 60}{number}": commands()["refuse"] for number in range(100)}

    async def ask_oddly() -> None:
        role = ControlServer(many, lambda _, reason: noted.append(reason))
        async with await role.listen(tmp_path / "role.sock"):
            with pytest.raises(client.NotDone):
                await client.ask(tmp_path / "role.sock", {"command": "?"}, timeout=30)

    asyncio.run(ask_oddly())
    assert [len(each) for each in noted] == [1000]


def test_our_own_fault_is_told_and_logged(server: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rootsrv"):
        assert ask(server, "fail") == {"ok": False, "error": "KeyError: 'ours'"}
    assert "control failed" in caplog.text


def test_octets_go_both_ways(server: Path) -> None:
    octets = os.urandom(300_000)

    assert ask_for_octets(server, "reverse", octets) == (
        {"ok": True, "octets given": 300_000, "octets": 300_000}, octets[::-1],
    )  # fmt: skip
    assert ask_for_octets(server, "reverse") == ({"ok": True, "octets given": 0}, b"")


def test_octets_that_never_come_hold_up_nobody_else(server: Path) -> None:
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(server))
        waiting.sendall(b'{"command": "reverse", "octets": 10}\nhalf')
        assert ask(server, "echo", text="x")["ok"]


def test_an_order_that_changes_something_is_recorded_with_who_gave_it(
    server: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rootsrv"):
        ask(server, "echo", text="a b", number=3)
        ask(server, "refuse")
    (line,) = [record.getMessage() for record in caplog.records if "control" in record.getMessage()]
    assert f"uid {os.getuid()}, pid {os.getpid()}" in line
    assert "echo text=a b number=3" in line


_ASK = """
import os, sys
from pathlib import Path
from tests.control.asking import ask
os.setgroups([]); os.setgid(0); os.setuid(65534)
print(ask(Path(sys.argv[1]), "echo", text="who=root uid=0")["by"])
"""


def test_who_asks_is_what_the_kernel_says_and_not_what_the_request_says(server: Path) -> None:
    require_root()
    for each in (server.parent, *server.parent.parents):
        if not each.stat().st_mode & 0o010:
            each.chmod(each.stat().st_mode | 0o010)  # the group may pass
    done = subprocess.run(
        [sys.executable, "-c", _ASK, str(server)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stdout.startswith("nobody (uid 65534, pid "), done.stderr


def test_only_owner_and_group_may_ask(server: Path) -> None:
    assert server.stat().st_mode & 0o777 == 0o660


def test_servers_that_begin_to_listen_at_once_leave_the_umask_as_it_was(tmp_path: Path) -> None:
    """It is the whole process's: what is made beside them, or after them, would not be its owner's to enter."""
    paths = [tmp_path / f"{number}.sock" for number in range(4)]

    def umask() -> int:
        os.umask(now := os.umask(0))
        return now

    async def all_listen() -> set[int]:
        seen: set[int] = set()
        begun = [asyncio.ensure_future(ControlServer({}).listen(path)) for path in paths]
        while not all(each.done() for each in begun):
            seen.add(umask())
            await asyncio.sleep(0)
        assert [path.stat().st_mode & 0o777 for path in paths] == [0o660] * len(paths)
        for each in begun:
            each.result().close()
        return seen

    before = umask()
    assert asyncio.run(all_listen()) == {before}
    assert umask() == before


@pytest.mark.parametrize("length", [20, 200], ids=["short", "longer than a socket address"])
def test_a_socket_is_reached_however_long_its_path_is(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("d" * length) / "role.sock"
    path.parent.mkdir()

    async def both_ends() -> dict[str, Any]:
        async with await ControlServer(commands()).listen(path):
            return await client.ask(path, {"command": "echo", "text": "x"}, timeout=30)

    assert asyncio.run(both_ends())["text"] == "x"


def test_whoever_finds_a_socket_can_connect_to_it(tmp_path: Path) -> None:
    """Also while it takes the place of another one: there is one at any time, and somebody listens at it."""
    path, ended = tmp_path / "s", threading.Event()
    first = socket_for_the_group(path)
    refused: list[OSError] = []

    def connect() -> None:
        while not ended.is_set():
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):  # so many wait already
                    try:
                        client.connect(str(path))
                    except (FileNotFoundError, ConnectionRefusedError) as error:
                        refused.append(error)

    connecting = threading.Thread(target=connect)
    connecting.start()
    made = [first]
    try:
        for _ in range(200):
            made.append(socket_for_the_group(path))
    finally:
        ended.set()
        connecting.join()
        for each in made:
            each.close()
    assert not refused, f"{len(refused)}: {refused[0]}"
    assert [each.name for each in tmp_path.iterdir()] == ["s"]


def answers(server: Path) -> bool:
    with contextlib.suppress(BlockingIOError):  # its queue is full
        return ask(server, "echo", text="x")["ok"] is True
    return False


def test_who_opens_and_asks_nothing_takes_no_socket_from_others(server: Path) -> None:
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(3 * MAX_CONNECTIONS):
            silent.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
            silent[-1].connect(str(server))
        silent[0].settimeout(10)  # until the last of them were accepted, there is no room in the queue
        with contextlib.suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""
        wait_until(lambda: answers(server), "an answer")
        silent[-1].settimeout(10)
        silent[-1].sendall(b'{"command": "echo", "text": "x"}\n')
        assert b'"ok": true' in silent[-1].recv(10_000)


KEEPERS = {
    "ask_nothing": b"",
    "send_half_a_line": b'{"command": "echo", ',
    "announce_octets_that_never_come": b'{"command": "reverse", "octets": 10}\nhalf',
    "do_not_take_their_answers": b'{"command": "status"}\n' * 20_000,
    "send_no_more_and_do_not_take_their_answers": b'{"command": "big"}\n',
}


@pytest.mark.parametrize("case", KEEPERS)
def test_who_keeps_us_waiting_keeps_nobody_out(tmp_path: Path, case: str) -> None:
    async def big(_: Order[Nothing]) -> Mapping[str, Any]:
        return {"text": "x" * 400_000}

    path = tmp_path / "role.sock"
    both = {**commands(), "big": Command(big, Nothing, changes=False)}

    async def work() -> None:
        role = ControlServer(both)
        async with await role.listen(path):
            with contextlib.ExitStack() as stack:
                for _ in range(MAX_CONNECTIONS):
                    keeper = stack.enter_context(socket.socket(socket.AF_UNIX))
                    await asyncio.to_thread(keeper.connect, str(path))
                    keeper.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        keeper.sendall(KEEPERS[case])
                    if case.startswith("send_no_more"):
                        keeper.shutdown(socket.SHUT_WR)
                await until(lambda: len(role._open) == len(role._awaited) == MAX_CONNECTIONS)
                for _ in range(3):
                    assert (await client.ask(path, {"command": "echo", "text": "x"}, timeout=30))["text"] == "x"
                    assert len(role._open) <= MAX_CONNECTIONS
            await until(lambda: not role._open)

    asyncio.run(work())


def test_a_socket_that_cannot_be_made_is_made_when_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "PAUSE_SECONDS", (0.01, 0.01))
    path = tmp_path / "not there yet" / "role.sock"

    async def both_ends() -> dict[str, Any]:
        role = ControlServer(commands())
        role.start(path)
        await asyncio.sleep(0)
        path.parent.mkdir()
        await until(path.exists)
        try:
            return await client.ask(path, {"command": "echo", "text": "x"}, timeout=30)
        finally:
            role.close()

    assert asyncio.run(both_ends())["text"] == "x"
    assert not path.exists()


# ── the client ──


def test_a_role_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(client.NoAnswer, match=r"serve\.sock: .*No such file"):
        asyncio.run(client.ask(tmp_path / "serve.sock", {"command": "status"}))


Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def error_from(tmp_path: Path, octets: bytes | None, timeout: float = 20) -> str:
    """What the client says to a role that answers with *octets* and hangs up, or (None) not at all."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if octets is None:
            await reader.read()
        else:
            writer.write(octets)
        writer.close()
        await writer.wait_closed()
        answered.set()

    async def exchange() -> str:
        async with await asyncio.start_unix_server(answer, tmp_path / "odd.sock"):
            with pytest.raises(client.NoAnswer) as caught:
                await client.ask(tmp_path / "odd.sock", {"command": "status"}, timeout)
            await answered.wait()
            return str(caught.value)

    answered = asyncio.Event()
    return asyncio.run(exchange())


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"", "closed without an answer"),
        (None, "no answer in 0.01 s"),
        (b"nonsense\n", "Expecting value"),
        (b"[]\n", "not a JSON object"),
        (b'{"ok": true, "octets": 10}\nfew', "closed in the middle of an answer"),
        (b'{"ok": true, "octets": -1}\n', "says that -1 octets follow"),
        (b'{"ok": true, "octets": "x"}\n', "says that 'x' octets follow"),
        (b'{"ok": false, "error": "not today"}\n', "not today"),
        (b'{"ok": false}\n', "not done"),
        (b'{"error": "as an earlier version said it"}\n', "as an earlier version said it"),
    ],
)
def test_what_is_no_answer_is_named(tmp_path: Path, octets: bytes | None, words: str) -> None:
    assert words in error_from(tmp_path, octets, 0.01 if octets is None else 20)


# ── whatever the octets ──


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(
        ["command", "text", "number", "share", "flag", "numbers", "perhaps", "octets"]) | st.text(), inner),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_whatever_the_line_it_is_a_command_or_refused(line: bytes) -> None:
    """Nothing else is raised, and what is told can be sent."""
    for octets in (line, line.replace(b'"command": null', b'"command": "echo"')):
        told = ""
        try:
            asked = read_request(octets, commands())
        except Refused as error:
            told = str(error)
        else:
            assert isinstance(asked, RequestLine)
        assert json.loads(response_line({"ok": False, "error": told}))["error"] == told


@settings(max_examples=200)
@given(st.fixed_dictionaries(
    {"text": st.text() | st.integers()},
    optional={
        "number": st.integers() | st.floats() | st.text(), "share": st.floats() | st.integers(),
        "flag": st.booleans() | st.none(), "numbers": st.lists(st.integers() | st.none()) | st.integers(),
        "perhaps": st.integers() | st.none() | st.text(),
    },
))  # fmt: skip
def test_what_a_command_gets_has_the_types_that_it_names(facts: dict[str, Any]) -> None:
    try:
        asked = read_request(json.dumps({"command": "echo", **facts}).encode(), commands())
    except Refused:
        return
    wanted = asked.wanted
    assert isinstance(wanted, Everything)
    assert (type(wanted.text), type(wanted.number), type(wanted.share), type(wanted.flag)) == (str, int, float, bool)
    assert all(type(each) is int for each in wanted.numbers)
    assert wanted.perhaps is None or type(wanted.perhaps) is int
