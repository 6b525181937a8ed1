"""Limits and shed rules at a running instance: workers obey, the health probe never notices, rules end and are kept."""

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import pytest

from rootsrv.answer.responder import Responder, ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.anycast.probe import Expectations, Prober
from rootsrv.commands.parser import main
from rootsrv.health.evidence import ProbeOutcome
from tests.control.asking import ask
from tests.server.live import Instance, running, wait_until

CLIENT = "127.0.0.9"
ADDRESS = ipaddress.ip_address("127.0.0.1")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    more = '[limits]\nmode = "on"\nrate = 20\nburst_seconds = 1.0\nconnections = 30\nsample_every = 1\n'
    with running(tmp_path_factory.mktemp("shed"), zone=more) as found:
        yield found


def order(instance: Instance, command: str, **wanted: object) -> dict[str, Any]:
    told = ask(instance.directory / "run" / "serve.sock", command, **wanted)
    assert told["ok"], told["error"]
    return told


def query(
    instance: Instance, name: str, source: str = CLIENT, timeout: float = 5.0, rtype: str = "A"
) -> dns.message.Message:
    return dns.query.udp(
        dns.message.make_query(name, rtype), "127.0.0.1", timeout=timeout, port=instance.port, source=source
    )


def is_tc(instance: Instance, name: str, source: str = CLIENT, rtype: str = "A") -> bool:
    response = query(instance, name, source, rtype=rtype)
    return bool(response.flags & dns.flags.TC)


def flood(instance: Instance, name: str, source: str, amount: int) -> list[bool]:
    """Send so many queries at once; of each response, whether it has TC."""
    octets = dns.message.make_query(name, "A").to_wire()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.bind((source, 0))
        for _ in range(amount):
            sock.sendto(octets, ("127.0.0.1", instance.port))
        return [bool(sock.recv(4096)[2] & 2) for _ in range(amount)]


def probed(instance: Instance) -> set[ProbeOutcome]:
    """What a round of health probes sees."""

    async def look() -> set[ProbeOutcome]:
        page = instance.page
        expected = Expectations(page, lambda _: Responder(_table_of(instance), ResponderSettings()), 5.0)
        await expected.refresh()
        prober = Prober([ADDRESS], instance.port, 2.0, expected)
        probes = await prober.probe(frozenset([ADDRESS]))
        return {probe.outcome for probe in probes[ADDRESS]}

    return asyncio.run(look())


def _table_of(instance: Instance) -> AnswerTable:
    path = instance.directory / "state" / "tables" / f"{instance.page.active}.table"
    return AnswerTable(path.read_bytes())


def shed(instance: Instance, *match: str, do: str = "tc", **more: object) -> int:
    made = order(instance, "shed", match=list(match), do=do, seconds=60, reason="test", **more)["made"]
    assert isinstance(made, int)
    return made


def test_whoever_is_over_its_rate_is_sent_to_tcp_and_answered_there(instance: Instance) -> None:
    source = "127.0.0.20"
    seen = flood(instance, "com.", source, 60)
    assert not any(seen[:20])
    assert sum(seen) > 20, "a burst of 20 was free, and 20 a second are"
    over_tcp = dns.query.tcp(
        dns.message.make_query("com.", "NS"), "127.0.0.1", timeout=5, port=instance.port, source=source
    )
    assert not over_tcp.flags & dns.flags.TC
    assert over_tcp.authority
    limited = order(instance, "top")["limits"]["limited"]
    assert limited >= sum(seen)


def test_everything_is_shed_and_the_probes_see_nothing_of_it(instance: Instance) -> None:
    for do in ("drop", "tc"):
        place = shed(instance, "qname-suffix=.", do=do, really=True)
        if do == "drop":
            wait_until(lambda: _is_silent(instance), "dropped")
        else:
            wait_until(lambda: is_tc(instance, "com.", "127.0.0.30"), "TC")
        assert probed(instance) == {ProbeOutcome.RIGHT}
        order(instance, "unshed", rule=place)
    wait_until(lambda: not is_tc(instance, "com.", f"127.0.1.{time.time_ns() % 250 + 1}"), "answered again")


