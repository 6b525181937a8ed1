"""What is known of servers after a change of the register: what has changed is made anew, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.distribution.requests import Asker
from rootsrv.localroot import directory
from rootsrv.localroot.directory import RegisteredServers, ZoneRule
from rootsrv.localroot.observations import Observations
from rootsrv.localroot.statistics import SubscriberStatistics
from rootsrv.localroot.subscribers import LiveKey, Subscriber, Subscriptions
from rootsrv.wire import name as names
from rootsrv.wire.tsig import Key

NOW = 1_000_000.0
KEYS = tuple(LiveKey(f"k{each}.rz.example.", each, "hmac-sha256", bytes([each] * 32), None) for each in (1, 2))
SUBSCRIBERS = tuple(Subscriber(each, "rz", "bind", (f"192.0.2.{each}",), (".",), False) for each in (1, 2))


@pytest.fixture
def servers(tmp_path: Path) -> RegisteredServers:
    observations = Observations(tmp_path / "observed")
    statistics = SubscriberStatistics("example", observations, tmp_path, lambda: NOW)
    rule = ZoneRule(".", verified_as_a_whole=True)
    made = RegisteredServers(observations, statistics, lambda _: rule, is_open=True, now=lambda: NOW)
    made.know(Subscriptions(1, KEYS, SUBSCRIBERS))
    return made


def key_of(servers: RegisteredServers, live: LiveKey) -> Key | None:
    return servers.key(names.from_text(live.name))


def test_only_what_has_changed_is_made_anew(servers: RegisteredServers, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = Key.make

    def counting(name: bytes, algorithm: str, secret: bytes) -> Key:
        made.append(names.to_text(name))
        return make(name, algorithm, secret)

    monkeypatch.setattr(directory.Key, "make", counting)
    before = [key_of(servers, each) for each in KEYS]
    servers.know(Subscriptions(2, (KEYS[0], replace(KEYS[1], secret=b"another".ljust(32))), SUBSCRIBERS))
    after = [key_of(servers, each) for each in KEYS]
    assert made == [KEYS[1].name]
    assert after[0] is before[0]
    assert after[1] is not None
    assert after[1] != before[1]


def test_a_key_ends_when_the_register_says_so_later(servers: RegisteredServers) -> None:
    servers.know(Subscriptions(2, (replace(KEYS[0], ends=NOW), replace(KEYS[1], ends=NOW + 1)), SUBSCRIBERS))
    assert key_of(servers, KEYS[0]) is None
    assert key_of(servers, KEYS[1]) is not None


def test_a_key_that_is_another_servers_now_is_not_the_firsts(servers: RegisteredServers) -> None:
    servers.know(Subscriptions(2, (replace(KEYS[0], server=2),), SUBSCRIBERS))
    found = servers.recipient(Asker("192.0.2.2", over_tcp=True), key_of(servers, KEYS[0]), b"\0")
    assert found is not None
    assert found.name == "server 2"
    assert key_of(servers, KEYS[1]) is None


def test_an_address_that_was_taken_away_proves_nothing_any_more(servers: RegisteredServers) -> None:
    asker, key = Asker("192.0.2.1", over_tcp=True), key_of(servers, KEYS[0])
    assert servers.recipient(asker, key, b"\0") is not None
    assert servers.counts["proved_addresses"] == 1
    servers.know(Subscriptions(2, KEYS, (replace(SUBSCRIBERS[0], addresses=("192.0.2.9",)), SUBSCRIBERS[1])))
    assert servers.counts["proved_addresses"] == 0
    found = servers.recipient(asker, None, b"\0")
    assert found is not None
    assert found.name.startswith("prefix ")


def test_who_is_gone_while_others_are_told_is_left_out(servers: RegisteredServers) -> None:
    """Ten thousand are told a little at a time, and the register changes meanwhile."""
    for number, key in enumerate(KEYS, 1):
        servers.recipient(Asker(f"192.0.2.{number}", over_tcp=True), key_of(servers, key), b"\0")
    told = servers.to_notify(".")
    assert next(told)[:2] == (1, "192.0.2.1")
    servers.take(servers.learned(Subscriptions(2, KEYS[:1], SUBSCRIBERS[:1])))
    assert list(told) == []
