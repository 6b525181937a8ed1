"""What doctor says of a host that shall capture."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from rootsrv.config.capture import CaptureConfig
from rootsrv.config.file import Config
from rootsrv.doctor import capture
from rootsrv.doctor.finding import Finding, Grade


def findings(directory: Path, **settings: object) -> dict[str, Finding]:
    configured = replace(CaptureConfig(directory=str(directory / "not" / "there")), **settings)  # type: ignore[arg-type]
    return {each.about.split()[1]: each for each in capture.checks(Config(capture=configured))}


def test_without_capture_there_is_nothing_to_say() -> None:
    assert list(capture.checks(Config())) == []


def test_the_disk_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    found = findings(tmp_path, quota_gigabytes=0.01, keep_free_gigabytes=0.0, when_full="remove-oldest")

    assert "MB/s, 270000 queries a second are 10.8" in found["disk"].found
    assert found["space"].grade is Grade.GOOD
    assert list(tmp_path.iterdir()) == []


def test_a_quota_that_the_disk_does_not_have_is_to_be_mended(tmp_path: Path) -> None:
    assert findings(tmp_path, quota_gigabytes=1e6)["space"].grade is Grade.BAD


def test_what_the_files_have_of_the_quota_already_is_not_missing(tmp_path: Path) -> None:
    """A capture under way has taken its room from what is free."""
    state = os.statvfs(tmp_path)
    quota = (state.f_bavail * state.f_frsize + (4 << 30)) / 1e9
    assert findings(tmp_path, quota_gigabytes=quota, keep_free_gigabytes=0.0)["space"].grade is Grade.BAD
    (tmp_path / "not" / "there").mkdir(parents=True)
    with (tmp_path / "not" / "there" / "x.cdns").open("wb") as file:
        file.truncate(8 << 30)  # and takes none of the disk
    assert findings(tmp_path, quota_gigabytes=quota, keep_free_gigabytes=0.0)["space"].grade is Grade.GOOD


def test_a_quota_of_minutes_is_worth_a_word(tmp_path: Path) -> None:
    assert findings(tmp_path, quota_gigabytes=0.5, keep_free_gigabytes=0.0)["space"].grade is Grade.REMARK


def test_missing_libraries_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    assert findings(tmp_path)["libraries"].found.startswith("numpy, isal not installed")
    assert findings(tmp_path, compression="zstd")["libraries"].grade is Grade.BAD


def test_what_compresses_again_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "programs" not in findings(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    found = findings(tmp_path, recompress="xz", compression="zstd")["programs"]

    assert found.grade is Grade.BAD
    assert found.remedy == "apt-get install xz-utils zstd"


@pytest.mark.parametrize("form", ["cdns", "pcap"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_every_kind_of_file_has_its_size(form: str, compression: str) -> None:
    assert capture.QUERY_OCTETS[form, compression] > 0


@pytest.mark.parametrize(
    ("told", "grade"),
    [
        ("LoadState=loaded\nProtectSystem=strict\nStateDirectory=rootsrv/capture\nReadWritePaths=", Grade.BAD),
        ("LoadState=loaded\nProtectSystem=strict\nReadWritePaths=/srv -{0}/no\nStateDirectory=", Grade.BAD),
        ("LoadState=loaded\nProtectSystem=strict\nReadWritePaths=/srv -{0}/not\nStateDirectory=", Grade.GOOD),
        ("LoadState=loaded\nProtectSystem=strict\nStateDirectory=a ../..{0}\nReadWritePaths=", Grade.GOOD),
        ("LoadState=loaded\nProtectSystem=no\nStateDirectory=\nReadWritePaths=", None),
        ("LoadState=not-found\nProtectSystem=strict\nStateDirectory=\nReadWritePaths=", None),
        ("", None),
        (None, None),
    ],
)
def test_a_unit_that_may_not_write_there_is_to_be_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, grade: Grade | None
) -> None:
    systemctl = tmp_path / "systemctl"
    end = "exit 1" if told is None else f"printf '%s\\n' '{told.format(tmp_path)}'"
    systemctl.write_text(f"#!/bin/sh\n{end}\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    found = findings(tmp_path)

    assert found["unit"].grade is grade if grade else "unit" not in found
    if grade is Grade.BAD:
        assert f"ReadWritePaths={tmp_path}/not/there" in found["unit"].remedy
