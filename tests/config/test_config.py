import dataclasses
import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.commands.parser import main
from rootsrv.config import file as config_file
from rootsrv.config import text
from rootsrv.config.checks import without_query
from rootsrv.config.file import ConfigError
from tests.needs import REPOSITORY

EXAMPLE = REPOSITORY / "deploy" / "rootsrv.toml"
ROOT = {"name": ".", "file": "root.zone", "trust_anchors": "anchor"}
HOSTS = {"name": "root-servers.net.", "file": "hosts.zone", "validation": "none"}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"service": {"port": 0}}, "service.port: must be 1..65535, got 0"),
        ({"service": {"port": "53"}}, "service.port: must be an integer, got a string ('53')"),
        ({"service": {"port": True}}, "service.port: must be an integer, got true or false (True)"),
        ({"service": {"prot": 53}}, "service.prot: unknown key (known: addresses, "),
        ({"sevice": {}}, "sevice: unknown key (known: admin, "),
        ({"service": []}, "service: must be a table, got an array ([])"),
        ({"service": {"addresses": []}}, "service.addresses: at least one address is needed"),
        ({"service": {"addresses": "::1"}}, "service.addresses: must be an array, got a string ('::1')"),
        ({"service": {"addresses": ["x"]}}, "service.addresses: 'x' does not appear to be an IPv4 or IPv6 address"),
        ({"service": {"addresses": ["::1", "::1"]}}, "service.addresses: an address is named twice"),
        ({"service": {"addresses": ["0.0.0.0"]}}, "service.addresses: 0.0.0.0 is a wildcard"),
        ({"service": {"addresses": ["::"]}}, "service.addresses: :: is a wildcard"),
        ({"service": {"addresses": ["224.0.0.1"]}}, "service.addresses: 224.0.0.1 is a multicast address"),
        ({"service": {"addresses": ["::ffff:192.0.2.1"]}}, "service.addresses: ::ffff:192.0.2.1: name the IPv4"),
        ({"service": {"max_udp_response_octets": 511}}, "service.max_udp_response_octets: must be 512..4096, got 511"),
        ({"identity": {"nsid": "x" * 129}}, "identity.nsid: at most 128 octets, got 129"),
        ({"cookies": {"secret": "00"}}, "cookies.secret: must be 32 hexadecimal digits"),
        ({"cookies": {"secret": "0" * 32, "previous_secrets": [""]}}, "cookies.previous_secrets: must be 32 hex"),
        ({"cookies": {"secret": "0" * 32, "previous_secrets": ["1" * 32] * 4}}, "cookies.previous_secrets: at most 3"),
        ({"cookies": {"previous_secrets": ["1" * 32]}}, "cookies.secret: is missing beside"),
        ({"state": {"directory": ""}}, "state.directory: must not be empty"),
        ({"zone": [{}]}, "zone[0].name: is missing"),
        ({"zone": [{**ROOT, "name": "com"}]}, "zone.name: must be in lower case and end with a dot, got 'com'"),
        ({"zone": [HOSTS]}, 'zone: the root is missing (name = ".")'),
        ({"zone": [ROOT, ROOT]}, "zone: the root is configured twice"),
        ({"zone": [ROOT, {**HOSTS, "name": "example."}]}, "zone[1].name: only the root and root-servers.net. are"),
        ({"zone": [ROOT, HOSTS, HOSTS]}, "zone: the root and one zone of its host names, got 3 zones"),
        ({"zone": [{**ROOT, "trust_anchors": ""}]}, "zone[0].trust_anchors: is missing"),
        ({"zone": [{**ROOT, "zonemd": "maybe"}]}, "zone[0].zonemd: must be one of required, if-supported, off; got"),
        ({"zone": [ROOT, {**HOSTS, "validation": "required"}]}, 'zone[1].validation: must be "none"'),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bad_value_is_an_error_that_names_the_key(document: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        config_file.read(document)

    assert str(error.value).startswith(text)


def test_a_private_root_has_its_own_host_zone() -> None:
    private = {**ROOT, "private_root": True}

    assert config_file.read({"zone": [private, {**HOSTS, "name": "hosts.lab."}]}).zone[1].name == "hosts.lab."


def test_relative_paths_count_from_the_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "rootsrv.toml"
    path.write_text(
        '[[zone]]\nname = "."\nfile = "root.zone"\ntrust_anchors = "/etc/anchor"\n[state]\ndirectory = "s"\n'
    )

    loaded = config_file.load(path)

    assert loaded.zone[0].file == str(tmp_path / "root.zone")
    assert loaded.zone[0].trust_anchors == "/etc/anchor"
    assert loaded.state.directory == str(tmp_path / "s")


@pytest.mark.parametrize(
    ("octets", "text"),
    [(b"[service", "rootsrv.toml: "), (b"\xff", "rootsrv.toml: "), (None, "rootsrv.toml: No such file or directory")],
)
def test_a_file_that_is_no_toml_is_an_error_that_names_it(
    tmp_path: Path, octets: bytes | None, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rootsrv.toml"
    if octets is not None:
        path.write_bytes(octets)

    assert main(["check-config", str(path)]) == 2
    assert text in capsys.readouterr().err


def test_the_documented_example_is_valid_and_prints_back_as_what_it_means(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-config", str(EXAMPLE)]) == 0
    printed = capsys.readouterr().out

    assert config_file.read(tomllib.loads(printed)) == config_file.load(EXAMPLE)


def test_secrets_are_not_printed() -> None:
    secret = "0123456789abcdef" * 2
    printed = text.to_toml(config_file.read({"cookies": {"secret": secret, "previous_secrets": [secret[::-1]]}}))

    assert secret not in printed
    assert secret[::-1] not in printed
    assert "# secret is set and not shown" in printed


SECRETS = {
    "cookies": {"secret": "0123456789abcdef" * 2, "previous_secrets": ["fedcba9876543210" * 2]},
    "key": [{"name": "k", "secret": "c2VjcmV0IG9mIHRoZSBrZXk="}, {"name": "f", "secret_file": "k.secret"}],
    "zone": [{"name": ".", "trust_anchors": "a"}],
    "primary": [{"name": "web", "url": "https://x.example:8443/root.zone?token=tOkEn"}],
}


def test_no_secret_is_printed_and_each_is_known_as_one() -> None:
    loaded = config_file.read(SECRETS)
    printed = text.to_toml(loaded)

    for secret in ("0123456789abcdef", "fedcba9876543210", "c2VjcmV0IG9mIHRoZSBrZXk=", "tOkEn"):
        assert secret not in printed
    assert 'url = "https://x.example:8443/root.zone?…"' in printed
    assert list(text.secrets(loaded)) == [
        "cookies.secret", "cookies.previous_secrets", "key.secret", "primary.url",
    ]  # fmt: skip
    assert list(text.secret_files(loaded)) == [("key.secret_file", Path("k.secret"))]


def test_every_key_that_sounds_like_a_secret_is_treated_as_one() -> None:
    """A section that is added with a secret of its own must not print it."""

    def keys(kind: Any) -> Iterator[str]:
        for each in dataclasses.fields(kind):
            yield each.name
            for inner in [
                *typing.get_args(typing.get_type_hints(kind)[each.name]),
                typing.get_type_hints(kind)[each.name],
            ]:
                if dataclasses.is_dataclass(inner):
                    yield from keys(inner)

    sound = {key for key in keys(config_file.Config) if re.search(r"secret|password|passphrase|token|(^|_)key$", key)}
    harmless = {"key", "require_server_cookie"}  # names of keys, not keys
    files = {key for key in sound if re.search(r"_file$|^tls_key$", key)}
    assert sound - harmless - files == {key for key in sound if text.is_secret(key)}
    assert files <= text.SECRET_FILE_KEYS


@pytest.mark.parametrize(
    "document",
    [{"cookies": {"secret": 12345678901234567}}, {"key": [{"name": "k", "secret": 12345678901234567}]},
     {"cookies": {"previous_secrets": [12345678901234567]}}, {"cookies": {"previous_secrets": "12345678901234567"}}],
)  # fmt: skip
def test_an_error_names_the_key_of_a_secret_and_not_the_secret(document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be") as caught:
        config_file.read(document)
    assert "12345678901234567" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://x.example/root.zone", "https://x.example/root.zone"),
        ("https://x.example:8443/z?sig=abc#f", "https://x.example:8443/z?…"),
        ("https://u:p@x.example/z?a=b", "https://x.example/z?…"),
        ("https://[::1/z?a=b", "what is no URL"),
        ("/z?a=b", "/z?…"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_what_may_be_secret(url: str, shown: str) -> None:
    assert without_query(url) == shown


def test_who_can_read_a_file_depends_on_its_directories_too(tmp_path: Path) -> None:
    file = tmp_path / "closed" / "rootsrv.toml"
    file.parent.mkdir()
    file.touch()
    for mode, directory in ((0o640, 0o755), (0o644, 0o750)):
        file.chmod(mode)
        file.parent.chmod(directory)
        assert not text.is_for_everybody(file)
    link = tmp_path / "link"
    link.symlink_to(file)
    for each in (tmp_path, *tmp_path.parents):
        if not each.stat().st_mode & 0o001:
            return  # this test's own directory is not for everybody
    file.parent.chmod(0o755)
    assert text.is_for_everybody(link)


def test_the_example_documents_every_key_of_the_sections_that_every_instance_has() -> None:
    document = tomllib.loads(EXAMPLE.read_text())
    effective = tomllib.loads(text.to_toml(config_file.load(EXAMPLE)))
    for section in ("service", "identity", "cookies", "state"):
        assert document[section].keys() == effective[section].keys(), section
    assert document["zone"][0].keys() == effective["zone"][0].keys()


def test_check_config_reads_the_trust_anchors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchors = tmp_path / "root-anchors.xml"
    path = tmp_path / "rootsrv.toml"
    path.write_text(EXAMPLE.read_text().replace("/etc/rootsrv/root-anchors.xml", str(anchors)))
    assert main(["check-config", str(path)]) == 0
    assert f"{anchors}: is not there" in capsys.readouterr().err
    anchors.write_text(". IN DS 17 17 6 00\n")
    assert main(["check-config", str(path)]) == 2
    assert "digest type 6 is not supported" in capsys.readouterr().err
    anchors.write_text(f". IN DS 20326 8 2 {'00' * 32}\n. IN DS 17 17 6 00\n")
    assert main(["check-config", str(path)]) == 0
    assert "line 2: digest type 6 is not supported" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["capture.directory", "report.statistics_directory"])
@pytest.mark.parametrize("held", ["state", "run"])
@pytest.mark.parametrize("named", ["/", "{base}", "{base}/a", "{base}/a/state", "{base}/a/run/..", "{base}/link"])
def test_what_a_role_makes_its_accounts_holds_no_state(tmp_path: Path, key: str, held: str, named: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    section, name = key.split(".")
    directories = {"state": "elsewhere/state", "run": "elsewhere/run"} | {held: f"a/{held}"}
    path = tmp_path / "rootsrv.toml"

    def written(directory: str) -> Path:
        path.write_text(
            f'[state]\ndirectory = "{directories["state"]}"\nruntime_directory = "{directories["run"]}"\n'
            f'[{section}]\n{name} = "{directory}"\n'
        )
        return path

    config_file.load(written(f"a/{held}/of its own"))
    if named.endswith("/state") and held == "run":
        return
    with pytest.raises(ConfigError, match=f"^{key}: must be a directory of its own"):
        config_file.load(written(named.format(base=tmp_path)))


@pytest.mark.parametrize("cores", [[-1], [1 << 31], [8192], [0, 1, 0]])
def test_a_cpu_that_none_can_be_is_refused(cores: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"^capture\.cores: must be numbers of CPUs"):
        config_file.read({"capture": {"cores": cores}})
    assert config_file.read({"capture": {"cores": [0, 8191]}}).capture is not None


@pytest.mark.parametrize(
    ("key", "document"),
    [
        ("state.directory", {"state": {"directory": "a\0b"}}),
        ("capture.directory", {"capture": {"directory": "\0"}}),
        ("fastpath.interfaces", {"fastpath": {"interfaces": ["eth\0"]}}),
    ],
)
def test_text_with_a_nul_in_it_is_refused(key: str, document: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}.*: must be a string without NUL"):
        config_file.read(document)
