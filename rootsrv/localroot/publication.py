"""Zones by https: each version as a file that never changes, whole, in part, compressed, and with its digest."""
# Theory of operation
# -------------------
#   /root.zone               the newest version             /root.zone.sha256          digest of that
#   /arpa.zone               likewise, as of every zone     /arpa.zone.sha256
#   /arpa/2026112800.zone    this version, for ever         /arpa/2026112800.zone.sha256
#   /publications.txt        where else zones are to be had from here
#
# Text, digest and compressed forms of a version are made once, in a child process; a request looks up and slices.  The
# strong ETag (RFC 9110 §8.8.3) is the digest of the octets that are sent, so that each form has one of its own and all
# servers of a service have the same.  While a zone is withheld its pages are 503: a resolver with a copy goes on with
# that, or asks the root servers.

import gzip
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus

from rootsrv.config.localroot import LocalRootConfig
from rootsrv.http.server import HttpServer, Page, Request, Response
from rootsrv.resolvers.publication_list import to_text as publication_list_text
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents

KEPT_VERSIONS = 3
"""Of each zone: who began with a part of one shall find the rest."""

FOR_EVER = "public, max-age=31536000, immutable"
NEWEST = "public, max-age=60, must-revalidate"
"""A copy on the way (a CDN's) is asked for again after a minute."""

GZIP_LEVEL, ZSTD_LEVEL = 9, 12

LIST = "/publications.txt"
ZONE_TYPE = "text/dns; charset=us-ascii"  # RFC 4027

_RANGE = re.compile("bytes=([0-9]*)-([0-9]*)")
_QVALUE = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Form:
    """One version in one encoding."""

    encoding: str
    """As in Content-Encoding; identity for none."""

    octets: bytes = field(repr=False)
    etag: str

    @classmethod
    def make(cls, encoding: str, octets: bytes) -> "Form":
        """With the ETag that its octets make."""
        return cls(encoding, octets, f'"{hashlib.sha256(octets).hexdigest()[:32]}"')


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """One version of a zone, ready to be sent."""

    serial: int
    sha256: str
    forms: Mapping[str, Form]
    modified: float
    """When it was given out first, seconds since 1970."""


def make_version(contents: ZoneContents, modified: float) -> PublishedVersion:
    """All forms of *contents*; takes a second for a root, so in a process of its own."""
    text = presentation.to_text(contents).encode()
    # Without a time of its own, so that all servers make the same octets.
    forms = [Form.make("identity", text), Form.make("gzip", gzip.compress(text, GZIP_LEVEL, mtime=0))]
    try:
        import zstandard
    except ImportError:  # an extra: those who ask for it get gzip
        pass
    else:
        forms.append(Form.make("zstd", zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(text)))
    return PublishedVersion(
        contents.serial, hashlib.sha256(text).hexdigest(), {each.encoding: each for each in forms}, modified
    )


class Publication:
    """The pages of all zones."""

    def __init__(self, sources: Callable[[], str], fetched: Callable[[str, int, int, str], None]) -> None:
        """*sources*: the text of the publication list; *fetched* is told zone, serial, octets and encoding."""
        self.pages: dict[str, Page] = {LIST: self._list}
        self._sources = sources
        self._fetched = fetched
        self._versions: dict[str, list[PublishedVersion]] = {}
        """By zone, newest first."""

        self._is_given: Callable[[str], bool] = lambda zone: False

    def server(self, connections: int, is_given: Callable[[str], bool]) -> HttpServer:
        """Serves the pages; *is_given*: whether a zone is given out now."""
        self._is_given = is_given
        return HttpServer(self.pages, connections)

    def publish(self, zone: str, version: PublishedVersion) -> None:
        """*version* is the newest of *zone*."""
        before = [each for each in self._versions.get(zone, []) if each.serial != version.serial]
        kept = self._versions[zone] = [version, *before][:KEPT_VERSIONS]
        name = file_name(zone)
        newest: list[tuple[str, int | None]] = [(f"/{name}.zone", None)]
        pages: dict[str, Page] = {}
        for path, serial in (*newest, *((f"/{name}/{each.serial}.zone", each.serial) for each in kept)):
            pages[path], pages[f"{path}.sha256"] = self._pages_of(zone, serial)
        for path in [each for each in self.pages if each.startswith(f"/{name}/") and each not in pages]:
            del self.pages[path]
        self.pages |= pages

    def _pages_of(self, zone: str, serial: int | None) -> tuple[Page, Page]:
        """The zone file and its digest; *serial* None: of the newest."""

        async def file(request: Request) -> Response:
            version = self._version(zone, serial)
            if version is None or not self._is_given(zone):
                return withheld()
            response, form, octets = respond(version, request, FOR_EVER if serial is not None else NEWEST)
            if octets and request.method == "GET":
                self._fetched(zone, version.serial, octets, form.encoding)
            return response

        async def digest(request: Request) -> Response:
            version = self._version(zone, serial)
            if version is None or not self._is_given(zone):
                return withheld()
            name = file_name(zone) if serial is None else str(serial)
            cache = {"Cache-Control": FOR_EVER if serial is not None else NEWEST}
            return Response(f"{version.sha256}  {name}.zone\n".encode(), "text/plain", headers=cache)

        return file, digest

    def _version(self, zone: str, serial: int | None) -> PublishedVersion | None:
        return next((each for each in self._versions.get(zone, ()) if serial in (None, each.serial)), None)

    async def _list(self, request: Request) -> Response:
        return Response(self._sources().encode(), "text/plain; charset=utf-8", headers={"Cache-Control": NEWEST})


