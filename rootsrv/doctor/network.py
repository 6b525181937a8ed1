"""The network side: two interfaces kept apart (deploy/network), addresses, sysctls, routing rules, packet filter."""

import ipaddress
import json
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.process import held_back
from rootsrv.server.sockets import BACKLOG

TABLE = 53
"""Routing table of responses (deploy/network/rootsrv-network)."""

_LOCAL_TABLE = 255  # linux/rtnetlink.h: RT_TABLE_LOCAL
_PROTOCOL_KERNEL = 2  # RTPROT_KERNEL
_SCRIPT = "rootsrv-network"
_INSTALL_SYSCTLS = "install deploy/network/60-rootsrv.conf in /etc/sysctl.d; sysctl --system"
_SBIN = "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"

# What must hold on every interface, and why (deploy/network/60-rootsrv.conf has these, and buffers besides).
SYSCTLS = {
    "net.ipv4.conf.{}.arp_ignore": "1",
    "net.ipv4.conf.{}.arp_announce": "2",
    "net.ipv4.conf.{}.rp_filter": "1",
    "net.ipv4.conf.{}.accept_source_route": "0",
    "net.ipv6.conf.{}.accept_source_route": "0",
    "net.ipv4.conf.{}.accept_redirects": "0",
    "net.ipv6.conf.{}.accept_redirects": "0",
    "net.ipv6.conf.{}.accept_ra": "0",
}
SYSCTLS_OF_THE_HOST = {
    "net.ipv4.ip_forward": "0",
    "net.ipv6.conf.all.forwarding": "0",
    "net.ipv4.tcp_syncookies": "1",
    "net.ipv4.tcp_synack_retries": "2",
    "net.ipv4.tcp_fastopen": "0",
}
SYSCTLS_AT_LEAST = {
    "net.core.somaxconn": BACKLOG,
    "net.ipv4.tcp_max_syn_backlog": 2 * BACKLOG,
}
"""Where what floods waits: with less, connections are lost that a worker would have taken."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """network.conf: interfaces and addresses of both sides."""

    admin_interface: str
    admin_addresses: tuple[str, ...]
    service_interface: str
    service_addresses: tuple[str, ...]
    link_addresses: tuple[str, ...]
    service_tls_ports: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> "NetworkSettings":
        """From the file at *path*; OSError when there is none, ConfigError when it is not in its form."""
        values = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                words = shlex.split(line, comments=True)
            except ValueError as error:
                raise ConfigError(f"{path} line {number}: {error}") from error
            if words:
                name, sign, value = words[0].partition("=")
                if not sign or len(words) > 1:
                    raise ConfigError(f'{path} line {number}: must be NAME="value value"')
                values[name] = value

        def words_of(name: str) -> tuple[str, ...]:
            return tuple(values.get(name, "").split())

        for name in ("ADMIN_INTERFACE", "SERVICE_INTERFACE"):
            if not values.get(name):
                raise ConfigError(f"{path}: {name} is missing")
        return cls(
            values["ADMIN_INTERFACE"], words_of("ADMIN_ADDRESSES"), values["SERVICE_INTERFACE"],
            words_of("SERVICE_ADDRESSES"), words_of("LINK_ADDRESSES"), words_of("SERVICE_TLS_PORTS"),
        )  # fmt: skip


def checks(config: Config, conf: Path) -> Iterator[Finding]:
    """All of them; *conf* is network.conf."""
    there = addresses_by_interface()
    yield from _service_addresses(config, there)
    yield from _admin_addresses(config, there)
    yield from _sysctls(SYSCTLS_OF_THE_HOST)
    yield from _queues()
    yield _buffers()
    try:
        settings = NetworkSettings.read(conf)
    except FileNotFoundError:
        yield remark(
            "network", f"{conf} does not exist: that two interfaces are kept apart is not checked",
            f"fill in deploy/network/network.conf and put it there, then {_SCRIPT} check",
        )  # fmt: skip
        return
    except (OSError, ConfigError) as error:
        yield bad("network", str(error), f"{_SCRIPT} check")
        return
    yield from _same(config, settings, conf)
    yield from _interfaces(settings, there)
    yield from _sysctls(
        {
            name.format(interface): value
            for interface in (settings.admin_interface, settings.service_interface)
            for name, value in SYSCTLS.items()
        }
    )
    yield from _rules(settings)
    yield _filter(settings)


def addresses_by_interface() -> dict[str, set[str]]:
    """What each interface has, in the form in which `ipaddress` writes addresses."""
    with IPRoute() as netlink:
        names = {link["index"]: str(link.get("ifname")) for link in netlink.get_links()}
        found: dict[str, set[str]] = {name: set() for name in names.values()}
        for each in netlink.get_addr():
            text = each.get("local") or each.get("address")
            if text:
                found[names[each["index"]]].add(str(ipaddress.ip_address(text)))
    return found


def _service_addresses(config: Config, there: dict[str, set[str]]) -> Iterator[Finding]:
    managed = config.anycast is not None and config.anycast.manage_addresses
    for text in config.service.addresses:
        about = f"service address {text}"
        where = [name for name, addresses in there.items() if str(ipaddress.ip_address(text)) in addresses]
        if ":" in text and not Path("/proc/net/if_inet6").exists():
            yield bad(about, "IPv6 is off", "boot without ipv6.disable=1, or leave IPv6 addresses out")
        elif where:
            if held := held_back.why(text):
                yield bad(about, held, "see which host has it (ip -6 neigh, ndisc6), or give this one another address")
            else:
                yield good(about, f"on {', '.join(where)}")
        elif held := held_back.why(text):
            yield bad(about, held, "sysctl net.ipv6.conf.all.disable_ipv6=0, or leave IPv6 addresses out")
        elif managed:
            yield good(about, "not there yet: rootsrv puts it on lo when it starts (anycast.manage_addresses)")
        else:
            yield bad(
                about, "is on no interface",
                f"ip address add {text}/{128 if ':' in text else 32} dev lo, or set anycast.manage_addresses = true",
            )  # fmt: skip
        yield from _somebody_else(text, config.service.port, is_there=bool(where), runtime=config.state)


def _somebody_else(text: str, port: int, *, is_there: bool, runtime: Any) -> Iterator[Finding]:
    """Whether another server has our port."""
    if not is_there or (Path(runtime.runtime_directory) / "serve.sock").exists():
        return
    yield from taken(
        text, port, (socket.SOCK_DGRAM, socket.SOCK_STREAM), "end it: no other service on a service address"
    )


def taken(text: str, port: int, kinds: Sequence[socket.SocketKind], mend: str) -> Iterator[Finding]:
    """Whether *port* of the address *text*, which this host has, is another server's; *mend*: what is to be done."""
    for kind in kinds:
        with socket.socket(socket.AF_INET6 if ":" in text else socket.AF_INET, kind) as probe:
            try:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((text, port))
            except PermissionError:
                return  # who may not bind cannot tell
            except OSError as error:
                name = "TCP" if kind == socket.SOCK_STREAM else "UDP"
                yield bad(
                    f"{name} port {port} of {text}", str(error.strerror),
                    f"see who has it (ss -lnp sport = :{port}) and {mend}",
                )  # fmt: skip


