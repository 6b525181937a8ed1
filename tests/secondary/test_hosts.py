"""root-servers.net from a primary, beside the root from another: a pair that fits goes into service together."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, sign_root
from rootsrv.wire import rdata as rdatas
from rootsrv.zone.contents import ZoneContents
from tests.secondary import versions
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST

APEX = "root-servers.net."
HOST = generate.root_hosts()[0]
ZONE = f'[[zone]]\nname = "{APEX}"\nvalidation = "none"\n'


def root(serial: int, address: int) -> ZoneContents:
    """A signed root that says that the first root server's IPv4 address ends with *address*."""
    recipe = versions.Recipe(serial=serial)
    unsigned = _renumbered(generate.root_contents(serial=serial, tlds=recipe.tlds, seed=5), address)
    validity = {"inception": int(recipe.inception), "expiration": int(recipe.expiration)}
    return sign_root(unsigned, Signing(keys=recipe.keys, **validity))


def hosts(serial: int, address: int) -> ZoneContents:
    """The zone of the hosts that goes with it."""
    return _renumbered(generate.hosts_contents(serial=serial), address)


def _renumbered(contents: ZoneContents, address: int) -> ZoneContents:
    key = (HOST, rdatas.A)
    changed = replace(contents.rrsets[key], rdatas=(bytes((203, 0, 113, address)),))
    return ZoneContents(contents.apex, {**contents.rrsets, key: changed})


@dataclass
class Pair:
    """An instance with a primary for each zone."""

    instance: Maintained
    root: ScriptedPrimary
    hosts: ScriptedPrimary

    def address(self) -> str:
        """What is answered for the first root server."""
        answer = self.instance.ask(f"a.{APEX}", "A").answer
        return str(answer[0][0].address) if answer else ""

    def served(self) -> tuple[int | None, int | None]:
        """The serials of both zones in service."""
        return self.instance.zone()["served"], self.instance.zone(APEX)["served"]

    def refresh(self, zone: str) -> None:
        """Ask the primary of *zone* now."""
        self.instance.order("zone-refresh", zone=zone)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with scripted(root(FIRST, 1)) as of_root, scripted(hosts(FIRST, 1)) as of_hosts:
        sections = primary_section(of_root, "root") + primary_section(of_hosts, "hosts", zones=f'["{APEX}"]')
        with maintained(tmp_path, sections, zone=ZONE) as instance:
            made = Pair(instance, of_root, of_hosts)
            instance.wait_for_serial(FIRST)
            instance.wait(lambda: made.address() == "203.0.113.1", "the hosts are answered")
            yield made


def test_a_root_server_that_is_renumbered_is_held_until_the_hosts_come_that_fit_and_both_go_together(
    pair: Pair,
) -> None:
    instance = pair.instance
    pair.root.publish(root(FIRST + 1, 2))
    pair.refresh(".")
    instance.wait(lambda: instance.zone()["held"], "held")
    (reason,) = instance.zone()["held"][0]["reasons"]
    assert reason.startswith(f"{APEX}: ")
    assert "203.0.113.2" in reason
    assert (instance.serial(), pair.address()) == (FIRST, "203.0.113.1")
    generation = instance.status()["generation"]

    pair.hosts.publish(hosts(FIRST + 1, 2))
    pair.refresh(APEX)

    instance.wait(lambda: pair.served() == (FIRST + 1, FIRST + 1), "both are in service")
    instance.wait(lambda: pair.address() == "203.0.113.2", "the new address")
    assert instance.serial() == FIRST + 1
    assert instance.status()["generation"] == generation + 1, "in one switchover"
    assert instance.zone()["held"] == []
    # A change that concerns one of them goes alone.
    pair.hosts.publish(hosts(FIRST + 2, 2))
    pair.refresh(APEX)
    instance.wait(lambda: pair.served() == (FIRST + 1, FIRST + 2), "newer hosts")
    assert pair.address() == "203.0.113.2"


def test_hosts_that_come_before_their_root_wait_for_it(pair: Pair) -> None:
    instance = pair.instance
    pair.hosts.publish(hosts(FIRST + 1, 3))
    pair.refresh(APEX)
    instance.wait(lambda: "contradicts the root zone" in instance.zone(APEX)["last_rejection"], "told")
    assert "203.0.113.3" in instance.zone(APEX)["last_rejection"]
    assert pair.served() == (FIRST, FIRST)
    assert pair.address() == "203.0.113.1"

    pair.root.publish(root(FIRST + 1, 3))
    pair.refresh(".")
    instance.wait(lambda: pair.served() == (FIRST + 1, FIRST + 1), "both are in service")
    instance.wait(lambda: pair.address() == "203.0.113.3", "the new address")
    # Both survive a restart.
    instance.kill()
    instance.start()
    instance.wait(lambda: instance.status() and pair.served() == (FIRST + 1, FIRST + 1), "resumed")
    instance.wait(lambda: instance.serial() == FIRST + 1 and pair.address() == "203.0.113.3", "answered")


def test_a_host_zone_that_lies_alone_changes_nothing_and_the_next_good_one_is_taken(pair: Pair) -> None:
    instance = pair.instance
    pair.hosts.publish(hosts(FIRST + 1, 66))
    pair.refresh(APEX)
    instance.wait(lambda: "203.0.113.66" in instance.zone(APEX)["last_rejection"], "told")
    # The root goes on being updated meanwhile; what waits does not fit it and does not hold it up.
    pair.root.publish(root(FIRST + 1, 1))
    pair.refresh(".")
    instance.wait(lambda: instance.zone()["served"] == FIRST + 1, "the root is served")
    assert pair.address() == "203.0.113.1"
    pair.hosts.publish(hosts(FIRST + 2, 1))
    pair.refresh(APEX)
    instance.wait(lambda: pair.served() == (FIRST + 1, FIRST + 2), "good hosts")
