"""The key of unique sources: the operator's, or one that is made and kept; service goes on without either."""

import os
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.page.unique_sources import SourcesKey
from rootsrv.store import sources_key

DIGITS = "00112233445566778899aabbccddeeff"


def test_the_configured_key_counts_and_no_other_is_made(tmp_path: Path) -> None:
    configured = tmp_path / "key"
    configured.write_text(DIGITS + "\n")

    assert sources_key.find(str(configured), tmp_path) == SourcesKey.of(bytes.fromhex(DIGITS))
    assert not (tmp_path / "sources.key").exists()


def test_a_key_of_its_own_is_made_with_an_alarm_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = sources_key.find("", tmp_path)
    assert "key of unique sources made" in caplog.text
    caplog.clear()

    assert sources_key.find("", tmp_path) == sources_key.own(tmp_path) == made
    assert caplog.text == ""
    assert (tmp_path / "sources.key").stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["sources.key"]


@pytest.mark.parametrize(
    "content", ["", "xyz", DIGITS[:-1], DIGITS + "0", DIGITS * 9, DIGITS[:-1] + "g", "0x" + DIGITS[2:]]
)
def test_a_file_that_is_no_key_is_refused_by_name_and_service_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    configured = tmp_path / "key"
    configured.write_text(content)
    with pytest.raises(sources_key.SourcesKeyUnusable, match=f"{configured}: must be 32 hexadecimal digits"):
        sources_key.read(configured)
    own = sources_key.own(tmp_path)
    caplog.clear()

    assert sources_key.find(str(configured), tmp_path) == own
    assert "under a key of this instance alone" in caplog.text


def test_a_damaged_key_of_its_own_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "sources.key").write_text("damaged")

    assert sources_key.own(tmp_path) == sources_key.own(tmp_path)
    assert sources_key.read(tmp_path / "sources.key") == sources_key.own(tmp_path)


def test_where_none_can_be_kept_there_is_one_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = sources_key.find("", tmp_path / "is not there")

    assert isinstance(found, SourcesKey)
    assert "cannot be kept" in caplog.text


def test_the_role_that_is_faster_makes_the_key_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faster = SourcesKey.random()
    link = os.link

    def late_link(source: Path, target: Path) -> None:
        target.write_text(faster.octets.hex())
        link(source, target)

    monkeypatch.setattr(os, "link", late_link)

    assert sources_key.own(tmp_path) == faster
    assert [each.name for each in tmp_path.iterdir()] == ["sources.key"]


def test_check_config_reads_the_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "rootsrv.toml"
    config.write_text('[report]\nsources_key_file = "sources"\n')
    assert main(["check-config", str(config)]) != 0
    assert f"report.sources_key_file: {tmp_path}/sources: No such file" in capsys.readouterr().err

    (tmp_path / "sources").write_text(DIGITS)
    assert main(["check-config", str(config)]) == 0
