"""What a service that gives zones out answers: OPT and EXPIRE, TSIG errors, limits, addresses, the smaller transfer."""
# Over 500 lines: what one connection may ask for, and all that can go wrong with it, from one listener.

import asyncio
import contextlib
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.tsig
import pytest

from rootsrv.config.checks import ConfigError
from rootsrv.config.zones import PeerConfig
from rootsrv.demo import generate
from rootsrv.distribution import requests as module
from rootsrv.distribution import streams
from rootsrv.distribution.limits import TransferLimits
from rootsrv.distribution.offered import OfferedZone, OfferState
from rootsrv.distribution.requests import Asker, ConfiguredPeers, Requests
from rootsrv.process.security import SecurityEvents
from rootsrv.wire import tsig
from rootsrv.wire.edns import EXPIRE
from rootsrv.wire.message import parse
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import Inbound, difference
from rootsrv.zone.transfer_out import Difference
from tests.distribution.service import KEY, PEER, SECRET, Service, query, send, service
from tests.framing import receive
from tests.secondary.certificates import Authority
from tests.server.live import wait_until

ROOT = b"\0"
ONE, TWO = (generate.root_contents(serial=serial, tlds=60, seed=1) for serial in (1, 2))
REFUSED, SERVFAIL, NOTIMP, FORMERR, NOTAUTH, BADVERS = 5, 2, 4, 1, 9, 16


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as made:
        made.put(ONE, left=1000.0)
        yield made


def read(octets: bytes, key: dns.tsig.Key | None = KEY, mac: bytes = b"") -> Any:
    return dns.message.from_wire(octets, keyring={KEY.name: KEY} if key else None, request_mac=mac, multi=True)


def signed(message: dns.message.Message) -> bytes:
    message.use_tsig(KEY)
    return message.to_wire()


def notify(edns: int = -1) -> bytes:
    message = dns.message.make_query(".", "SOA", use_edns=False if edns < 0 else edns)
    message.set_opcode(dns.opcode.NOTIFY)
    return signed(message)


def without_question(edns: int) -> bytes:
    message = dns.message.Message()
    message.use_edns(edns)
    return signed(message)


def of_opcode(number: int, edns: int) -> bytes:
    message = dns.message.make_query(".", "SOA", use_edns=edns)
    message.set_opcode(dns.opcode.Opcode(number))
    return signed(message)


# What is signed is made when it is sent: a signature is good for 300 s (RFC 8945 §10), collecting comes long before.
EVERY_ANSWER: dict[str, tuple[Callable[[], bytes], int]] = {
    "SOA": (lambda: query("SOA", edns=0), 0),
    "AXFR": (lambda: query("AXFR", edns=0), 0),
    "IXFR over UDP or of what is current": (lambda: query("IXFR", edns=0), 0),
    "another type": (lambda: query("A", edns=0), REFUSED),
    "of another zone": (lambda: query("SOA", name="example.", edns=0), REFUSED),
    "without a key": (lambda: query("SOA", edns=0, key=None), REFUSED),
    "of another class": (lambda: query("SOA", edns=0, rdclass="CH"), REFUSED),
    "without a question": (lambda: without_question(0), FORMERR),
    "of another opcode": (lambda: of_opcode(5, 0), NOTIMP),
    "NOTIFY": (lambda: notify(0), 0),
    "a key that is not known": (
        lambda: query("SOA", edns=0, key=dns.tsig.Key("other.example.", SECRET, "hmac-sha256")),
        NOTAUTH,
    ),
}


@pytest.mark.parametrize("what", EVERY_ANSWER)
def test_every_answer_to_a_query_with_opt_has_opt_and_no_other_has(running: Service, what: str) -> None:
    octets, rcode = EVERY_ANSWER[what]
    got = parse(running.tcp(octets()))
    assert (got.has_opt, got.rcode) == (True, rcode)
    gives_a_zone = rcode == 0 and what != "NOTIFY"
    assert (EXPIRE in got.options) is gives_a_zone
    if gives_a_zone:
        assert 990 <= int.from_bytes(got.options[EXPIRE], "big") <= 1000
    plain = parse(running.tcp(query("SOA", key=None)))
    assert not plain.has_opt


@pytest.mark.parametrize("over", ["udp", "tcp"])
def test_another_edns_version_is_badvers(running: Service, over: str) -> None:
    for octets in (query("SOA", edns=1), query("SOA", edns=1, key=None), notify(1)):
        got = read(getattr(running, over)(octets), mac=parse_mac(octets))
        assert (got.rcode(), got.edns, got.answer) == (BADVERS, 0, [])


