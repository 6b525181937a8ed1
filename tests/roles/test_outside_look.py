"""The outside look: several that agree are an alarm in time, one alone is none, and nothing follows."""

import asyncio
import logging
import socket
import threading

import dns.message
import dns.rrset
import pytest

from rootsrv.roles.outside_look import LATE_SECONDS, OutsideLook

ADDRESSES = tuple(f"127.0.28.{200 + number}" for number in range(3))


def looked(*serials: int | None) -> OutsideLook:
    look = OutsideLook(ADDRESSES, ())
    for seen, serial in zip(look.seen.values(), serials, strict=True):
        seen.serial, seen.fault = serial, "" if serial is not None else "no answer"
    return look


@pytest.mark.parametrize(
    ("serials", "behind"),
    [
        ((5, 5, 5), False),
        ((4, 4, 5), False),
        ((6, 5, 5), False),  # one alone may lie
        ((6, None, None), False),
        ((6, 6, 5), True),
        ((6, 7, None), True),
        ((None, None, None), False),
    ],
)
def test_several_that_have_something_newer_are_an_alarm_after_half_an_hour(
    serials: tuple[int | None, ...], behind: bool, caplog: pytest.LogCaptureFixture
) -> None:
    look = looked(*serials)
    with caplog.at_level(logging.WARNING):
        look.judge(5, 1000.0)
        assert (look.ahead_since is not None) is behind
        look.judge(5, 1000.0 + LATE_SECONDS - 1)
        assert not caplog.records
        look.judge(5, 1000.0 + LATE_SECONDS)
        look.judge(5, 1000.0 + LATE_SECONDS + 60)
    assert len(caplog.records) == behind
    look.judge(7, 9000.0)
    assert look.ahead_since is None


def test_what_is_served_outside_is_asked_over_udp_and_silence_is_a_fact() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as letter:
        letter.bind((ADDRESSES[0], 0))
        port = letter.getsockname()[1]

        def answer() -> None:
            octets, source = letter.recvfrom(512)
            query = dns.message.from_wire(octets)
            response = dns.message.make_response(query)
            text = "a. b. 2026112101 1800 900 604800 86400"
            response.answer.append(dns.rrset.from_text(".", 86400, "IN", "SOA", text))
            letter.sendto(response.to_wire(), source)

        thread = threading.Thread(target=answer)
        thread.start()
        look = OutsideLook(ADDRESSES[:2], ("127.0.28.199",), port)
        asyncio.run(look.look(2026112101, 7.0))
        thread.join()
    first, second = look.to_document(9.0)["seen"]
    assert (first["serial"], first["age_seconds"], first["fault"]) == (2026112101, 2.0, "")
    assert second["serial"] is None
    assert second["fault"]