def _is_silent(instance: Instance) -> bool:
    try:
        query(instance, "com.", "127.0.0.31", timeout=0.2)
    except dns.exception.Timeout:
        return True
    return False


def test_a_dry_run_says_live_what_it_would_hit(instance: Instance) -> None:
    place = shed(instance, "qtype=TXT", dry_run=True)
    try:
        for number in range(8):
            assert not is_tc(instance, "com.", f"127.0.2.{number + 1}", "TXT" if number % 2 else "A")

        def counted() -> bool:
            (rule,) = [each for each in order(instance, "sheds")["rules"] if each["rule"] == place]
            return rule["hits"] == 4 and rule["queries"] >= 8 and 0 < rule["share"] <= 0.5

        wait_until(counted, "counted")
    finally:
        order(instance, "unshed", rule=place)


def test_contradictory_rules_and_those_for_everything_are_refused(instance: Instance) -> None:
    place = shed(instance, "qname-suffix=x.com", do="drop")
    try:
        for match, do, says in (
            (["qname-suffix=a.x.com"], "tc", f"rule {place} does drop with all of these"),
            (["qname-suffix=x.com"], "drop", "says so already"),
            (["size=0-65535"], "tc", "say --really"),
            (["prefix=0.0.0.0/0"], "drop", "say --really"),
        ):
            with pytest.raises(AssertionError, match=says):
                shed(instance, *match, do=do)
    finally:
        order(instance, "unshed", rule=place)
    assert order(instance, "sheds")["rules"] == []


def test_new_connections_over_the_rate_of_their_source_are_reset(instance: Instance) -> None:
    """As many as `connections` are taken at once, and of what comes soon after some are not, on a slow machine too."""
    tried = refused = 0
    while not refused and tried < 6_000:
        with contextlib.ExitStack() as stack:
            opened = []
            for _ in range(60):
                with contextlib.suppress(ConnectionResetError):  # so soon
                    opened.append(stack.enter_context(instance.connect(source="127.0.0.40")))
            tried, refused = tried + 60, refused + 60 - sum(map(_is_answered, opened))
    assert 0 < refused <= tried - 30
    assert counted(instance, "refused-rate") == refused
    assert not any(is_tc(instance, "com.", "127.0.0.41") for _ in range(3))


def _is_answered(connection: socket.socket) -> bool:
    """Whether a query over it is; False: it was reset."""
    octets = dns.message.make_query("com.", "A").to_wire()
    try:
        connection.sendall(len(octets).to_bytes(2, "big") + octets)
        return bool(connection.recv(2))
    except ConnectionError:
        return False


def counted(instance: Instance, name: str) -> int:
    number: int = instance.status()["counters"]["tcp"][name]
    return number


def test_who_floods_is_told(instance: Instance) -> None:
    for number in range(120):
        query(instance, "www.flood.com.", f"127.0.3.{number + 1}", rtype="AAAA")

    def told() -> bool:
        flood = order(instance, "top")["flood"]
        suffixes = {each["value"]: each["share"] for each in flood["top"]["qname-suffix"]}
        return round(suffixes.get("flood.com.", 0) * flood["queries"]) >= 120

    wait_until(told, "all of them are noted")  # of a few nothing could be said
    with pytest.raises(AssertionError, match=r"is \d+% of all queries"):
        shed(instance, "opt=absent", "qname-suffix=.", "source-port=1-65535", do="drop")


def test_rules_outlive_the_workers(instance: Instance) -> None:
    place = shed(instance, "qname-suffix=kept.com")
    try:
        (pid,) = instance.worker_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: instance.is_ready() and instance.worker_pids() != [pid], "replaced")
        assert is_tc(instance, "a.kept.com.", "127.0.4.1")
        assert not is_tc(instance, "b.com.", "127.0.4.1")
    finally:
        order(instance, "unshed", rule=place)