def parse_mac(octets: bytes) -> bytes:
    found = parse(octets).tsig
    return tsig.Tsig.parse(found.rdata).mac if found else b""


def test_a_chain_of_secondaries_does_not_grow_its_leases(running: Service) -> None:
    """EXPIRE is what is left, and over is over (RFC 7314 §4)."""
    running.put(ONE, OfferState.HELD, left=100.0)
    options = parse(running.tcp(query("AXFR", edns=0))).options
    assert 90 <= int.from_bytes(options[EXPIRE], "big") <= 100
    running.put(ONE, left=-1.0)
    over = parse(running.tcp(query("AXFR", edns=0)))
    assert (over.rcode, over.answers, over.options) == (SERVFAIL, (), {})
    running.put(ONE, left=1000.0)


# ── TSIG (RFC 8945 §5.2) ──


def changed(octets: bytes, **fields: Any) -> bytes:
    """*octets* with other contents of its TSIG record."""
    found = parse(octets).tsig
    assert found is not None
    said = tsig.Tsig.parse(found.rdata)
    plain = octets[:10] + bytes(2) + octets[12 : found.start]
    mac = (said.mac + bytes(64))[: fields["mac_octets"]]
    return tsig.with_record(plain, tsig.record(found.owner, said.algorithm, said.timers, mac, said.original_id, 0, b""))


def test_badtime_is_signed_and_has_both_times(running: Service) -> None:
    message = dns.message.make_query(".", "SOA")
    octets = message.to_wire()
    then = int(time.time()) - 10_000
    signer = tsig.Signer(tsig.Key.make(b"\3key\7example\0", "hmac-sha256", SECRET))
    response = running.udp(signer.sign(octets, then))
    got = parse(response)
    assert got.tsig is not None
    assert got.rcode == NOTAUTH
    said = tsig.Checker(tsig.Key.make(b"\3key\7example\0", "hmac-sha256", SECRET), signer.mac).signed(
        response, got.tsig, then
    )
    assert (said.error, said.time_signed) == (tsig.BADTIME, then)
    assert abs(int.from_bytes(said.other, "big") - time.time()) < 100
    with pytest.raises(dns.tsig.PeerBadTime):
        dns.message.from_wire(response, keyring={KEY.name: KEY}, request_mac=signer.mac)


@pytest.mark.parametrize(
    ("make", "rcode", "error"),
    [
        (lambda: query("SOA", key=dns.tsig.Key("key.example.", SECRET, "hmac-sha512")), NOTAUTH, tsig.BADKEY),
        (lambda: query("SOA", key=dns.tsig.Key("key.example.", SECRET, "hmac-sha1")), NOTAUTH, tsig.BADKEY),
        (lambda: query("SOA", key=dns.tsig.Key("nokey.example.", SECRET, "hmac-sha256")), NOTAUTH, tsig.BADKEY),
        (lambda: query("SOA", key=dns.tsig.Key("key.example.", b"x" * 32, "hmac-sha256")), NOTAUTH, tsig.BADSIG),
        (lambda: changed(query("SOA"), mac_octets=16), NOTAUTH, tsig.BADTRUNC),
        (lambda: changed(query("SOA"), mac_octets=31), NOTAUTH, tsig.BADTRUNC),
        (lambda: changed(query("SOA"), mac_octets=15), FORMERR, None),
        (lambda: changed(query("SOA"), mac_octets=0), FORMERR, None),
        (lambda: changed(query("SOA"), mac_octets=33), FORMERR, None),
    ],
    ids=["algorithm", "unsupported", "unknown", "secret", "cut to half", "cut by one", "too short", "none", "too long"],
)
def test_each_fault_of_tsig_is_told_as_the_rfc_has_it(
    running: Service, make: Callable[[], bytes], rcode: int, error: int | None
) -> None:
    octets = make()
    response = running.udp(octets)
    got = parse(response)
    assert got.rcode == rcode
    if error is None:
        assert got.tsig is None
        return
    assert got.tsig is not None
    said = tsig.Tsig.parse(got.tsig.rdata)
    assert said.error == error
    assert bool(said.mac) is (error == tsig.BADTRUNC)  # §5.3.2
    if said.mac:
        key = tsig.Key.make(b"\3key\7example\0", "hmac-sha256", SECRET)
        tsig.Checker(key, parse_mac(octets)).signed(response, got.tsig, time.time())


