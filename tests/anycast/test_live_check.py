"""`check-config --live` and the start of the role *advertise*: whatever is not as configured is a precise error."""

import dataclasses
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.peers.bird import deployed_configuration, route
from rootsrv.config import file as config_file
from rootsrv.config.anycast import AnycastConfig
from rootsrv.config.file import ConfigError
from tests.needs import REPOSITORY
from tests.network import Host, network

WRONG_PROTOCOLS = """
protocol static stays { ipv4; route 198.51.100.0/24 blackhole; }
protocol direct flat_up { interface "lo"; ipv4 { preference 240; import none; }; }
protocol direct flat_degraded { disabled; interface "lo"; ipv4 { preference 240; import none; }; }
protocol direct flat_drained { disabled; interface "lo"; ipv4 { preference 240; import none; }; }
"""


# The root's key-signing key of 2017 (root-anchors.xml).
ANCHOR = ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n"


@dataclass
class Box:
    """A host with BIRD, the service addresses and a configuration that fits."""

    host: Host
    directory: Path

    def check(
        self, *changes: tuple[str, str], command: tuple[str, ...] = ("check-config", "--live")
    ) -> tuple[int, str]:
        """Exit status and errors of *command* with the configuration changed."""
        text = f"""
[service]
addresses = ["192.0.2.53", "2001:db8::53"]
[[zone]]
name = "."
file = "none"
trust_anchors = "{self.directory}/anchors"
[state]
directory = "{self.directory}/state"
runtime_directory = "{self.directory}/run"
[anycast]
prefix_v4 = "192.0.2.0/24"
prefix_v6 = "2001:db8::/48"
interface = "lo"
bird_socket = "{self.directory}/bird/bird.ctl"
bgp_v4 = ["upstream4"]
bgp_v6 = ["upstream6"]
"""
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.directory / "anchors").write_text(ANCHOR)
        path = self.directory / "rootsrv.toml"
        path.write_text(text)
        done = subprocess.run(
            [*self.host.prefix, sys.executable, "-m", "rootsrv", *command, str(path)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stderr


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with network() as net:
        host = net.host("box")
        for address in ("192.0.2.53/32", "2001:db8::53/128"):
            host.ip("address", "add", address, "dev", "lo")
        directory = tmp_path_factory.mktemp("box")
        with route(host, directory / "bird", deployed_configuration("global", {}) + WRONG_PROTOCOLS):
            yield Box(host, directory)


def test_what_fits_is_accepted_in_silence(box: Box) -> None:
    assert box.check() == (0, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            [('/bird/bird.ctl"', '/bird/none.ctl"')],
            "anycast.bird_socket: … no control socket; is BIRD running, with this path (bird -s)?",
        ),
        (
            [('bgp_v4 = ["upstream4"]', 'bgp_v4 = ["upstream5"]')],
            "anycast.bgp_v4: BIRD has no protocol upstream5 (of this kind it has: upstream4, upstream6)",
        ),
        (
            [('bgp_v4 = ["upstream4"]', 'bgp_v4 = ["anycast4_up"]')],
            "anycast.bgp_v4: anycast4_up is a Direct protocol, BGP is needed",
        ),
        (
            [('bgp_v4 = ["upstream4"]', 'bgp_v4 = ["upstream6"]')],
            "anycast.bgp_v4: upstream6 has no ipv4 channel",
        ),
        (
            [("[anycast]", '[anycast]\ndirect_v6 = ["anycast6_up", "anycast6_degraded", "drained"]')],
            "anycast.direct_v6: BIRD has no protocol drained (of this kind it has: anycast4_degraded, ",
        ),
        (
            [("[anycast]", '[anycast]\ndirect_v4 = ["flat_up", "flat_degraded", "flat_drained"]')],
            "anycast.direct_v4: the preferences must rise (flat_up, flat_degraded, flat_drained have 240, 240, 240)",
        ),
        (
            [("192.0.2.53", "198.51.100.53"), ("192.0.2.0/24", "198.51.100.0/24")],
            "anycast.prefix_v4: BIRD has a route to 198.51.100.0/24 from stays; it would stay when the service is gone",
        ),
        ([("192.0.2.53", "192.0.2.54")], "service.addresses: 192.0.2.54 is not on this host"),
        ([('interface = "lo"', 'interface = "dummy9"')], "anycast.interface: interface dummy9: does not exist"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_named(box: Box, changes: list[tuple[str, str]], words: str) -> None:
    status, errors = box.check(*changes)

    assert status == 1
    for part in words.split(" … "):
        assert part in errors


def test_an_anchor_that_somebody_else_holds_for_ever_is_named(box: Box) -> None:
    box.host.ip("address", "add", "192.0.2.1/24", "dev", "lo")
    try:
        status, errors = box.check()
    finally:
        box.host.ip("address", "delete", "192.0.2.1/24", "dev", "lo")

    assert status == 1
    assert "anycast.anchor_v4: 192.0.2.1/24 is on lo for ever; somebody else has put it there" in errors


def test_the_controller_does_not_start_on_a_host_that_does_not_fit(box: Box) -> None:
    run = ("run", "--role", "advertise", "--config")
    status, errors = box.check(('bgp_v4 = ["upstream4"]', 'bgp_v4 = ["upstream5"]'), command=run)

    assert status == 1
    assert "cannot run" in errors
    assert "anycast.bgp_v4: BIRD has no protocol upstream5" in errors
    assert "192.0.2.1" not in box.host.ip("address", "show", "dev", "lo")


@pytest.mark.parametrize(
    ("anycast", "words"),
    [
        ({}, "anycast: prefix_v4, prefix_v6 or both are needed"),
        ({"prefix_v4": "192.0.2.0/24"}, "anycast.bgp_v4: must name the BGP protocol that exports 192.0.2.0/24"),
        ({"prefix_v4": "192.0.2.1/24"}, "anycast.prefix_v4: 192.0.2.1/24 has host bits set"),
        ({"prefix_v4": "2001:db8::/48"}, "anycast.prefix_v4: must be an IPv4 prefix up to /30, got 2001:db8::/48"),
        ({"prefix_v4": "192.0.2.0/24", "anchor_v4": "192.0.3.1"}, "anycast.anchor_v4: must be a host address in"),
        ({"prefix_v4": "192.0.2.0/24", "anchor_v4": "x"}, "anycast.anchor_v4: 'x' does not appear to be"),
        ({"anchor_v6": "2001:db8::1"}, "anycast.anchor_v6: needs anycast.prefix_v6"),
        (
            {"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a; configure"]},
            "anycast.bgp_v4: 'a; configure' is not a name of a",
        ),
        ({"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a", "a"]}, "anycast.bgp_v4: a protocol is named twice"),
        ({"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a"], "direct_v4": ["b"]}, "anycast.direct_v4: must name three"),
        ({"prefix_v4": "198.51.100.0/24", "bgp_v4": ["a"]}, "anycast.prefix_v4: no service address lies in"),
        (
            {"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a"], "anchor_v4": "192.0.2.53"},
            "anycast.anchor_v4: 192.0.2.53 is a service address; it must be another one",
        ),
        ({"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a"], "fall": 0}, "anycast.fall: must be 1..10, got 0"),
        ({"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a"], "fal": 1}, "anycast.fal: unknown key (known: anchor_v4, "),
        (
            {"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a"], "probe_timeout_seconds": 1.0},
            "anycast.probe_timeout_seconds: must be at most three quarters of probe_interval_seconds (1.0), got 1.0",
        ),
        (
            {"prefix_v4": "192.0.2.0/24", "bgp_v4": ["a"], "probe_interval_seconds": 2.0},
            "anycast.lease_seconds: must be at least twice probe_interval_seconds (2.0), got 3",
        ),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_a_configuration_that_makes_no_sense_is_refused_by_its_key(anycast: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_file.read({"service": {"addresses": ["192.0.2.53"]}, "anycast": anycast})

    assert str(caught.value).startswith(words)


def test_the_example_configuration_shows_every_key_with_its_default() -> None:
    lines = (REPOSITORY / "deploy" / "rootsrv.toml").read_text().splitlines()
    start = lines.index("# [anycast]")
    end = lines.index("", start)
    shown = tomllib.loads("\n".join(line.removeprefix("# ") for line in lines[start:end]))["anycast"]
    defaults = {each.name: each.default for each in dataclasses.fields(AnycastConfig)}
    of_the_site = {"prefix_v4", "prefix_v6", "bgp_v4", "bgp_v6"}

    assert set(shown) == set(defaults)
    for key in set(shown) - of_the_site:
        assert (tuple(shown[key]) if isinstance(shown[key], list) else shown[key]) == defaults[key], key
    config_file.read({"service": {"addresses": ["192.0.2.53", "2001:db8::53"]}, "anycast": shown})
