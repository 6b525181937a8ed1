"""Primaries as other software met them: differences that never end, no EDNS, "up to date" that is not."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.rcode
import pytest

from bench.peers.primaries import KEY_NAME, SECRET
from rootsrv.config import file as config_file
from rootsrv.secondary.primary import CannotConnect, Source, Transferred, ask_serial, transfer
from rootsrv.zone.transfer import NotAuthenticated, TransferInconsistent, TransferRefused
from tests.secondary.maintained import maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted, send_all, send_message
from tests.secondary.versions import FIRST, version

ROOT = b"\0"


@pytest.fixture
def primary() -> Iterator[ScriptedPrimary]:
    with scripted(version(FIRST + 1)) as running:
        yield running


def source(primary: ScriptedPrimary, *, port: int = 0, address: str = "127.0.0.1") -> Source:
    read = config_file.read(
        {
            "key": [{"name": KEY_NAME, "secret": SECRET}],
            "zone": [{"name": "."}],
            "refresh": {"stall_seconds": 3, "query_timeout_seconds": 20},
            "primary": [{"name": "odd", "address": address, "port": port or primary.port, "key": KEY_NAME}],
        }
    )
    return Source.from_config(read.primary[0], read)


def fetch(primary: ScriptedPrimary, wanted: int | None = None) -> Transferred:
    return asyncio.run(transfer(source(primary), ROOT, version(FIRST), wanted))


def stalls(connection: socket.socket, messages: list[bytes]) -> None:
    send_message(connection, messages[0])
    connection.recv(1)


def resets(connection: socket.socket, messages: list[bytes]) -> None:
    send_message(connection, messages[0])
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def ends_early(connection: socket.socket, messages: list[bytes]) -> None:
    send_message(connection, messages[0])
    connection.close()


def says_nothing(connection: socket.socket, messages: list[bytes]) -> None:
    connection.close()


@pytest.mark.parametrize("behaviour", [stalls, resets, ends_early, says_nothing])
def test_a_difference_that_does_not_come_is_followed_by_the_whole_zone(
    primary: ScriptedPrimary, behaviour: Callable[[socket.socket, list[bytes]], None]
) -> None:
    def first_badly(connection: socket.socket, messages: list[bytes]) -> None:
        primary.send = send_all
        behaviour(connection, messages)

    primary.send = first_badly
    got = fetch(primary)
    assert (got.how, got.serial) == ("axfr", FIRST + 1)
    assert (primary.asked["IXFR"], primary.asked["AXFR"]) == (1, 1)


def test_where_there_is_no_connection_nothing_else_is_tried(primary: ScriptedPrimary) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(CannotConnect):
        asyncio.run(transfer(source(primary, port=port), ROOT, version(FIRST)))
    assert primary.asked["AXFR"] == 0


@pytest.mark.parametrize("rcode", [dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_primary_that_does_not_know_edns_is_asked_without(primary: ScriptedPrimary, rcode: dns.rcode.Rcode) -> None:
    primary.edns_rcode = rcode
    assert asyncio.run(ask_serial(source(primary), ROOT)).serial == FIRST + 1
    assert primary.asked["SOA"] == 2
    got = asyncio.run(transfer(source(primary), ROOT, None))
    assert (got.serial, primary.asked["AXFR"]) == (FIRST + 1, 2)


def test_who_refuses_is_not_asked_twice(primary: ScriptedPrimary) -> None:
    primary.edns_rcode = dns.rcode.REFUSED
    with pytest.raises(TransferRefused, match="rcode 5"):
        asyncio.run(ask_serial(source(primary), ROOT))
    assert primary.asked["SOA"] == 1


def test_an_error_that_is_not_signed_takes_expire_from_nobody(primary: ScriptedPrimary) -> None:
    """Whoever sits on the path could otherwise have us ask without OPT, and a lease lose its EXPIRE."""
    primary.edns_rcode = dns.rcode.FORMERR
    primary.key = None
    with pytest.raises(NotAuthenticated):
        asyncio.run(ask_serial(source(primary), ROOT))
    assert primary.asked["SOA"] == 1


def up_to_date(primary: ScriptedPrimary) -> None:
    soa = version(FIRST).rrsets[ROOT, 6]
    primary.differences = [(ROOT, 6, soa.ttl, soa.rdatas[0])]


def test_up_to_date_after_a_newer_serial_was_named_is_no_answer(primary: ScriptedPrimary) -> None:
    up_to_date(primary)
    got = fetch(primary, FIRST + 1)
    assert (got.how, got.serial) == ("axfr", FIRST + 1)
    primary.contents = version(FIRST)
    with pytest.raises(TransferInconsistent, match=f"named {FIRST + 1}, its transfer {FIRST}"):
        fetch(primary, FIRST + 1)
    assert fetch(primary).contents is None  # where nothing newer was named it is an answer


def test_a_primary_that_names_more_than_it_has_confirms_nothing(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "odd")) as instance:
            instance.wait_for_serial(FIRST)
            confirmed = instance.zone()["confirmed_age_seconds"]
            primary.named = FIRST + 1
            up_to_date(primary)
            instance.order("zone-refresh")
            instance.wait(
                lambda: f"its SOA named {FIRST + 1}, its transfer {FIRST}" in str(instance.zone()["primaries"]),
                "told in the status",
            )
            assert instance.zone()["confirmed_age_seconds"] > confirmed
            assert instance.zone()["primaries"][0]["failures"] > 0
            assert instance.log.count("lease renewed") == 0
            assert instance.serial() == FIRST
            assert primary.asked["AXFR"] >= 1


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "0:0:0:0:0:ffff:7f00:1"])
def test_a_primary_may_be_named_by_a_v4_mapped_address(primary: ScriptedPrimary, address: str) -> None:
    assert source(primary, address=address).address == "127.0.0.1"
    assert asyncio.run(ask_serial(source(primary, address=address), ROOT)).serial == FIRST + 1
