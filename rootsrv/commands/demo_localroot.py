"""`rootsrv demo --localroot`: a LocalRoot service with its pages; an Unbound and a BIND have the root from it."""
# Everything is on loopback and in a directory that goes with the process: a generated root, the service, the pages, and
# two resolvers with the configuration that the service's pages would give their operators.  Then a new version of the
# root is published, and how long it takes until both resolvers have it is shown.

import asyncio
import base64
import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
import dns.tsig
from rich.console import Console

from rootsrv.commands.demo import ended_by_signals, typed_name
from rootsrv.control import client
from rootsrv.demo import signed
from rootsrv.localroot import register
from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import Servers, ServerWish
from rootsrv.localroot.subscribers import LiveKey
from rootsrv.portal.accounts import Accounts
from rootsrv.process import json_text
from rootsrv.process.children import ends_with_us, environment
from rootsrv.resolvers.software import SOFTWARE
from rootsrv.resolvers.wanted import Publisher, ResolverKey, ResolverSetup
from rootsrv.roles.supervisor import SUPERVISOR
from rootsrv.server.sockets import CannotBind, refuse_if_taken
from rootsrv.zone.dnssec import ECDSAP256SHA256

SERVICE, PORT = "127.0.0.20", 5320
UNBOUND, BIND, RESOLVER_PORT = "127.0.0.21", "127.0.0.1", 5321  # BIND listens where an interface has the address
UNBOUND_ASKS_FROM = (UNBOUND, "127.0.0.1")
"""Over TCP Unbound binds no `outgoing-interface` when it transfers: the kernel chooses, and not what it listens at."""

PAGES_PORT = 8453
NAME = "localroot.demo.example"
ZONES = (".", "root-servers.net.")
TLDS = 300
_PATIENCE_SECONDS = 60.0
_VALIDITY_SECONDS = 13 * 86_400


class DemoFailed(Exception):
    """A part did not start, or did not do what it should; the text says which and why."""


