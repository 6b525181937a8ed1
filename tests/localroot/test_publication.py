"""Zones by https: forms, validators, parts, digests, certificates, and what is given while a zone is withheld."""

import asyncio
import gzip
import hashlib
import http.client
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import zstandard

from rootsrv.http.server import Request, Response
from rootsrv.localroot.publication import KEPT_VERSIONS, Publication, chosen, make_version, respond
from rootsrv.zone import presentation
from tests.localroot import zones
from tests.localroot.service import ARPA, FIRST, ROOT, Service, localroot
from tests.secondary.certificates import Authority

MADE = 1_795_867_440.5
VERSION = make_version(zones.delegated(zones.ARPA, 7), MADE)
PLAIN = VERSION.forms["identity"]
DATE = "Sat, 28 Nov 2026 12:04:00 GMT"


def asked(**headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return respond(VERSION, Request("/arpa.zone", named), "public")[0]


def test_all_forms_are_of_the_same_text() -> None:
    text = PLAIN.octets
    assert presentation.from_text(text, zones.ARPA).serial == 7
    assert gzip.decompress(VERSION.forms["gzip"].octets) == text
    assert zstandard.ZstdDecompressor().decompress(VERSION.forms["zstd"].octets) == text
    assert VERSION.sha256 == hashlib.sha256(text).hexdigest()
    assert len({each.etag for each in VERSION.forms.values()}) == 3
    # Every server of a service has the same octets, and so the same ETags.
    again = make_version(presentation.from_text(text, zones.ARPA), MADE + 9)
    assert [each.etag for each in again.forms.values()] == [each.etag for each in VERSION.forms.values()]


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", "identity"),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.000, zstd;q=0", "identity"),
        ("br, deflate", "identity"),
        ("*;q=0", "identity"),
        ("zstd", "zstd"),
        ("identity, gzip;q=nonsense", "gzip"),
        (",,;q=1,", "identity"),
    ],
)
def test_the_encoding_is_one_that_was_asked_for(accepted: str, encoding: str) -> None:
    assert chosen(accepted, VERSION.forms) == encoding
    response = asked(accept_encoding=accepted)
    assert response.headers.get("Content-Encoding", "identity") == encoding
    assert response.body == VERSION.forms[encoding].octets


def test_the_smallest_form_is_sent_where_any_is_taken() -> None:
    smallest = min(VERSION.forms.values(), key=lambda each: len(each.octets))
    assert asked(accept_encoding="gzip, zstd").body == asked(accept_encoding="*").body == smallest.octets


OTHER = '"0123456789abcdef"'


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"if_none_match": PLAIN.etag}, 304),
        ({"if_none_match": f"{OTHER}, W/{PLAIN.etag}"}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": OTHER}, 200),
        ({"if_none_match": OTHER, "if_modified_since": DATE}, 200),  # the ETag goes first (RFC 9110 §13.2.2)
        ({"if_none_match": VERSION.forms["gzip"].etag}, 200),
        ({"if_none_match": VERSION.forms["gzip"].etag, "accept_encoding": "gzip"}, 304),
        ({"if_modified_since": DATE}, 304),
        ({"if_modified_since": "Sat, 28 Nov 2026 12:03:59 GMT"}, 200),
        ({"if_modified_since": "yesterday"}, 200),
        ({"range": "bytes=0-0"}, 206),
        ({"range": "bytes=0-0", "if_range": PLAIN.etag}, 206),
        ({"range": "bytes=0-0", "if_range": DATE}, 206),
        ({"range": "bytes=0-0", "if_range": OTHER}, 200),
        ({"range": "bytes=0-0", "if_none_match": PLAIN.etag}, 304),
        ({"range": f"bytes={len(PLAIN.octets)}-"}, 416),
        ({"range": "bytes=-0"}, 416),
        ({"range": "bytes=9-1"}, 200),
        ({"range": "bytes=0-1,5-9"}, 200),
        ({"range": "lines=0-1"}, 200),
        ({"range": "bytes=-"}, 200),
        ({"range": "bytes=" + "9" * 5000 + "-"}, 200),
    ],
)
def test_validators_and_parts(headers: dict[str, str], status: int) -> None:
    response = asked(**headers)
    assert response.status == status
    assert response.headers["Last-Modified"] == DATE
    assert "ETag" in response.headers
    if status in {304, 416}:
        assert response.body == b""
    if status == 416:
        assert response.headers["Content-Range"] == f"bytes */{len(PLAIN.octets)}"


def test_head_knows_no_part() -> None:
    for wanted in ("bytes=0-0", "bytes=-0"):
        response, _, _ = respond(VERSION, Request("/arpa.zone", {"range": wanted}, "HEAD"), "no-store")
        assert (response.status, len(response.body)) == (200, len(PLAIN.octets))
        assert "Content-Range" not in response.headers


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=10-", 10, None), ("bytes=-7", -7, None), ("bytes=5-999999999", 5, None)],
)
def test_a_part_is_that_part(text: str, start: int, end: int | None) -> None:
    response = asked(range=text)
    assert response.body == PLAIN.octets[start:end]
    size = len(PLAIN.octets)
    first = start % size
    assert response.headers["Content-Range"] == f"bytes {first}-{first + len(response.body) - 1}/{size}"


