"""Publishers that lie, lag or are a captive portal, beside an honest one."""

import contextlib
import http.server
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode
import dns.xfr
import dns.zone

from bench.peers.daemon import free_port, running
from bench.peers.primaries import hidden_primary
from rootsrv.wire import rdata as rdatas
from tests.control.asking import ask
from tests.secondary import versions
from tests.secondary.certificates import Authority
from tests.secondary.scripted import scripted, send_message
from tests.server.live import wait_until

FIRST = versions.FIRST


@dataclass
class Host:
    """`rootsrv hyperlocal` on loopback."""

    directory: Path
    port: int

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    @property
    def options(self) -> list[str]:
        return [
            f"--state={self.directory}/state", f"--runtime={self.directory}/run", f"--port={self.port}",
            "--https-port=0",
            f"--publishers={self.directory}/publishers.toml", f"--trust-anchors={self.directory}/anchors",
            "--address=127.0.0.1", "--notify=127.0.0.1@1",
        ]  # fmt: skip

    def publishers(self, **ports: int) -> None:
        """Write the list: name and port on loopback."""
        ca = f'ca = "{self.directory}/ca.pem"'
        listed = [
            f'name = "{name}"\nurl = "https://127.0.0.1:{port}/root.zone"\n{ca}\n'
            if name == "portal"
            else f'name = "{name}"\naddresses = ["127.0.0.1"]\nport = {port}\n'
            for name, port in ports.items()
        ]
        (self.directory / "publishers.toml").write_text("".join(f"[[publisher]]\n{each}" for each in listed))

    def runs(self, *, clock: str = "", config: Path | None = None) -> contextlib.AbstractContextManager[int]:
        """*clock*: the time that it takes the host's for; *config*: in place of the options."""
        (self.directory / "anchors").write_text(versions.anchor())
        command = ["env", f"ROOTSRV_TEST_CLOCK={clock}"] if clock else []
        options = self.options if config is None else [f"--config={config}"]
        command += [sys.executable, "-m", "rootsrv", "hyperlocal", *options]
        return running("rootsrv", command, self.directory / "log", lambda: bool(self.order("status")))

    def order(self, command: str) -> dict[str, Any]:
        """One request over the control socket; empty while nobody answers."""
        try:
            return ask(self.directory / "run" / "maintain.sock", command)
        except (OSError, ValueError):
            return {}

    def served(self) -> int | None:
        found: int | None = self.order("status")["zones"][0]["served"]
        return found

    def rcode(self) -> int:
        """Of an SOA query, keyless and from loopback."""
        query = dns.message.make_query(".", "SOA")
        return int(dns.query.udp(query, "127.0.0.1", port=self.port, timeout=5).rcode())


