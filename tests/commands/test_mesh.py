"""`rootsrv mesh`: from nothing to a signed roster and a member's configuration."""

import json
import tomllib
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.config.mesh import MeshConfig
from rootsrv.config.typed import build
from rootsrv.engine import signing_key
from rootsrv.mesh.roster import public_text


def rootsrv(*arguments: object) -> int:
    return main(["mesh", *map(str, arguments)])


def filled_in(directory: Path, capsys: pytest.CaptureFixture[str], n: int = 4) -> Path:
    """A roster of *n* members, made as an operator makes it; the keys lie beside it."""
    assert rootsrv("init", directory, "--service", "x-root") == 0
    roster = directory / "roster.toml"
    text = roster.read_text() + '[[site]]\nname = "here"\n'
    for number in range(n):
        capsys.readouterr()
        assert rootsrv("key", directory / f"m{number}.key", "--json") == 0
        public = json.loads(capsys.readouterr().out)["public_key"]
        canary = str(number > 1).lower()
        text += f'[[member]]\nname = "m{number}"\npublic_key = "{public}"\nsite = "here"\ngroup = "all"\n'
        text += f"canary = {canary}\n"
        text += f"distribution_host = {str(number < 2).lower()}\n"
    roster.write_text(text)
    capsys.readouterr()
    return roster


def test_from_nothing_to_a_members_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roster, signed = filled_in(tmp_path, capsys), tmp_path / "roster"
    assert rootsrv("roster", "sign", roster, "--key", tmp_path / "roster-1.key", "--output", signed, "--json") == 0
    first_key = json.loads(capsys.readouterr().out)["signing_keys"][0]

    assert rootsrv("roster", "check", signed, "--service", "x-root", "--roster-key", first_key) == 0
    assert "4 members at 1 sites" in capsys.readouterr().out
    assert rootsrv("join", "--roster", signed, "--roster-key", first_key, "--service", "x-root", "--member", "m3",
                   "--key", tmp_path / "m3.key", "--endpoint", "https://etcd1.example:2379") == 0  # fmt: skip
    section = tomllib.loads(capsys.readouterr().out)["mesh"]
    config = build(MeshConfig, section, "mesh.")
    assert (config.member, config.roster_keys[0], len(config.roster_keys)) == ("m3", first_key, 2)


def test_a_roster_that_breaks_a_rule_is_not_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roster = filled_in(tmp_path, capsys)
    roster.write_text(roster.read_text().replace("k = 1 ", "k = 4 "))

    assert rootsrv("roster", "sign", roster, "--key", tmp_path / "roster-1.key", "--output", tmp_path / "signed") == 2
    assert "roster.toml: group all: k must be" in capsys.readouterr().err
    assert not (tmp_path / "signed").exists()


def test_a_key_of_another_member_does_not_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roster, signed = filled_in(tmp_path, capsys), tmp_path / "roster"
    assert rootsrv("roster", "sign", roster, "--key", tmp_path / "roster-2.key", "--output", signed) == 0
    key = public_text(signing_key.load(tmp_path / "roster-2.key"))
    wrong = ("join", "--roster", signed, "--roster-key", key, "--service", "x-root", "--endpoint", "https://e:1")

    assert rootsrv(*wrong, "--member", "m3", "--key", tmp_path / "m2.key") == 1
    assert "m3 has the public key" in capsys.readouterr().err
    assert rootsrv(*wrong, "--member", "m9", "--key", tmp_path / "m2.key") == 1
    assert "lists no member m9" in capsys.readouterr().err


def test_a_roster_that_was_changed_after_it_was_signed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roster, signed = filled_in(tmp_path, capsys), tmp_path / "roster"
    rootsrv("roster", "sign", roster, "--key", tmp_path / "roster-1.key", "--output", signed)
    key = public_text(signing_key.load(tmp_path / "roster-1.key"))
    signed.write_bytes(signed.read_bytes().replace(b"here", b"hare"))

    assert rootsrv("roster", "check", signed, "--service", "x-root", "--roster-key", key) == 1
    assert "signed by none of" in capsys.readouterr().err


def test_a_key_is_never_overwritten_and_nobody_else_may_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "key"
    assert rootsrv("key", path) == 0
    octets = path.read_bytes()
    assert rootsrv("key", path) == 1
    assert path.read_bytes() == octets
    path.chmod(0o640)
    with pytest.raises(signing_key.SigningKeyUnusable, match="others may read it"):
        signing_key.load(path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"endpoints": []}, "mesh.endpoints"),
        ({"endpoints": ["http://etcd1.example:2379"]}, "plain http only on loopback"),
        ({"endpoints": ["https://etcd1.example"]}, "mesh.endpoints"),
        ({"tls_ca": ""}, "mesh.tls_ca: is missing"),
        ({"roster_keys": ["abc"]}, "mesh.roster_keys"),
        ({"member": ""}, "mesh.member"),
    ],
)
def test_a_wrong_section_is_refused_by_name(changes: dict[str, object], named: str) -> None:
    from rootsrv.config.checks import ConfigError

    section = {
        "service": "x-root", "member": "m0", "key": "/k", "roster_keys": ["ab" * 32],
        "endpoints": ["https://e:1"], "tls_ca": "c", "tls_certificate": "c", "tls_key": "k",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=named):
        build(MeshConfig, section | changes, "mesh.")
