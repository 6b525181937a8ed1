"""The client of BIRD's control socket: against BIRD itself, and against a socket that says what no BIRD should say."""

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.peers.bird import deployed_configuration, route
from rootsrv.anycast.bird import (
    MAX_REPLY_OCTETS,
    Bird,
    BirdError,
    BirdGarbled,
    BirdRefused,
    BirdSilent,
    BirdUnreachable,
    Channel,
    Line,
    ReplyReader,
)
from tests.needs import REPOSITORY, require_tool
from tests.network import network

T = TypeVar("T")
GREETING = b"0001 BIRD 3.1.0 ready.\n"


# ── BIRD itself ──


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The control socket of a BIRD on a host with our IPv4 anchor address and without neighbours."""
    with network() as net:
        host = net.host("bird")
        host.ip("address", "add", "192.0.2.1/24", "dev", "lo")
        with route(host, tmp_path_factory.mktemp("bird"), deployed_configuration("global", {})) as running:
            yield running.control


def ask(control: Path, question: Callable[[Bird], Coroutine[Any, Any, T]], timeout: float = 2.0) -> T:
    async def asked() -> T:
        bird = Bird(control, timeout)
        try:
            return await question(bird)
        finally:
            bird.close()

    return asyncio.run(asked())


def test_reads_protocols_and_their_states(control: Path) -> None:
    protocols = ask(control, Bird.protocols)

    assert {name: (each.kind, each.up, each.established) for name, each in protocols.items()} == {
        "device1": ("Device", True, False),
        "bfd1": ("BFD", True, False),
        "anycast4_up": ("Direct", True, False),
        "anycast4_degraded": ("Direct", False, False),
        "anycast4_drained": ("Direct", False, False),
        "anycast6_up": ("Direct", True, False),
        "anycast6_degraded": ("Direct", False, False),
        "anycast6_drained": ("Direct", False, False),
        "upstream4": ("BGP", False, False),
        "upstream6": ("BGP", False, False),
    }


def test_reads_channels_and_their_preference(control: Path) -> None:
    assert ask(control, lambda bird: bird.channels("anycast6_drained")) == (Channel("ipv6", 242),)


def test_enables_and_disables_and_doing_so_twice_is_no_error(control: Path) -> None:
    async def toggle(bird: Bird) -> list[bool]:
        seen = []
        for switch in (bird.enable, bird.enable, bird.disable, bird.disable):
            await switch("anycast4_degraded")
            seen.append((await bird.protocols())["anycast4_degraded"].up)
        return seen

    assert ask(control, toggle) == [True, True, False, False]


def test_a_session_that_is_down_exports_nothing(control: Path) -> None:
    """BIRD 2.0.12 says `9001 No valid tables` to this, which is also the code of a syntax error."""
    assert ask(control, lambda bird: bird.exported("upstream4", "192.0.2.0/24")) == frozenset()


def test_an_unknown_protocol_is_an_error_and_never_nothing(control: Path) -> None:
    with pytest.raises(BirdRefused, match=r"9001 syntax error"):
        ask(control, lambda bird: bird.exported("upstream5", "192.0.2.0/24"))
    with pytest.raises(BirdRefused, match=r"9001 syntax error"):
        ask(control, lambda bird: bird.enable("anycast5_up"))


QUOTED = """
log stderr all;
router id 198.51.100.1;
protocol device {}
protocol static 'static-1' { ipv4; route 192.0.2.0/24 blackhole; }
protocol static 'a.b:c-9' { ipv4 { preference 90; }; route 192.0.2.0/24 unreachable; }
protocol static plain_1 { ipv4 { preference 80; }; route 192.0.2.0/24 blackhole; }
protocol direct 'anycast4-up' { interface "lo"; ipv4 { preference 240; }; }
protocol bgp 'up-stream.4' { local 198.51.100.1 as 65001; neighbor 198.51.100.2 as 65000;
  ipv4 { import none; export all; }; }
