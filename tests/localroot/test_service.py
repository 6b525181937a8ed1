"""What a LocalRoot service gives to whom: by key, by proved address, to strangers; and what it never gives."""

import contextlib
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from bench.peers.daemon import free_port
from bench.peers.daemon import running as started
from rootsrv.localroot.observations import Asked, KeyFailed, Notified, Proved, TransferSeen
from rootsrv.localroot.subscribers import LiveKey
from rootsrv.telemetry.localroot_metrics import localroot as localroot_metrics
from rootsrv.telemetry.view import Said, View
from rootsrv.wire.codes import NOTAUTH, REFUSED
from rootsrv.wire.message import parse
from rootsrv.wire.tsig import Checker, Signer
from tests.localroot import zones
from tests.localroot.service import ARPA, CC, FIRST, HOSTS, NAME, ROOT, ZONES, Service, contents_of, localroot, wire_key
from tests.needs import REPOSITORY
from tests.secondary import versions
from tests.zone.altered import rrset_at, with_rrset

OURS, OTHER, STRANGER = "127.23.1.1", "127.23.2.1", "127.23.3.1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with localroot(tmp_path_factory.mktemp("localroot")) as made:
        yield made


class Resolver:
    """Listens for NOTIFY, and answers."""

    def __init__(self, address: str, port: int, key: LiveKey | None = None) -> None:
        """*key*: that signs the answers to signed ones."""
        self.key = key
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, port))
        self.socket.settimeout(20)

    def notified(self, *, answer: bool = True) -> tuple[str, int]:
        """Zone and serial of the next one."""
        octets, source = self.socket.recvfrom(65535)
        message = parse(octets)
        assert message.opcode == 4
        assert message.question is not None
        if answer:
            name = message.question[0]
            response = octets[:2] + b"\xa4\0\0\1\0\0\0\0\0\0" + name + b"\0\6\0\1"
            if message.tsig is not None:
                assert self.key is not None
                mac = Checker(wire_key(self.key)).signed(octets, message.tsig, time.time()).mac
                response = Signer(wire_key(self.key), mac).sign(response, time.time())
            self.socket.sendto(response, source)
        return (message.question[0][1:-1].decode() or ".", int.from_bytes(message.answers[0][3][-20:-16], "big"))

    def quiet(self, seconds: float) -> bool:
        """Whether nothing comes."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recvfrom(65535)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(20)
        return False


def test_every_zone_is_given_for_a_key_and_is_what_the_primary_has(running: Service) -> None:
    server = running.sign_up("all of them", (OURS,))
    key = running.key(server)
    running.knows(key, OURS)
    for name in ZONES:
        got = running.axfr(name, key, address=OURS)
        assert not isinstance(got, int), (name, got)
        assert got.serial == FIRST
        if name == HOSTS:  # not signed, so that it is the same whenever it is made
            assert got.rrsets == contents_of(name, FIRST).rrsets
    running.wait(
        lambda: {each.zone for each in running.observed.of_server(TransferSeen, server)} == set(ZONES), "it is observed"
    )
    had = next(each for each in running.observed.of_server(TransferSeen, server) if each.zone == ROOT)
    assert (had.serial, had.how, had.address, had.transport, had.key) == (FIRST, "axfr", OURS, "tcp", key.name)
    assert [each.address for each in running.observed.of_server(Proved, server)] == [OURS]
    assert {each.zone for each in running.observed.of_server(Asked, server)} == {ROOT}


def test_strangers_have_what_zonemd_covers_and_nothing_else(running: Service) -> None:
    got = running.axfr(ROOT, address=STRANGER)
    assert not isinstance(got, int)
    assert got.serial == FIRST
    assert not isinstance(running.axfr(ARPA, address=STRANGER), int)
    assert running.axfr(HOSTS, address=STRANGER) == REFUSED
    assert running.axfr("example.", address=STRANGER) == REFUSED


def test_a_key_that_is_not_known_or_was_deleted_is_told_so(running: Service) -> None:
    server = running.sign_up("deleted", (OTHER,))
    key = running.key(server)
    assert running.soa(ROOT, key, address=OTHER) in {0, NOTAUTH}  # read at most a second later
    running.knows(key, OTHER)
    running.servers.delete_key(running.user, server, key.name)
    running.wait(lambda: running.soa(ROOT, key, address=OTHER) == NOTAUTH, "the key is gone")
    # Its address is proved, so that the operator can be told.
    failed = running.wait(lambda: running.observed.of_server(KeyFailed, server), "it is observed")
    assert (failed[0].key, failed[0].error, failed[0].address) == (key.name, "BADKEY", OTHER)


def test_notify_goes_to_proved_addresses_only_and_the_transfer_is_seen(running: Service) -> None:
    proved, unproved = "127.23.4.1", "127.23.4.2"
    server = running.sign_up("notified", (proved, unproved), wanted=(ARPA,))
    key = running.key(server)
    resolver, silent = Resolver(proved, running.notify_port, key), Resolver(unproved, running.notify_port)
    try:
        running.knows(key, "127.23.4.9")  # from an address that nobody signed up, which proves nothing
        assert parse_tc(running, key, proved)
        assert not isinstance(running.axfr(ARPA, key, address=proved), int)

        running.publish(ARPA, zones.delegated(zones.ARPA, FIRST + 1))
        assert resolver.notified() == ("arpa", FIRST + 1)
        assert not isinstance(running.axfr(ARPA, key, address=proved), int)
        running.wait(
            lambda: [each.outcome for each in running.observed.of_server(Notified, server)] == ["confirmed"],
            "the answer is observed",
        )
        (had,) = running.wait(
            lambda: [e for e in running.observed.of_server(TransferSeen, server) if e.serial == FIRST + 1],
            "the transfer is observed",
        )
        assert had.after_notify is not None
        assert had.after_notify >= 0
        assert silent.quiet(0.2)
        fresh = running.zone(ARPA)
        assert fresh["subscribers"] >= 1
        # Asked for on the page, it is sent again to whoever has the zone.
        running.servers.nudge(running.user, server, ARPA, time.time())
        assert resolver.notified() == ("arpa", FIRST + 1)
        # Also after the clock was set back, to before the service began.
        running.servers.nudge(running.user, server, ARPA, time.time() - 1800)
        assert resolver.notified() == ("arpa", FIRST + 1)
    finally:
        resolver.socket.close()
        silent.socket.close()


def parse_tc(running: Service, key: LiveKey, address: str) -> bool:
    """Whether a signed request over UDP is told to come over TCP."""
    return bool(running.udp(ROOT, key, address=address).truncated)


def test_what_does_not_verify_is_never_given_out(running: Service) -> None:
    good = zones.delegated(zones.CC, FIRST + 1)
    glue = rrset_at(good, "ns.child.cc.", 1)
    running.publish(CC, with_rrset(good, type(glue)(glue.owner, glue.rtype, glue.ttl, (b"\1\2\3\4",))))
    running.wait(
        lambda: "DigestMismatch" in str(running.zone(CC)) or "ZONEMD" in running.zone(CC)["last_rejection"], ""
    )
    assert running.zone(CC)["given"] == FIRST
    bad_root = zones.root(FIRST + 5)
    running.publish(ROOT, versions.with_rdata(bad_root, 1, lambda _: b"\1\2\3\4"))
    running.wait(lambda: "ZONEMD" in running.zone(ROOT)["last_rejection"], "the root is rejected")
    for name in (ROOT, CC):
        got = running.axfr(name, address=STRANGER)
        assert not isinstance(got, int)
        assert got.serial == FIRST


def test_it_answers_no_queries(running: Service) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(20)
        for qname, qtype in ((b"\0", 2), (b"\4arpa\0", 2), (b"\3www\4arpa\0", 28)):
            query = b"\1\2\0\0\0\1\0\0\0\0\0\0" + qname + qtype.to_bytes(2, "big") + b"\0\1"
            client.sendto(query, (running.address, running.port))
            assert parse(client.recv(4096)).rcode == REFUSED


def test_distributed_zones_are_in_no_answer_table(running: Service) -> None:
    tables: list[Path] = list((running.directory / "state" / "tables").glob("*.table"))
    assert tables
    for each in tables:
        octets = each.read_bytes()
        assert b"\3www\4arpa\0" not in octets
        assert b"\4wild\2cc\0" not in octets


def test_every_metric_of_the_table_comes_from_a_running_service(running: Service) -> None:
    """docs/operations.md, rows of rootsrv_localroot_…; it runs last: transfers and NOTIFYs have happened."""
    lines = (REPOSITORY / "docs" / "operations.md").read_text().splitlines()
    documented = {line.split("`")[1] for line in lines if line.startswith("| `rootsrv_localroot_")}
    view = View(now=time.time(), roles={"localroot": Said(running.status())})
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name: [each.value for each in family.samples]
        for family in localroot_metrics(view)
    }
    assert found.keys() == documented
    may_be_zero = {
        "rootsrv_localroot_running_transfers",
        "rootsrv_localroot_pending_notifies",
        "rootsrv_localroot_fresh_subscribers",
        "rootsrv_localroot_subscribers",
    }
    assert {name for name, values in found.items() if not any(values)} <= may_be_zero
    assert all(found.values())


def test_the_status_page_of_such_a_host_shows_its_zones_and_misses_nothing_that_does_not_run_there(
    running: Service,
) -> None:
    port, address = free_port("127.0.0.2"), "127.0.0.2"
    configuration = running.directory / "report.toml"
    text = (running.directory / "rootsrv.toml").read_text()
    configuration.write_text(f'{text}\n[report]\naddresses = ["{address}"]\nport = {port}\n')

    def page() -> str:
        with contextlib.suppress(OSError), urlopen(f"http://{address}:{port}/", timeout=10) as response:
            return str(response.read().decode())
        return ""

    command = [sys.executable, "-m", "rootsrv", "run", "--config", str(configuration), "--role", "report"]
    with started("rootsrv", command, running.directory / "report.log", lambda: f"LocalRoot {NAME}" in page()):
        running.wait(lambda: "signed up" in page(), "the role localroot is heard")
        whole = page()
    (section,) = re.findall(rf"<section><h2>LocalRoot {NAME}</h2>.*?</section>", whole, re.DOTALL)
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section))
    for zone in running.status()["zones"]:
        assert f"{zone['name']} ✓ {zone['given']} since" in shown, shown
    assert f"{running.status()['servers']} servers" in shown
    assert "The role" not in whole
    assert "Queries per second" not in whole
    assert "Is it announced?" not in whole