def test_a_response_over_udp_keeps_to_its_limit() -> None:
    long = b"".join(bytes((60,)) + bytes((letter,)) * 60 for letter in b"abcd") + b"\0"
    key = dns.tsig.Key(dns.name.from_wire(long, 0)[0], SECRET, "hmac-sha512")
    zone = ZoneContents(
        long, {(long, 6): type(ONE.rrsets[ROOT, 6])(long, 6, 60, (long + long + struct.pack("!5I", 1, 2, 3, 4, 5),))}
    )
    with service(apex=long) as made:
        made.put(zone)
        ours = tsig.Key.make(long, "hmac-sha512", SECRET)
        name = dns.name.from_wire(long, 0)[0].to_text()
        peer = PeerConfig(name="peer", address="127.0.0.1", key=name, zones=(name,))
        made.call(lambda: made.peers.configure({ours.name: ours}, [peer]))
        for edns, limit in ((-1, 512), (0, 1232)):
            octets = query("SOA", name=name, edns=edns, key=key)
            got = made.udp(octets)
            assert parse(got).truncated
            assert len(got) <= limit
            assert not parse(made.tcp(octets)).truncated


# ── Addresses as addresses ──


@pytest.mark.parametrize("address", ["0:0:0:0:0:0:0:1", "::1", "0000::0001"])
def test_a_peer_is_known_by_its_address_however_it_is_written(address: str) -> None:
    with service(addresses=("::1",)) as made:
        made.put(ONE)
        made.configure(PeerConfig(name="peer", address=address, key="key.example."))
        assert parse(made.udp(query("SOA"))).rcode == 0
        assert parse(made.tcp(query("AXFR"))).rcode == 0


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "::ffff:7f00:1"])
def test_a_peer_may_be_written_v4_mapped(running: Service, address: str) -> None:
    running.configure(PeerConfig(name="peer", address=address, key="key.example."))
    try:
        assert parse(running.udp(query("SOA"))).rcode == 0
    finally:
        running.configure(PEER)


# ── The smaller, made once ──


class SlowVersions:
    """Kept versions that take their time, until `ready`, and count how often they are read at once."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.at_once = self.most_at_once = self.times = 0

    def serials(self) -> Sequence[int]:
        return [1]

    async def differences(self, serials: Sequence[int], contents: ZoneContents) -> Sequence[Difference]:
        self.times += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.to_thread(self.ready.wait, 60)
        self.at_once -= 1
        return [Difference(1, contents.serial, *difference(ONE, contents))]


def ixfr(serial: int, *, with_key: bool = True) -> bytes:
    message = dns.message.make_query(".", "IXFR")
    message.flags &= ~0x0100
    message.authority.append(dns.rrset.from_text(".", 0, "IN", "SOA", f"a. b. {serial} 1 1 1 1"))
    return signed(message) if with_key else message.to_wire()


def transferred(client: socket.socket, octets: bytes, base: ZoneContents | None) -> Inbound:
    send(client, octets)
    asked = parse(octets)
    assert asked.question is not None
    inbound = Inbound(ROOT, asked.question[1], asked.id, base=base)
    while not inbound.complete:
        inbound.receive_message(receive(client), time.time())
    return inbound


def test_thirty_ixfrs_at_once_are_one_difference_and_no_process() -> None:
    kept = SlowVersions()
    with service(kept=kept, limits=TransferLimits(of_one_peer=30, of_one_prefix=30)) as made:
        made.put(TWO)
        clients = [made.connect() for _ in range(30)]
        for client in clients:
            send(client, ixfr(1))
        wait_until(lambda: kept.times, "the first is being answered")
        kept.ready.set()
        for client in clients:
            got = parse(receive(client))
            assert (got.rcode, got.answers[1][1]) == (0, 6)  # a difference: the old SOA follows the new
            client.close()
        assert (kept.times, kept.most_at_once) == (1, 1)


def test_in_each_turn_of_the_event_loop_one_of_all_transfers_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an SOA query waits for one batch and not for everybody's."""
    monkeypatch.setattr(module, "BATCH_MESSAGES", 1)
    zone = OfferedZone(ROOT)
    peers = ConfiguredPeers(time.time)
    key = tsig.Key.make(b"\3key\7example\0", "hmac-sha256", SECRET)
    peers.configure({key.name: key}, [PEER])
    requests = Requests(lambda _: zone, peers, SecurityEvents(), None, TransferLimits(of_one_peer=20, of_one_prefix=20))
    batches: list[int] = []
    """Of each turn."""

    async def take() -> int:
        messages = 0
        async for batch in requests.answer(query("AXFR"), Asker("127.0.0.1", over_tcp=True)):
            batches[-1] += 1
            messages += len(batch)
        return messages

    async def turns() -> None:
        while True:
            batches.append(0)
            await asyncio.sleep(0)

    async def take_twenty() -> list[int]:
        zone.put(generate.root_contents(serial=5, tlds=200, seed=1), OfferState.IN_SERVICE, lambda: 1000.0)
        ready = await zone.whole()
        counting = asyncio.create_task(turns())
        await asyncio.sleep(0)
        got = await asyncio.gather(*(take() for _ in range(20)))
        counting.cancel()
        assert got == [len(ready.messages)] * 20
        return batches

    assert max(asyncio.run(take_twenty())) == 1
    assert sum(batches) >= 40, "more than one batch to each"


