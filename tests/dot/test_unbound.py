"""Unbound asks the root over TLS: it offers no ALPN, authenticates nobody, and pads."""

import subprocess
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from bench.peers.daemon import free_port, running
from tests.dot.client import Dot
from tests.needs import require_tool


@pytest.mark.parametrize("manner", ["tls-upstream", "stub-tls-upstream"])
def test_unbound_has_the_root_over_tls(dot: Dot, tmp_path: Path, manner: str) -> None:
    unbound, port = require_tool("unbound"), free_port("127.0.0.1")
    everywhere = "yes" if manner == "tls-upstream" else "no"
    configuration = tmp_path / "unbound.conf"
    configuration.write_text(
        f"""
server:
    interface: 127.0.0.1
    port: {port}
    username: ""
    chroot: ""
    directory: "{tmp_path}"
    pidfile: "{tmp_path}/unbound.pid"
    use-syslog: no
    logfile: ""
    do-daemonize: no
    do-not-query-localhost: no
    num-threads: 1
    module-config: "iterator"
    tls-upstream: {everywhere}
remote-control:
    control-enable: no
stub-zone:
    name: "."
    stub-addr: 127.0.0.1@{dot.port}
    stub-prime: no
    stub-tls-upstream: yes
"""
    )
    subprocess.run(["unbound-checkconf", str(configuration)], check=True, capture_output=True, timeout=10)
    before = dot.counted("handshakes")

    def ask(name: str, rtype: str, timeout: float = 5) -> dns.message.Message:
        return dns.query.udp(dns.message.make_query(name, rtype), "127.0.0.1", timeout=timeout, port=port)

    def is_there() -> bool:
        try:
            return ask(".", "SOA", 1).rcode() == dns.rcode.NOERROR
        except (OSError, dns.exception.Timeout):
            return False

    with running("unbound", [unbound, "-d", "-c", str(configuration)], tmp_path / "log", is_there):
        assert ask(".", "SOA").answer
        assert ask("nosuchtld.", "A").rcode() == dns.rcode.NXDOMAIN
        assert ask("x.nosuchtld.", "AAAA").rcode() == dns.rcode.NXDOMAIN
    assert dot.counted("handshakes") > before
    assert dot.counted("failed") == 0
