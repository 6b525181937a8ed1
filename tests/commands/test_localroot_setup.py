"""`rootsrv localroot setup`: what it is told becomes a configuration that the roles take, or nothing is written."""

from pathlib import Path
from typing import Any

import pytest

from rootsrv.commands.parser import main
from rootsrv.config import file as config_file
from rootsrv.localroot.settings import refuse
from rootsrv.portal.settings import settings_of

GIVEN: dict[str, Any] = {
    "name": "localroot.example",
    "addresses": ["203.0.113.20", "2001:db8:a::20"],
    "primaries": ["203.0.113.53@transfer.example."],
    "zones": ["arpa."],
    "certificate": "/etc/rootsrv/localroot.pem",
    "certificate-key": "/etc/rootsrv/localroot.key",
    "url": "https://portal.localroot.example",
    "contact": "hostmaster@localroot.example",
    "mail-from": "noreply@localroot.example",
}


def typed(directory: Path, **changed: Any) -> list[str]:
    words = ["localroot", "setup", "--directory", str(directory), "--no-doctor", "--yes"]
    for name, value in {**GIVEN, **changed}.items():
        for each in value if isinstance(value, list) else [value]:
            words += [f"--{name}", each] if each else []
    return words


def names_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def test_what_was_answered_is_what_the_roles_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "still missing: /etc/rootsrv/keys/transfer.example." in told
    assert "still missing: /etc/rootsrv/localroot.pem" in told
    loaded = config_file.load(tmp_path / "localroot.toml")
    service, pages = refuse(loaded), settings_of(loaded)
    assert service.addresses == ("203.0.113.20", "2001:db8:a::20")
    assert (service.tls_port, service.https_port) == (853, 443)
    assert loaded.primary[0].zones == (".", "root-servers.net.", "arpa.")
    assert pages.zones == (".", "root-servers.net.", "arpa.")
    assert pages.zone_url == "https://localroot.example/root.zone"
    assert pages.trusted_proxies == ("127.0.0.1", "::1")
    assert pages.contact == "hostmaster@localroot.example"

    assert main([*typed(tmp_path)[:6], "--contact", "us"]) == 0  # everything else is remembered
    assert settings_of(config_file.load(tmp_path / "localroot.toml")).contact == "us"
    assert main(typed(tmp_path, contact="us")) == 0
    assert "nothing to change" in capsys.readouterr().out


def test_without_a_key_the_root_alone_comes_and_what_zonemd_covers(tmp_path: Path) -> None:
    assert main(typed(tmp_path, primaries=["203.0.113.53"], certificate="", url="", **NO_PAGES)) == 0
    loaded = config_file.load(tmp_path / "localroot.toml")
    assert loaded.primary[0].zones == (".", "arpa.")
    assert loaded.distribute[0].zonemd == "required"
    assert [each.name for each in loaded.zone] == ["."]
    assert loaded.portal is None
    assert refuse(loaded).https_port == 0


NO_PAGES = {"certificate-key": "", "contact": "", "mail-from": ""}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "Local"}, "name: must be a domain name"),
        ({"addresses": ["203.0.113.300"]}, "addresses: "),
        ({"addresses": ["203.0.113.53"]}, "primaries: 203.0.113.53@transfer.example. is an address of this service"),
        ({"primaries": ["203.0.113.53@a b"]}, "is not a name of a key"),
        ({"zones": ["root-servers.net."]}, "zones: root-servers.net. is unsigned"),
        ({"zones": ["arpa"]}, "zones: must be in lower case, end with a dot"),
        ({"certificate-key": ""}, "certificate_key: goes with the certificate"),
        ({"url": "http://portal.localroot.example"}, "url: must be https"),
        ({"url": ""}, "mail_from: mails are of the pages"),
        ({"mail-from": "nobody"}, "mail_from: must be a mail address"),
    ],
    ids=str,
)
def test_a_wrong_answer_is_named_and_nothing_is_written(
    tmp_path: Path, changed: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed(tmp_path, **changed)) == 2
    assert told in capsys.readouterr().err
    assert names_in(tmp_path) == []


def test_what_somebody_edited_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed(tmp_path)) == 0
    edited = tmp_path / "localroot.toml"
    edited.write_text(edited.read_text().replace("https_port = 443", "https_port = 8444"))
    assert main(typed(tmp_path, contact="us")) == 1
    assert f"{edited}: is not as setup wrote it" in capsys.readouterr().err
    assert "8444" in edited.read_text()
    assert main([*typed(tmp_path, contact="us"), "--overwrite"]) == 0
    assert "8444" in edited.with_name("localroot.toml.before-setup").read_text()