def _admin_addresses(config: Config, there: dict[str, set[str]]) -> Iterator[Finding]:
    on_host = set().union(*there.values())
    for text in config.admin.addresses:
        if str(ipaddress.ip_address(text)) in on_host:
            yield good(f"admin address {text}", "is on this host")
        else:
            yield bad(
                f"admin address {text}", "is on no interface",
                "put it on the administrative interface (/etc/network/interfaces)",
            )  # fmt: skip


def _same(config: Config, settings: NetworkSettings, conf: Path) -> Iterator[Finding]:
    """network.conf and rootsrv.toml speak of the same addresses."""
    pairs = (
        ("service.addresses", config.service.addresses, "SERVICE_ADDRESSES", settings.service_addresses),
        ("admin.addresses", config.admin.addresses, "ADMIN_ADDRESSES", settings.admin_addresses),
    )
    for key, ours, name, theirs in pairs:
        try:
            differ = {ipaddress.ip_address(each) for each in ours} ^ {ipaddress.ip_address(each) for each in theirs}
        except ValueError as error:
            yield bad(f"{conf.name} {name}", str(error), f"mend {name} in {conf}")
            continue
        if differ and (ours or name == "SERVICE_ADDRESSES"):
            told = ", ".join(sorted(map(str, differ)))
            yield bad(f"{conf.name} {name}", f"differs from {key}: {told}", f"make {name} in {conf} and {key} equal")
    ports = set() if config.dot is None else {str(config.dot.port)}
    if ports != set(settings.service_tls_ports):
        told = f"{' '.join(settings.service_tls_ports) or 'nothing'}, DNS over TLS has {' '.join(ports) or 'no port'}"
        mend = f'SERVICE_TLS_PORTS="{" ".join(ports)}" in {conf}, then: {_SCRIPT} firewall up'
        yield bad(f"{conf.name} SERVICE_TLS_PORTS", f"lets through {told}", mend)


