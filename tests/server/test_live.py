"""A whole instance, asked over the wire."""

import json
import os
import socket

import dns.flags
import dns.rcode
import pytest

from tests.server.live import SERIALS, Instance, wait_until


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_answers_from_the_address_that_was_asked(instance: Instance, address: str, tcp: bool) -> None:
    response = instance.ask(".", "SOA", tcp=tcp, address=address)

    assert response.flags & dns.flags.AA
    assert response.answer[0][0].serial == SERIALS[0]


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_missing_name_is_denied_with_signatures(instance: Instance, tcp: bool) -> None:
    response = instance.ask("no-such-tld.", "A", tcp=tcp, want_dnssec=True)

    assert response.rcode() == dns.rcode.NXDOMAIN
    assert {rrset.rdtype.name for rrset in response.authority} == {"SOA", "NSEC", "RRSIG"}


def test_a_response_is_sent_for_each_of_many_datagrams_at_once(instance: Instance) -> None:
    # More than a batch, with messages among them that get no response.
    question = b"\0\0\6\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", instance.port))
        asking.settimeout(5)
        for number in range(200):
            flags = b"\x80\0" if number % 7 == 0 else b"\0\0"
            asking.send(number.to_bytes(2, "big") + flags + b"\0\1\0\0\0\0\0\0" + question)
        expected = {number for number in range(200) if number % 7}
        received = set()
        while received != expected:
            received.add(int.from_bytes(asking.recv(4096)[:2], "big"))
        asking.settimeout(0.2)
        with pytest.raises(TimeoutError):
            asking.recv(4096)


@pytest.mark.parametrize("size", [0, 1, 11, 12, 512, 4096, 4097, 65_000])
def test_any_octets_over_udp_get_an_error_or_silence_and_the_worker_goes_on(instance: Instance, size: int) -> None:
    before = instance.worker_pids()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", instance.port))
        for _ in range(50):
            asking.send(os.urandom(size))

    assert instance.ask(".", "SOA").answer
    assert instance.worker_pids() == before
    assert "responder failed" not in instance.log


def test_status_tells_workers_sockets_and_counters(instance: Instance) -> None:
    instance.ask(".", "SOA")
    status = instance.status()

    assert status["role"] == "serve"
    assert [worker["ready"] for worker in status["workers"]] == [True]
    assert {(each["address"], each["transport"]) for each in status["sockets"]} == {
        ("127.0.0.1", "udp"), ("127.0.0.1", "tcp"), ("::1", "udp"), ("::1", "tcp"),
    }  # fmt: skip
    assert status["active"] == 1
    assert status["counters"]["queries"]["udp-ipv4"] >= 1


def test_a_status_client_that_talks_nonsense_is_told_what_it_can_ask(instance: Instance) -> None:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(instance.directory / "run" / "serve.sock"))
        asking.sendall(b"nonsense\n[]\n{}\n")
        lines = asking.makefile()
        told = [json.loads(lines.readline()) for _ in range(3)]
    assert [each["ok"] for each in told] == [False] * 3
    assert told[0]["error"].startswith("not JSON: ")
    assert told[2]["error"].startswith("a line is a JSON object with a command: block, ")


def test_every_query_is_counted_once(instance: Instance) -> None:
    def queries() -> int:
        return sum(instance.status()["counters"]["queries"].values())

    before = queries()
    for number in range(20):
        instance.ask(f"name{number}.example.", "A", tcp=number % 2 == 0)

    assert wait_until(lambda: queries() == before + 20, "20 queries counted")
