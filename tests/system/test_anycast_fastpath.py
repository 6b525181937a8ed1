"""A fast path that goes wrong is taken off, and the workers answer: the route stays."""

import contextlib
import ctypes
import json
import mmap
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.needs import REPOSITORY, require_tool
from tests.server.live import SERIALS, wait_until
from tests.system.anycast_network import VERSIONS, Anycast, Site, anycast_network


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Anycast]:
    """The kernel of a answers, at tc."""
    if not (REPOSITORY / "rootsrv" / "fastpath" / "bpf" / "rootsrv.bpf.o").exists():
        pytest.skip("the BPF program is not built (make bpf)")
    sections = '[fastpath]\nmode = "tc"\ninterfaces = ["to-a"]\n'
    with anycast_network(tmp_path_factory.mktemp("anycast"), more=sections, workers=1) as made:
        wait_until(
            lambda: made.a.ask("serve", {"command": "fastpath-probe"})["state"] == "right", "the fast path is on"
        )
        yield made


def test_the_kernel_limits_everybody_while_the_route_stays_and_nothing_is_lost(
    net: Anycast, measured: list[str]
) -> None:
    load = net.load()
    start = time.time()
    replies = kernel_replies(net.a)
    try:
        with net.a.limiting_everybody() as limited:
            wait_until(lambda: limited() >= 1000, "the limits hit what clients ask")
            end = time.time() + 4.5  # longer than a service that is dead would keep its route
            while time.time() < end:
                assert [net.watch.since(start, version) for version in VERSIONS] == [[], []]
                time.sleep(0.1)
            assert net.a.is_in("up")
            assert kernel_replies(net.a) - replies >= 1000
            assert net.a.ask("serve", {"command": "fastpath-status"})["interfaces"][0]["hook"] != "off"
    finally:
        counts = load.result()
    for version, of in counts.items():
        measured.append(f"limited in the kernel: IPv{version} {len(of['lost'])} of {of['sent']} without answer")
        assert not of["lost"]


def test_a_wrong_fast_path_is_detached_while_traffic_stays_and_loses_nothing(net: Anycast, measured: list[str]) -> None:
    load = net.load()
    wait_until(lambda: kernel_replies(net.a) > 500, "the kernel answers")
    wait_until(lambda: net.a.family(4)["replies_per_second"] > 100, "the controller counts what the kernel answers")

    start = time.time()
    put_another_serial_into_the_kernel(net.a)
    wait_until(
        lambda: "the fast path was detached (wrong:" in "; ".join(net.a.family(4)["alarms"]), "it is detached", 10
    )
    took = time.time() - start
    measured.append(f"wrong fast path detached after {took:.1f} s (bound 5 s)")
    assert took <= 5
    assert net.a.ask("serve", {"command": "fastpath-status"})["interfaces"][0]["hook"] == "off"
    for counts in load.result().values():
        assert counts["lost"] == []
    assert net.a.is_in("up")
    for version in VERSIONS:
        assert net.watch.since(start, version) == []


def kernel_replies(site: Site) -> int:
    """Responses that the kernel has sent."""
    replies = site.ask("serve", {"command": "fastpath-status"})["counters"]["replies"]
    return sum(sum(each.values()) for each in replies.values())


def put_another_serial_into_the_kernel(site: Site) -> None:
    """Change every SOA serial in the answer tables that the kernel holds for *site*, through the maps' memory."""
    (serve,) = site.pids("serve")
    shown = subprocess.run([require_tool("bpftool"), "-j", "map", "show"], capture_output=True, check=True, timeout=20)
    ours = set()
    for path in Path(f"/proc/{serve}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            ours |= {int(number) for number in re.findall(r"^map_id:\s+(\d+)", path.read_text(), re.MULTILINE)}
    maps = [each for each in json.loads(shown.stdout) if each.get("name") == "tables" and each["id"] in ours]
    assert maps, "bpftool shows no table map of this instance"
    libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)
    changed = 0
    for each in maps:
        descriptor = libbpf.bpf_map_get_fd_by_id(each["id"])
        assert descriptor >= 0, os.strerror(ctypes.get_errno())
        with contextlib.closing(mmap.mmap(descriptor, each["bytes_value"] * each["max_entries"])) as memory:
            old, new = (serial.to_bytes(4, "big") for serial in SERIALS)
            at = memory.find(old)
            while at >= 0:
                memory[at : at + 4] = new
                changed += 1
                at = memory.find(old, at + 4)
        os.close(descriptor)
    assert changed
