"""`rootsrv zone verify` as an operator runs it."""

import gzip
import re
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.demo import signed
from rootsrv.store import zone_file
from rootsrv.wire.name import ROOT
from tests.needs import require_genuine_zones

AT = "2020-06-15T12:00:00Z"
NOW = 1_592_222_400
GENERATED = signed.generate_root(tlds=5, algorithm=13, inception=NOW - 3600, expiration=NOW + 86400)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "root.zone").write_text(GENERATED.root_text)
    (tmp_path / "root.zone.gz").write_bytes(gzip.compress(GENERATED.root_text.encode()))
    (tmp_path / "hosts.zone").write_text(GENERATED.hosts_text)
    (tmp_path / "root.key").write_text(GENERATED.trust_anchor)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    status: object
    try:
        status = main(["zone", "verify", *map(str, arguments)])
    except SystemExit as exited:  # argparse
        status = exited.code
    out, err = capsys.readouterr()
    return status, re.sub(r"\b\d+\.\d\d(?=[ ,)])", "N.NN", out), err


@pytest.mark.parametrize("name", ["root.zone", "root.zone.gz"])
def test_a_good_zone(name: str, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, files / name, "--anchors", files / "root.key", "--at", AT)

    key = GENERATED.signing.keys[0].tag
    rrsigs = sum(len(rrset.rrsigs) for rrset in GENERATED.root.rrsets.values())
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        f"ok    shape: a root of serial 2026010100 with 5 delegations and {GENERATED.root.record_count} records",
        f"ok    DNSKEY: signed by key {key} (algorithm 13), covered by a trust anchor",
        f"ok    RRSIG: {rrsigs} of {rrsigs} verified, valid from 2020-06-15T11:00:00Z until 2020-06-16T12:00:00Z",
        "ok    NSEC: chain of 6 names closed, type bitmaps true",
        "ok    ZONEMD: SHA-384 digest of serial 2026010100 equals the contents",
        f"{files / name}: verified, took N.NN s (reading N.NN, checks N.NN)",
    ]


def test_an_expired_zone(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, files / "root.zone", "--anchors", files / "root.key", "--at", "2020-07-15T12:00:00Z")

    lines = out.splitlines()
    assert status == 1
    assert [line.split(":")[0] for line in lines] == ["ok    shape", "FAIL  SignatureExpired", str(files / "root.zone")]
    assert lines[1].endswith(" expired at 2020-06-16T12:00:00Z, it is 2020-07-15T12:00:00Z")
    assert lines[2].endswith(": rejected, took N.NN s")


def test_without_at_the_clock_of_the_machine_judges(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, files / "root.zone", "--anchors", files / "root.key")

    assert status == 1
    assert "FAIL  SignatureExpired" in out


def test_a_changed_delegation_and_the_zonemd_policy(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GENERATED.root_text.replace("a.gtld-servers.net.", "x.gtld-servers.net.")
    (files / "root.zone").write_text(text)
    arguments = (files / "root.zone", "--anchors", files / "root.key", "--at", AT)

    status, out, _ = run(capsys, *arguments)
    assert status == 1
    assert out.splitlines()[4].startswith("FAIL  DigestMismatch: serial 2026010100: ZONEMD says SHA-384 ")

    status, out, _ = run(capsys, *arguments, "--zonemd", "off")
    assert status == 0
    assert "ok    ZONEMD: not looked at (policy off)" in out.splitlines()


def test_a_broken_zone_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "root.zone").write_text(GENERATED.root_text.replace("IN\tNS\ta.root", "IN\tMS\ta.root"))

    status, out, err = run(capsys, files / "root.zone", "--anchors", files / "root.key", "--at", AT)

    assert (status, err) == (1, "")
    assert out.splitlines() == [
        "FAIL  zone file: line 2: unknown rdatatype 'MS'",
        f"{files / 'root.zone'}: not a zone, took N.NN s",
    ]


def test_the_zone_of_the_hosts(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--name", "root-servers.net", "--anchors", files / "root.key", "--at", AT)

    status, out, _ = run(capsys, files / "hosts.zone", *arguments, "--root", files / "root.zone")
    assert status == 0
    assert "ok    hosts: NS and addresses of root-servers.net. equal those in the root zone, serial 2026010100" in out

    (files / "hosts.zone").write_text(GENERATED.hosts_text.replace("198.51.100.1\n", "198.51.100.77\n"))
    status, out, _ = run(capsys, files / "hosts.zone", *arguments, "--root", files / "root.zone")
    assert status == 1
    assert (
        "FAIL  NotTheHosts: a.root-servers.net. A: the root zone has 198.51.100.1 besides;"
        " the root zone does not have 198.51.100.77\n"
    ) in out

    status, _, err = run(capsys, files / "hosts.zone", *arguments)
    assert (status, err) == (2, "rootsrv: --root: needed to verify any zone but the root\n")


def test_wrong_arguments(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zone, anchors = files / "root.zone", ("--anchors", files / "root.key")

    def error(*arguments: object) -> str:
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (2, "")
        return err.splitlines()[-1]

    assert error(zone).endswith("required: --anchors")
    assert error(files / "none", *anchors) == f"rootsrv: {files / 'none'}: No such file or directory"
    assert error(files, *anchors) == f"rootsrv: {files}: Is a directory"
    assert error(zone, "--anchors", files / "none") == f"rootsrv: {files / 'none'}: No such file or directory"
    (files / "no-anchors").write_text(". 86400 IN SOA a. b. 1 1 1 1 1\n")
    assert error(zone, "--anchors", files / "no-anchors").startswith(f"rootsrv: {files / 'no-anchors'}: ")
    assert error(zone, *anchors, "--at", "noon").endswith("'noon' is not an instant such as 2025-09-20T12:00:00Z")
    assert error(zone, *anchors, "--at", "2025-09-20T12:00:00").endswith("such as 2025-09-20T12:00:00Z")
    assert "'a..b' is not a domain name" in error(zone, *anchors, "--name", "a..b")
    assert "--zonemd: invalid choice" in error(zone, *anchors, "--zonemd", "maybe")
    assert error(zone, *anchors, "--root", zone) == "rootsrv: --root: is for any zone but the root"
    (files / "binary").write_bytes(b"\xff\xfe")
    assert error(zone, "--anchors", files / "binary").startswith(f"rootsrv: {files / 'binary'}: not UTF-8 text")


def test_a_damaged_gzip_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (files / "root.zone.gz").read_bytes()
    path = files / "damaged.gz"
    for damaged in (good[:1000], good[:-4] + bytes(4), good[:500] + bytes(50) + good[550:], good[:5]):
        path.write_bytes(damaged)
        status, out, err = run(capsys, path, "--anchors", files / "root.key", "--at", AT)
        assert (status, out) == (2, "")
        assert err.startswith(f"rootsrv: {path}: ")


def test_a_gzip_file_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zone_file, "MAX_ZONE_FILE_OCTETS", 1_000_000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(5_000_000)))

    with pytest.raises(zone_file.FileUnusable, match=r"more than 1000000 octets when decompressed$"):
        zone_file.read_zone(path, ROOT)


def test_a_genuine_zone(capsys: pytest.CaptureFixture[str]) -> None:
    zones = require_genuine_zones()

    status, out, _ = run(
        capsys,
        zones / "root.zone.2025091101.gz",
        "--name",
        ".",
        "--anchors",
        zones / "root-anchors.xml",
        "--at",
        "2025-09-20T12:00:00Z",
    )

    assert status == 0
    assert "ok    RRSIG: 2789 of 2789 verified" in out
