"""Zones that are only given out: their parent, their primaries, the disk, a restart."""

from collections.abc import Iterator

import pytest

from rootsrv.wire import name as names
from rootsrv.wire.codes import SERVFAIL
from tests.localroot import zones
from tests.localroot.service import ARPA, CC, ROOT, Service, localroot

STRANGER = "127.23.3.1"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with localroot(tmp_path_factory.mktemp("localroot"), address="127.23.0.2") as made:
        yield made


def given(service: Service, name: str) -> int:
    """The serial that is given out; each test goes on from there."""
    found = service.zone(name)["given"]
    assert isinstance(found, int)
    return found


def publish(service: Service, name: str, serial: int, *, zonemd: bool = True) -> None:
    service.publish(name, zones.delegated(names.from_text(name), serial, zonemd=zonemd))


def test_nothing_is_given_that_a_parent_does_not_prove_any_more_and_it_returns(service: Service) -> None:
    root, had = given(service, ROOT), given(service, CC)
    service.publish(ROOT, zones.root(root + 1, without_ds=(zones.CC,)))
    service.wait_for(ROOT, root + 1)
    service.wait_for(CC, None)
    assert service.axfr(CC, address=STRANGER) == SERVFAIL
    assert not isinstance(service.axfr(ARPA, address=STRANGER), int)
    service.publish(ROOT, zones.root(root + 2))
    service.wait_for(CC, had)
    assert not isinstance(service.axfr(CC, address=STRANGER), int)


def test_what_cannot_be_kept_waits_and_what_is_given_out_goes_on(service: Service) -> None:
    arpa, cc = given(service, ARPA), given(service, CC)
    kept = service.directory / "state" / "zones" / "arpa"
    for each in kept.iterdir():
        each.rename(service.directory / each.name)
    kept.rmdir()
    kept.write_text("in the way, as a full disk is")
    publish(service, ARPA, arpa + 1)
    service.wait(lambda: "zone waits" in service.log, "it waits")
    assert given(service, ARPA) == arpa
    assert not isinstance(service.axfr(ARPA, address=STRANGER), int)
    publish(service, CC, cc + 1)
    service.wait_for(CC, cc + 1)
    kept.unlink()
    service.wait_for(ARPA, arpa + 1)


def test_a_restart_keeps_the_serial_and_what_was_announced_and_takes_nothing_less(service: Service) -> None:
    arpa, cc = given(service, ARPA), given(service, CC)
    publish(service, ARPA, arpa + 1)
    publish(service, CC, cc + 1, zonemd=False)
    service.wait_for(ARPA, arpa + 1)
    service.wait(lambda: "ZONEMD" in service.zone(CC)["last_rejection"], "it is rejected")
    service.stop()
    publish(service, ARPA, arpa)
    begun = len(service.log)
    service.start()
    service.wait_for(ARPA, arpa + 1)
    service.wait(lambda: "primary is behind" in service.log[begun:], "the primary has an older one")
    service.wait(lambda: "ZONEMD" in service.zone(CC)["last_rejection"], "it is rejected again")
    service.wait_for(CC, cc)
    publish(service, ARPA, arpa + 2)
    publish(service, CC, cc + 2)
    service.wait_for(ARPA, arpa + 2)
    service.wait_for(CC, cc + 2)


def test_a_zone_over_its_quota_is_refused_and_the_others_go_on(service: Service) -> None:
    arpa, cc = given(service, ARPA), given(service, CC)
    service.stop()
    service.configure(distribute='[[distribute]]\nname = "arpa."\n[[distribute]]\nname = "cc."\nmax_records = 10\n')
    service.start()
    publish(service, CC, cc + 1)
    publish(service, ARPA, arpa + 1)
    service.wait_for(ARPA, arpa + 1)
    service.wait(lambda: "more than 10 records" in service.zone(CC)["last_rejection"], "it is refused")
    service.wait_for(CC, cc)