@contextlib.contextmanager
def portal(authority: Authority) -> Iterator[int]:
    """Answers everything with 200 and a page to log in."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = b"<html><body>Welcome to our WLAN</body></html>\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certified = authority.certify("portal.example")
    context.load_cert_chain(certified.certificate, certified.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)


def test_what_is_no_use_is_passed_over_and_an_honest_one_is_found(tmp_path: Path) -> None:
    host = Host(tmp_path, free_port())
    authority = Authority(tmp_path)
    good, old = versions.version(FIRST + 1), versions.version(FIRST)
    wrong = versions.with_rdata(
        versions.version(FIRST + 9), rdatas.ZONEMD, lambda rdata: rdata[:-1] + bytes((rdata[-1] ^ 1,))
    )
    with contextlib.ExitStack() as stack:
        primary = lambda name, zone: stack.enter_context(  # noqa: E731
            hidden_primary("Knot", {".": versions.text(zone)}, tmp_path / name, tsig=False)
        )
        honest = primary("honest", good)
        host.publishers(honest=honest.port)
        with host.runs():
            wait_until(lambda: host.served() == FIRST + 1, "the root of the honest one")
            query = dns.message.make_query(".", "AXFR")
            zone = dns.zone.Zone(".", relativize=False)
            dns.query.inbound_xfr("127.0.0.1", zone, query, port=host.port, timeout=20)
            assert zone.get_soa().serial == FIRST + 1
            assert host.rcode() == dns.rcode.NOERROR

        lying, lagging = primary("lying", wrong), primary("lagging", old)
        host.publishers(
            honest=honest.port, lying=lying.port, lagging=lagging.port, portal=stack.enter_context(portal(authority)),
            silent=free_port(),
        )  # fmt: skip
        with host.runs():
            wait_until(lambda: host.served() == FIRST + 1, "the copy of before")

            def all_were_asked() -> bool:
                assert host.order("zone-refresh")["ok"]
                assert host.served() == FIRST + 1
                return (
                    all(
                        f"publisher={name}" in host.log.replace("/127.0.0.1", "")
                        for name in ("lagging", "portal", "silent")
                    )
                    and "ZONEMD" in host.log
                )

            wait_until(all_were_asked, "every publisher had its turn", 60)
            honest.publish(versions.text(versions.version(FIRST + 2)))

            def has_the_new_one() -> bool:
                assert host.order("zone-refresh")["ok"]
                return host.served() == FIRST + 2

            wait_until(has_the_new_one, "the honest one is found among the others", 60)
        assert "Traceback" not in host.log


def test_publishers_that_begin_and_never_end_cost_no_more_than_their_time(tmp_path: Path) -> None:
    host = Host(tmp_path, free_port())
    good = versions.version(FIRST + 1)
    config = tmp_path / "rootsrv.toml"
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(scripted(good)) for _ in range(3)]
        honest = stack.enter_context(scripted(good))
        released = threading.Event()
        stack.callback(released.set)
        for each in (*slow, honest):
            each.key = None

        def begin_only(connection: socket.socket, messages: list[bytes]) -> None:
            send_message(connection, messages[0])
            connection.sendall(messages[1][:9])
            released.wait(60)

        for each in slow:
            each.send = begin_only
        listed = "".join(
            f'[[primary]]\nname = "p{at}"\naddress = "127.0.0.1"\nport = {each.port}\n'
            for at, each in enumerate((*slow, honest))
        )
        config.write_text(
            f"""
service = {{ addresses = ["127.0.0.9"] }}
admin = {{ addresses = ["127.0.0.1"], port = {host.port} }}
hyperlocal = {{ notify = [] }}
zone = [{{ name = ".", trust_anchors = "anchors", zonemd = "required" }}]
state = {{ directory = "state", runtime_directory = "run" }}
refresh = {{ stall_seconds = 2, query_timeout_seconds = 5 }}
switchover = {{ align_seconds = 0, lead_seconds = 0 }}
clock = {{ source = "trusted" }}
{listed}"""
        )
        with host.runs(config=config):
            wait_until(lambda: host.served() == FIRST + 1, "the root of the honest one", 60)
        assert "Traceback" not in host.log


def test_with_every_publisher_dead_it_waits_and_says_so(tmp_path: Path) -> None:
    host = Host(tmp_path, free_port())
    host.publishers(one=free_port(), other=free_port())
    with host.runs():
        wait_until(lambda: "no publisher of 2 is of use" in host.log, "both were asked")
        assert host.served() is None
        assert host.rcode() == dns.rcode.SERVFAIL
        assert "copy is withheld" in host.log
    assert "Traceback" not in host.log


def test_a_clock_that_is_wrong_at_boot_believes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path, free_port())
    with hidden_primary("Knot", {".": versions.text(versions.version(FIRST))}, tmp_path / "p", tsig=False) as primary:
        host.publishers(honest=primary.port)
        with host.runs(clock="1980-01-01T00:00:00Z"):
            wait_until(lambda: "zone rejected" in host.log, "a root of the future was refused")
            assert host.served() is None
            assert host.rcode() == dns.rcode.SERVFAIL
        with host.runs():
            wait_until(lambda: host.served() == FIRST, "with the right clock it is taken")
    # What was kept is judged by the time that was seen last, which was later.
    with host.runs(clock="1980-01-01T00:00:00Z"):
        wait_until(lambda: host.served() == FIRST, "the kept root is there")
        wait_until(lambda: host.rcode() == dns.rcode.NOERROR, "the kept root is given")
