"""What clients see while zones change, primaries lie and processes are killed."""

import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest

from rootsrv.wire import rdata as rdatas
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import ZoneContents
from tests.secondary import versions
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version


@dataclass
class Client:
    """Asks all the time, as `dig` in a loop does: over UDP with a new port each time, or over one TCP connection."""

    service: tuple[str, int]
    signatures: dict[int, frozenset[bytes]]
    """By serial: what the RRSIGs of its SOA are."""

    tcp: bool
    asked: int = 0
    lost: int = 0
    faults: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def run(self, stop: threading.Event) -> None:
        connection = socket.create_connection(self.service, timeout=5) if self.tcp else None
        newest: int | None = None
        with connection or contextlib.nullcontext():
            while not stop.is_set():
                self.asked += 1
                # The SOA RRset with its signatures stands in the authority section of a negative answer.
                query = dns.message.make_query(f"no-such-tld-{self.asked}.", "A", want_dnssec=True)
                try:
                    response = self._ask(query, connection)
                except (OSError, dns.exception.DNSException, EOFError) as error:
                    self.lost += 1
                    self.faults.append(f"{type(error).__name__}: {error}")
                    if connection is not None:
                        return
                    continue
                newest = self._judge(response, newest)

    def _ask(self, query: dns.message.Message, connection: socket.socket | None) -> dns.message.Message:
        if connection is None:
            return dns.query.udp(query, self.service[0], port=self.service[1], timeout=3)
        wire = query.to_wire()
        connection.sendall(struct.pack("!H", len(wire)) + wire)
        with_length = b""
        while len(with_length) < 2 or len(with_length) < 2 + struct.unpack("!H", with_length[:2])[0]:
            part = connection.recv(65536)
            if not part:
                raise EOFError("closed")
            with_length += part
        return dns.message.from_wire(with_length[2:])

    def _judge(self, response: dns.message.Message, newest: int | None) -> int | None:
        if response.rcode() != dns.rcode.NXDOMAIN:
            self.faults.append(f"rcode {response.rcode()}")
            return newest
        soa = next(each for each in response.authority if each.rdtype == rdatas.SOA)
        rrsigs = [rr for each in response.authority if each.rdtype == 46 for rr in each if rr.type_covered == 6]
        serial = int(soa[0].serial)
        self.seen.add(serial)
        if frozenset(rr.to_wire() for rr in rrsigs) != self.signatures[serial]:
            self.faults.append(f"serial {serial} with the signature of another version")
        if self.tcp and newest is not None and serial_is_newer(newest, serial):
            self.faults.append(f"serial {serial} after {newest} over one connection")
        return serial


def soa_signatures(contents: ZoneContents) -> frozenset[bytes]:
    return frozenset(contents.rrsets[b"\0", rdatas.SOA].rrsigs)


@pytest.mark.parametrize("switchovers", [5, pytest.param(20, marks=pytest.mark.long)])
def test_across_switchovers_no_answer_is_lost_mixed_or_out_of_order(tmp_path: Path, switchovers: int) -> None:
    published = [version(FIRST + number, inception=time.time() - 3600 + number) for number in range(switchovers + 1)]
    signatures = {each.serial: soa_signatures(each) for each in published}
    assert len(set(signatures.values())) == len(published)
    with scripted(published[0]) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted"), workers=2) as instance:
            instance.wait_for_serial(FIRST)
            instance.wait(lambda: all(w["active"] for w in instance.status()["workers"]), "all workers answer")
            stop = threading.Event()
            clients = [Client(instance.service, signatures, tcp) for tcp in (False, False, True)]
            threads = [threading.Thread(target=each.run, args=(stop,)) for each in clients]
            for thread in threads:
                thread.start()
            try:
                for each in published[1:]:
                    primary.publish(each)
                    instance.notify(each.serial)
                    instance.wait(lambda each=each: instance.zone().get("served") == each.serial, "served")
                instance.wait(lambda: instance.serial() == published[-1].serial, "answered")
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            counters = instance.status()["counters"]
    assert counters["switchovers"] == switchovers + 1
    for client in clients:
        assert client.faults == []
        assert client.lost == 0
        assert client.asked > switchovers
    assert set.union(*(client.seen for client in clients)) == set(signatures)