def publication_list(settings: LocalRootConfig, given: Mapping[str, int | None]) -> str:
    """The list of all zones (resolvers/publication_list.py), each below a comment with its name and serial."""
    lines = [f"# Zones from {settings.name}: who has them checks DNSSEC and ZONEMD."]
    for zone, serial in given.items():
        lines.append(f"# zone {zone} serial {'withheld' if serial is None else serial}")
        if settings.https_port:
            port = "" if settings.https_port == 443 else f":{settings.https_port}"
            lines.append(f"https://{settings.name}{port}/{file_name(zone)}.zone")
        if settings.tls_certificate:
            lines += [f"xot:{each}/{zone}" for each in _places(settings, settings.tls_port, 853)]
        lines += [f"axfr:{each}/{zone}" for each in _places(settings, settings.port, 53)]
    return publication_list_text(lines)


def _places(settings: LocalRootConfig, port: int, usual: int) -> Iterator[str]:
    for each in settings.addresses:
        yield (f"[{each}]" if ":" in each else each) + ("" if port == usual else f":{port}")


def file_name(zone: str) -> str:
    """What the files of *zone* are called."""
    return zone.rstrip(".") or "root"


def withheld() -> Response:
    """While no publisher has confirmed the zone."""
    return Response(b"the zone is withheld\n", "text/plain", HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "60"})


def respond(version: PublishedVersion, request: Request, cache: str) -> tuple[Response, Form, int]:
    """The response, the form that it is of, and how many octets of that it sends (RFC 9110 §13, §14)."""
    form = version.forms[chosen(request.headers.get("accept-encoding", ""), version.forms)]
    headers = {
        "ETag": form.etag,
        "Last-Modified": formatdate(version.modified, usegmt=True),
        "Cache-Control": cache,
        "Vary": "Accept-Encoding",
        "Accept-Ranges": "bytes",
    }
    if form.encoding != "identity":
        headers["Content-Encoding"] = form.encoding
    if not _is_wanted(version, form, request):
        return Response(b"", ZONE_TYPE, HTTPStatus.NOT_MODIFIED, headers), form, 0
    # Of GET only (§14.2): HEAD says what all of it is.
    span = _span(request.headers.get("range", ""), len(form.octets)) if request.method == "GET" else None
    fresh = request.headers.get("if-range", form.etag) in (form.etag, headers["Last-Modified"])
    if span is None or not fresh:
        return Response(form.octets, ZONE_TYPE, headers=headers), form, len(form.octets)
    start, end = span
    if start >= end:
        unsatisfied = {**headers, "Content-Range": f"bytes */{len(form.octets)}"}
        unsatisfied.pop("Content-Encoding", None)
        return Response(b"", ZONE_TYPE, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, unsatisfied), form, 0
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(form.octets)}"
    part = form.octets[start:end]
    return Response(part, ZONE_TYPE, HTTPStatus.PARTIAL_CONTENT, headers), form, len(part)


def chosen(accepted: str, forms: Mapping[str, Form]) -> str:
    """The smallest form that Accept-Encoding (RFC 9110 §12.5.3) takes; identity if none is named."""
    taken: dict[str, float] = {}
    for each in accepted.lower().split(","):
        coding, *parameters = (part.strip() for part in each.split(";"))
        weight = next((found[1] for part in parameters if (found := _QVALUE.fullmatch(part))), "1")
        if coding:
            taken["gzip" if coding == "x-gzip" else coding] = float(weight)
    others = taken.get("*", 0.0)
    usable = [name for name in forms if name != "identity" and taken.get(name, others) > 0]
    return min(usable, key=lambda name: len(forms[name].octets), default="identity")


def _is_wanted(version: PublishedVersion, form: Form, request: Request) -> bool:
    """Whether the client has not got it yet (RFC 9110 §13.2.2): ETag, and without one the date."""
    if (known := request.headers.get("if-none-match")) is not None:
        listed = [each.strip().removeprefix("W/") for each in known.split(",")]
        return known.strip() != "*" and form.etag not in listed
    if (since := request.headers.get("if-modified-since")) is not None:
        try:
            return int(version.modified) > parsedate_to_datetime(since).timestamp()
        except (ValueError, TypeError, OverflowError):
            return True  # what is no date is ignored
    return True


def _span(text: str, size: int) -> tuple[int, int] | None:
    """Start and end of the one range that *text* asks for; None: all of it.  Start at or behind end: none there is."""
    found = _RANGE.fullmatch(text.strip())
    if found is None or found[1] == found[2] == "":
        return None  # several ranges, or another unit, may be ignored (RFC 9110 §14.2)
    if len(found[1]) > 18 or len(found[2]) > 18:
        return None
    if found[1] == "":
        return (max(0, size - int(found[2])), size) if int(found[2]) else (size, size)
    start = int(found[1])
    end = size if found[2] == "" else min(size, int(found[2]) + 1)
    if found[2] and int(found[2]) < start:
        return None  # not a range at all (§14.1.1)
    return (start, end) if start < size else (size, size)