"""


def test_protocols_with_quoted_names_are_seen_and_switched(tmp_path: Path) -> None:
    """What a name in quotes may hold, the guard against routes of others sees, and every command takes."""

    async def asked(bird: Bird) -> None:
        assert await bird.sources("192.0.2.0/24") == {"static-1", "a.b:c-9", "plain_1", "anycast4-up"}
        assert (await bird.protocols())["up-stream.4"].kind == "BGP"
        assert await bird.channels("anycast4-up") == (Channel("ipv4", 240),)
        for switch, up in ((bird.disable, False), (bird.enable, True)):
            await switch("anycast4-up")
            assert (await bird.protocols())["anycast4-up"].up is up
        assert await bird.exported("up-stream.4", "192.0.2.0/24") == frozenset()

    with network() as net:
        host = net.host("bird")
        host.ip("address", "add", "192.0.2.1/24", "dev", "lo")
        with route(host, tmp_path, QUOTED) as running:
            ask(running.control, asked)


@pytest.mark.parametrize("name", ["", "a b", "a'b", "a'; disable all", "a\nb", "ä", "x" * 65])
def test_what_is_no_name_is_in_no_command(name: str) -> None:
    for question in (Bird.enable, Bird.disable, Bird.channels):
        with pytest.raises(ValueError, match="not a name of a BIRD protocol"):
            asyncio.run(question(Bird("/nowhere"), name))


def test_a_route_whose_protocol_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """It may be the one that must not be there."""
    rows = (
        b"1007-Table master4:\n 192.0.2.0/24         unicast [anycast4_up 18:24:58.086] * (240)\n \tdev lo\n"
        b"                      blackhole 'static 1' 18:24:58.086 (200)\n0000 \n"
    )

    async def sources() -> None:
        async with saying(tmp_path / "bird.ctl", rows) as bird:
            await bird.sources("192.0.2.0/24")

    with pytest.raises(BirdGarbled, match="no protocol in a row"):
        asyncio.run(sources())


def test_goes_on_after_a_refusal(control: Path) -> None:
    async def refused_then_asked(bird: Bird) -> str:
        with pytest.raises(BirdRefused):
            await bird.command("no such command")
        return await bird.version()

    assert re.fullmatch(r"BIRD \d+\.\d+.*", ask(control, refused_then_asked))


@pytest.mark.parametrize("kind", ["global", "local"])
def test_the_deployed_configurations_are_accepted_by_bird(kind: str) -> None:
    path = REPOSITORY / "deploy" / "bird" / f"{kind}.conf"
    subprocess.run([require_tool("bird"), "-p", "-c", path], check=True, capture_output=True, timeout=10)


def test_the_local_configuration_differs_from_the_global_one_by_no_export_alone() -> None:
    def rules(kind: str) -> list[str]:
        lines = (REPOSITORY / "deploy" / "bird" / f"{kind}.conf").read_text().splitlines()
        return [line for line in lines if not line.startswith("#")]

    no_export = "    bgp_community.add((65535, 65281));  # NO_EXPORT, in every state"
    assert [line for line in rules("local") if line != no_export] == rules("global")
    assert rules("local").count(no_export) == 1


# ── what only a broken BIRD says ──


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def answered_by(serve: Serve, path: Path, patience: float = 5.0) -> AsyncIterator[Bird]:
    """A client, with *patience* seconds, of a socket whose connections are served by *serve*."""
    connections = []

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(serve_and_close, path)
    bird = Bird(path, patience)
    try:
        yield bird
    finally:
        bird.close()
        server.close()
        await asyncio.gather(*filter(None, connections))


def saying(
    path: Path, *replies: bytes, greeting: bytes = GREETING, hang_up: bool = False, patience: float = 5.0
) -> Any:
    """A client of a socket that greets and then answers the nth command of each connection with *replies*[n]."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        for reply in replies:
            await reader.readline()
            writer.write(reply)
        await writer.drain()
        if not hang_up:
            await reader.read()

    return answered_by(serve, path, patience)


def failure(path: Path, *replies: bytes, **how: Any) -> BirdError:
    """The error that `show protocols` ends with."""

    async def fail() -> BirdError:
        async with saying(path, *replies, **how) as bird:
            with pytest.raises(BirdError) as caught:
                await bird.protocols()
            return caught.value

    return asyncio.run(fail())


def test_no_socket_nobody_behind_it_and_no_permission_are_told_apart(tmp_path: Path) -> None:
    left = tmp_path / "left.ctl"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))

    for path, words in ((tmp_path / "none.ctl", "is BIRD running"), (left, "has ended and left its socket")):
        with pytest.raises(BirdUnreachable, match=words):
            ask(path, Bird.protocols)


