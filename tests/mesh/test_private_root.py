"""A mesh of a root of one's own: its own name servers, host zone and key, distributed and switched like any."""

import time
from pathlib import Path

from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, sign_root
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents
from tests.mesh.fleets import fleet
from tests.secondary.versions import FIRST, TLDS, keys

HOSTS = "own-root.net."


def ours(contents: ZoneContents) -> bytes:
    """*contents* with name servers of our own, as text."""
    return presentation.to_text(contents).replace("root-servers.net.", HOSTS).encode()


def private_root(serial: int) -> ZoneContents:
    """Signed with our key."""
    unsigned = presentation.from_text(ours(generate.root_contents(serial=serial, tlds=TLDS, seed=5)), b"\0")
    now = int(time.time())
    return sign_root(unsigned, Signing(keys=keys(), inception=now - 3600, expiration=now + 10 * 86_400))


def test_a_root_of_ones_own_goes_round_as_any(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.zone"
    hosts.write_bytes(ours(generate.hosts_contents(serial=FIRST)))
    zone = f'private_root = true\n[[zone]]\nname = "{HOSTS}"\nfile = "{hosts}"\nvalidation = "none"'
    with fleet(tmp_path, 3, make=private_root, zone=zone) as running:
        serial = FIRST + 1
        running.publish(serial)
        running.wait_for_all(serial)
        (canary,), (everybody,) = running.orders("canary", serial), running.orders("all", serial)
        assert everybody["at"] > canary["at"]
        for member in running.members.values():
            servers = {rdata.target.to_text() for rdata in member.ask(".", "NS").answer[0]}
            assert all(each.endswith(HOSTS) for each in servers), servers
            assert member.ask(f"a.{HOSTS}", "A").answer
            assert member.ask("a.root-servers.net.", "A").rcode() == 0
            assert not member.ask("a.root-servers.net.", "A").answer  # a referral to net, as for any other name
