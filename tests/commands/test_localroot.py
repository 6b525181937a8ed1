"""The console of a LocalRoot service, on a register that the pages wrote."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.localroot import observations, register
from rootsrv.localroot.observations import Fresh, Observations, Proved
from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import Servers, ServerWish
from rootsrv.localroot.subscribers import Subscribers
from rootsrv.portal.accounts import Accounts
from tests.localroot.accounts import add_user
from tests.needs import require_root
from tests.portal.site import configuration

NOW = 1_800_000_000.0


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "localroot.toml"
    path.write_text(configuration(tmp_path, 8443, 25))
    kept = Register(tmp_path / "state" / register.DIRECTORY)
    servers = Servers(kept, "localroot.example", (".",), private=True)
    user = add_user(kept, "a@example.net", NOW)
    server = servers.add(user, ServerWish("rz 1", "bind", ["192.0.2.1", "192.0.2.2"], ["."]), NOW)
    servers.new_key(user, server, NOW)
    kept.close()
    seen = Observations(tmp_path / "state" / observations.FILE)
    seen.note(Proved(server, "192.0.2.1", NOW, "k."))
    seen.note(Fresh(".", 2026112801, NOW, 7, 5, 6, None))
    seen.close()
    return path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["localroot", *words]) == 0
    return capsys.readouterr().out


def test_what_is_there_is_told_to_people_and_to_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--config", str(config))
    for what, known in (
        ("users", "a@example.net"),
        ("servers", "192.0.2.1 (proved), 192.0.2.2 (not proved)"),
        ("keys", ".rz-1.localroot.example."),
        ("zones", "2026112801"),
        ("mails", "subject"),
    ):
        assert known in told(capsys, what, *where)
        assert isinstance(json.loads(told(capsys, what, *where, "--json")), list)
    (zone, *_) = json.loads(told(capsys, "zones", *where, "--json"))
    assert (zone["after 1 min"], zone["after 60 min"], zone["servers"]) == ("5", "", 1)


def test_who_is_suspended_is_no_subscriber_until_restored(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--config", str(config))
    reader = Subscribers(config.parent / "state" / register.DIRECTORY)
    told(capsys, "suspend", *where, "a@example.net", "abuse")
    assert reader.load(NOW).keys == ()
    told(capsys, "restore", *where, "A@example.net")
    (key,) = reader.load(NOW).keys
    told(capsys, "revoke", *where, key.name.upper().rstrip("."))
    assert reader.load(NOW).keys == ()
    assert len(reader.load(NOW).subscribers) == 1
    told(capsys, "delete-user", *where, "a@example.net")
    assert reader.load(NOW).subscribers == ()
    (mail,) = json.loads(told(capsys, "mails", *where, "--json"))
    assert "was deleted" in str(mail)


def test_who_deletes_an_account_hears_who_could_not_be_told(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rootsrv.portal.mails.MAX_WAITING", 0)
    assert main(["localroot", "delete-user", "--config", str(config), "a@example.net"]) == 0
    heard = capsys.readouterr().err
    assert "it is deleted, but not all of a@example.net can be told by mail" in heard
    assert json.loads(told(capsys, "users", "--config", str(config), "--json")) == []


def test_an_invitation_is_a_link_that_begins_an_account(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = re.search(r"/link/(\S+)", told(capsys, "invite", "--config", str(config), "new@example.net"))
    assert link
    kept = Register(config.parent / "state" / register.DIRECTORY)
    accounts = Accounts(kept)
    found, user = accounts.use_link(link[1], time.time())
    assert (found.purpose, user.email) == ("begin", "new@example.net")
    kept.close()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("invite", "nobody"), "no e-mail address"),
        (("suspend", "b@example.net", "why"), "no account with the address"),
        (("suspend", "a@example.net", " "), "a reason is needed"),
        (("revoke", "k.example."), "no key k.example."),
    ],
)
def test_what_cannot_be_done_is_said(
    config: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str
) -> None:
    assert main(["localroot", words[0], "--config", str(config), *words[1:]]) == 1
    assert why in capsys.readouterr().err


def test_without_its_section_the_console_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.toml").write_text("")
    assert main(["localroot", "users", "--config", str(tmp_path / "x.toml")]) == 2
    assert "portal: the section is missing" in capsys.readouterr().err


def test_a_first_account_before_the_pages_ever_ran_leaves_them_their_register(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require_root()
    path = tmp_path / "localroot.toml"
    path.write_text(configuration(tmp_path, 8443, 25))
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", 65534, 65534)
    assert "/link/" in told(capsys, "invite", "a@example.net", "--config", str(path))
    made = [tmp_path / "state" / register.DIRECTORY, *(tmp_path / "state" / register.DIRECTORY).iterdir()]
    assert len(made) > 2
    assert {each.stat().st_uid for each in made} == {65534}