def rootsrv(instance: Instance, *arguments: str) -> int:
    """What an operator types; the exit status."""
    return main([*arguments, "--config", str(instance.directory / "rootsrv.toml")])


def test_what_an_operator_types_from_the_dry_run_to_the_end(
    instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        query(instance, "www.typed.com.", f"127.0.5.{number + 1}")
    assert rootsrv(instance, "shed", "--match", "qname-suffix=typed.com", "--dry-run", "--for", "1s") == 0
    said = capsys.readouterr().out
    assert "0 of 0 queries (–), and 0 of 0 with a cookie (–), would be hit" in said
    assert "no query came over UDP that rules look at" in said.splitlines()[-1]
    assert rootsrv(instance, "shed", "--match", "qname-suffix=typed.com", "--dry-run", "--for", "1s", "--json") == 0
    assert json.loads(capsys.readouterr().out)["hits"] == 0
    wait_until(lambda: order(instance, "sheds")["rules"] == [], "dry runs end by themselves")

    assert rootsrv(instance, "shed", "--match", "qname-suffix=typed.com", "--match", "qtype=A", "--for", "20m",
                   "--reason", "ticket 4711") == 0  # fmt: skip
    assert "rule 0: qname-suffix=typed.com. qtype=A does tc-unless-cookie for another" in capsys.readouterr().out
    wait_until(lambda: is_tc(instance, "a.typed.com.", "127.0.5.9"), "TC")
    assert rootsrv(instance, "top", "--once") == 0
    said = capsys.readouterr().out
    assert "UDP queries/s in the last" in said
    assert "ticket 4711" in said
    assert "qname-suffix" in said
    assert rootsrv(instance, "top", "--json") == 0
    assert json.loads(capsys.readouterr().out)["limits"]["mode"] == "on"
    assert rootsrv(instance, "unshed", "0") == 0
    assert "nothing is shed" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "status", "says"), [
    (["--match", "qtype=NOSUCH", "--dry-run"], 2, "is not a query type"),
    (["--match", "qtype=A"], 2, "needs --for TIME and --reason TEXT"),
    (["--match", "qtype=A", "--for", "25h", "--reason", "x"], 2, "at most 24h"),
    (["--match", "size=0-65535", "--for", "1m", "--reason", "x", "--do", "drop"], 1, "say --really"),
    (["--match", "qtype=A", "--for", "1m", "--reason", " "], 1, "a rule needs a reason"),
])  # fmt: skip
def test_what_cannot_be_is_refused_with_its_cause(
    instance: Instance, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, says: str
) -> None:
    assert rootsrv(instance, "shed", *arguments) == status
    assert says in capsys.readouterr().err
    assert order(instance, "sheds")["rules"] == []


@pytest.mark.parametrize("do", ["drop", "tc", "tc-unless-cookie"])
@pytest.mark.parametrize(
    "match",
    [
        ["qname-suffix=."], ["qtype=SOA"], ["qtype=NS"], ["qtype=DNSKEY"], ["opt=present"], ["opt=absent"], ["opt=do"],
        ["opt=no-do"], ["size=0-65535"], ["source-port=0-65535"], ["prefix=127.0.0.1"], ["prefix=127.0.0.0/8"],
        ["prefix=0.0.0.0/0"], ["prefix=127.0.0.1", "qname-suffix=.", "size=1-65535", "source-port=1-65535"],
    ],
    ids=str,
)  # fmt: skip
def test_whatever_of_a_probe_a_rule_is_about_the_probes_see_nothing_of_it(
    instance: Instance, match: list[str], do: str
) -> None:
    place = shed(instance, *match, do=do, really=True)
    try:
        assert probed(instance) == {ProbeOutcome.RIGHT}
    finally:
        order(instance, "unshed", rule=place)