def test_old_versions_are_kept_for_a_while_and_then_gone() -> None:
    fetched: list[tuple[Any, ...]] = []
    publication = Publication(lambda: "", lambda *what: fetched.append(what))
    publication.server(1, lambda zone: zone == ARPA)
    for serial in range(1, KEPT_VERSIONS + 3):
        publication.publish(ARPA, make_version(zones.delegated(zones.ARPA, serial), MADE))
        publication.publish(ROOT, VERSION)
    newest = KEPT_VERSIONS + 2
    kept = [f"/arpa/{serial}.zone" for serial in range(newest - KEPT_VERSIONS + 1, newest + 1)]
    files = sorted(each for each in publication.pages if each.startswith("/arpa") and not each.endswith(".sha256"))
    assert files == sorted(["/arpa.zone", *kept])
    assert {each for each in publication.pages if each.startswith("/root")} == {
        f"/root{path}{digest}" for path in (".zone", "/7.zone") for digest in ("", ".sha256")
    }  # fmt: skip

    def page(path: str, method: str = "GET") -> Response:
        return asyncio.run(publication.pages[path](Request(path, {}, method)))  # type: ignore[arg-type]

    assert presentation.from_text(page("/arpa.zone").body, zones.ARPA).serial == newest
    assert "immutable" in page(kept[0]).headers["Cache-Control"]
    assert page("/arpa.zone", "HEAD").headers["ETag"] == page("/arpa.zone").headers["ETag"]
    assert [each[:2] for each in fetched] == [(ARPA, newest), (ARPA, newest - KEPT_VERSIONS + 1), (ARPA, newest)]
    assert page("/root.zone").status == HTTPStatus.SERVICE_UNAVAILABLE
    assert page("/root.zone.sha256").status == HTTPStatus.SERVICE_UNAVAILABLE


# ── the service itself ──


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Service]:
    directory = tmp_path_factory.mktemp("localroot")
    put(directory, authority, "localroot.example")
    extra = 'tls_certificate = "shown.pem"\ntls_key = "shown.key"\nhttps_port = {https_port}\nidle_seconds = 2'
    with localroot(directory, address="127.23.0.3", extra=extra) as made:
        made.wait(lambda: get(made, authority, "/root.zone")[0] == 200, "the root by https")
        yield made


def put(directory: Path, authority: Authority, name: str) -> None:
    certified = authority.certify(name)
    (directory / "shown.pem").write_bytes(Path(certified.certificate).read_bytes())
    (directory / "shown.key").write_bytes(Path(certified.key).read_bytes())


def get(
    service: Service, authority: Authority, path: str, *, name: str = "localroot.example", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers, body."""
    context = ssl.create_default_context(cafile=str(authority.path))
    connection = http.client.HTTPSConnection(service.address, service.https_port, timeout=20, context=context)
    plain = service.connect(port=service.https_port)
    connection.sock = context.wrap_socket(plain, server_hostname=name)
    try:
        connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def test_the_files_are_those_of_the_transfer(running: Service, authority: Authority) -> None:
    _, headers, body = get(running, authority, "/root.zone")
    given = running.axfr(ROOT, address="127.23.3.1")
    assert not isinstance(given, int)
    assert presentation.from_text(body, b"\0").rrsets == given.rrsets
    assert get(running, authority, "/root.zone", if_none_match=headers["ETag"])[0] == 304
    _, zipped, octets = get(running, authority, f"/root/{FIRST}.zone", accept_encoding="gzip")
    assert (zipped["Content-Encoding"], gzip.decompress(octets)) == ("gzip", body)
    running.wait(lambda: get(running, authority, "/arpa.zone")[0] == 200, "arpa by https")
    digest = get(running, authority, "/root.zone.sha256")[2].split()
    assert digest == [hashlib.sha256(body).hexdigest().encode(), b"root.zone"]
    listed = get(running, authority, "/publications.txt")[2].decode()
    assert f"axfr:127.23.0.3:{running.port}/arpa." in listed
    assert f"https://localroot.example:{running.https_port}/root.zone" in listed
    assert get(running, authority, "/arpa/1.zone")[0] == get(running, authority, "/")[0] == 404
    counted = running.status()["counters"]
    assert counted[f"transfers {ROOT} https-identity"] >= 1
    assert counted[f"transfers {ROOT} https-gzip"] == 1


def test_a_new_version_takes_the_name_of_the_newest_and_the_old_one_stays(
    running: Service, authority: Authority
) -> None:
    before = get(running, authority, "/arpa.zone")
    serial = running.zone(ARPA)["given"] + 1
    running.publish(ARPA, zones.delegated(zones.ARPA, serial))
    etag = before[1]["ETag"]
    running.wait(lambda: get(running, authority, "/arpa.zone", if_none_match=etag)[0] == 200, "the new one")
    assert get(running, authority, f"/arpa/{serial - 1}.zone")[2] == before[2]


def test_a_new_certificate_is_shown_without_a_restart(running: Service, authority: Authority) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        get(running, authority, "/root.zone", name="renewed.example")
    put(running.directory, authority, "renewed.example")

    def renewed() -> bool:
        try:
            return get(running, authority, "/root.zone", name="renewed.example")[0] == 200
        except ssl.SSLCertVerificationError:
            return False

    running.wait(renewed, "the new certificate by https")
    context = ssl.create_default_context(cafile=str(authority.path))
    context.set_alpn_protocols(["dot"])
    plain = running.connect(port=running.tls_port)
    with context.wrap_socket(plain, server_hostname="renewed.example") as over_tls:
        assert over_tls.selected_alpn_protocol() == "dot"
    put(running.directory, authority, "localroot.example")

    def back() -> bool:
        try:
            return get(running, authority, "/root.zone")[0] == 200
        except ssl.SSLCertVerificationError:
            return False

    running.wait(back, "the one before")


def test_clients_that_never_ask_or_read_harm_nobody(running: Service, authority: Authority) -> None:
    silent = [running.connect(port=running.https_port) for _ in range(40)]
    assert get(running, authority, "/root.zone")[0] == 200
    for each in silent:
        each.close()
