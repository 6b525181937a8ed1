"""What nobody signed cannot shorten a lease, and a lease that ends has all primaries asked (RFC 7314, D27)."""

import contextlib
import dataclasses
import struct
import time
from pathlib import Path

import dns.exception
import dns.message
import dns.opcode
import dns.query
import dns.rcode
import pytest

from bench.peers.primaries import KEY, KEY_NAME
from rootsrv.wire import rdata as rdatas
from rootsrv.zone.contents import ZoneContents
from tests.secondary.maintained import SMALL_LIMITS, Maintained, maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, hosts, version

DAY = 86_400


@pytest.mark.parametrize(
    ("key", "expire"),
    [
        pytest.param("", 0, id="keyless-0"),
        pytest.param(KEY_NAME, 1799, id="signed-1799"),
        pytest.param("", 1799, id="keyless-1799", marks=pytest.mark.long),
        pytest.param(KEY_NAME, 0, id="signed-0", marks=pytest.mark.long),
    ],
)
def test_a_genuine_new_zone_with_an_expire_below_its_refresh_is_taken_from_the_next_primary(
    tmp_path: Path, key: str, expire: int
) -> None:
    with scripted(version(FIRST)) as stale, scripted(version(FIRST)) as good:
        sections = primary_section(stale, "stale", key=key) + primary_section(good, "good")
        if not key:
            stale.key = None
        with maintained(tmp_path, sections) as instance:
            instance.wait_for_serial(FIRST)
            stale.publish(version(FIRST + 1))
            stale.key, stale.expire = KEY if key else None, expire
            instance.order("zone-refresh")
            instance.wait(lambda: f"PrimaryStale: EXPIRE of {expire} s" in instance.log, "told")
            assert instance.serial() == FIRST
            assert instance.zone()["lease_seconds"] > DAY
            good.publish(version(FIRST + 1))
            instance.wait_for_serial(FIRST + 1)
            assert instance.zone()["lease_seconds"] > DAY
            assert instance.zone()["source"].startswith("good")


def test_expire_of_the_soa_answer_counts_for_a_transfer_that_comes_without(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        primary.expire = 5000
        primary.messages = lambda messages: messages
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            assert instance.zone()["lease_seconds"] <= 5000


def with_soa(contents: ZoneContents, *, refresh: int, expire: int) -> ZoneContents:
    """*contents*, unsigned, with these numbers in the SOA."""
    key = (contents.apex, rdatas.SOA)
    rrset = contents.rrsets[key]
    rdata = rrset.rdatas[0]
    numbers = list(struct.unpack("!5I", rdata[-20:]))
    numbers[1], numbers[3] = refresh, expire
    changed = dataclasses.replace(rrset, rdatas=(rdata[:-20] + struct.pack("!5I", *numbers),))
    return ZoneContents(contents.apex, {**contents.rrsets, key: changed})


def test_the_soa_of_the_unsigned_zone_of_the_hosts_cannot_end_its_service(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as root, scripted(hosts(FIRST)) as mistaken:
        zone = '[[zone]]\nname = "root-servers.net."\nvalidation = "none"\n'
        sections = primary_section(root, "root") + primary_section(mistaken, "mistaken", zones='["root-servers.net."]')
        with maintained(tmp_path, zone + sections) as instance:
            name = "root-servers.net."

            def serial() -> int | None:
                with contextlib.suppress(OSError, dns.exception.DNSException):
                    answer = instance.ask(name).answer
                    return int(answer[0][0].serial) if answer else None
                return None

            instance.wait(lambda: serial() == FIRST, "the hosts are served")
            for number, (refresh, expire) in enumerate(((0, 0), (0, 2), (2000, 1799)), 1):
                mistaken.publish(with_soa(hosts(FIRST + number), refresh=refresh, expire=expire))
                instance.order("zone-refresh")
                refused = f"{FIRST + number} from mistaken: its lease"
                instance.wait(lambda refused=refused: refused in instance.zone(name)["last_rejection"], "refused")
                assert serial() == FIRST
                assert instance.zone(name)["lease_seconds"] > DAY


def notify_of(instance: Maintained, contents: ZoneContents) -> None:
    """A NOTIFY that carries the SOA."""
    message = dns.message.make_query(".", "SOA")
    message.set_opcode(dns.opcode.NOTIFY)
    message.answer = [dns.message.from_wire(_soa_answer(contents)).answer[0]]
    message.use_tsig(KEY)
    assert dns.query.udp(message, instance.admin[0], port=instance.admin[1], timeout=3).rcode() == dns.rcode.NOERROR


def _soa_answer(contents: ZoneContents) -> bytes:
    soa = contents.rrsets[contents.apex, rdatas.SOA]
    record = contents.apex + struct.pack("!HHIH", rdatas.SOA, 1, soa.ttl, len(soa.rdatas[0])) + soa.rdatas[0]
    return struct.pack("!HHHHHH", 0, 0x8400, 0, 1, 0, 0) + record


def test_when_a_lease_ends_all_are_asked_at_once_and_a_notify_of_our_own_serial_asks_again(tmp_path: Path) -> None:
    limits = SMALL_LIMITS.replace("backoff_seconds = 0.1", "backoff_seconds = 900")
    with scripted(version(FIRST)) as primary:
        primary.expire = 3  # stale, and better than nothing
        with maintained(tmp_path, primary_section(primary, "scripted"), limits=limits) as instance:
            instance.wait(lambda: instance.zone().get("served") == FIRST, "in service")
            instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "the lease is over")
            instance.wait(lambda: "lease over zone=." in instance.log, "told once")
            instance.wait(lambda: instance.log.count("primary failed") >= 2, "asked at the end")
            primary.expire = None
            asked = primary.asked["SOA"]
            notify_of(instance, version(FIRST))
            instance.wait_for_serial(FIRST)
            assert primary.asked["SOA"] == asked + 1
            assert instance.log.count("lease over zone=.") == 1
            instance.wait(lambda: "lease renewed zone=." in instance.log, "told")


def test_a_zone_whose_signatures_end_before_the_lease_in_service_does_not_replace_it(tmp_path: Path) -> None:
    limits = SMALL_LIMITS + "\n[hold]\nsignatures_left_seconds = 0\n"
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted"), limits=limits) as instance:
            instance.wait_for_serial(FIRST)
            primary.publish(version(FIRST + 1, expiration=time.time() + 600))
            instance.order("zone-refresh")
            instance.wait(lambda: "its lease would end in" in instance.zone()["last_rejection"], "refused")
            assert instance.serial() == FIRST
            assert instance.zone()["lease_seconds"] > DAY
            primary.publish(version(FIRST + 2))
            instance.order("zone-refresh")
            instance.wait_for_serial(FIRST + 2)
