"""The failure matrix: whatever a primary does, what is served stays served, the reason is told, the next zone taken."""

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import dns.rcode
import dns.tsig
import pytest

from bench.peers.primaries import KEY_NAME
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.record import Record
from rootsrv.zone.contents import Soa, ZoneContents
from rootsrv.zone.transfer import difference
from tests.secondary import versions
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted, send_all, send_message

Fixture = tuple[Maintained, ScriptedPrimary]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    with scripted(versions.version(versions.FIRST)) as primary:
        with maintained(tmp_path_factory.mktemp("hostile"), primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(versions.FIRST)
            yield instance, primary


def flipped(octets: bytes) -> bytes:
    return octets[:-1] + bytes((octets[-1] ^ 1,))


def cut_short(connection: socket.socket, messages: list[bytes]) -> None:
    send_all(connection, messages[:2])
    connection.close()


def cut_within_a_message(connection: socket.socket, messages: list[bytes]) -> None:
    send_message(connection, messages[0])
    connection.sendall(struct.pack("!H", len(messages[1])) + messages[1][:100])
    connection.close()


def stall(connection: socket.socket, messages: list[bytes]) -> None:
    send_message(connection, messages[0])
    connection.recv(1)  # until the other side gives up


def trickle(connection: socket.socket, messages: list[bytes]) -> None:
    octets = b"".join(struct.pack("!H", len(each)) + each for each in messages)
    for at in range(len(octets)):
        connection.sendall(octets[at : at + 1])
        time.sleep(0.05)


def endless(connection: socket.socket, messages: list[bytes]) -> None:
    send_message(connection, messages[0])
    while True:
        send_message(connection, messages[1])


def another_soa_at_the_end(records: list[Record]) -> list[Record]:
    owner, rtype, ttl, rdata = records[-1]
    serial = Soa.from_rdata(rdata).serial + 1
    return [*records[:-1], (owner, rtype, ttl, rdata[:-20] + struct.pack("!I", serial) + rdata[-16:])]


def of_another_zone(records: list[Record]) -> list[Record]:
    return [(b"\x07example" + owner, rtype, ttl, rdata) for owner, rtype, ttl, rdata in records]


def many_records(records: list[Record]) -> list[Record]:
    more: list[Record] = [(b"\x04more\0", 16, 60, bytes((4,)) + struct.pack("!I", number)) for number in range(1000)]
    return [*records[:-1], *more, records[-1]]


def large_records(records: list[Record]) -> list[Record]:
    more: list[Record] = [
        (b"\x04more\0", 16, 60, b"".join(b"\xff" + bytes((number % 256,)) * 255 for _ in range(4)))
        for number in range(400)
    ]
    return [*records[:-1], *more, records[-1]]


def bomb(records: list[Record]) -> list[Record]:
    """Some 20 KB on the wire: names of 250 octets that are written once per message and pointed to."""
    name = b"".join(bytes((63,)) + bytes((letter,)) * 63 for letter in b"abc") + bytes((57,)) + b"d" * 57 + b"\0"
    more: list[Record] = [(name, rdatas.NS, 60, b"\3" + f"{number:03}".encode() + name) for number in range(700)]
    return [records[0], *more, *records[1:]]


def pointing(target: int) -> Callable[[ScriptedPrimary], None]:
    """A message whose one record has an owner that is a pointer to offset *target*; itself stands at 12."""

    def apply(primary: ScriptedPrimary) -> None:
        record = struct.pack("!HHHIH", 0xC000 | target, rdatas.SOA, 1, 60, 0)
        primary.raw = lambda number: struct.pack("!HHHHHH", number, 0x8400, 0, 1, 0, 0) + record

    return apply


def tampered(rtype: int, change: Callable[[bytes], bytes] = flipped) -> Callable[[ScriptedPrimary], None]:
    def apply(primary: ScriptedPrimary) -> None:
        primary.contents = versions.with_rdata(primary.contents, rtype, change)

    return apply


def doing(**changes: object) -> Callable[[ScriptedPrimary], None]:
    def apply(primary: ScriptedPrimary) -> None:
        for attribute, value in changes.items():
            setattr(primary, attribute, value)

    return apply


def made(**changes: object) -> Callable[[ScriptedPrimary], None]:
    def apply(primary: ScriptedPrimary) -> None:
        primary.contents = versions.version(primary.contents.serial, **changes)

    return apply


def signature_of_a_ds(primary: ScriptedPrimary) -> None:
    for key, rrset in primary.contents.rrsets.items():
        if rrset.rtype == rdatas.DS:
            changed = replace(rrset, rrsigs=(flipped(rrset.rrsigs[0]),))
            primary.contents = ZoneContents(b"\0", {**primary.contents.rrsets, key: changed})
            return


WRONG_KEY = dns.tsig.Key(KEY_NAME, b"another secret than the real one", "hmac-sha256")
NOW = time.time()

MATRIX = {
    "truncated between messages": (doing(send=cut_short), "cut off after"),
    "truncated within a message": (doing(send=cut_within_a_message), "cut off after"),
    "stalled": (doing(send=stall), "stalled for 3 s after"),
    "trickling": (doing(send=trickle), "stalled for 3 s after"),
    "endless": (doing(send=endless), "NotAuthenticated"),
    "of too many records": (doing(records=many_records), "more than 1000 records"),
    "of too many octets": (doing(records=large_records), "more than 300000 octets"),
    "of names that only pointers make long": (doing(records=bomb), "more than 300000 octets when uncompressed"),
    "of a pointer to itself": (pointing(12), "compression pointer at 12 does not point back"),
    "of a pointer ahead": (pointing(40), "compression pointer at 12 does not point back"),
    "of a pointer into the header": (pointing(2), "compression pointer at 12 does not point back"),
    "signed with another key": (doing(key=WRONG_KEY), "NotAuthenticated"),
    "not signed": (doing(key=None), "not signed"),
    "signed an hour ago": (doing(signed_at=NOW - 3600), "BADTIME"),
    "signed in an hour": (doing(signed_at=NOW + 3600), "BADTIME"),
    "of another zone": (doing(records=of_another_zone), "does not begin with an SOA|SOA"),
    "of an SOA that changes": (doing(records=another_soa_at_the_end), "the SOA changed during the transfer"),
    "refused": (doing(rcode=dns.rcode.REFUSED), "rcode 5"),
    "a DS changed": (tampered(rdatas.DS), "signature is not that of the RRset"),
    "a signature changed": (signature_of_a_ds, "signature is not that of the RRset"),
    "an address changed": (tampered(rdatas.A), "does not match the zone's contents"),
    "a delegation changed": (tampered(rdatas.NS, lambda octets: b"\1x" + octets), "does not match the zone's contents"),
    "the digest changed": (tampered(rdatas.ZONEMD), "signature is not that of the RRset|digest"),
    "keys by no anchor": (made(keys=versions.generate_keys(13)), "trust anchor"),
    "signatures expired": (made(expiration=NOW - 600, inception=NOW - 86_400), "not valid any more"),
    "signatures of tomorrow": (made(inception=NOW + 86_400), "not valid yet"),
}


@pytest.mark.parametrize("what", MATRIX)
def test_a_transfer_is_refused_and_what_is_served_stays(running: Fixture, what: str) -> None:
    instance, primary = running
    change, reason = MATRIX[what]
    served = instance.serial()
    assert served is not None
    primary.publish(versions.version(served + 1))
    change(primary)
    instance.order("zone-refresh")

    def told() -> bool:
        zone = instance.zone()
        texts = [zone["last_rejection"], *(each["last_error"] for each in zone["primaries"])]
        return any(part in text for text in texts for part in reason.split("|"))

    instance.wait(told, f"{reason!r} in the status, which is {instance.zone().get('last_rejection')}")
    assert instance.serial() == served
    assert instance.zone()["served"] == served
    # … and the next good zone is taken, by this very primary.
    primary.publish(versions.version(served + 2))
    instance.order("zone-refresh")
    instance.wait_for_serial(served + 2)


def test_a_replayed_transfer_is_refused(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    recorded = primary.last_sent
    assert recorded
    primary.publish(versions.version(served + 1))
    primary.messages = lambda messages: [messages[0][:2] + each[2:] for each in recorded]
    instance.order("zone-refresh")
    instance.wait(lambda: "NotAuthenticated" in instance.zone()["last_rejection"], "refused")
    assert instance.serial() == served
    primary.publish(versions.version(served + 1))
    instance.order("zone-refresh")
    instance.wait_for_serial(served + 1)


def test_an_older_serial_is_never_taken(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    before = primary.asked["AXFR"] + primary.asked["IXFR"]
    primary.publish(versions.version(served - 1))
    asked = primary.asked["SOA"]
    instance.order("zone-refresh")
    instance.wait(lambda: primary.asked["SOA"] > asked, "asked")
    instance.wait(lambda: f"has={served - 1} ours={served}" in instance.log, "told in the log")
    assert primary.asked["AXFR"] + primary.asked["IXFR"] == before
    assert instance.serial() == served


def test_a_serial_that_is_named_and_never_delivered_harms_nothing(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    primary.publish(versions.version(served))
    primary.named = served + 50
    asked = primary.asked["AXFR"] + primary.asked["IXFR"]
    instance.order("zone-refresh")
    instance.wait(lambda: instance.zone()["known"] == served + 50, "known")
    instance.wait(lambda: primary.asked["AXFR"] + primary.asked["IXFR"] > asked, "asked for it")
    instance.wait(lambda: instance.zone()["primaries"][0]["failures"] > 0, "and not delivered")
    zone = instance.zone()
    assert (zone["served"], instance.serial()) == (served, served)
    assert zone["lease_seconds"] > 86_400
    primary.publish(versions.version(served + 51))
    instance.order("zone-refresh")
    instance.wait_for_serial(served + 51)


def test_ixfr_that_is_refused_is_followed_by_axfr_at_once(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    primary.publish(versions.version(served + 1))
    primary.ixfr_rcode = dns.rcode.NOTIMP
    before = dict(primary.asked)
    instance.order("zone-refresh")
    instance.wait_for_serial(served + 1)
    assert primary.asked["IXFR"] == before["IXFR"] + 1
    assert primary.asked["AXFR"] == before["AXFR"] + 1


def test_records_that_come_twice_are_one_record(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    primary.publish(versions.version(served + 1))
    primary.records = lambda records: [*records[:200], *records[1:]]
    instance.order("zone-refresh")
    instance.wait_for_serial(served + 1)
    kept = instance.order("zone-show", serial=served + 1)
    assert kept["records"] == primary.contents.record_count


@pytest.mark.parametrize("fault", ["added twice", "deleted twice", "deleted that is not there", "added that is there"])
def test_differences_that_do_not_fit_are_followed_by_axfr_at_once(running: Fixture, fault: str) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    assert instance.zone()["served"] == served
    # What it has is what the primary published last.
    older, newer = primary.contents, versions.version(served + 1)
    assert older.serial == served
    gone, come = difference(older, newer)
    same = next(each for each in older.records() if each[1] == rdatas.NS and each in set(newer.records()))
    match fault:
        case "added twice":
            come.append(come[-1])
        case "deleted twice":
            gone.append(gone[-1])
        case "deleted that is not there":
            gone.append(come[-1])
        case "added that is there":
            come.append(same)
    primary.publish(newer)
    primary.differences = [come[0], *gone, *come, come[0]]
    before = dict(primary.asked)
    instance.order("zone-refresh")
    instance.wait_for_serial(served + 1)
    assert primary.asked["IXFR"] == before["IXFR"] + 1
    assert primary.asked["AXFR"] == before["AXFR"] + 1
    assert instance.zone()["source"] == "scripted (axfr)"


def test_differences_that_fit_are_taken(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    older, newer = primary.contents, versions.version(served + 1)
    gone, come = difference(older, newer)
    primary.publish(newer)
    primary.differences = [come[0], *gone, *come, come[0]]
    before = dict(primary.asked)
    instance.order("zone-refresh")
    instance.wait_for_serial(served + 1)
    assert primary.asked["AXFR"] == before["AXFR"]
    assert instance.zone()["source"] == "scripted (ixfr)"


def test_a_signed_notify_brings_the_zone_and_a_spoofed_one_is_counted(running: Fixture) -> None:
    instance, primary = running
    served = instance.serial()
    assert served is not None
    primary.publish(versions.version(served + 1))
    asked = primary.asked["SOA"]
    before = instance.status()["security_events"]

    assert instance.notify(key=None).rcode() == dns.rcode.REFUSED
    stranger = dns.tsig.Key("stranger.example.", b"0123456789abcdef", "hmac-sha256")
    with pytest.raises((dns.tsig.PeerError, dns.exception.DNSException)):
        instance.notify(key=stranger)
    for _ in range(200):
        instance.notify(key=None)
    after = instance.status()["security_events"]
    assert after["notify_spoofed"] == before["notify_spoofed"] + 201
    assert after["tsig_failed"] == before["tsig_failed"] + 1
    assert primary.asked["SOA"] == asked
    assert instance.serial() == served
    assert instance.log.count("security: notify_spoofed") < 50

    assert instance.notify().rcode() == dns.rcode.NOERROR
    instance.wait_for_serial(served + 1)