@dataclass
class _Parts:
    """What runs, and where its log is."""

    directory: Path
    processes: dict[str, "subprocess.Popen[bytes]"]

    def start(self, name: str, command: list[str]) -> None:
        """Begin a process that ends with us: of `rootsrv run`, which sees to it, or of another program."""
        if command[0] != sys.executable:
            command = ends_with_us(command)
        with (self.directory / f"{name}.log").open("wb") as output:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment() | {SUPERVISOR: str(os.getpid())},
                start_new_session=True,
            )

    def log(self, name: str) -> str:
        """What it has said."""
        return (self.directory / f"{name}.log").read_text(errors="replace", encoding="utf-8")

    def wait(self, name: str, what: str, condition: Callable[[], bool]) -> float:
        """Seconds until *condition*; DemoFailed, with the end of the log of *name*, if it does not come true."""
        began = time.monotonic()
        while not condition():
            ended = self.processes[name].poll() is not None
            if ended or time.monotonic() > began + _PATIENCE_SECONDS:
                how = "it has ended" if ended else f"not so after {_PATIENCE_SECONDS:.0f} s"
                raise DemoFailed(f"{name}: {how}; awaited: {what}\n{self.log(name)[-2000:]}")
            time.sleep(0.01)
        return time.monotonic() - began

    def end(self) -> None:
        """All of them."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def run(*, once: bool = False) -> int:
    """`rootsrv demo --localroot`: until Ctrl-C or SIGTERM, or with *once* until all has been shown; the exit status."""
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    with ended_by_signals(), tempfile.TemporaryDirectory(prefix="rootsrv-localroot-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        parts = _Parts(directory, {})
        try:
            _show(console, parts)
            if not once:
                console.print("\nCtrl-C stops it.")
                parts.processes["service"].wait()
                raise DemoFailed(f"service: ended\n{parts.log('service')[-2000:]}")
        except DemoFailed as error:
            console.print(f"rootsrv: {error}")
            return 1
        except KeyboardInterrupt:
            console.print("Stopping.")
        finally:
            parts.end()
    return 0


def _show(console: Console, parts: _Parts) -> None:
    began = time.monotonic()
    _refuse_without_what_the_pages_need()
    programs = {name: _program(name) for name in ("unbound", "named")}
    _refuse_where_somebody_listens()
    console.print(f"A root of {TLDS} TLDs, generated and signed; the service verifies it as a real one.")
    now = time.time()
    first = signed.generate_root(
        inception=now - 3600,
        expiration=now + _VALIDITY_SECONDS,
        serial=int(time.strftime("%Y%m%d01", time.gmtime(now))),
        tlds=TLDS,
        algorithm=ECDSAP256SHA256,
    )
    directory = parts.directory
    _configure(directory, first)
    keys = _sign_up(directory)
    command = [sys.executable, "-m", "rootsrv", "run", "--config", str(directory / "rootsrv.toml"), "--role"]
    parts.start("service", [*command, "localroot"])
    parts.start("pages", [*command, "portal"])
    parts.wait("service", "the root is given out", lambda: "zone is given out zone=." in parts.log("service"))
    parts.wait("service", "the servers are known", lambda: "register read servers=2" in parts.log("service"))
    for address in UNBOUND_ASKS_FROM:
        _prove(keys["Unbound"], address)
    parts.start("Unbound", [programs["unbound"], "-d", "-c", str(_unbound(directory))])
    parts.start("BIND", [programs["named"], "-4", "-g", "-n", "1", "-c", str(_bind(directory, first, keys["BIND"]))])
    for name, address in (("Unbound", UNBOUND), ("BIND", BIND)):
        parts.wait(name, "it has the root", lambda address=address: _serial(address) == first.root.serial)  # type: ignore[misc]
    # Which shows that its address is proved: it has asked over TCP, with its key.
    parts.wait("service", "BIND's address is proved", lambda: f"address={BIND}" in parts.log("service"))
    console.print(f"Unbound ({UNBOUND}) and BIND ({BIND}) have serial {first.root.serial} from {SERVICE}.")
    second = signed.generate_successor(first)
    (directory / "root.next").write_text(second.root_text, encoding="utf-8")
    (directory / "root.next").replace(directory / "root.zone")
    published = time.monotonic()
    _refresh(directory)
    for name, address in (("Unbound", UNBOUND), ("BIND", BIND)):
        parts.wait(name, "the new root", lambda address=address: _serial(address) == second.root.serial)  # type: ignore[misc]
        console.print(f"{name} has the new root {time.monotonic() - published:.1f} s after it was published.")
    _shown_as_good(parts)
    parts.wait("pages", "they answer", _answers_http)
    link = subprocess.run(
        [sys.executable, "-m", "rootsrv", "localroot", "invite", "you@example.net",
         "--config", str(directory / "rootsrv.toml")],
        capture_output=True, text=True, timeout=30, check=False, env=environment(),
    )  # fmt: skip
    console.print(f"\nPages: http://localhost:{PAGES_PORT}/")
    console.print(f"An account of your own: {(link.stdout or link.stderr).strip()}")
    console.print(
        f"\nTry:\n  dig @{UNBOUND} -p {RESOLVER_PORT} no-such-tld. A +dnssec     (answered from the copy)\n"
        f"  dig @{BIND} -p {RESOLVER_PORT} . SOA +dnssec\n"
        f"  dig @{SERVICE} -p {PORT} . AXFR                        (without a key, since ZONEMD covers it)\n"
        f"  {typed_name()} localroot servers --config {directory}/rootsrv.toml"
    )
    console.print(f"\nReady after {time.monotonic() - began:.1f} s.")


def _shown_as_good(parts: _Parts) -> None:
    """Wait until the service's own view is that both have it; DemoFailed."""
    directory = parts.directory
    command = [sys.executable, "-m", "rootsrv", "localroot", "servers", "--json", "--config",
               str(directory / "rootsrv.toml")]  # fmt: skip

    def good() -> bool:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=environment())
        return [each["state"] for each in json_text.parse(asked.stdout or "[]")] == ["good", "good"]

    parts.wait("service", "it saw both servers fetch the new root", good)


def _refuse_without_what_the_pages_need() -> None:
    try:
        import rootsrv.roles.portal  # noqa: F401
    except ModuleNotFoundError as error:
        raise DemoFailed(
            f"the pages need {error.name}, which is not installed: {sys.executable} -m pip install 'rootsrv[portal]'"
            " (in a clone: make demo-localroot)"
        ) from error


def _refuse_where_somebody_listens() -> None:
    """Before a stranger, or the demo in another window, is taken for a part of this one."""
    both, pages = (socket.SOCK_DGRAM, socket.SOCK_STREAM), (socket.SOCK_STREAM,)
    for address, port, kinds in (
        (SERVICE, PORT, both),
        (UNBOUND, RESOLVER_PORT, both),
        (BIND, RESOLVER_PORT, both),
        ("127.0.0.1", PAGES_PORT, pages),
    ):
        try:
            refuse_if_taken(address, port, kinds)
        except CannotBind as error:
            raise DemoFailed(f"{error.strerror}; is this demo running already?") from error


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise DemoFailed(f"{name} is not installed (Debian: apt-get install unbound bind9)")
    return path


def _configure(directory: Path, zones: signed.GeneratedRoot) -> None:
    (directory / "root.zone").write_text(zones.root_text, encoding="utf-8")
    (directory / "hosts.zone").write_text(zones.hosts_text, encoding="utf-8")
    (directory / "anchors").write_text(zones.trust_anchor, encoding="utf-8")
    (directory / "rootsrv.toml").write_text(
        f"""\
service = {{ addresses = ["127.0.0.29"] }}
state = {{ directory = "state", runtime_directory = "run" }}
clock = {{ source = "trusted" }}
zone = [
  {{ name = ".", file = "root.zone", trust_anchors = "anchors", zonemd = "required" }},
  {{ name = "root-servers.net.", file = "hosts.zone", validation = "none" }},
]

[localroot]
name = "{NAME}"
addresses = ["{SERVICE}"]
port = {PORT}
notify_port = {RESOLVER_PORT}

[portal]
url = "http://localhost:{PAGES_PORT}"
addresses = ["127.0.0.1"]
port = {PAGES_PORT}
key_domain = "{NAME}"
zones = [".", "root-servers.net."]
publishers = ["{SERVICE}@{PORT}"]
private_addresses = true
""",
        encoding="utf-8",
    )


