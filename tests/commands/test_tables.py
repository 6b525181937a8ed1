"""`rootsrv zone compile` as an operator runs it."""

from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.demo import signed
from rootsrv.store.table_file import open_table

AT = "2020-06-15T12:00:00Z"
NOW = 1_592_222_400
GENERATED = signed.generate_root(tlds=5, algorithm=13, inception=NOW - 3600, expiration=NOW + 86400)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "root.zone").write_text(GENERATED.root_text)
    (tmp_path / "hosts.zone").write_text(GENERATED.hosts_text)
    (tmp_path / "root.key").write_text(GENERATED.trust_anchor)
    return tmp_path


def run(files: Path, *arguments: object) -> int:
    options = ("--anchors", files / "root.key", "--at", AT, "--output", files / "out.table", *arguments)
    return main(["zone", "compile", str(files / "root.zone"), *map(str, options)])


def test_a_table_is_written_and_described(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "--hosts", files / "hosts.zone") == 0
    table = open_table(files / "out.table")
    assert [zone.serial for zone in table.zones] == [GENERATED.root.serial, GENERATED.hosts.serial]
    out = capsys.readouterr().out
    assert f"zone . serial {GENERATED.root.serial}, expire 604800 s, signatures until 2020-06-16T12:00:00Z" in out
    assert f"{len(table.octets)} octets, SHA-256 {table.digest.hex()}" in out
    assert "for 5 delegations" in out


def test_the_root_alone_makes_a_table(files: Path) -> None:
    assert run(files) == 0
    assert len(open_table(files / "out.table").zones) == 1


def test_a_rejected_zone_leaves_the_old_table(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "out.table").write_bytes(b"the old one")
    (files / "hosts.zone").write_text(GENERATED.hosts_text.replace("192.0.2.", "203.0.113."))
    assert run(files, "--hosts", files / "hosts.zone") == 1
    assert "FAIL" in capsys.readouterr().out
    assert run(files, "--at", "2020-07-15T12:00:00Z") == 1
    assert (files / "out.table").read_bytes() == b"the old one"
    assert sorted(each.name for each in files.iterdir()) == ["hosts.zone", "out.table", "root.key", "root.zone"]


def test_an_output_that_cannot_be_written_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "--output", files / "no" / "such.table") == 2
    assert "such.table: No such file or directory" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "--hosts", files / "absent.zone") == 2
    assert "absent.zone: No such file or directory" in capsys.readouterr().err
