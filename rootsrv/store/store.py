"""The state directory: accepted zones with their provenance, answer tables, leases and decisions, kept atomically."""
# Theory of operation
# -------------------
#   lock                      held while a maintainer runs: a second one is refused
#   ledger.json               what is in service, its leases, what comes next (ledger.py); rewritten at every change,
#                             and kept twice (process/twice.py)
#   journal.jsonl             one decision per line, UTC
#   zones/ZONE/SERIAL.zone    one version: a comment line with its provenance and the digest of the rest, then the zone
#   tables/GENERATION.table   answer tables, and beside each (.mac) the proof that we made it (table_mac.py)
#   secret/table.key          the key of these: the directory is for the role maintain alone
#
# Every file but the journal is written beside its place, flushed (fsync), renamed over it, and the directory flushed:
# whenever the power fails there is the old one or the new one.  The journal is appended to and flushed; a line that was
# cut short by a crash is ended when the next one is written.

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rootsrv.answer.table import AnswerTable, TableUnusable, digest_in
from rootsrv.process import json_text, lock, whole_file
from rootsrv.process.twice import BothDamaged, Twice
from rootsrv.store.table_file import open_table
from rootsrv.store.table_mac import TableKey, mac_path
from rootsrv.wire.name import to_text
from rootsrv.wire.serial import is_serial

MAX_JOURNAL_OCTETS = 10_000_000
"""Then it becomes journal.jsonl.1; some 50,000 decisions."""

_HEADER = b"; rootsrv version "


class StoreFailed(Exception):
    """The state directory cannot be used; what is in service goes on."""


class VersionDamaged(StoreFailed):
    """A kept zone is not what was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a version of a zone came from and what was found."""

    zone: str
    serial: int
    source: str
    """Name of the primary, or the file."""

    how: str
    """axfr, ixfr, https, file or import."""

    received_at: float
    """Seconds since 1970."""

    verified_at: float
    signatures_until: float | None
    expire_seconds: int
    """SOA expire, or less if the source said so (RFC 7314)."""

    verdict: str
    """accepted, held, or void: it verified, and no table could be made of it."""

    reasons: tuple[str, ...] = ()
    """Why it is held or void."""

    alarms: tuple[str, ...] = ()
    zonemd: str = ""
    """Digest in the ZONEMD record, hexadecimal; empty if there is none."""

    records: int = 0


