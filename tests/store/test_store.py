"""What is in the state directory is whole, whatever happened."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.store.store import Provenance, Store, StoreFailed, VersionDamaged, write_atomically

ROOT = b"\0"


def provenance(serial: int, **changes: object) -> Provenance:
    values: dict[str, object] = {
        "zone": ".",
        "serial": serial,
        "source": "one",
        "how": "axfr",
        "received_at": float(serial),
        "verified_at": 2.0,
        "signatures_until": 3.0,
        "expire_seconds": 604800,
        "verdict": "accepted",
    }
    return Provenance(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def test_a_version_comes_back_with_its_provenance(store: Store) -> None:
    written = provenance(7, reasons=("a", "b"), verdict="held")
    store.put_version(ROOT, written, b". 1 IN TXT x\n")

    assert store.version(ROOT, 7) == (written, b". 1 IN TXT x\n")
    assert store.versions(ROOT) == [written]


def test_versions_are_told_by_age_and_zones_apart(store: Store) -> None:
    for serial in (3, 1, 2):
        store.put_version(ROOT, provenance(serial), b"")
    store.put_version(b"\x07example\0", provenance(9, zone="example."), b"")

    assert [each.serial for each in store.versions(ROOT)] == [1, 2, 3]
    assert [each.serial for each in store.versions(b"\x07example\0")] == [9]


@pytest.mark.parametrize("serial", ["../../secret", "7", True, -1, 2**32, 7.0, None, ["7"]])
def test_what_is_no_serial_leads_nowhere(store: Store, serial: object) -> None:
    """A text would be part of a path: `zone-export` with "../../secret" read what it liked."""
    written = store.put_version(ROOT, provenance(7), b"")
    (written.parent / "../../secret.zone").write_bytes(written.read_bytes())
    for act in (store.version, store.forget_version):
        with pytest.raises(StoreFailed, match=r"serial: must be 0\.\.4294967295"):
            act(ROOT, serial)  # type: ignore[operator]
    assert (written.parent / "../../secret.zone").exists()


@pytest.mark.parametrize("damage", [lambda o: o[:-1], lambda o: o + b"x", lambda o: b"x" + o, lambda o: b""])
def test_a_damaged_version_is_refused(store: Store, damage: object) -> None:
    path = store.put_version(ROOT, provenance(7), b". 1 IN TXT x\n")
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]

    with pytest.raises(VersionDamaged):
        store.version(ROOT, 7)


def test_a_second_instance_on_the_directory_is_refused_and_a_dead_one_is_not_in_the_way(store: Store) -> None:
    with pytest.raises(StoreFailed, match="another instance uses this state directory"):
        Store(store.directory)
    script = "import sys,pathlib;from rootsrv.store.store import Store;Store(pathlib.Path(sys.argv[1]))"
    second = subprocess.run(
        [sys.executable, "-c", script, str(store.directory)], capture_output=True, text=True, check=False
    )
    assert "another instance" in second.stderr
    other = store.directory.with_name("other")
    subprocess.run([sys.executable, "-c", script, str(other)], check=True)
    Store(other).close()


def test_a_full_disk_is_told_and_the_old_file_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_ledger({"generation": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreFailed, match=r"ledger\.json: No space left on device"):
        store.write_ledger({"generation": 2})
    assert store.read_ledger() == {"generation": 1}
    assert list(store.directory.rglob("*.writing")) == []


def test_a_damaged_ledger_is_a_clear_error(store: Store) -> None:
    (store.directory / "ledger.json").write_text("{")
    with pytest.raises(StoreFailed, match="damaged"):
        store.read_ledger()


def test_the_journal_goes_on_behind_a_line_that_was_cut_short(store: Store) -> None:
    store.journal("2025-09-20T12:00:00Z", "zone accepted", serial=1)
    path = store.directory / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b'{"at": "2025')
    store.journal("2025-09-20T12:00:01Z", "zone held", serial=2)

    lines = path.read_text().splitlines()
    assert [json.loads(lines[0])["event"], json.loads(lines[2])["event"]] == ["zone accepted", "zone held"]


def test_what_a_crash_left_half_written_is_removed_at_the_next_start(tmp_path: Path) -> None:
    first = Store(tmp_path)
    (tmp_path / "tables" / "3.table.99.writing").write_bytes(b"half")
    write_atomically(first.table(2), b"whole")
    first.close()

    second = Store(tmp_path)
    assert list(second.generations()) == [2]
    assert list(tmp_path.rglob("*.writing")) == []
    second.close()


def test_tables_are_retired_but_for_those_in_use(store: Store) -> None:
    for generation in (1, 2, 3):
        write_atomically(store.table(generation), b"")
    store.retire_tables({2, 3})
    assert set(store.generations()) == {2, 3}