def _sign_up(directory: Path) -> dict[str, LiveKey]:
    """Both resolvers, as their operator would on the pages."""
    now = time.time()
    accounts = Register(directory / "state" / register.DIRECTORY)
    servers = Servers(accounts, NAME, ZONES, private=True)
    users = Accounts(accounts)
    _, user = users.use_link(users.links.new("begin", "demo@example.net", None, now), now)
    keys = {}
    for name, software, addresses in (("Unbound", "unbound", UNBOUND_ASKS_FROM), ("BIND", "bind", (BIND,))):
        server = servers.add(user.id, ServerWish(name, software, addresses, (".",)), now)
        keys[name] = servers.new_key(user.id, server, now)
    accounts.close()
    return keys


def _prove(key: LiveKey, address: str) -> None:
    """What `dig -y … +tcp` does beside Unbound, which knows no TSIG: its *address* is proved."""
    query = dns.message.make_query(".", "SOA")
    query.use_tsig(dns.tsig.Key(key.name, key.secret, key.algorithm))
    try:
        dns.query.tcp(query, SERVICE, port=PORT, timeout=10, source=address)
    except (OSError, dns.exception.DNSException) as error:
        raise DemoFailed(f"the service does not answer {address}: {error}") from error


def _unbound(directory: Path) -> Path:
    home = directory / "unbound"
    home.mkdir()
    part = SOFTWARE["unbound"].configuration(ResolverSetup(publishers=(Publisher(SERVICE, PORT),), storage=str(home)))
    path = home / "unbound.conf"
    path.write_text(
        f"""{part}
server:
    interface: {UNBOUND}
    port: {RESOLVER_PORT}
    outgoing-interface: {UNBOUND}
    do-ip6: no
    do-not-query-localhost: no
    username: ""
    chroot: ""
    directory: "{home}"
    pidfile: "{home}/pid"
    use-syslog: no
    module-config: "validator iterator"
    trust-anchor-file: "{directory}/anchors"
remote-control:
    control-enable: no
""",
        encoding="utf-8",
    )
    return path


def _bind(directory: Path, zones: signed.GeneratedRoot, key: LiveKey) -> Path:
    home = directory / "bind"
    home.mkdir()
    signing = ResolverKey(key.name, base64.b64encode(key.secret).decode(), key.algorithm)
    wanted = ResolverSetup(publishers=(Publisher(SERVICE, PORT),), key=signing, storage=str(home))
    anchors = re.sub(
        r"^\. IN DNSKEY (\d+ \d+ \d+) (.*?) ; .*$",
        lambda found: f'. static-key {found[1]} "{found[2].replace(" ", "")}";',
        zones.trust_anchor.strip(),
        flags=re.MULTILINE,
    )
    path = home / "named.conf"
    path.write_text(
        f"""\
options {{
    directory "{home}";
    pid-file "{home}/pid";
    session-keyfile "{home}/session.key";
    managed-keys-directory "{home}";
    listen-on port {RESOLVER_PORT} {{ {BIND}; }};
    listen-on-v6 {{ none; }};
    query-source address {BIND};
    transfer-source {BIND};
    dnssec-validation yes;
    allow-query {{ 127.0.0.0/8; }};
}};
controls {{ }};
trust-anchors {{ {anchors} }};
{SOFTWARE["bind"].configuration(wanted)}""",
        encoding="utf-8",
    )
    return path


def _serial(address: str) -> int | None:
    """The serial of the root that the resolver answers nxdomain with: of its copy."""
    query = dns.message.make_query(f"no-such-tld-{os.urandom(4).hex()}.", "A", want_dnssec=True)
    with contextlib.suppress(OSError, dns.exception.DNSException):
        response = dns.query.udp(query, address, port=RESOLVER_PORT, timeout=1)
        for rrset in response.authority:
            if rrset.rdtype == dns.rdatatype.SOA:
                return int(rrset[0].serial)
    return None


def _refresh(directory: Path) -> None:
    """Have the service look at its primary, as a NOTIFY would."""
    try:
        asyncio.run(client.ask(directory / "run" / "maintain.sock", {"command": "zone-refresh"}, 10.0))
    except client.NoAnswer as error:
        raise DemoFailed(f"the service does not answer: {error}") from error


def _answers_http() -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", PAGES_PORT, timeout=2)
        connection.request("GET", "/", headers={"Host": f"localhost:{PAGES_PORT}"})
        return connection.getresponse().status == 200
    return False
