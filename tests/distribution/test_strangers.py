"""Who is known by an address only, whose address is to be proved, and whose key goes while it is used."""

import contextlib
import socket
from typing import Any

import dns.tsig

from rootsrv.config.zones import PeerConfig
from rootsrv.demo import generate
from rootsrv.distribution.limits import TransferLimits
from rootsrv.distribution.requests import Asker, Given
from rootsrv.wire import tsig
from rootsrv.wire.codes import REFUSED, SERVFAIL
from rootsrv.wire.message import parse
from tests.distribution.service import PEER, SECRET, query, send, service
from tests.distribution.test_requests import ONE, TWO, SlowVersions, ixfr, transferred
from tests.framing import receive
from tests.server.live import wait_until


def test_a_key_that_is_deleted_ends_the_transfer_that_it_signs_and_no_other() -> None:
    other = PeerConfig(name="other", address="127.0.0.1", key="other.example.")
    more = tsig.Key.make(b"\5other\7example\0", "hmac-sha256", SECRET)
    with service() as made:
        made.put(generate.root_contents(serial=5, tlds=1440, seed=1))
        ours = made.peers.keys[b"\3key\7example\0"]
        made.call(lambda: made.peers.configure({ours.name: ours, more.name: more}, [PEER, other]))
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(20)
        slow.connect((made.address, made.port))
        for _ in range(40):  # more than fits into any buffer
            send(slow, query("AXFR"))
        receive(slow)
        made.call(lambda: made.peers.configure({more.name: more}, [PEER, other]))
        messages = 1
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                receive(slow)
                messages += 1
        slow.close()
        assert 1 <= messages < 40 * len(made.zone._made[None].result().messages)
        assert made.call(lambda: made.requests.security.counts["transfer_refused"]) == 1
        wait_until(lambda: made.call(lambda: made.requests.counts.running) == 0, "its place is free")
        theirs = dns.tsig.Key("other.example.", SECRET, "hmac-sha256")
        with made.connect() as client:
            assert transferred(client, query("AXFR", key=theirs), None).complete


class Stranger:
    """Somebody who is known by where he comes from only."""

    def __init__(self, name: str, *, over_tcp_only: bool = False) -> None:
        self.name = name
        self.proved = False
        self.over_tcp_only = over_tcp_only
        self.heard: list[tuple[str, int]] = []

    def given(self, what: Given) -> None:
        """See Recipient."""

    def told(self, zone: str, serial: int) -> None:
        """See Recipient."""
        self.heard.append((zone, serial))


def test_who_is_known_by_his_address_only_has_fewer_places_and_zones_and_takes_none_of_the_others() -> None:
    kept = SlowVersions()
    limits = TransferLimits(unproved_at_a_time=2, unproved_whole_per_serial=3)
    with service(kept=kept, limits=limits) as made, contextlib.ExitStack() as stack:
        made.put(TWO)
        proved = made.peers.recipient

        def recipient(asker: Asker, key: Any, apex: bytes) -> Any:
            return proved(asker, key, apex) if key else Stranger("127.0.0.0/24")

        made.peers.recipient = recipient  # type: ignore[method-assign]
        for _ in range(2):
            client = stack.enter_context(made.connect())
            send(client, ixfr(1, with_key=False))
        wait_until(lambda: made.call(lambda: made.requests.counts.unproved) == 2, "two are being answered")
        assert parse(made.tcp(query("AXFR", key=None))).rcode == SERVFAIL
        assert parse(made.tcp(query("AXFR"))).rcode == 0
        kept.ready.set()
        wait_until(lambda: made.call(lambda: made.requests.counts.unproved) == 0, "their places are free")
        assert [parse(made.tcp(query("AXFR", key=None))).rcode for _ in range(4)] == [0, 0, 0, REFUSED]
        assert parse(made.tcp(query("AXFR"))).rcode == 0


def test_who_is_to_prove_his_address_is_told_to_come_over_tcp() -> None:
    with service() as made:
        made.put(ONE)
        stranger = Stranger("somebody", over_tcp_only=True)
        made.peers.recipient = lambda asker, key, apex: stranger  # type: ignore[method-assign]
        told = parse(made.udp(query("SOA", edns=0)))
        assert (told.truncated, told.answers, told.has_opt) == (True, (), True)
        assert stranger.heard == []
        assert parse(made.tcp(query("SOA"))).answers
        assert stranger.heard == [(".", 1)]
