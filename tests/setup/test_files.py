"""A site's answers become files that rootsrv, rootsrv-network and BIRD read; a wrong answer is named."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.setup import files
from rootsrv.setup.discovery import derived
from rootsrv.setup.site import to_text
from tests.needs import REPOSITORY, require_tool
from tests.setup.site import answers, check, load

DEPLOY = REPOSITORY / "deploy"
EXAMPLES = files.Examples(
    network=(DEPLOY / "network/network.conf").read_text(),
    bird_global=(DEPLOY / "bird/global.conf").read_text(),
    bird_local=(DEPLOY / "bird/local.conf").read_text(),
)


def made(**changed: Any) -> dict[str, str]:
    return files.make(check(answers(**changed)), EXAMPLES)


def shell(text: str) -> dict[str, str]:
    """network.conf as the shell reads it."""
    return dict(word.split("=", 1) for line in text.splitlines() for word in shlex.split(line, comments=True))


def test_the_examples_site_gives_the_examples() -> None:
    made_here = made()
    assert made_here[files.BIRD] == EXAMPLES.bird_global
    assert shell(made_here[files.NETWORK]) == shell(EXAMPLES.network)
    assert made(reach="local")[files.BIRD] == EXAMPLES.bird_local


def test_the_configuration_is_that_of_the_example(tmp_path: Path) -> None:
    path = tmp_path / "rootsrv.toml"
    path.write_text(made(cookie_secret="", sources_key="")[files.CONFIGURATION])
    found, example = config_file.load(path), config_file.load(DEPLOY / "box.toml")
    for key in ("service", "identity", "cookies", "zone", "admin", "anycast", "fastpath"):
        assert getattr(found, key) == getattr(example, key), key
    assert [each.address for each in found.primary] == [each.address for each in example.primary]


ONE_FAMILY = {
    4: {
        "link_addresses": ["198.51.100.9"], "routers": ["198.51.100.10"],
        "service_addresses": ["198.41.0.4"], "prefixes": ["198.41.0.0/24"],
    },
    6: {
        "link_addresses": ["2001:db8:1::a"], "routers": ["2001:db8:1::b"],
        "service_addresses": ["2001:503:ba3e::2:30"], "prefixes": ["2001:503:ba3e::/48"],
    },
}  # fmt: skip


@pytest.mark.parametrize("reach", ["global", "local"])
@pytest.mark.parametrize("family", [4, 6, 46])
def test_bird_reads_what_is_made(tmp_path: Path, family: int, reach: str) -> None:
    bird = require_tool("bird")
    changed = ONE_FAMILY.get(family, {})
    text = made(reach=reach, local_as=4_200_000_001, session_password="a#b$c{d}", **changed)[files.BIRD]
    (tmp_path / "bird.conf").write_text(text)
    done = subprocess.run([bird, "-p", "-c", tmp_path / "bird.conf"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for version in (4, 6):
        assert (f"SERVICE{version}" in text) == (str(version) in str(family))
        assert (f"upstream{version}" in text) == (str(version) in str(family))
    if family == 4:
        assert "router id 198.51.100.9;" in text
        assert "neighbor 198.51.100.10 as UPSTREAM_AS" in text


@pytest.mark.parametrize("family", [4, 6])
def test_the_configuration_of_one_ip_version_is_good(tmp_path: Path, family: int) -> None:
    path = tmp_path / "rootsrv.toml"
    path.write_text(made(**ONE_FAMILY[family])[files.CONFIGURATION])
    loaded = config_file.load(path)
    assert loaded.anycast is not None
    assert loaded.anycast.versions() == (family,)


def test_a_key_is_named_once_and_its_secret_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rootsrv.toml"
    path.write_text(made(primaries=["203.0.113.53@a.example.", "203.0.113.54@a.example."])[files.CONFIGURATION])
    loaded = config_file.load(path)
    assert [each.key for each in loaded.primary] == ["a.example.", "a.example."]
    assert [(each.name, each.secret_file) for each in loaded.key] == [("a.example.", "/etc/rootsrv/keys/a.example.")]


def test_the_mesh_section_is_taken_over(tmp_path: Path) -> None:
    section = '[mesh]\nservice = "x"\n'
    assert files.make(check(answers()), EXAMPLES, section)[files.CONFIGURATION].endswith("\n\n" + section)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    site = check(answers(name='é "quoted" \U0001f310', mesh="/etc/rootsrv/mesh.toml"))
    (tmp_path / "site.toml").write_text(to_text(site))
    assert load(tmp_path / "site.toml") == site


WRONG = {
    "name: is missing": {"name": None},
    "name: must have": {"name": ""},
    "service_interface: must be another": {"service_interface": "eth0"},
    "admin_interface: 'a b'": {"admin_interface": "a b"},
    "admin_addresses: '1.2.3'": {"admin_addresses": ["1.2.3"]},
    "admin_addresses: must not be empty": {"admin_addresses": []},
    "management: must not be empty": {"management": []},
    "management: 203.0.113.1/24 has host bits": {"management": ["203.0.113.1/24"]},
    "link_addresses: one of IPv6 is needed": {"link_addresses": ["198.51.100.1"]},
    "routers: one of IPv4 is needed": {"routers": ["198.51.100.2", "198.51.100.3", "2001:db8:ffff::2"]},
    "routers: 127.0.0.1": {"routers": ["127.0.0.1"]},
    "routers: 2001:db8:ffff::0:2: write 2001:db8:ffff::2": {"routers": ["198.51.100.2", "2001:db8:ffff::0:2"]},
    "routers: ::ffff:192.0.2.1: write 192.0.2.1": {"routers": ["198.51.100.2", "::ffff:192.0.2.1"]},
    "service_addresses: 203.0.113.10 is also": {"service_addresses": ["203.0.113.10"]},
    "service_addresses: at least one": {"service_addresses": [], "prefixes": []},
    "service_addresses: one is there twice": {"service_addresses": ["192.0.2.53", "192.0.2.53"]},
    "prefixes: 1 of IPv6, and no service": {"service_addresses": ["192.0.2.53"]},
    "prefixes: 192.0.2.53 does not lie": {"prefixes": ["192.0.3.0/24", "2001:db8::/48"]},
    "local_as: must be an AS number": {"local_as": 0},
    "router_as: must be an integer": {"router_as": "65000"},
    "session_password: must be 1 to 80": {"session_password": 'a"b'},
    "reach: must be one of global, local": {"reach": "everywhere"},
    "primaries: at least one": {"primaries": []},
    "primaries: '203.0.113.53@../key'": {"primaries": ["203.0.113.53@../key"]},
    "cookie_secret: must be 32": {"cookie_secret": "00"},
    "sources_key: must be 32": {"sources_key": "g" * 32},
    "colour: unknown key": {"colour": "red"},
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_wrong_answer_is_named(reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(answers(**WRONG[reason]))
    assert str(error.value).startswith(reason)


def test_no_secret_is_in_a_message() -> None:
    for key in ("session_password", "cookie_secret"):
        with pytest.raises(ConfigError) as error:
            check(answers(**{key: ["very secret"]}))
        assert "very" not in str(error.value)


def test_the_answers_shipped_are_those_of_the_examples() -> None:
    assert load(DEPLOY / "site.toml") == check(answers(cookie_secret="", sources_key=""))


def test_examples_of_another_version_are_refused() -> None:
    with pytest.raises(ConfigError, match="of another version: ROUTERS"):
        files.make(check(answers()), files.Examples("x=1\n" + EXAMPLES.network.replace("ROUTERS=", "ROUTER="), "", ""))


def test_prefixes_follow_from_service_addresses() -> None:
    assert derived({"service_addresses": ["192.0.2.53", "2001:db8::53", "192.0.2.54", "nonsense"]}) == {
        "prefixes": ["192.0.2.0/24", "2001:db8::/48"]
    }
    assert derived({}) == {}
