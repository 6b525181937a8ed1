"""Generated roots have the real one's shape, follow from their seed, and other software believes them."""

import subprocess
import time
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from rootsrv.demo import signed
from rootsrv.demo.sign import SigningKey
from rootsrv.demo.signed import GeneratedRoot
from rootsrv.wire.name import ROOT, is_at_or_below, labels
from rootsrv.wire.rdata import AAAA, DNSKEY, DS, NS, RRSIG, ZONEMD, A
from rootsrv.zone import presentation
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.verify import verify, verify_hosts
from tests.needs import require_tool

NOW = 1_800_000_000.0
KEYS = signed.generate_keys(13)


@cache
def generate(tlds: int = 20, seed: int = 0, serial: int = 1) -> GeneratedRoot:
    return signed.generate_root(
        tlds=tlds, seed=seed, serial=serial, keys=KEYS, inception=NOW - 3600, expiration=NOW + 86400
    )


def unsigned_records(contents: ZoneContents) -> set[tuple[bytes, int, int, bytes]]:
    return {record for record in contents.records() if record[1] not in (RRSIG, ZONEMD, DNSKEY)}


def test_the_full_size_root_has_the_shape_of_the_real_one() -> None:
    root = generate(tlds=signed.REAL_ROOT_TLDS).root
    verify(root, TrustAnchors.from_text(generate(tlds=signed.REAL_ROOT_TLDS).trust_anchor), NOW, zonemd="required")

    tlds = root.delegations
    servers = {tld: root.rrsets[tld, NS].rdatas for tld in tlds}
    with_ds = sum((tld, DS) in root.rrsets for tld in tlds)
    sizes = Counter(len(rdatas) for rdatas in servers.values())
    in_domain = sum(is_at_or_below(host, tld) for tld, rdatas in servers.items() for host in rdatas)
    total = sum(map(len, servers.values()))

    # In brackets: the root of 2025-10-31.
    assert len(tlds) == 1440  # (1,438)
    assert 23_000 < root.record_count < 26_000  # (24,892)
    assert 0.92 < with_ds / len(tlds) < 0.95  # (0.935)
    assert min(sizes) == 2  # (2)
    assert max(sizes) == 13  # (13)
    assert sizes.most_common(2)[0][0] in (4, 6)  # (6, then 4)
    assert 5.0 < total / len(tlds) < 5.5  # (5.24)
    assert 0.60 < in_domain / total < 0.78  # (0.73)
    assert sum(tld.startswith(b"xn--", 1) for tld in tlds) == 151  # (151)


def test_every_name_server_has_glue_from_the_documentation_prefixes() -> None:
    for contents in (generate(tlds=200).root, generate().hosts):
        for (_, rtype), rrset in contents.rrsets.items():
            if rtype == A:
                prefixes = {rdata[:3] for rdata in rrset.rdatas}
                assert prefixes <= {bytes((192, 0, 2)), bytes((198, 51, 100)), bytes((203, 0, 113))}
            elif rtype == AAAA:
                assert all(rdata.startswith(bytes.fromhex("20010db8")) for rdata in rrset.rdatas)
            elif rtype == NS and contents.apex == ROOT:
                assert all((host, A) in contents.rrsets or (host, AAAA) in contents.rrsets for host in rrset.rdatas)


def test_the_same_seed_gives_the_same_zone_and_another_seed_another() -> None:
    again = signed.generate_root(tlds=20, seed=0, serial=1, algorithm=15, inception=1, expiration=2)

    assert unsigned_records(again.root) == unsigned_records(generate().root)
    assert again.hosts == generate().hosts
    assert unsigned_records(generate(seed=1).root) != unsigned_records(generate().root)


def test_the_smallest_root_has_both_kinds_of_tld() -> None:
    root = generate(tlds=3).root

    assert [labels(tld)[0] for tld in root.delegations] == [b"com", b"net", b"org"]
    assert [(tld, DS) in root.rrsets for tld in root.delegations] == [True, True, False]
    with pytest.raises(ValueError, match=r"^tlds: must be at least 3, got 2$"):
        generate(tlds=2)


def test_text_and_contents_say_the_same() -> None:
    generated = generate()

    assert presentation.from_text(generated.root_text.encode(), ROOT) == generated.root
    assert presentation.from_text(generated.hosts_text.encode(), generated.hosts.apex) == generated.hosts


def test_the_hosts_agree_with_the_root() -> None:
    root = verify(generate().root, TrustAnchors.from_text(generate().trust_anchor), NOW)

    assert verify_hosts(generate().hosts, root, NOW).validated


@pytest.mark.parametrize("changes", [0, 1, 5, 12])
def test_a_successor_differs_a_little_and_verifies(changes: int) -> None:
    before = generate(tlds=40)

    after = signed.generate_successor(before, changes=changes)

    verify(after.root, TrustAnchors.from_text(before.trust_anchor), NOW, zonemd="required")
    assert after.root.serial == before.root.serial + 1
    gone = set(before.root.records()) - set(after.root.records())
    come = set(after.root.records()) - set(before.root.records())
    assert len(gone) + len(come) <= 8 + 12 * changes  # SOA and ZONEMD with their RRSIGs, then a few for each change
    assert len(unsigned_records(after.root) ^ unsigned_records(before.root)) >= 2 + changes


def test_successors_of_successors_keep_on_verifying() -> None:
    version = generate(tlds=10)
    for _ in range(6):
        version = signed.generate_successor(version, changes=4)
        verify(version.root, TrustAnchors.from_text(version.trust_anchor), NOW)
    assert version.root.serial == 7


def test_a_successor_with_another_validity_or_other_keys_is_signed_anew() -> None:
    before = generate()
    later = signed.generate_successor(before, serial=9, changes=0, expiration=NOW + 7 * 86400)
    rolled = signed.generate_successor(before, keys=(KEYS[0], SigningKey(KEYS[0].private, is_sep=False)))

    anchors = TrustAnchors.from_text(before.trust_anchor)
    assert verify(later.root, anchors, NOW).signatures_until == NOW + 7 * 86400
    assert later.root.serial == 9
    assert f"{KEYS[1].tag}" not in verify(rolled.root, anchors, NOW).checks[1]


@pytest.mark.parametrize("algorithm", [8, 13, 14, 15])
def test_other_software_believes_a_generated_root(algorithm: int, tmp_path: Path) -> None:
    tool = require_tool("ldns-verify-zone")
    now = int(time.time())  # the tool judges by the clock of the machine
    generated = signed.generate_root(tlds=30, algorithm=algorithm, inception=now - 3600, expiration=now + 86400)
    zone, keys = tmp_path / "root.zone", tmp_path / "anchor.key"
    zone.write_text(generated.root_text)
    keys.write_text(generated.trust_anchor)

    def judgement() -> tuple[int, str]:
        # -ZZ: there has to be a ZONEMD, and it has to be right.
        command = [tool, "-ZZ", "-k", str(keys), str(zone)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout

    assert judgement() == (0, "Zone is verified and complete\n")
    zone.write_text(generated.root_text.replace("a.gtld-servers.net.", "x.gtld-servers.net."))
    assert judgement()[0] != 0


def test_bind_checks_a_generated_root(tmp_path: Path) -> None:
    tool = require_tool("named-checkzone")
    for name, text in ((".", generate().root_text), ("root-servers.net", generate().hosts_text)):
        zone = tmp_path / "zone"
        zone.write_text(text)
        # -i local: it shall not look up in the DNS what is outside of the zone.
        done = subprocess.run(
            [tool, "-i", "local", name, str(zone)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.rstrip().endswith("OK")
