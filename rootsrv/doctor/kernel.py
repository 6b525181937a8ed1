"""The kernel fast path: program, interfaces, drivers, offloads."""

import asyncio
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from rootsrv.config.file import Config
from rootsrv.control import client
from rootsrv.control.client import NoAnswer
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.fastpath.attachment import CannotAttach, FoundInterface, find_interface
from rootsrv.fastpath.program import FastPathUnavailable, Program
from rootsrv.fastpath.staging import NEARLY_FULL

LARGEST_XDP_MTU = 4_096 - 256 - 320 - 22
"""One page (4,096) less headroom (256), skb_shared_info (320) and Ethernet with two tags.

Above it drivers refuse XDP in one buffer."""

# Native XDP that sends replies out of the interface they came in by: drivers that are known to do it.
_GOOD_DRIVERS = {
    "bnxt_en", "ena", "gve", "i40e", "iavf", "ice", "igb", "igc", "ixgbe", "mlx4_en", "mlx5_core", "nfp", "qede", "sfc",
}  # fmt: skip

_NO_XDP_KINDS = {"bridge", "vlan", "macvlan", "ipvlan", "dummy", "ifb"}

_PATIENCE_SECONDS = 10.0

_ONLINE = Path("/sys/devices/system/cpu/online")

_JIT = Path("/proc/sys/net/core/bpf_jit_enable")


def checks(config: Config) -> Iterator[Finding]:
    """All of them; one remark where the fast path is off."""
    if config.fastpath.mode == "off" or not config.fastpath.interfaces:
        yield remark(
            "fast path", "is off: the workers answer everything",
            'name the service interface in fastpath.interfaces, mode = "auto", if it is to answer from the kernel',
        )  # fmt: skip
        return
    required = config.fastpath.mode != "auto"
    yield _program(required=required)
    if _JIT.exists() and _JIT.read_text(encoding="utf-8").strip() == "0":
        yield remark(
            "BPF", "programs are interpreted", "sysctl net.core.bpf_jit_enable=1 (deploy/network/60-rootsrv.conf)"
        )
    yield from owner(config.fastpath.owner_cpus, _ONLINE.read_text(encoding="utf-8"))
    for name in config.fastpath.interfaces:
        try:
            interface = find_interface(name)
        except CannotAttach as error:
            yield bad(f"fast path on {name}", str(error), "ip link; mend fastpath.interfaces")
            continue
        yield advice(interface, config.fastpath.mode, _offloads(name))
    yield from _attached(config)


def owner(cpus: Collection[int], online: str) -> Iterator[Finding]:
    """Whether the CPUs for the program's owner are there; *online* is how the kernel lists them: "0-3,8"."""
    there: set[int] = set()
    for each in online.strip().split(","):
        first, _, last = each.partition("-")
        there |= set(range(int(first), int(last or first) + 1))
    gone = ", ".join(str(cpu) for cpu in sorted(set(cpus) - there))
    if not gone:
        return
    left = "it runs on the others" if there & set(cpus) else "it runs on any core, also on those that take packets"
    yield remark("fast path's owner", f"this host has no CPU {gone}: {left}", "mend fastpath.owner_cpus")


def _program(*, required: bool) -> Finding:
    tell = bad if required else remark
    try:
        Program.load().close()
    except FastPathUnavailable as error:
        reason = str(error)
        if "not permitted" in reason:
            remedy = "run this as root; the units give serve CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        elif "not built" in reason:
            remedy = "install the wheel, which carries it, or: apt install clang libbpf-dev; make bpf"
        elif "libbpf" in reason:
            remedy = "apt install libbpf1"
        else:
            remedy = "Linux 5.15 or newer is needed; until then the workers answer"
        return tell("BPF program", reason, remedy)
    return good("BPF program", "the kernel accepts it")


