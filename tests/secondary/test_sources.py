"""Other ways in: transfers over TLS (BIND 9.18), a zone file at an https URL, a file."""

import asyncio
import contextlib
import gzip
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.peers.primaries import KEY_NAME, SECRET, hidden_primary
from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.secondary.primary import SerialAnswer, Source, Transferred, ask_serial, transfer
from rootsrv.secondary.sources import FileSource, ZoneSource, source_of
from rootsrv.store.store import Store
from rootsrv.zone.transfer import TransferFailed, TransferMalformed, TransferRefused, TransferTooLarge
from tests.secondary import versions
from tests.secondary.certificates import Authority, Certified
from tests.secondary.versions import FIRST

ROOT = b"\0"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state")
    yield opened
    opened.close()


def test_a_transfer_over_tls_is_taken_from_the_right_host_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certified = authority.certify("primary.example")
    zone = versions.version(FIRST)
    files = (certified.certificate, certified.key)
    with hidden_primary("BIND", {".": versions.text(zone)}, tmp_path / "bind", certificate=files) as primary:

        def source(**settings: str) -> Source:
            read = config_file.read(
                {
                    "key": [{"name": KEY_NAME, "secret": SECRET}],
                    "zone": [{"name": "."}],
                    "primary": [
                        {"name": "xot", "address": "127.0.0.1", "port": primary.tls_port, "key": KEY_NAME, **settings}
                    ],
                }
            )
            return Source.from_config(read.primary[0], read)

        ca = str(authority.path)
        for good in (
            {"tls": "strict", "tls_hostname": "primary.example", "tls_ca": ca},
            {"tls": "pinned", "tls_pin": certified.pin},
        ):
            assert asyncio.run(ask_serial(source(**good), ROOT)).serial == FIRST
            got = asyncio.run(transfer(source(**good), ROOT, None))
            assert got.contents is not None
            assert got.contents.rrsets == zone.rrsets
        for bad, reason in (
            ({"tls": "strict", "tls_hostname": "other.example", "tls_ca": ca}, "TLS"),
            ({"tls": "strict", "tls_hostname": "primary.example"}, "TLS"),
            ({"tls": "pinned", "tls_pin": "00" * 32}, "not the pinned one"),
        ):
            with pytest.raises(TransferFailed, match=reason):
                asyncio.run(transfer(source(**bad), ROOT, None))