def test_a_client_that_asks_without_end_leaves_the_turn_to_others() -> None:
    with service() as made, contextlib.ExitStack() as stack:
        made.put(ONE)
        busy = stack.enter_context(made.connect())
        over = threading.Event()

        def ask() -> None:
            octets = query("SOA")
            many = (len(octets).to_bytes(2, "big") + octets) * 100
            with contextlib.suppress(OSError):
                while not over.is_set():
                    busy.sendall(many)

        def drain() -> None:
            with contextlib.suppress(OSError):
                while busy.recv(65_536):
                    pass

        threads = [threading.Thread(target=each, daemon=True) for each in (ask, drain)]
        for each in threads:
            each.start()
        for _ in range(5):
            assert parse(made.tcp(query("SOA"))).rcode == 0
            assert parse(made.udp(query("SOA"))).rcode == 0
        over.set()
        threads[0].join(20)
        busy.shutdown(socket.SHUT_RDWR)
        threads[1].join(20)


def test_what_one_peer_may_take_is_limited_and_the_others_go_on() -> None:
    other = PeerConfig(name="other", address="127.0.0.1", key="other.example.")
    kept = SlowVersions()
    with service(kept=kept, limits=TransferLimits(of_one_peer=2)) as made:
        made.put(TWO)
        more = tsig.Key.make(b"\5other\7example\0", "hmac-sha256", SECRET)
        ours = made.peers.keys[b"\3key\7example\0"]
        made.call(lambda: made.peers.configure({ours.name: ours, more.name: more}, [PEER, other]))
        clients = [made.connect() for _ in range(5)]
        for client in clients:
            send(client, ixfr(1))
        theirs = dns.tsig.Key("other.example.", SECRET, "hmac-sha256")
        assert parse(made.tcp(query("AXFR", key=theirs))).rcode == 0
        refused: list[socket.socket] = []
        while len(refused) < 3:
            refused += select.select([each for each in clients if each not in refused], [], [], 20)[0]
        assert [parse(receive(client)).rcode for client in refused] == [SERVFAIL] * 3
        kept.ready.set()
        assert [parse(receive(client)).rcode for client in clients if client not in refused] == [0, 0]
        for client in clients:
            client.close()


def test_the_whole_of_one_version_is_sent_so_often_and_of_the_next_again() -> None:
    with service(limits=TransferLimits(whole_per_serial=3)) as made:
        made.put(ONE)
        assert [parse(made.tcp(query("AXFR"))).rcode for _ in range(4)] == [0, 0, 0, REFUSED]
        made.put(TWO)
        assert parse(made.tcp(query("AXFR"))).rcode == 0


def test_a_peer_that_never_reads_is_let_go_and_gives_its_place_back() -> None:
    large = generate.root_contents(serial=5, tlds=1440, seed=1)
    with service(limits=TransferLimits(of_one_peer=1), idle_seconds=0.5) as made:
        made.put(large)
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((made.address, made.port))
        for _ in range(40):  # more than fits into any buffer
            send(deaf, query("AXFR"))
        deadline = time.monotonic() + 20
        while parse(made.tcp(query("AXFR"))).rcode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        deaf.close()


# ── TLS (RFC 9103) ──