def _interfaces(settings: NetworkSettings, there: dict[str, set[str]]) -> Iterator[Finding]:
    for name, wanted in (
        (settings.admin_interface, settings.admin_addresses),
        (settings.service_interface, settings.link_addresses),
    ):
        about = f"interface {name}"
        if name not in there:
            yield bad(about, f"does not exist (there are: {', '.join(sorted(there))})", "ip link; mend network.conf")
            continue
        state = (
            (Path("/sys/class/net") / name / "operstate").read_text(encoding="utf-8").strip()
            if _in_sysfs(name)
            else "unknown"
        )
        if state == "down":
            yield bad(about, "is down", f"ip link set {name} up; is the cable in?")
            continue
        missing = [each for each in wanted if str(ipaddress.ip_address(each)) not in there[name]]
        if missing:
            yield bad(
                about, f"{', '.join(missing)} is not on it", f"ip address add … dev {name}; keep it in interfaces(5)"
            )
        else:
            yield good(about, f"{state}, {', '.join(wanted)}")


def _in_sysfs(name: str) -> bool:
    return (Path("/sys/class/net") / name / "operstate").exists()


def _sysctls(wanted: dict[str, str]) -> Iterator[Finding]:
    wrong = 0
    for key, value in wanted.items():
        path = Path("/proc/sys", *_parts(key))
        try:
            found = path.read_text(encoding="utf-8").strip()
        except OSError:
            continue  # a family that is off, an interface that is named elsewhere
        everywhere = _of_all(key)
        # For these two the kernel takes the greater of the interface's value and that of `all`.
        if key.rpartition(".")[2] in {"rp_filter", "arp_ignore", "arp_announce"} and everywhere:
            found = max(found, everywhere)
        if found != value:
            wrong += 1
            yield bad(f"sysctl {key}", f"is {found}, must be {value}", _INSTALL_SYSCTLS)
    if not wrong and wanted:
        yield good("sysctl", f"{len(wanted)} values as they should be, from {next(iter(wanted))} on")


