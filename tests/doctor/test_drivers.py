"""What `rootsrv doctor` says of network cards: each line of the table in docs/fastpath.md, on outputs of ethtool -k."""

import re

import pytest

from rootsrv.config.fastpath import FastPathConfig
from rootsrv.config.file import Config
from rootsrv.doctor.finding import Grade
from rootsrv.doctor.kernel import _GOOD_DRIVERS, LARGEST_XDP_MTU, advice, checks, features_of, owner
from rootsrv.fastpath.attachment import FoundInterface
from rootsrv.fastpath.program import Interface
from tests.needs import REPOSITORY

# Recorded on a virtual machine (Linux 6.18, ethtool 6.1), shortened.
VIRTIO = """\
Features for eth0:
rx-checksumming: on [fixed]
tx-checksumming: on
\ttx-checksum-ipv4: off [fixed]
\ttx-checksum-ip-generic: on
generic-receive-offload: on
large-receive-offload: off [fixed]
rx-vlan-offload: off [fixed]
"""

# In the same form, with what a card's driver has by default (rxvlan) and what some have (LRO).
CARD = VIRTIO.replace("off [fixed]", "off")
WITH_VLAN = CARD.replace("rx-vlan-offload: off", "rx-vlan-offload: on")
WITH_LRO = CARD.replace("large-receive-offload: off", "large-receive-offload: on")


def interface(driver: str = "", kind: str = "", mtu: int = 1500) -> FoundInterface:
    loopback = kind == "loopback"
    kernel = Interface(2, mtu, bytes(6), virtual=bool(kind), loopback=loopback)
    return FoundInterface("eth0", kernel, "" if loopback else kind, driver, loopback)


@pytest.mark.parametrize("driver", sorted(_GOOD_DRIVERS))
def test_a_card_that_is_known_to_send_from_xdp_is_fit(driver: str) -> None:
    for mode in ("auto", "xdp"):
        found = advice(interface(driver), mode, features_of(CARD))
        assert (found.grade, found.found) == (Grade.GOOD, f"{driver}, MTU 1500")


BAD = {
    "lro": (interface("mlx5_core"), WITH_LRO, "LRO is on", "ethtool -K eth0 lro off"),
    "a_large_mtu": (interface("ice", mtu=9000), CARD, "MTU 9000: no room for XDP", "ip link set eth0 mtu 1500"),
    "virtio": (interface("virtio_net"), VIRTIO, "twice as many queues as cores", "ethtool -L eth0 combined N"),
    "an_unknown_card": (interface("r8169"), CARD, "r8169 is not known to send replies", "rootsrv fastpath status"),
    "veth": (interface(kind="veth"), CARD, "veth leaves no room", "a driver with native XDP"),
    "tun": (interface(kind="tun"), CARD, "tun leaves no room", "a driver with native XDP"),
    "loopback": (interface(kind="loopback"), CARD, "loopback interface has no native XDP", "none for a trial"),
    "a_bridge": (interface(kind="bridge"), CARD, "bridge has no native XDP", "name the interface below it"),
    "a_vlan": (interface(kind="vlan"), CARD, "vlan has no native XDP", "name the interface below it"),
    "a_bond": (interface(kind="bond"), CARD, "on the members of a bond", "name its members in fastpath.interfaces"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_what_keeps_xdp_away_is_named_with_its_remedy(case: str) -> None:
    found_interface, features, reason, remedy = BAD[case]
    required = advice(found_interface, "xdp", features_of(features))
    left_to_us = advice(found_interface, "auto", features_of(features))

    assert (required.grade, left_to_us.grade) == (Grade.BAD, Grade.REMARK)
    for finding in (required, left_to_us):
        assert reason in finding.found
        assert remedy in finding.remedy
    assert "tc is used" in left_to_us.found
    assert advice(found_interface, "tc", features_of(features)).grade is Grade.GOOD


def test_tags_that_are_taken_off_are_told() -> None:
    found = advice(interface("ixgbe"), "auto", features_of(WITH_VLAN))

    assert found.grade is Grade.REMARK
    assert "rxvlan off" in found.remedy


def test_the_largest_mtu_is_the_one_of_the_documents() -> None:
    assert f"MTU at most {LARGEST_XDP_MTU:,}" in (REPOSITORY / "docs" / "fastpath.md").read_text().replace("\n", " ")
    assert advice(interface("ice", mtu=LARGEST_XDP_MTU), "xdp", {}).grade is Grade.GOOD


def test_the_drivers_of_the_documents_are_known() -> None:
    text = (REPOSITORY / "docs" / "fastpath.md").read_text()
    (named,) = re.findall(r"^\| a driver with a page per packet \(([^)]*)\)", text, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", named)) <= _GOOD_DRIVERS | {"virtio_net"}


@pytest.mark.parametrize(
    ("cpus", "told"),
    [
        ((), []),
        ((0, 3, 8), []),
        ((3, 4, 9), ["this host has no CPU 4, 9: it runs on the others"]),
        ((4,), ["this host has no CPU 4: it runs on any core, also on those that take packets"]),
    ],
)
def test_cores_of_the_owner_that_are_not_there_are_named(cpus: tuple[int, ...], told: list[str]) -> None:
    assert [each.found for each in owner(cpus, "0-3,8\n")] == told


def test_this_host_is_asked_for_them() -> None:
    config = Config(fastpath=FastPathConfig(interfaces=("lo",), owner_cpus=(8191,)))
    (told,) = [each for each in checks(config) if each.about == "fast path's owner"]
    assert told.found.startswith("this host has no CPU 8191: it runs on any core")
