"""A NOTIFY that anybody could have sent makes us ask, seldom, and moves nothing."""

import socket
from pathlib import Path

import dns.message
import dns.opcode
import dns.rrset

from rootsrv.zone.refresh import Refresh
from tests.secondary.maintained import maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version


def spoofed(serial: int) -> bytes:
    message = dns.message.make_query(".", "SOA")
    message.set_opcode(dns.opcode.NOTIFY)
    message.answer.append(dns.rrset.from_text(".", 0, "IN", "SOA", f"a. b. {serial} 1 1 1 1"))
    return message.to_wire()


def test_ten_thousand_forged_ones_move_no_serial_and_flood_no_primary(tmp_path: Path) -> None:
    """Unsigned, from the address of a primary without a key: it was "known", and the instance degraded by it."""
    with scripted(version(FIRST)) as primary:
        primary.key = None
        with maintained(tmp_path, primary_section(primary, "keyless", key="")) as instance:
            instance.wait_for_serial(FIRST)
            asked = primary.asked["SOA"]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(20)
                for number in range(10_000):
                    client.sendto(spoofed(2026999999 if number % 2 else FIRST + 1), instance.admin)
                client.sendto(spoofed(2026999999), instance.admin)
                client.recv(512)
            instance.wait(lambda: primary.asked["SOA"] > asked, "asked")
            zone = instance.zone()
            assert (zone["known"], zone["served"], zone["known_age_seconds"]) == (FIRST, FIRST, None)
            assert instance.status()["health"]["behind_seconds"] == 0
            waited = zone["primaries"][0]["notified_seconds"]
            seldom = Refresh.NOTIFY_BURST + 2 + (waited or 0) / Refresh.NOTIFY_SECONDS
            assert primary.asked["SOA"] - asked <= seldom
            # And an honest one is heard all the same, not long after.
            primary.publish(version(FIRST + 1))
            primary.key = None
            instance.notify(key=None)
            instance.wait_for_serial(FIRST + 1)