def _queues() -> Iterator[Finding]:
    for key, least in SYSCTLS_AT_LEAST.items():
        try:
            found = int(Path("/proc/sys", *_parts(key)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if found < least:
            yield bad(f"sysctl {key}", f"is {found}, must be at least {least}", _INSTALL_SYSCTLS)


def _parts(key: str) -> list[str]:
    """The path of a key; an interface's name (eth0.100) may hold dots."""
    before, sign, rest = key.partition(".conf.")
    if not sign:
        return key.split(".")
    interface, _, last = rest.rpartition(".")
    return [*before.split("."), "conf", interface, last]


def _of_all(key: str) -> str:
    before, sign, rest = key.partition(".conf.")
    if not sign:
        return ""
    try:
        return (
            Path("/proc/sys", *before.split("."), "conf", "all", rest.rpartition(".")[2])
            .read_text(encoding="utf-8")
            .strip()
        )
    except OSError:
        return ""


def _buffers() -> Finding:
    wanted = 16 * 1024 * 1024
    try:
        found = int(Path("/proc/sys/net/core/rmem_max").read_text(encoding="utf-8"))
    except OSError:
        return remark("receive buffers", "net.core.rmem_max is not to be seen from here", "look at it on the host")
    if found < wanted:
        return remark(
            "receive buffers", f"net.core.rmem_max is {found}, {wanted} are asked for", _INSTALL_SYSCTLS
        )  # fmt: skip
    return good("receive buffers", f"up to {found:,} octets")


def _rules(settings: NetworkSettings) -> Iterator[Finding]:
    """Responses leave by the service interface, or not at all."""
    mend = f"{_SCRIPT} routing up (systemctl enable --now rootsrv-routing)"
    with IPRoute() as netlink:
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            addresses = [each for each in settings.service_addresses if (":" in each) == (version == 6)]
            if not addresses:
                continue
            about = f"routing rules for IPv{version}"
            rules = list(netlink.get_rules(family=family))
            index = netlink.link_lookup(ifname=settings.service_interface)
            bound = {str(rule.get("src")) for rule in rules if rule.get("table") == TABLE}
            if not any(rule.get("table") == _LOCAL_TABLE for rule in rules):
                yield bad(about, "no rule leads to the table local: this box reaches nobody", mend)
                continue
            unruled = [each for each in addresses if str(ipaddress.ip_address(each)) not in bound]
            if unruled:
                yield bad(about, f"responses from {', '.join(unruled)} leave by any interface", mend)
                continue
            ways = [
                route
                for route in netlink.get_routes(family=family)
                if route.get("table") == TABLE and not route.get("dst") and route.get("oif") in index
            ]
            if not ways:
                yield bad(about, f"table {TABLE} has no default route over {settings.service_interface}", mend)
                continue
            apart = {str(rule.get("dst")) for rule in rules if rule.get("iifname") == settings.service_interface}
            open_ = [
                each
                for each in settings.admin_addresses
                if (":" in each) == (version == 6) and str(ipaddress.ip_address(each)) not in apart
            ]
            if open_:
                yield bad(about, f"{', '.join(open_)} is reachable over {settings.service_interface}", mend)
            elif any(r.get("table") in {TABLE, _LOCAL_TABLE} and r.get("protocol") != _PROTOCOL_KERNEL for r in rules):
                found = "without the mark `protocol kernel`: systemd-networkd would take them away"
                yield remark(about, found, mend)
            else:
                yield good(about, f"responses leave by {settings.service_interface}")


def _filter(settings: NetworkSettings) -> Finding:
    about = "packet filter"
    nft = shutil.which("nft", path=_SBIN)
    if nft is None:
        return bad(about, "nft is not installed", "apt install nftables")
    loaded: set[str] = set()
    for name in ("service4", "service6"):
        done = subprocess.run(
            [nft, "-j", "list", "set", "inet", "rootsrv", name], capture_output=True, text=True, check=False
        )
        if "Operation not permitted" in done.stderr:
            return remark(about, "only root can see it", "sudo rootsrv doctor")
        if done.returncode:
            mend = f"{_SCRIPT} firewall up (systemctl enable --now rootsrv-firewall)"
            return bad(about, "the table inet rootsrv is not loaded", mend)
        parts = json.loads(done.stdout)["nftables"]
        loaded |= {str(each) for part in parts for each in part.get("set", {}).get("elem", [])}
    wanted = {str(ipaddress.ip_address(each)) for each in settings.service_addresses}
    if loaded != wanted:
        told = f"lets {', '.join(sorted(loaded)) or 'nothing'} through, should be {', '.join(sorted(wanted))}"
        return bad(about, told, f"{_SCRIPT} firewall up")
    return good(about, "loaded")