def certificate_of(made: Service) -> bytes:
    """What a new client is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((made.address, made.tls_port), timeout=20) as plain:
        with context.wrap_socket(plain) as client:
            return client.getpeercert(binary_form=True) or b""


def test_a_new_certificate_is_shown_without_a_restart_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first, second = authority.certify("one.example"), authority.certify("two.example")
    files = tmp_path / "shown.pem", tmp_path / "shown.key"
    for path, source in zip(files, (first.certificate, first.key), strict=True):
        path.write_bytes(Path(source).read_bytes())
    with service(tls={"tls_certificate": str(files[0]), "tls_key": str(files[1])}) as made:
        made.put(ONE)
        shown = certificate_of(made)
        files[0].write_bytes(Path(second.certificate).read_bytes())  # and the key is still the old one's
        with pytest.raises(ConfigError, match=r"admin\.tls_certificate"):
            made.listener.reload_certificate()
        assert certificate_of(made) == shown
        files[1].write_bytes(Path(second.key).read_bytes())
        made.listener.reload_certificate()
        assert certificate_of(made) != shown
        assert ask_over_tls(made, ["dot"]) == 0


@pytest.fixture(scope="module")
def over_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    certified = authority.certify("admin.example")
    with service(tls={"tls_certificate": str(certified.certificate), "tls_key": str(certified.key)}) as made:
        made.put(ONE)
        yield made


def ask_over_tls(made: Service, protocols: list[str]) -> int | None:
    """The rcode of an SOA query; None if the connection is closed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    with socket.create_connection((made.address, made.tls_port), timeout=20) as plain:
        try:
            with context.wrap_socket(plain) as client:
                send(client, query("SOA"))
                return parse(receive(client)).rcode
        except (EOFError, OSError):
            return None


@pytest.mark.parametrize(
    ("protocols", "required", "optional"),
    [
        (["dot"], 0, 0),
        (["h2", "dot"], 0, 0),
        ([], REFUSED, 0),
        (["h2"], None, None),
        (["http/1.1", "DOT"], None, None),
    ],
    ids=["dot", "dot among others", "none", "h2", "another case"],
)
def test_the_protocol_is_dot_and_an_absent_one_is_an_exception_of_the_peer(
    over_tls: Service, protocols: list[str], required: int | None, optional: int | None
) -> None:
    try:
        assert ask_over_tls(over_tls, protocols) == required
        over_tls.configure(PeerConfig(name="peer", address="127.0.0.1", key="key.example.", alpn="optional"))
        assert ask_over_tls(over_tls, protocols) == optional
    finally:
        over_tls.configure(PEER)


def test_garbage_on_the_tls_port_harms_nobody(over_tls: Service) -> None:
    with socket.create_connection((over_tls.address, over_tls.tls_port), timeout=20) as client:
        client.sendall(b"\x16\x03\x01\x00\x20" + bytes(range(32)) * 20)
    assert ask_over_tls(over_tls, ["dot"]) == 0


def test_who_never_begins_the_handshake_counts_as_a_connection_and_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HANDSHAKE_SECONDS", 2)
    certified = Authority(tmp_path).certify("admin.example")
    files = {"tls_certificate": str(certified.certificate), "tls_key": str(certified.key)}
    with service(tls=files, max_connections=5) as made, contextlib.ExitStack() as stack:
        made.put(ONE)
        silent = [
            stack.enter_context(socket.create_connection((made.address, made.tls_port), timeout=20)) for _ in range(60)
        ]
        watched = select.poll()
        for each in silent:
            watched.register(each, select.POLLIN)
        ended: set[int] = set()
        while len(ended) < 55:  # those over the limit, at once: the others have their handshake's time
            ready = watched.poll(20_000)
            assert ready, f"only {len(ended)} were closed"
            for descriptor, _ in ready:
                watched.unregister(descriptor)
                ended.add(descriptor)
        for each in silent:
            with contextlib.suppress(ConnectionResetError):
                assert each.recv(1) == b""
        wait_until(lambda: ask_over_tls(made, ["dot"]) == 0, "room for a client")


@pytest.mark.parametrize(("allowed", "possible"), [(600, 344), (300, 150)])
def test_connections_leave_descriptors_to_everything_else(allowed: int, possible: int) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, %d))\n"
        "from rootsrv.config.zones import AdminConfig\n"
        "from rootsrv.distribution.listener import Listener\n"
        "print(Listener(AdminConfig(max_connections=400), None).max_connections,"
        " resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    code = code.replace("%d", str(allowed))
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(possible), str(allowed)]
