"""The peers that other tests rely on are real, answer what they were given, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from bench.peers import AUTHORITATIVE, PeerFailed, Serve
from bench.peers.daemon import free_port

FLAT_ZONE = """$TTL 3600
@ SOA a.{name} hostmaster.{name} 17 3600 900 86400 300
@ NS a
a A 192.0.2.1
a AAAA 2001:db8::1
"""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("serve", AUTHORITATIVE.values(), ids=AUTHORITATIVE.keys())
def test_a_peer_answers_for_its_zones_over_udp_and_tcp_and_is_gone_afterwards(
    serve: Serve, address: str, tmp_path: Path
) -> None:
    zones = {name: tmp_path / f"{name}zone" for name in ("example.", "example.net.")}
    for name, path in zones.items():
        path.write_text(FLAT_ZONE.format(name=name))

    with serve(zones, tmp_path, address=address) as peer:
        query = dns.message.make_query("a.example.net.", "AAAA")
        for ask in (dns.query.udp, dns.query.tcp):
            response = ask(query, peer.address, port=peer.port, timeout=5)
            assert [str(rrset) for rrset in response.answer] == ["a.example.net. 3600 IN AAAA 2001:db8::1"]
        assert peer.version[0].isdigit()

    with pytest.raises(ProcessLookupError):
        os.kill(peer.pid, 0)


def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    taken = AUTHORITATIVE["Knot"]
    zone = tmp_path / "zone"
    zone.write_text(FLAT_ZONE.format(name="example."))
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    with taken({"example.": zone}, tmp_path / "first") as peer:
        with pytest.raises(PeerFailed, match="BIND: ended with status 1 at start"):
            with AUTHORITATIVE["BIND"]({"nonsense..": zone}, tmp_path / "second", port=peer.port):
                pass


def test_a_port_is_given_once_to_all_processes() -> None:
    port = free_port()
    program = (
        "from bench.peers import daemon\n"
        f"drawn = iter([{port}, {port}, *range(20000, 20100)])\n"
        "daemon.random.SystemRandom.randrange = lambda *_: next(drawn)\n"
        "print(daemon.free_port('127.0.0.9'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert int(done.stdout) != port
    assert len({free_port("127.0.0.9") for _ in range(200)}) == 200