class Store:
    """One state directory, held by one maintainer."""

    def __init__(self, directory: Path) -> None:
        """Make or open *directory* and lock it; StoreFailed says what is in the way."""
        self.directory = directory
        self.tables = directory / "tables"
        try:
            for each in (directory, self.tables):
                each.mkdir(mode=0o755, parents=True, exist_ok=True)
            (directory / "zones").mkdir(mode=0o750, exist_ok=True)
            self._lock = lock.hold(directory / "lock")
        except BlockingIOError as error:
            raise StoreFailed(f"{directory}: another instance uses this state directory") from error
        except OSError as error:
            raise StoreFailed(f"{error.filename or directory}: {error.strerror}") from error
        with contextlib.suppress(OSError):  # what cannot be kept is made anew at the next start
            (directory / "secret").mkdir(mode=0o700, exist_ok=True)
        self._key = TableKey(directory / "secret" / "table.key")
        self.ledger_file = Twice(directory / "ledger.json", 0o640)
        self._open_to_readers()
        pattern = f"*{whole_file.SUFFIX}"  # of ours only: other roles may be writing in the same state directory
        ledgers = directory.glob(f"ledger.json{pattern}")
        for leftover in (*ledgers, *self.tables.rglob(pattern), *(directory / "zones").rglob(pattern)):
            with contextlib.suppress(OSError):  # a disk that takes no change any more
                leftover.unlink(missing_ok=True)

    def _open_to_readers(self) -> None:
        """Whatever the umask of the account is: workers, which are another one, go through to the tables."""
        for each, more in ((self.directory, 0o010), (self.tables, 0o055)):
            with contextlib.suppress(OSError):
                each.chmod(each.stat().st_mode & 0o7777 | more)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._lock)

    def leave_in_child(self) -> None:
        """Called in a forked child: the lock is its parent's alone."""
        os.close(self._lock)

    # The ledger.

    def read_ledger(self, check: Callable[[dict[str, Any]], object] | None = None) -> dict[str, Any]:
        """What `write_ledger` wrote last; empty if nothing yet.  StoreFailed if it cannot be read, nor can its twin.

        *check* raises StoreFailed for what cannot be gone on from.
        """

        def parse(octets: bytes) -> dict[str, Any]:
            ledger = json_text.parse(octets)
            if not isinstance(ledger, dict):
                raise ValueError("not an object")
            if check is not None:
                try:
                    check(ledger)
                except StoreFailed as error:
                    raise ValueError(str(error)) from error
            return ledger

        try:
            return self.ledger_file.read(parse) or {}
        except BothDamaged as error:
            raise StoreFailed(f"{error}; move both away to start from the kept zones") from error

    def write_ledger(self, ledger: dict[str, Any]) -> None:
        """Replace the ledger; on disk when this returns."""
        try:
            self.ledger_file.write(json.dumps(ledger, indent=1).encode() + b"\n")
        except OSError as error:
            raise StoreFailed(f"{self.ledger_file.path}: {error.strerror}") from error

    # The journal.

    def journal(self, at: str, event: str, **facts: Any) -> None:
        """Append a decision; *at* is RFC 3339 in UTC.  On disk when this returns."""
        path = self.directory / "journal.jsonl"
        line = json.dumps({"at": at, "event": event, **facts}, default=str).encode() + b"\n"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
            try:
                size = os.fstat(descriptor).st_size
                if size and os.pread(descriptor, 1, size - 1) != b"\n":
                    line = b"\n" + line
                os.write(descriptor, line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if size > MAX_JOURNAL_OCTETS:
                path.replace(path.with_suffix(".jsonl.1"))
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}") from error

    # Versions of zones.

    def put_version(self, zone: bytes, provenance: Provenance, text: bytes) -> Path:
        """Keep a version of *zone*; on disk when this returns."""
        directory = self.zone_directory(zone)
        try:
            directory.mkdir(mode=0o750, exist_ok=True)
        except OSError as error:
            raise StoreFailed(f"{directory}: {error.strerror}") from error
        path = self._version_path(zone, provenance.serial)
        header = {**asdict(provenance), "sha256": hashlib.sha256(text).hexdigest()}
        write_atomically(path, _HEADER + json.dumps(header).encode() + b"\n" + text)
        return path

    def mark_version(self, zone: bytes, serial: int, verdict: str, reason: str) -> None:
        """Keep a version with another verdict; StoreFailed if it is not there or cannot be written."""
        provenance, text = self.version(zone, serial)
        self.put_version(zone, replace(provenance, verdict=verdict, reasons=(reason,)), text)

    def version(self, zone: bytes, serial: int) -> tuple[Provenance, bytes]:
        """A kept version: provenance and zone file.  VersionDamaged if it is not as it was written."""
        path = self._version_path(zone, serial)
        try:
            header, _, text = path.read_bytes().partition(b"\n")
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}") from error
        provenance, digest = _parse_header(path, header)
        if hashlib.sha256(text).hexdigest() != digest or provenance.serial != serial:
            raise VersionDamaged(f"{path}: its digest is wrong")
        return provenance, text

    def versions(self, zone: bytes) -> list[Provenance]:
        """What is kept of *zone*, oldest received first; damaged ones are left out."""
        found = []
        for path in self.zone_directory(zone).glob("*.zone"):
            with contextlib.suppress(OSError, VersionDamaged), path.open("rb") as stream:
                found.append(_parse_header(path, stream.readline(1_000_000).rstrip(b"\n"))[0])
        return sorted(found, key=lambda each: each.received_at)

    def forget_version(self, zone: bytes, serial: int) -> None:
        """Remove a kept version, if it is there; StoreFailed if it cannot be removed."""
        _remove(self._version_path(zone, serial))

    def _version_path(self, zone: bytes, serial: int) -> Path:
        """Where a version is; StoreFailed for what is no serial, such as a text that leads out of the directory."""
        if not is_serial(serial):
            raise StoreFailed(f"serial: must be 0..{2**32 - 1}, got {serial!r}")
        return self.zone_directory(zone) / f"{serial}.zone"

    def zone_directory(self, zone: bytes) -> Path:
        """Where the versions of *zone* are."""
        name = to_text(zone).rstrip(".").lower() or "root"
        return self.directory / "zones" / re.sub(r"[^a-z0-9.-]", lambda found: f"%{ord(found[0]):02x}", name)

    # Answer tables.

    def put_table(self, generation: int, octets: bytes) -> None:
        """Keep an answer table; on disk, with its MAC, when this returns."""
        mac = self._key.mac(generation, digest_in(octets))
        write_atomically(mac_path(self.table(generation)), mac)
        write_atomically(self.table(generation), octets, mode=0o644)  # the workers, without privilege, read it

    def open_table(self, generation: int) -> AnswerTable:
        """Map an answer table that we kept; TableUnusable if it is not as we wrote it, OSError passes through."""
        path = self.table(generation)
        table = open_table(path)
        try:
            mac = mac_path(path).read_bytes()
        except FileNotFoundError:
            raise TableUnusable(f"{path}: has no MAC: an older version wrote it, or somebody else") from None
        if not self._key.is_ours(generation, table.digest, mac):
            raise TableUnusable(f"{path}: its MAC is not ours: somebody else wrote it, or the key is new")
        return table

    def table(self, generation: int) -> Path:
        """Where the answer table number *generation* is."""
        return self.tables / f"{generation}.table"

    def generations(self) -> Iterator[int]:
        """The numbers of all answer tables that are there."""
        for path in self.tables.glob("*.table"):
            if path.stem.isdecimal():
                yield int(path.stem)

    def retire_tables(self, keep: set[int]) -> None:
        """Remove all answer tables but *keep*; whoever has one mapped keeps it until he lets go.

        StoreFailed if one cannot be removed.
        """
        for path in [*self.tables.glob("*.table"), *self.tables.glob("*.mac")]:
            if path.stem.isdecimal() and int(path.stem) not in keep:
                _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}") from error


def _parse_header(path: Path, header: bytes) -> tuple[Provenance, str]:
    if not header.startswith(_HEADER):
        raise VersionDamaged(f"{path}: has no provenance")
    try:
        record = json_text.parse(header[len(_HEADER) :])
        digest = record.pop("sha256")
        record["reasons"], record["alarms"] = tuple(record["reasons"]), tuple(record["alarms"])
        return Provenance(**record), digest
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VersionDamaged(f"{path}: its provenance cannot be read ({error})") from error


def write_atomically(path: Path, octets: bytes, mode: int = 0o640) -> None:
    """Put *octets* at *path*: after a crash there is the old file or the new one.  StoreFailed says what hinders."""
    try:
        whole_file.replace(path, octets, mode)
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}") from error