def test_of_three_primaries_one_that_hangs_and_one_that_lies_do_not_hold_up_the_honest_one(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        honest, lying, hanging = (stack.enter_context(scripted(version(FIRST))) for _ in range(3))
        sections = "".join(
            primary_section(each, name) for each, name in ((hanging, "hanging"), (lying, "lying"), (honest, "honest"))
        )
        instance = stack.enter_context(maintained(tmp_path, sections))
        instance.wait_for_serial(FIRST)
        for step in range(1, 4):
            good = version(FIRST + step)
            honest.publish(good)
            lying.publish(versions.with_rdata(version(FIRST + step), rdatas.A, lambda octets: octets[:-1] + b"\x09"))
            hanging.publish(good)
            hanging.send = lambda connection, messages: connection.recv(1) and None
            instance.order("zone-refresh")
            instance.wait_for_serial(FIRST + step)
        primaries = {each["name"]: each for each in instance.zone()["primaries"]}
        assert primaries["honest"]["failures"] == 0
        instance.wait(lambda: "primary=hanging" in instance.log and "from=lying" in instance.log, "the others are told")
        assert instance.zone()["source"].startswith("honest")


def test_no_single_bad_input_silences_three_instances_at_once(tmp_path: Path) -> None:
    """Common mode (D31): all three are offered the same newer serial: wrong, to be held, not to be had."""
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(scripted(version(FIRST)))
        instances = [
            stack.enter_context(maintained(tmp_path / str(number), primary_section(primary, "scripted")))
            for number in range(3)
        ]
        for instance in instances:
            instance.wait_for_serial(FIRST)

        def all_answer_the_first() -> None:
            for instance in instances:
                assert instance.serial() == FIRST
                health = instance.status()["health"]
                assert not health["switchover_failed"]
                assert instance.zone()["lease_seconds"] > 86_400

        def offer(serial: int, seen: str) -> None:
            for instance in instances:
                instance.order("zone-refresh")
            for instance in instances:
                instance.wait(lambda instance=instance: seen in " ".join(instance.status()["alarms"]), seen)
            all_answer_the_first()

        primary.publish(versions.with_rdata(version(FIRST + 1), rdatas.A, lambda octets: octets[:-1] + b"\x09"))
        offer(FIRST + 1, "does not match the zone's contents")
        primary.publish(version(FIRST + 2, tlds=5))
        offer(FIRST + 2, "is held")
        for instance in instances:
            assert instance.status()["health"]["behind_seconds"] == 0
        primary.publish(version(FIRST + 3))
        primary.rcode = primary.ixfr_rcode = dns.rcode.REFUSED
        offer(FIRST + 3, "rcode 5")
        for instance in instances:
            assert instance.zone()["known"] == FIRST + 3
        # … and the next good zone heals all of them, with no command.
        primary.publish(version(FIRST + 4))
        for instance in instances:
            instance.notify(FIRST + 4)
        for instance in instances:
            instance.wait_for_serial(FIRST + 4)


def kill_loop(tmp_path: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    with scripted(version(FIRST)) as primary:
        switchover = "align_seconds = 1\nlead_seconds = 0.2"  # so that some instants are between staging and T
        with maintained(tmp_path, primary_section(primary, "scripted"), switchover=switchover) as instance:
            instance.wait_for_serial(FIRST)
            serial = FIRST
            for _ in range(rounds):
                serial += 1
                primary.publish(version(serial))
                before = instance.serial() or 0
                with contextlib.suppress(OSError, dns.exception.DNSException):
                    instance.notify(serial)
                time.sleep(chance.uniform(0, 0.8))  # waits for nothing: the instant itself is what is drawn
                instance.kill()
                _state_is_whole(instance)
                instance.start()
                instance.wait(lambda: instance.serial() is not None, "answers again")
                now = instance.serial() or 0
                assert now == before or serial_is_newer(now, before), f"{before} -> {now}"
                instance.wait_for_serial(serial)
            events = [each["event"] for each in instance.journal()]
            assert events.count("zone served") >= 1


def _state_is_whole(instance: Maintained) -> None:
    """Whatever instant it was: what is there can be read, by another process that is given the directory."""
    import json

    state = instance.directory / "state"
    ledger = json.loads((state / "ledger.json").read_text())
    for lease in ledger["leases"].values():
        path = state / "zones" / "root" / f"{lease['serial']}.zone"
        assert path.exists(), f"the ledger names {path}"


def test_kill_9_at_random_instants_of_an_update_leaves_the_old_zone_or_the_new(tmp_path: Path) -> None:
    kill_loop(tmp_path, rounds=2, seed=int(time.time()))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kill_9_at_sixty_random_instants_leaves_the_old_zone_or_the_new(tmp_path: Path) -> None:
    kill_loop(tmp_path, rounds=60, seed=int(time.time()))


@pytest.fixture
def expiring(tmp_path: Path) -> Iterator[tuple[Maintained, ScriptedPrimary]]:
    """An instance whose first zone has signatures that are over in a few seconds."""
    with scripted(version(FIRST - 1)) as primary:
        primary.rcode = dns.rcode.REFUSED
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait(instance.status, "up")
            serial = FIRST - 1
            while instance.zone()["served"] is None:  # a busy machine may take longer than they last
                serial += 1
                assert serial < FIRST + 6, instance.log
                primary.publish(version(serial, expiration=time.time() + 3 * (serial - FIRST + 1)))
                instance.notify(serial)
                instance.wait(lambda serial=serial: _is_settled(instance, serial), "settled")
            yield instance, primary


def test_an_expired_zone_is_answered_with_servfail_and_a_newer_one_heals_it(
    expiring: tuple[Maintained, ScriptedPrimary],
) -> None:
    instance, primary = expiring
    served = instance.zone()["served"]
    instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "SERVFAIL")
    assert instance.ask(tcp=True).rcode() == dns.rcode.SERVFAIL
    assert any("the lease is over" in alarm for alarm in instance.status()["alarms"])
    # A restart does not revive it.
    instance.kill()
    instance.start()
    instance.wait(instance.status, "up again")
    instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "SERVFAIL still")
    primary.publish(version(served + 1))
    instance.notify(served + 1)
    instance.wait_for_serial(served + 1)


def _is_settled(instance: Maintained, serial: int) -> bool:
    zone = instance.zone()
    return zone["served"] == serial or str(serial) in zone["last_rejection"]


def test_a_full_disk_or_a_state_that_cannot_be_written_stops_nothing_that_is_served(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            zones = instance.directory / "state" / "zones"
            zones.rename(zones.with_name("away"))
            zones.write_bytes(b"")  # a file where a directory should be: nothing can be kept
            primary.publish(version(FIRST + 1))
            instance.order("zone-refresh")
            instance.wait(lambda: "cannot be kept" in instance.zone()["last_rejection"], "told")
            status = instance.status()
            assert not status["state_writable"]
            assert instance.serial() == FIRST
            zones.unlink()
            zones.with_name("away").rename(zones)
            instance.order("zone-refresh")
            instance.wait_for_serial(FIRST + 1)
            assert instance.status()["state_writable"]