def advice(interface: FoundInterface, mode: str, features: Mapping[str, str]) -> Finding:
    """What driver, MTU and *features* (as ethtool -k names them) mean for XDP on *interface* (docs/fastpath.md)."""
    about = f"fast path on {interface.name}"
    if mode == "tc":
        return good(about, f"{interface.driver or interface.kind or 'no driver'}, tc: none of its offloads matters")
    driver = interface.driver or interface.kind or "no driver"
    reasons = []
    if why := interface.why_no_xdp():
        on_loopback = "none for a trial; in service name the interface by which queries come in"
        reasons.append((why, on_loopback if interface.is_loopback else "a driver with native XDP"))
    if interface.kernel.mtu > LARGEST_XDP_MTU and not interface.is_loopback:
        reasons.append(
            (f"MTU {interface.kernel.mtu}: no room for XDP in one buffer", f"ip link set {interface.name} mtu 1500")
        )
    if interface.driver == "virtio_net":
        # Replies need a send queue per core; the host decides how many there are.
        reasons.append(
            ("virtio_net has XDP only with twice as many queues as cores, and without LRO",
             f"ethtool -L {interface.name} combined N; ethtool -K {interface.name} lro off, or leave it to tc")
        )  # fmt: skip
    elif interface.kind == "bond":
        members = "name its members in fastpath.interfaces, or leave it to tc"
        reasons.append(("queries come in on the members of a bond", members))
    elif interface.kind in _NO_XDP_KINDS:
        reasons.append((f"{interface.kind} has no native XDP", "name the interface below it, or leave it to tc"))
    elif not reasons and interface.driver not in _GOOD_DRIVERS:
        reasons.append((f"{driver} is not known to send replies from XDP", "try it: rootsrv fastpath status"))
    if features.get("large-receive-offload", "").startswith("on"):
        reasons.append(("LRO is on, with which drivers refuse XDP", f"ethtool -K {interface.name} lro off"))
    if reasons:
        found = "; ".join(reason for reason, _ in reasons)
        tell = bad if mode == "xdp" else remark
        return tell(about, f"{driver}: {found}" + ("" if mode == "xdp" else "; tc is used where XDP cannot be"),
                    "; ".join(remedy for _, remedy in reasons))  # fmt: skip
    if features.get("rx-vlan-offload", "").startswith("on"):
        return remark(
            about, f"{driver}: it takes VLAN tags off, so that replies to tagged queries would lose theirs",
            f"ethtool -K {interface.name} rxvlan off, unless queries come untagged",
        )  # fmt: skip
    return good(about, f"{driver}, MTU {interface.kernel.mtu}")


def features_of(text: str) -> dict[str, str]:
    """Features by name, "on" or "off" and perhaps "[fixed]", from what `ethtool -k` prints."""
    lines = (line.partition(":") for line in text.splitlines()[1:])
    return {key.strip(): value.strip() for key, _, value in lines}


def _offloads(name: str) -> dict[str, str]:
    """Features of an interface by name, on or off; nothing where ethtool is missing."""
    ethtool = shutil.which("ethtool", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if ethtool is None:
        return {}
    done = subprocess.run([ethtool, "-k", name], capture_output=True, text=True, check=False)
    return features_of(done.stdout)


def _attached(config: Config) -> Iterator[Finding]:
    """What the role that runs says; nothing when none does."""
    try:
        socket = Path(config.state.runtime_directory) / "serve.sock"
        status = asyncio.run(client.ask(socket, {"command": "fastpath-status"}, _PATIENCE_SECONDS))
    except NoAnswer:
        return
    octets, room = status.get("table_octets", 0), status.get("table_room", 0)
    if octets:
        share = f"{octets:,} of {room:,} octets ({octets / room:.0%})"
        if octets >= NEARLY_FULL * room:
            yield remark("table in the kernel", share, "beyond that the workers answer alone (docs/fastpath.md)")
        else:
            yield good("table in the kernel", share)
    passes = status.get("counters", {}).get("passes", {})
    for each in status["interfaces"]:
        about = f"attachment to {each['name']}"
        if each["hook"] == "off":
            yield bad(about, each["why"] or status["unavailable"] or "is off", "rootsrv fastpath attach")
        elif passes.get("no_tailroom", 0) > 100:
            yield remark(
                about, f"{each['hook']}: {passes['no_tailroom']:,} replies found no room to grow in",
                f'set fastpath.mode = "tc", or a smaller MTU on {each["name"]}',
            )  # fmt: skip
        else:
            yield good(about, each["hook"])