@contextlib.contextmanager
def selecting(protocols: list[str], certified: Certified) -> Iterator[int]:
    """The port of a TLS server that selects of *protocols*, and afterwards has nothing to say."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified.certificate, certified.key)
    if protocols:
        context.set_alpn_protocols(protocols)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)

        def accept() -> None:
            connection, _ = listening.accept()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as accepted:
                accepted.recv(1)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join(20)


@pytest.mark.parametrize(
    ("selected", "alpn", "reason"),
    [
        (["dot"], "required", "closed the connection"),
        ([], "required", "it selected no protocol"),
        ([], "optional", "closed the connection"),
        (["h2"], "required", "it selected no protocol"),
    ],
    ids=["dot", "none", "none, by exception", "another"],
)
def test_a_primary_that_does_not_select_dot_is_not_asked(
    tmp_path: Path, selected: list[str], alpn: str, reason: str
) -> None:
    """RFC 9103 §7.1.  Who is asked shows by "closed the connection": this server never answers."""
    certified = Authority(tmp_path).certify("primary.example")
    with selecting(selected, certified) as port:
        primary = {"name": "xot", "address": "127.0.0.1", "port": port, "tls": "pinned", "tls_pin": certified.pin}
        read = config_file.read({"zone": [{"name": "."}], "primary": [{**primary, "alpn": alpn}]})
        with pytest.raises(TransferFailed, match=reason):
            asyncio.run(ask_serial(Source.from_config(read.primary[0], read), ROOT))


class _Page:
    """What the https server says."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked: list[tuple[str | None, str | None]] = []
        self.respond: Callable[[http.server.BaseHTTPRequestHandler], None] = self.honest

    def honest(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        tag = f'"{hash(self.body)}"'
        if handler.headers.get("If-None-Match") == tag:
            handler.send_response(304)
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body)

    encoding = ""
    """Content-Encoding that is told."""

    def encoded(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if self.encoding:
            handler.send_header("Content-Encoding", self.encoding)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body)

    def truncated(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body[:1000])

    def endless(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "9" * 5000)
        handler.end_headers()
        handler.wfile.write(self.body)

    def stalled(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body[:1000])
        handler.wfile.flush()
        with contextlib.suppress(OSError):
            handler.rfile.read(1)

    def redirecting(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "https://elsewhere.example/root.zone?token=tOkEn")
        handler.end_headers()

    def unchanged(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(304)
        handler.end_headers()

    def untagged(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(self.body)))
        handler.end_headers()
        handler.wfile.write(self.body)

    def absent(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_error(404)


@contextlib.contextmanager
def https(page: _Page, authority: Authority) -> Iterator[int]:
    certified = authority.certify("www.example")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page.asked.append((self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")))
            with contextlib.suppress(OSError):
                page.respond(self)

        def log_message(self, *arguments: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified.certificate, certified.key)

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that refuses the certificate is one of the tests."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def https_source(port: int, ca: Path | str, store: Store, **limits: object) -> ZoneSource:
    read = config_file.read(
        {
            "zone": [{"name": "."}],
            "refresh": {"stall_seconds": 0.5, **limits},
            "primary": [{"name": "web", "url": f"https://127.0.0.1:{port}/root.zone?token=tOkEn", "tls_ca": str(ca)}],
        }
    )
    return source_of(read.primary[0], read, store)


def test_a_zone_file_by_https_is_fetched_once_and_then_asked_for_by_its_tag(tmp_path: Path, store: Store) -> None:
    authority = Authority(tmp_path)
    page = _Page(versions.text(versions.version(FIRST)))
    with https(page, authority) as port:
        source = https_source(port, authority.path, store)
        first = asyncio.run(source.ask(ROOT))
        assert isinstance(first, Transferred)
        assert first.contents is not None
        assert first.contents.rrsets == versions.version(FIRST).rrsets or first.serial == FIRST
        assert asyncio.run(source.ask(ROOT)) == SerialAnswer(FIRST, None)
        assert page.asked[0] == (None, None)
        assert page.asked[1][0] is not None
        page.body = versions.text(versions.version(FIRST + 1))
        second = asyncio.run(source.ask(ROOT))
        assert isinstance(second, Transferred)
        assert second.serial == FIRST + 1


@pytest.mark.parametrize(
    ("behaviour", "kind", "reason"),
    [
        ("truncated", TransferMalformed, "cut off after 1000"),
        ("endless", TransferMalformed, "cut off after [0-9]+ of 9{20} octets"),
        ("stalled", TransferFailed, "stalled for 0.5 s"),
        ("redirecting", TransferRefused, "redirect to https://elsewhere.example/root.zone\\?… is not followed"),
        ("absent", TransferRefused, "HTTP status 404"),
        ("unchanged", TransferRefused, "304 to an unconditional request"),
    ],
)
def test_a_zone_file_by_https_that_cannot_be_had_is_refused(
    tmp_path: Path, store: Store, behaviour: str, kind: type[Exception], reason: str
) -> None:
    authority = Authority(tmp_path)
    page = _Page(versions.text(versions.version(FIRST)))
    page.respond = getattr(page, behaviour)
    with https(page, authority) as port:
        with pytest.raises(kind, match=reason):
            asyncio.run(https_source(port, authority.path, store).ask(ROOT))


def test_what_was_not_asked_whether_it_changed_cannot_be_unchanged(tmp_path: Path, store: Store) -> None:
    authority = Authority(tmp_path)
    page = _Page(versions.text(versions.version(FIRST)))
    page.respond = page.untagged
    with https(page, authority) as port:
        source = https_source(port, authority.path, store)
        assert isinstance(asyncio.run(source.ask(ROOT)), Transferred)
        page.respond = page.unchanged
        for ask in (source.ask(ROOT), source.fetch(ROOT, None)):
            with pytest.raises(TransferRefused, match="304 to an unconditional request"):
                asyncio.run(ask)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["", "identity", "gzip", "x-gzip", "GZIP"])
@pytest.mark.parametrize("is_gz", [False, True], ids=["text", "a .gz"])
def test_a_zone_by_https_may_be_gzipped_as_a_file_and_on_the_way(
    tmp_path: Path, store: Store, encoding: str, is_gz: bool
) -> None:
    authority = Authority(tmp_path)
    body = versions.text(versions.version(FIRST))
    body = gzip.compress(body) if is_gz else body
    page = _Page(gzip.compress(body) if "gzip" in encoding.lower() else body)
    page.encoding, page.respond = encoding, page.encoded
    with https(page, authority) as port:
        got = asyncio.run(https_source(port, authority.path, store).ask(ROOT))
        assert isinstance(got, Transferred)
        assert got.serial == FIRST


@pytest.mark.parametrize(
    ("encoding", "body", "kind", "reason"),
    [
        ("gzip", gzip.compress(b"a" * 400_000), TransferTooLarge, "more than 300000 octets when decompressed"),
        ("", gzip.compress(b"a" * 400_000), TransferTooLarge, "more than 300000 octets when decompressed"),
        ("gzip", gzip.compress(gzip.compress(b"a" * 400_000)), TransferTooLarge, "more than 300000 octets when"),
        ("gzip", b". IN SOA", TransferMalformed, "it is not gzip"),
        ("gzip", gzip.compress(b". IN SOA")[:-9], TransferMalformed, "gzip: "),
        ("", b"\x1f\x8b\x08 damaged", TransferMalformed, "gzip: "),
        ("br", b"anything", TransferMalformed, "Content-Encoding br"),
    ],
    ids=["bomb on the way", "bomb in the file", "bomb in both", "not gzip", "cut off", "damaged", "another encoding"],
)
def test_what_is_gzipped_is_bounded_and_whole(
    tmp_path: Path, store: Store, encoding: str, body: bytes, kind: type[Exception], reason: str
) -> None:
    authority = Authority(tmp_path)
    page = _Page(body)
    page.encoding, page.respond = encoding, page.encoded
    with https(page, authority) as port:
        with pytest.raises(kind, match=reason):
            asyncio.run(https_source(port, authority.path, store, max_octets=300_000).ask(ROOT))


def test_https_has_limits_and_a_certificate_that_is_checked(tmp_path: Path, store: Store) -> None:
    authority = Authority(tmp_path)
    page = _Page(versions.text(versions.version(FIRST)))
    with https(page, authority) as port:
        with pytest.raises(TransferTooLarge, match="more than 10000 octets"):
            asyncio.run(https_source(port, authority.path, store, max_octets=10_000).ask(ROOT))
        with pytest.raises(TransferFailed, match="certificate verify failed"):
            asyncio.run(https_source(port, "", store).ask(ROOT))


def test_a_file_may_be_gzipped(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "root.zone.gz"
    path.write_bytes(gzip.compress(versions.text(versions.version(FIRST))))
    read = asyncio.run(FileSource(path, store).fetch(ROOT, None))
    assert read.serial == FIRST


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "root.zone"
    path.write_bytes(versions.text(versions.version(FIRST)))
    source = FileSource(path, store)
    assert isinstance(asyncio.run(source.ask(ROOT)), Transferred)
    assert asyncio.run(source.ask(ROOT)) == SerialAnswer(FIRST, None)
    path.write_bytes(b"this is not a zone\n")
    with pytest.raises(TransferMalformed, match=r"root\.zone: line 1"):
        asyncio.run(source.ask(ROOT))
    path.unlink()
    with pytest.raises(TransferFailed, match="No such file"):
        asyncio.run(source.ask(ROOT))


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"address": "192.0.2.1", "url": "https://x.example/"}, "primary.p.address: address or url, one of them"),
        ({"url": "https://u:p@x.example/"}, "primary.p.url: has a user name"),
        ({"url": "http://x.example/"}, "primary.p.url: must be https://"),
        ({"address": "192.0.2.1", "tls": "strict"}, "primary.p.tls_hostname: is needed"),
        ({"address": "192.0.2.1", "tls": "pinned", "tls_pin": "xyz"}, "primary.p.tls_pin: must be 64 hexadecimal"),
        ({"address": "192.0.2.1", "key": "absent."}, "primary.p.key: there is no key 'absent.'"),
        ({"address": "192.0.2.1", "zones": ["com."]}, "primary.p.zones: 'com.' is not a configured zone"),
        ({"address": "primary.example"}, "primary.p.address: 'primary.example' does not appear to be"),
        ({"address": "192.0.2.1", "zones": ["root-servers.net."]}, "primary.p.key: root-servers.net. is not verified"),
    ],
)
def test_a_primary_that_makes_no_sense_is_an_error_that_names_the_key(section: dict[str, object], reason: str) -> None:
    zones = [{"name": "."}, {"name": "root-servers.net.", "validation": "none"}]
    with pytest.raises(ConfigError) as refused:
        config_file.read({"zone": zones, "primary": [{"name": "p", **section}]})
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"key": [{"name": "k.", "algorithm": "hmac-md5", "secret": SECRET}]}, "key[0].algorithm: must be one of"),
        ({"key": [{"name": "k.", "algorithm": "hmac-sha1", "secret": SECRET}]}, "key[0].algorithm: must be one of"),
        ({"key": [{"name": "k.", "secret": "c2hvcnQ="}]}, "key.secret: key k.: at least 16 octets, got 5"),
        ({"key": [{"name": "k."}]}, "key.secret: key k.: secret or secret_file, one of them"),
        ({"admin": {"addresses": ["127.0.0.1"]}}, "admin.addresses: 127.0.0.1 is a service address"),
        ({"peer": [{"name": "p", "address": "192.0.2.1"}]}, "peer.p.key: a key or tls_name is needed"),
        ({"switchover": {"align_seconds": -1}}, "switchover.align_seconds: must be 0..3600, got -1"),
    ],
)
def test_sections_that_make_no_sense_are_errors_that_name_the_key(document: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config_file.read({"zone": [{"name": "."}], **document})
    assert str(refused.value).startswith(reason)