def test_no_permission_names_the_group(control: Path) -> None:
    """As a user who is not in BIRD's group; the test itself is root, so the client runs in a process of its own."""
    program = (
        "import asyncio, os, sys; from rootsrv.anycast.bird import Bird\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "asyncio.run(Bird(sys.argv[1]).protocols())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, control],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip

    assert "permission denied; BIRD's control socket belongs to its group" in done.stderr


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (b"", BirdSilent, "no reply to 'show protocols' within 0.3 s"),
        (b"1002-upstream4 BGP", BirdSilent, "no reply"),
        (b"1002-upstream4 BGP --- up 12:00 Established\n", BirdSilent, "no reply"),
        (b"1002-up\n0000 \n", BirdGarbled, "not a row of `show protocols`: 'up'"),
        (b"hello\n", BirdGarbled, "without reply code: 'hello'"),
        (b"\n", BirdGarbled, "without reply code"),
        (b" 1002-x\n", BirdGarbled, "without reply code"),
        (b"10x2-x\n", BirdGarbled, "without reply code"),
        (b"0000 \n0000 \n", BirdGarbled, "a reply that nobody asked for: 0000"),
        (b"1002-" + b"x" * MAX_REPLY_OCTETS, BirdGarbled, "a reply of more than"),
        (b"1002-x\n" * (MAX_REPLY_OCTETS // 7 + 1), BirdGarbled, "a reply of more than"),
        (b"8003 No protocols match\n", BirdRefused, "8003 No protocols match"),
        (b"9001 syntax error\n", BirdRefused, "9001 syntax error"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else "",
)
def test_a_bad_reply_is_a_precise_error(tmp_path: Path, reply: bytes, error: type[BirdError], words: str) -> None:
    fault = failure(tmp_path / "bird.ctl", reply, patience=0.3 if error is BirdSilent else 5.0)

    assert isinstance(fault, error)
    assert words in str(fault)


def test_a_connection_cut_inside_and_between_replies(tmp_path: Path) -> None:
    inside = failure(tmp_path / "1.ctl", b"1002-upstream4 BGP", hang_up=True)
    between = failure(tmp_path / "2.ctl", b"", hang_up=True)

    assert isinstance(inside, BirdGarbled)
    assert "in the middle of a reply" in str(inside)
    assert isinstance(between, BirdUnreachable)


def test_a_wrong_greeting_is_refused(tmp_path: Path) -> None:
    fault = failure(tmp_path / "x.ctl", b"0000 \n", greeting=b"0220 smtp.example ESMTP\n")

    assert "is this BIRD?" in str(fault)


def test_a_late_reply_is_never_taken_for_the_next_ones(tmp_path: Path) -> None:
    """The connection on which a reply did not come in time is given up, and with it the reply."""
    connections = 0
    given_up = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        name = b"late" if connections == 1 else b"new"
        writer.write(GREETING)
        while await reader.readline():
            if name == b"late":
                await given_up.wait()
            writer.write(b"1002-%b Direct --- up 12:00\n0000 \n" % name)

    async def asked() -> list[str]:
        async with answered_by(serve, tmp_path / "bird.ctl", 0.3) as bird:
            with pytest.raises(BirdSilent):
                await bird.protocols()
            given_up.set()
            return [*await bird.protocols()]

    assert asyncio.run(asked()) == ["new"]


def test_an_answer_about_another_protocol_is_refused(tmp_path: Path) -> None:
    async def switch() -> None:
        async with saying(tmp_path / "bird.ctl", b"0009-anycast6_up: disabled\n0000 \n") as bird:
            await bird.disable("anycast4_up")

    with pytest.raises(BirdGarbled, match="was answered with 0009 anycast6_up: disabled"):
        asyncio.run(switch())


def test_the_news_of_bird_3_may_come_anywhere(tmp_path: Path) -> None:
    rows = b"+Started\n2002-Name Proto\n+upstream4: changed\n1002-upstream4 BGP --- up 12:00\n+x\n+y\n0000 \n+late\n"
    route_rows = (
        b"1007-Table master4:\n 192.0.2.0/24         unicast [anycast4_up 2026-11-21 18:24:58] * (240)\n"
        b"+ news\n \tdev lo\n0000 \n"
    )

    async def asked() -> tuple[list[str], frozenset[str]]:
        async with saying(tmp_path / "bird.ctl", rows, route_rows) as bird:
            return [*await bird.protocols()], await bird.exported("upstream4", "192.0.2.0/24")

    assert asyncio.run(asked()) == (["upstream4"], frozenset({"anycast4_up"}))


def test_a_command_is_one_line() -> None:
    with pytest.raises(ValueError, match="one line"):
        asyncio.run(Bird("/nowhere").command("show\nstatus"))


# ── the reader alone ──

TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), max_size=20)
ROWS = st.lists(st.tuples(st.integers(0, 9999), TEXT), min_size=1, max_size=8)


def written(rows: list[tuple[int, str]]) -> bytes:
    """*rows* as BIRD writes them: a row with the code of the one before it begins with a space alone."""
    lines = []
    for number, (code, text) in enumerate(rows):
        last = number == len(rows) - 1
        same = number > 0 and rows[number - 1][0] == code and not last
        lines.append(f" {text}\n" if same else f"{code:04d}{' ' if last else '-'}{text}\n")
    return "".join(lines).encode()


@given(ROWS, st.lists(st.integers(1, 7), max_size=60))
def test_a_reply_reads_the_same_however_the_octets_arrive(rows: list[tuple[int, str]], sizes: list[int]) -> None:
    octets = written(rows)
    reader = ReplyReader()
    replies = []
    for size in [*sizes, len(octets)]:
        replies += reader.receive(octets[:size])
        octets = octets[size:]

    assert replies == [tuple(Line(code, text) for code, text in rows)]
    assert not reader.is_inside_a_reply


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_octets_give_replies_or_an_error(chunks: list[bytes]) -> None:
    reader = ReplyReader()
    with contextlib.suppress(BirdGarbled):
        for chunk in chunks:
            reader.receive(chunk)
