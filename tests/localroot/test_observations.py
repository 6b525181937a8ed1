"""What happened to subscribers' servers is kept, and a disk that cannot be written loses and stops nothing."""

import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rootsrv.localroot.observations import (
    FILE,
    MAX_FRESH,
    Asked,
    Fresh,
    KeyFailed,
    Notified,
    Observations,
    ObservationsUnusable,
    Observed,
    Proved,
    TransferSeen,
)
from tests.needs import REPOSITORY, require_root

ADDRESS = "192.0.2.1"


def notified(serial: int, server: int = 1, address: str = ADDRESS) -> Notified:
    return Notified(server, address, ".", serial, 1000.0, "confirmed", 0, 1, 0.02, "")


def test_the_latest_of_each_subject_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    observations = Observations(path)
    transferred = TransferSeen(1, ".", 5, 1002.0, "axfr", 1_300_000, ADDRESS, "tcp", "k.example.", 2.0)
    for each in (
        notified(4),
        notified(5),
        notified(5, address="2001:db8::1"),
        notified(5, server=2),
        transferred,
        Asked(1, ".", 1003.0, ADDRESS, 5),
        KeyFailed(1, "k.example.", 999.0, "BADTIME", ADDRESS, "signed at 1, our clock says 999"),
        Proved(1, ADDRESS, 1002.0, "k.example."),
    ):
        observations.note(each)
    assert observations.write()
    observations.note(notified(6))
    assert observations.write()

    observed = Observed(path)
    assert observed.of_server(Notified, 1) == [notified(6), notified(5, address="2001:db8::1")]
    assert observed.of_server(TransferSeen, 1) == [transferred]
    assert [each.server for each in observed.all(Notified)] == [1, 1, 2]
    assert [each.error for each in observed.of_server(KeyFailed, 1)] == ["BADTIME"]
    assert observed.of_server(Proved, 2) == []
    observations.close()


def test_what_the_owners_deleted_is_forgotten(tmp_path: Path) -> None:
    observations = Observations(tmp_path / "seen")
    observations.note(notified(5))
    observations.note(notified(5, server=2))
    observations.write()
    observations.note(notified(6))
    observations.note(Fresh(".", 6, 1000.0, 2, 1, None, None))
    observations.keep_only([2])
    observations.write()
    assert Observed(tmp_path / "seen").all(Notified) == [notified(5, server=2)]
    assert len(Observed(tmp_path / "seen").fresh(".")) == 1
    observations.close()


def test_freshness_is_remembered_for_so_many_versions(tmp_path: Path) -> None:
    observations = Observations(tmp_path / "seen")
    observations.note(Fresh("arpa.", 7, -1.0, 2, 1, 2, None))
    for serial in range(MAX_FRESH + 5):
        observations.note(Fresh(".", serial, float(serial), 2, 1, 2, None))
    observations.write()
    assert Observed(tmp_path / "seen").fresh("arpa.")  # of which no other zone takes the place
    kept = Observed(tmp_path / "seen").fresh(".", 2 * MAX_FRESH)
    assert [each.serial for each in kept] == list(range(MAX_FRESH + 4, 4, -1))
    observations.close()


def test_a_lock_that_another_process_holds_loses_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "seen"
    observations = Observations(path)
    observations.note(notified(4))
    observations.write()
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        observations.note(notified(5))
        observations.note(notified(5, server=2))
        assert not observations.write()
        assert "locked" in observations.error
        observations.note(notified(6))
        other.execute("ROLLBACK")
    other.close()
    assert observations.write()
    assert observations.error == ""
    assert [each.serial for each in Observed(path).all(Notified)] == [6, 5]
    observations.close()


def test_a_directory_that_is_gone_and_a_damaged_file_end_one_attempt(tmp_path: Path) -> None:
    path = tmp_path / "state" / "seen"
    observations = Observations(path)
    observations.note(notified(5))
    assert not observations.write()
    path.parent.mkdir()
    path.write_bytes(b"no database, " * 100)
    with pytest.raises(ObservationsUnusable, match="not a database"):
        Observed(path).all(Notified)
    assert not observations.write()
    assert path.with_suffix(".damaged").exists()
    assert observations.write()
    assert Observed(path).all(Notified) == [notified(5)]
    observations.close()


def test_a_service_that_never_ran_has_observed_nothing(tmp_path: Path) -> None:
    assert Observed(tmp_path / "seen").all(Notified) == []


def test_whoever_may_write_nothing_there_reads_it_while_it_is_written_and_after(tmp_path: Path) -> None:
    require_root()
    directory = tmp_path / "state"
    directory.mkdir()
    observations = Observations(directory / FILE)
    observations.note(notified(5))
    observations.write()
    read = (
        f"from pathlib import Path; from rootsrv.localroot.observations import Observed, Notified;"
        f"print(len(Observed(Path({str(directory / FILE)!r})).all(Notified)))"
    )
    script = (
        f"mount --bind {directory} {directory} && mount -o remount,ro,bind {directory} && exec {sys.executable} -c"
        f" {shlex.quote(read)}"
    )
    command = ["unshare", "--mount", "sh", "-c", script]
    while_written = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60)
    observations.close()
    after = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60)
    assert (while_written.stdout, after.stdout) == ("1\n", "1\n"), while_written.stderr + after.stderr
