"""NSD, Knot and BIND as our hidden primaries with genuine zones; dig, kdig and the three as those whom we give."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dns.dnssec
import pytest

from bench.peers.daemon import PeerFailed, free_port
from bench.peers.primaries import KEY_NAME, SECRET, hidden_primary, without_last_soa
from bench.peers.secondaries import secondary
from rootsrv.zone import presentation
from tests.control.asking import ask_for_octets
from tests.needs import genuine_root_zone_text, require_genuine_zones, require_tool
from tests.secondary.certificates import Authority
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version

KINDS = ("NSD", "Knot", "BIND")


def test_genuine_updates_come_from_nsd_knot_and_bind_and_survive_a_zsk_roll(tmp_path: Path) -> None:
    """The September trio: the ZSK changes in its last step.  Each kind publishes first once."""
    anchors = (require_genuine_zones() / "root-anchors.xml").read_text()
    trio = [without_last_soa(genuine_root_zone_text(each)) for each in (2025091101, 2025091701, 2025091902)]
    with contextlib.ExitStack() as stack:
        primaries = {kind: stack.enter_context(hidden_primary(kind, {".": trio[0]}, tmp_path / kind)) for kind in KINDS}
        sections = "".join(
            f'[[primary]]\nname = "{kind}"\naddress = "127.0.0.1"\nport = {each.port}\nkey = "{KEY_NAME}"\n'
            for kind, each in primaries.items()
        )
        environment = {"ROOTSRV_TEST_CLOCK": "2025-09-20T12:00:00Z"}
        limits = "[refresh]\nmin_seconds = 1\nmax_seconds = 1\nbackoff_seconds = 0.5\n"
        instance = stack.enter_context(
            maintained(tmp_path / "instance", sections, environment=environment, anchors=anchors, limits=limits)
        )
        instance.wait(lambda: instance.serial() == 2025091101, "the first version", 90)
        for first, text, serial in (("Knot", trio[1], 2025091701), ("NSD", trio[2], 2025091902)):
            primaries[first].publish(text)
            instance.wait(lambda serial=serial: instance.serial() == serial, f"serial {serial} from {first}", 90)
            assert instance.zone()["source"].startswith(first)
            for kind in KINDS:
                if kind != first:
                    primaries[kind].publish(text)
        _, export = ask_for_octets(instance.directory / "run" / "maintain.sock", "zone-export")
        exported = presentation.from_text(export, b"\0")
        assert exported.rrsets == presentation.from_text(trio[2], b"\0").rrsets
        keys = instance.ask(".", "DNSKEY", tcp=True).answer[0]
        assert {dns.dnssec.key_id(key) for key in keys} == {20326, 38696, 46441, 61809}


# ── Transfers out ──

Giving = tuple[Maintained, ScriptedPrimary, Authority, int, dict[str, int]]


@pytest.fixture(scope="module")
def giving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Giving]:
    directory = tmp_path_factory.mktemp("giving")
    authority = Authority(directory)
    certified = authority.certify("admin.example")
    tls_port = free_port()
    ports = {kind: free_port() for kind in KINDS}
    peers = "".join(
        f'[[peer]]\nname = "{kind}"\naddress = "127.0.0.1"\nport = {port}\nkey = "{KEY_NAME}"\n'
        for kind, port in ports.items()
    )
    peers += '[[peer]]\nname = "mutual"\naddress = "127.0.0.1"\ntls_name = "peer.example"\nnotify = false\n'
    with scripted(version(FIRST)) as primary:
        with maintained(directory / "instance", primary_section(primary, "scripted") + peers) as instance:
            instance.wait_for_serial(FIRST)
            text = instance.configuration.read_text()
            more = f'tls_port = {tls_port}\ntls_certificate = "{certified.certificate}"\ntls_key = "{certified.key}"\n'
            more += f'tls_client_ca = "{authority.path}"\n'
            instance.configuration.write_text(text.replace("idle_seconds = 20\n", "idle_seconds = 20\n" + more))
            assert instance.order("reload")["ok"]
            instance.wait(lambda: instance.log.count("administrative interface") == 2, "bound again")
            primary.publish(version(FIRST + 1))
            instance.notify(FIRST + 1)
            instance.wait_for_serial(FIRST + 1)
            yield instance, primary, authority, tls_port, ports


def dig(instance: Maintained, *arguments: str, key: bool = True) -> str:
    signed = ["-y", f"hmac-sha256:{KEY_NAME}:{SECRET}"] if key else []
    command = [require_tool("dig"), f"@{instance.admin[0]}", "-p", str(instance.admin[1]), *signed, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout


def kdig(instance: Maintained, port: int, *arguments: str) -> str:
    command = [require_tool("kdig"), f"@{instance.admin[0]}", "-p", str(port), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def zone_of(output: str) -> str:
    """The records that dig shows as a zone file."""
    lines = [line for line in output.splitlines() if line and not line.startswith(";") and "TSIG" not in line]
    return "\n".join(lines) + "\n"


def test_dig_transfers_the_zone_with_the_key_and_nothing_without(giving: Giving) -> None:
    instance, primary, *_ = giving
    got = presentation.from_text(zone_of(dig(instance, ".", "AXFR", "+onesoa")).encode(), b"\0")
    assert got.rrsets == primary.contents.rrsets
    before = instance.status()["security_events"]["transfer_refused"]
    assert "Transfer failed" in dig(instance, ".", "AXFR", key=False)
    assert "Transfer failed" in dig(instance, "example.", "AXFR")
    assert instance.status()["security_events"]["transfer_refused"] == before + 2
    assert "REFUSED" in dig(instance, ".", "SOA", key=False)
    peer = next(each for each in instance.status()["peers"] if each["name"] == "NSD")
    assert f"{FIRST + 1} axfr" in peer["last_transfer"]


def test_dig_gets_the_difference_by_ixfr(giving: Giving) -> None:
    instance, *_ = giving
    lines = [line for line in dig(instance, ".", f"IXFR={FIRST}").splitlines() if "\tSOA\t" in line]
    serials = [int(line.split("\t")[-1].split()[2]) for line in lines]
    assert serials == [FIRST + 1, FIRST, FIRST + 1, FIRST + 1]


def test_kdig_transfers_over_tls_with_the_key_or_a_certificate(giving: Giving, tmp_path: Path) -> None:
    instance, _, authority, tls_port, _ = giving
    ca, host = f"+tls-ca={authority.path}", "+tls-hostname=admin.example"
    signed = ("-y", f"hmac-sha256:{KEY_NAME}:{SECRET}")
    assert f"{FIRST + 1} " in kdig(instance, tls_port, "+tls", ca, host, *signed, ".", "AXFR")
    assert "REFUSED" in kdig(instance, tls_port, "+tls", ca, host, ".", "AXFR")
    for name, accepted in (("peer.example", True), ("stranger.example", False)):
        client = authority.certify(name)
        files = (f"+tls-certfile={client.certificate}", f"+tls-keyfile={client.key}")
        shown = kdig(instance, tls_port, "+tls", ca, host, *files, ".", "AXFR")
        assert (f"{FIRST + 1} " in shown) is accepted, shown
        assert ("REFUSED" in shown) is not accepted


@pytest.mark.parametrize("kind", KINDS)
def test_a_secondary_transfers_from_us_and_follows_our_notify(giving: Giving, kind: str, tmp_path: Path) -> None:
    instance, primary, _, _, ports = giving
    with secondary(kind, ports[kind], instance.admin[1], tmp_path / kind) as peer:
        served = instance.serial() or 0
        instance.wait(lambda: peer.serial() == served, f"{kind} has {served}")
        primary.publish(version(served + 1))
        instance.notify(served + 1)
        instance.wait(lambda: peer.serial() == served + 1, f"{kind} follows")
        record = next(each for each in instance.status()["peers"] if each["name"] == kind)
        assert record["notify"] == f"{served + 1}: confirmed"


@pytest.mark.parametrize("kind", ["NSD", "BIND"])
def test_a_secondary_transfers_from_us_over_tls_and_not_from_another_name(
    giving: Giving, kind: str, tmp_path: Path
) -> None:
    """XoT (RFC 9103) with strict authentication of our certificate, and TSIG inside."""
    instance, primary, authority, tls_port, ports = giving
    other = (authority.path, "other.example")
    with pytest.raises(PeerFailed):
        with secondary(kind, ports[kind], tls_port, tmp_path / "other", tls=other, seconds=3):
            pass
    with secondary(kind, ports[kind], tls_port, tmp_path / kind, tls=(authority.path, "admin.example")) as peer:
        served = instance.serial() or 0
        instance.wait(lambda: peer.serial() == served, f"{kind} has {served}")
        primary.publish(version(served + 1))
        instance.notify(served + 1)
        instance.wait(lambda: peer.serial() == served + 1, f"{kind} follows")


def test_the_service_address_takes_no_notify_and_gives_no_transfer(giving: Giving) -> None:
    instance, *_ = giving
    command = [require_tool("dig"), f"@{instance.service[0]}", "-p", str(instance.service[1]), ".", "AXFR"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    assert "Transfer failed" in shown


def test_an_administrative_interface_under_garbage_goes_on(giving: Giving) -> None:
    import random
    import socket

    instance, *_ = giving
    chance = random.Random(7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for _ in range(500):
            client.sendto(chance.randbytes(chance.randrange(0, 300)), instance.admin)
    for _ in range(20):
        with socket.create_connection(instance.admin, timeout=3) as client:
            client.sendall(chance.randbytes(chance.randrange(1, 300)))
    assert f" {FIRST}" not in dig(instance, ".", "SOA", "+short")
    assert str(instance.serial()) in dig(instance, ".", "SOA", "+short")
    assert "Traceback" not in instance.log
