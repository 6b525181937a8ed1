"""The flood of connections that ask nothing, and what it says of a server."""

import socket
from pathlib import Path

import pytest

from bench import cli, flood
from tests.server.live import serving


def test_a_server_that_answers_everybody_has_no_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, service="tcp_max_connections = 200") as instance:
        order = ["--port", str(instance.port), "--rate", "600", "--seconds", "2", "--clients", "20"]
        assert cli.main(["flood", *order]) == 0
        assert instance.status()["counters"]["tcp"]["closed-for-another"] > 0
    told = capsys.readouterr().out
    assert "100 ms after connecting: 0 of 10 failed" in told
    assert "UDP: 0 of " in told


def test_a_server_that_takes_connections_and_never_answers_has_nothing_but_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flood, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listening:
        order = flood.Flood(
            port=listening.getsockname()[1], rate=100, seconds=1.5, clients=4, waits=(0.1, 0.2), udp_rate=5
        )
        found = flood.run(order)
    assert found.asked == found.failed == {0.1: 2, 0.2: 2}
    assert found.reasons == {"asking: TimeoutError": 4}
    assert found.datagrams_lost == found.datagrams > 0
    assert found.flooded > 0


@pytest.mark.parametrize(
    ("manner", "in_c", "counter"),
    [
        ("once", True, "accepted"), ("once", False, "closed-for-another"), ("half", True, "closed-for-another"),
        ("unread", False, "closed-for-another"), ("reset", True, "closed-by-client"),
    ],
)  # fmt: skip
def test_whatever_each_connection_does_a_farm_and_clients_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str, in_c: bool, counter: str
) -> None:
    if not in_c:
        monkeypatch.setattr(flood, "_opener", lambda order: flood._InPython(order, 10_000))
    with serving(tmp_path, service="tcp_max_connections = 100") as instance:
        order = flood.Flood(
            port=instance.port, rate=300, seconds=1.5, clients=4, waits=(0.05,), udp_rate=5, manner=manner, farm=3
        )
        found = flood.run(order)
        assert instance.status()["counters"]["tcp"][counter] > 100
    assert found.failed == {}
    assert found.flooded > 100
    assert (found.farm_lost, found.farm_asked > 5) == (0, True)
    assert "farm: 0 of 3 connections ended" in flood.to_text(order, found)


@pytest.mark.parametrize(
    ("option", "value"), [("--rate", "1000000000"), ("--seconds", "3600"), ("--clients", "0"), ("--addresses", "1")]
)
def test_what_would_go_on_and_on_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flood", "--port", "1", option, value]) == 2
    assert option in capsys.readouterr().err


def test_both_families_at_once_are_refused_where_no_prefix_of_ipv6_is_local(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flood", "--port", "1", "--both-families"]) == 2
    assert "ip -6 route add local 2001:d00::/24 dev lo" in capsys.readouterr().err


def test_both_families_come_from_as_many_addresses_of_which_no_client_has_the_prefix() -> None:
    order = flood.Flood(port=1, prefixes=100, addresses=400, both_families=True)
    sources, clients = order.sources(), [order.source_of(number) for number in range(order.clients)]
    assert len(set(sources)) == 400
    assert len(set(clients)) == order.clients
    for addresses in (sources, clients):
        assert sum(":" in each for each in addresses) * 2 == pytest.approx(len(addresses), abs=2)
    assert not {each.split(":")[1] for each in sources if ":" in each} & {
        each.split(":")[1] for each in clients if ":" in each
    }
