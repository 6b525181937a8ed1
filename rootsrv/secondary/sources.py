"""The kinds of primary: over DNS (primary.py), a zone file at a URL, a zone file on this machine.

Each answers two requests: `ask` gives the serial, or the zone itself where one cannot be had without the other; `fetch`
gives the zone.  Both raise TransferFailed of some kind.
"""

import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from rootsrv.config.checks import ConfigError, without_query
from rootsrv.config.file import Config, ZoneConfig
from rootsrv.config.zones import PrimaryConfig, RefreshConfig
from rootsrv.distribution.tls import client_context
from rootsrv.process import log
from rootsrv.process.child import ChildFailed, in_child
from rootsrv.secondary import primary
from rootsrv.secondary.primary import CannotConnect, SerialAnswer, Source, Transferred, Unreachable
from rootsrv.store import zone_file
from rootsrv.store.store import Store
from rootsrv.wire.record import ZoneMalformed
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import TransferFailed, TransferMalformed, TransferRefused, TransferTooLarge


class ZoneSource(Protocol):
    """One primary of one zone."""

    @property
    def name(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def authenticated(self) -> bool: ...
    async def ask(self, zone: bytes) -> SerialAnswer | Transferred: ...
    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred: ...


@dataclass(frozen=True)
class DnsSource:
    """A primary that is asked over DNS."""

    source: Source

    @property
    def name(self) -> str:
        """As configured."""
        return self.source.name

    @property
    def where(self) -> str:
        """Address and port."""
        return f"{self.source.address} port {self.source.port}"

    @property
    def authenticated(self) -> bool:
        """By TSIG or TLS."""
        return self.source.authenticated

    async def ask(self, zone: bytes) -> SerialAnswer:
        """Query its SOA."""
        return await primary.ask_serial(self.source, zone)

    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
        """IXFR from *base*, else AXFR; at least *wanted*, the serial that it named."""
        return await primary.transfer(self.source, zone, base, wanted)


@dataclass(frozen=True, slots=True)
class _Fetched:
    contents: ZoneContents | None
    octets: int
    etag: str = ""
    last_modified: str = ""


class HttpsSource:
    """A zone file at an https URL; asked for with ETag and If-Modified-Since (RFC 9110 §13.1)."""

    authenticated = True

    def __init__(self, name: str, url: str, ca: str, limits: RefreshConfig, store: Store) -> None:
        self.name = name
        self.where = without_query(url)
        self._url = url
        self._limits = limits
        self._store = store
        self._ca = ca
        # A megabyte of everybody's authorities is needed only where the fetch is made, in the child.
        self._context = self._tls_context() if ca else None
        self._etag = self._last_modified = ""
        self._serial: int | None = None

    def _tls_context(self) -> ssl.SSLContext:
        """ConfigError if the certificates of authorities cannot be read."""
        return client_context(f"primary.{self.name}.tls_ca", ca=self._ca)

    async def ask(self, zone: bytes) -> SerialAnswer | Transferred:
        """The zone if it changed since it was fetched last, else its serial."""
        return await self._get(zone, conditional=self._serial is not None)

    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
        """The zone."""
        answer = await self._get(zone, conditional=False)
        assert isinstance(answer, Transferred), "nothing was said that could be unchanged"
        return answer

    async def _get(self, zone: bytes, *, conditional: bool) -> SerialAnswer | Transferred:
        headers = {"Accept-Encoding": "gzip", "User-Agent": "rootsrv"}
        if conditional and self._etag:
            headers["If-None-Match"] = self._etag
        if conditional and self._last_modified:
            headers["If-Modified-Since"] = self._last_modified
        began = time.monotonic()
        try:
            # In a process of its own: http.client waits, and an odd zone file takes seconds to parse.
            fetched = await in_child(
                lambda: self._fetch(zone, headers), self._store, self._limits.transfer_seconds, (TransferFailed,)
            )
        except TimeoutError:
            raise Unreachable(f"not complete within {self._limits.transfer_seconds:g} s") from None
        except ChildFailed as error:
            raise Unreachable(str(error)) from error
        if fetched.contents is None:
            if self._serial is None or not headers.keys() & {"If-None-Match", "If-Modified-Since"}:
                raise TransferRefused("HTTP status 304 to an unconditional request")
            return SerialAnswer(self._serial, None)
        self._etag, self._last_modified = fetched.etag, fetched.last_modified
        self._serial = fetched.contents.serial
        seconds = time.monotonic() - began
        return Transferred(fetched.contents, "https", self._serial, fetched.octets, 1, seconds, None)

    def _fetch(self, zone: bytes, headers: dict[str, str]) -> _Fetched:
        parts = urlsplit(self._url)
        connection = http.client.HTTPSConnection(
            parts.hostname or "",
            parts.port,
            timeout=self._limits.stall_seconds,
            context=self._context or self._tls_context(),
        )
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            if response.status == 304:
                return _Fetched(None, 0)
            if 300 <= response.status < 400:
                location = without_query(response.getheader("Location", ""))
                raise TransferRefused(f"redirect to {location} is not followed")
            if response.status != 200:
                raise TransferRefused(f"HTTP status {response.status} {response.reason}")
            octets = response.read(self._limits.max_octets + 1)
            if len(octets) > self._limits.max_octets:
                raise TransferTooLarge(f"more than {self._limits.max_octets} octets")
            length = response.getheader("Content-Length", "")
            if length.isdecimal() and length.lstrip("0") != str(len(octets)).lstrip("0"):
                raise TransferMalformed(f"cut off after {len(octets)} of {length:.20} octets")
            octets = self._decoded(octets, response.getheader("Content-Encoding", ""))
            etag, modified = response.getheader("ETag", ""), response.getheader("Last-Modified", "")
        except TimeoutError:
            raise Unreachable(f"stalled for {self._limits.stall_seconds:g} s") from None
        except http.client.IncompleteRead as error:
            raise TransferMalformed(f"cut off after {len(error.partial)} octets") from None
        except http.client.HTTPException as error:
            raise TransferMalformed(f"{type(error).__name__}: {error}") from None
        except ssl.SSLError as error:
            raise Unreachable(f"TLS: {error.reason}: {error}") from None
        except OSError as error:
            raise Unreachable(error.strerror or str(error)) from None
        finally:
            connection.close()
        return _Fetched(_parse(octets, zone), len(octets), etag, modified)

    def _decoded(self, octets: bytes, encoding: str) -> bytes:
        """The zone file: *octets* without their Content-Encoding (RFC 9110 §8.4), and unzipped if it is a .gz."""
        encoding = encoding.strip().lower()
        if encoding not in {"", "identity", "gzip", "x-gzip"}:
            raise TransferMalformed(f"Content-Encoding {encoding} was not asked for")
        if encoding in {"gzip", "x-gzip"} and not zone_file.is_gzip(octets):
            raise TransferMalformed("Content-Encoding gzip, and it is not gzip")
        try:
            if encoding in {"gzip", "x-gzip"}:
                octets = zone_file.unzipped(octets, self._limits.max_octets)
            return zone_file.unzipped(octets, self._limits.max_octets) if zone_file.is_gzip(octets) else octets
        except zone_file.FileUnusable as error:
            kind = TransferTooLarge if "more than" in str(error) else TransferMalformed
            raise kind(str(error)) from None


class FileSource:
    """A zone file on this machine: whoever may write it is its primary."""

    authenticated = True
    name = "file"

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.where = str(path)
        self._store = store
        self._seen: tuple[int, int, int] | None = None
        self._serial: int | None = None

    async def ask(self, zone: bytes) -> SerialAnswer | Transferred:
        """The zone if the file changed since it was read last, else its serial."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise Unreachable(f"{self.path}: {error.strerror}") from error
        if self._serial is not None and self._seen == (status.st_ino, status.st_size, status.st_mtime_ns):
            return SerialAnswer(self._serial, None)
        return await self.fetch(zone, None)

    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
        """Read the file."""
        began = time.monotonic()
        try:
            status = self.path.stat()
            expected = (OSError, zone_file.FileUnusable, TransferFailed)
            contents, octets = await in_child(lambda: self._read(zone), self._store, expected=expected)
        except TimeoutError:
            raise Unreachable(f"{self.path}: not read in time") from None
        except OSError as error:
            raise Unreachable(f"{self.path}: {error.strerror or error}") from error
        except zone_file.FileUnusable as error:
            raise Unreachable(str(error)) from error
        except ChildFailed as error:
            raise TransferMalformed(f"{self.path}: {error}") from error
        self._seen = (status.st_ino, status.st_size, status.st_mtime_ns)
        self._serial = contents.serial
        return Transferred(contents, "file", contents.serial, octets, 1, time.monotonic() - began, None)

    def _read(self, zone: bytes) -> tuple[ZoneContents, int]:
        octets = zone_file.read_octets(self.path)
        try:
            return _parse(octets, zone), len(octets)
        except TransferMalformed as error:
            raise TransferMalformed(f"{self.path}: {error}") from None


class HandedSource:
    """A zone file that an operator hands over: whoever may give orders is its primary."""

    authenticated = True
    name = "file"

    def __init__(self, where: str, octets: bytes, store: Store) -> None:
        """*where*: what the file is called, for people."""
        self.where = where
        self._octets = octets
        self._store = store

    async def fetch(self, zone: bytes) -> Transferred:
        """Read what was handed over."""
        began = time.monotonic()
        try:
            contents = await in_child(lambda: self._read(zone), self._store, expected=(TransferFailed,))
        except TimeoutError:
            raise Unreachable(f"{self.where}: not read in time") from None
        except ChildFailed as error:
            raise TransferMalformed(f"{self.where}: {error}") from error
        return Transferred(contents, "file", contents.serial, len(self._octets), 1, time.monotonic() - began, None)

    def _read(self, zone: bytes) -> ZoneContents:
        octets = self._octets
        try:
            return _parse(zone_file.unzipped(octets) if zone_file.is_gzip(octets) else octets, zone)
        except (TransferMalformed, zone_file.FileUnusable) as error:
            raise TransferMalformed(f"{self.where}: {error}") from None


class MadeSource:
    """A zone that is made here: another version each time that it is asked."""

    authenticated = True
    name = where = "made here"

    def __init__(self, make: Callable[[int | None], ZoneContents]) -> None:
        """*make*: a version newer than the one of that serial, in milliseconds."""
        self._make = make
        self.newest: int | None = None
        """The serial of the latest that was made, or given out before a restart."""

    async def ask(self, zone: bytes) -> Transferred:
        """Make one."""
        return await self.fetch(zone, None)

    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
        """Make one."""
        began = time.monotonic()
        contents = self._make(self.newest)
        self.newest = contents.serial
        return Transferred(contents, "made", contents.serial, 0, 1, time.monotonic() - began, None)


def _parse(octets: bytes, zone: bytes) -> ZoneContents:
    try:
        return presentation.from_text(octets, zone)
    except ZoneMalformed as error:
        raise TransferMalformed(str(error)) from None


class WithoutSecret:
    """A primary whose secrets or certificates could not be had at the start: read again whenever it is asked.

    The others, and what is in service, go on: such a file may be on all instances, and come back as it went.
    """

    where = "its secret or certificate cannot be had"

    def __init__(self, each: PrimaryConfig, config: Config, store: Store) -> None:
        self.name = each.name
        self.authenticated = each.authenticated
        self._wanted = (each, config, store)
        self._source: ZoneSource | None = None

    def _had(self) -> ZoneSource:
        if self._source is None:
            try:
                self._source = source_of(*self._wanted)
            except ConfigError as error:
                raise CannotConnect(str(error)) from error
            self.where = self._source.where
        return self._source

    async def ask(self, zone: bytes) -> SerialAnswer | Transferred:
        """See ZoneSource."""
        return await self._had().ask(zone)

    async def fetch(self, zone: bytes, base: ZoneContents | None, wanted: int | None = None) -> Transferred:
        """See ZoneSource."""
        return await self._had().fetch(zone, base, wanted)


def source_at_start(each: PrimaryConfig, config: Config, store: Store) -> ZoneSource:
    """The source that `[[primary]]` describes, whether or not its secrets and certificates can be had."""
    try:
        return source_of(each, config, store)
    except ConfigError as error:
        log.alarm("primary cannot be asked", primary=each.name, reason=error)
        return WithoutSecret(each, config, store)


def source_of(each: PrimaryConfig, config: Config, store: Store) -> ZoneSource:
    """The source that `[[primary]]` describes.  ConfigError when its secrets or certificates cannot be had."""
    if each.url:
        return HttpsSource(each.name, each.url, each.tls_ca, config.refresh, store)
    return DnsSource(Source.from_config(each, config))


MakeSource = Callable[[PrimaryConfig, Config, Store], ZoneSource]


def sources_of(
    zone: ZoneConfig,
    config: Config,
    store: Store,
    make: MakeSource = source_of,
) -> dict[str, ZoneSource]:
    """Whom a zone is had from, by name: its primaries, else its file.  ConfigError when *make* cannot have all."""
    found = {each.name: make(each, config, store) for each in config.primary if zone.name in each.zones}
    if not found and zone.file:
        found["file"] = FileSource(Path(zone.file), store)
    return found
