"""The canary zone that a LocalRoot service makes itself: given out, new when wanted, never older, its keys the same."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.config.checks import ConfigError
from rootsrv.config.localroot import DistributeConfig, LocalRootConfig, check_localroot
from rootsrv.localroot.canary import EXPIRE_SECONDS, KEYS_FILE, Canary, kept_keys, keys_file
from rootsrv.wire import name as names
from rootsrv.wire import rdata as rdatas
from rootsrv.wire.serial import serial_is_newer
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.verify import verify_delegated
from tests.localroot.service import ROOT, Service, localroot
from tests.localroot.test_service import Resolver

CANARY = "canary.localroot.example."
NOW = 1_800_000_000.0


def canary(directory: Path, refresh_seconds: float = 300.0) -> Canary:
    return Canary(CANARY, "localroot.example", refresh_seconds, kept_keys(keys_file(directory)))


@pytest.mark.parametrize("newest", [None, 5, int(NOW) - 1, int(NOW), int(NOW) + 1000, 2**32 - 1])
def test_each_version_is_newer_and_verified_by_its_own_key(tmp_path: Path, newest: int | None) -> None:
    made = canary(tmp_path)
    version = made.make(newest, NOW)
    assert newest is None or serial_is_newer(version.serial, newest)
    assert verify_delegated(version, made.delegation, NOW, zonemd="required").validated
    # For as long as a resolver may have it.
    assert verify_delegated(version, made.delegation, NOW + EXPIRE_SECONDS, zonemd="required").validated
    assert (version.soa.refresh, version.soa.expire) == (300, EXPIRE_SECONDS)


def test_keys_are_kept_twice_and_made_anew_with_both_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = canary(tmp_path)
    assert canary(tmp_path).ds_text == first.ds_text
    assert (tmp_path / KEYS_FILE).stat().st_mode & 0o777 == 0o600
    whole = (tmp_path / KEYS_FILE).read_bytes()
    for damaged in (
        b"",
        b"no key",
        whole[: len(whole) // 2],
        whole[: len(whole) // 2] + whole,
        whole.replace(b"M", b"N"),
    ):
        (tmp_path / KEYS_FILE).write_bytes(damaged)
        caplog.clear()
        before = canary(tmp_path).ds_text
        assert "file damaged, its twin was read" in caplog.text
        assert (before == first.ds_text, (tmp_path / KEYS_FILE).read_bytes() == whole) == (True, True)
        for name in (KEYS_FILE, f"{KEYS_FILE}.twin"):
            (tmp_path / name).write_bytes(damaged)
        again = canary(tmp_path)
        assert again.ds_text != first.ds_text
        assert "keys of the canary zone are made anew" in caplog.text
        assert canary(tmp_path).ds_text == again.ds_text
        first, whole = again, (tmp_path / KEYS_FILE).read_bytes()


def settings(canary_zone: str) -> LocalRootConfig:
    return LocalRootConfig(name="localroot.example", addresses=("192.0.2.53",), canary_zone=canary_zone)


@pytest.mark.parametrize("name", [".", "canary", "Canary.example.", "a..b.", "-.example.", f"{'a' * 64}.", '"x".'])
def test_what_is_no_name_below_the_root_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="canary_zone"):
        settings(name)


def test_a_zone_of_somebody_else_is_no_canary() -> None:
    arpa = DistributeConfig(name="arpa.")
    for zones, fetched in ((("root-servers.net.",), ()), ((), ("root-servers.net.",))):
        with pytest.raises(ConfigError, match="somebody else"):
            check_localroot(settings("root-servers.net."), (arpa,), {}, zones, (*fetched, "arpa."))
    check_localroot(settings(CANARY), (arpa,), {}, (".",), (".", "arpa."))


def dnskeys(version: ZoneContents) -> tuple[bytes, ...]:
    found = version.rrset(version.apex, rdatas.DNSKEY)
    assert found is not None
    return found.rdatas


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with localroot(tmp_path, extra=f'canary_zone = "{CANARY}"\ncanary_seconds = 3600') as made:
        yield made


def test_it_is_given_out_new_when_wanted_and_not_older_after_a_restart(service: Service) -> None:
    """By key and to strangers, told by NOTIFY, with its own DS in the log."""
    address = "127.23.41.1"
    service.servers.zones = (*service.servers.zones, CANARY)
    server = service.sign_up("one", (address,), wanted=(ROOT, CANARY))
    key = service.key(server)
    service.knows(key, address)
    service.wait(lambda: service.zone(CANARY)["given"], "the canary is given out")
    first = service.axfr(CANARY, key, address=address)
    assert isinstance(first, ZoneContents)
    (dnskey,) = [each for each in dnskeys(first) if each[1] & 1]
    resolver = Resolver(address, service.notify_port, key)
    service.servers.nudge(service.user, server, CANARY, time.time())
    serial = first.serial
    while serial == first.serial:
        zone, serial = resolver.notified()
        assert zone == names.from_text(CANARY)[1:-1].decode()
    assert serial_is_newer(serial, first.serial)
    # Asked for once more at once there is no other one, and it is told of this one again.
    service.servers.nudge(service.user, server, CANARY, time.time())
    assert resolver.notified()[1] == serial
    assert isinstance(service.axfr(CANARY), ZoneContents)
    service.stop()
    service.start()
    service.wait(lambda: service.zone(CANARY)["given"], "the canary is given out again")
    service.wait(lambda: serial_is_newer(service.zone(CANARY)["given"], serial), "and another version of it")
    second = service.axfr(CANARY)
    assert isinstance(second, ZoneContents)
    assert dnskey in dnskeys(second)
    assert service.log.count("canary zone zone=") == 2
    resolver.socket.close()
