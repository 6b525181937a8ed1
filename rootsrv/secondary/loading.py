"""Zones from files: read, verify, compile, store – or, if nothing has changed, map the table that is stored."""

import hashlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rootsrv import log, zone_file
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import FORMAT_VERSION, AnswerTable, TableUnusable
from rootsrv.config import ZoneConfig
from rootsrv.secondary.tables import TableNote, TableStore
from rootsrv.zone import name as names
from rootsrv.zone import presentation
from rootsrv.zone.anchors import AnchorsMalformed, TrustAnchors
from rootsrv.zone.contents import ZoneMalformed
from rootsrv.zone.verify import VerifiedZone, ZoneRejected, accept_unverified, verify, verify_hosts


class LoadingFailed(Exception):
    """The zones cannot be served; what was served before stays served."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stored answer table that may be activated."""

    note: TableNote
    table: AnswerTable
    made: bool
    """Whether it was made now; else it is the stored one, and no zone was parsed."""

    def valid_until(self, zone: int) -> float:
        """End of the lease on zone number *zone* (D27), seconds since 1970 by the clock that judges validity."""
        info = self.table.zones[zone]
        expires = self.note.confirmed[zone] + info.expire
        return min(expires, info.signatures_until) if info.signatures_until else expires


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The octets of everything that a table is made from."""

    zones: tuple[tuple[ZoneConfig, bytes, bytes], ...]
    """Configuration, zone file, trust anchors; the root first."""

    digest: str


def load(zones: tuple[ZoneConfig, ...], store: TableStore, now: float, *, confirm: bool) -> Loaded:
    """The answer table of *zones* at *now* (seconds since 1970, by the clock that judges validity).

    Files that are as they were give the stored table; its lease goes on from where it was unless *confirm* (an operator
    asked for a reload: the files are current).  LoadingFailed names the zone and the reason.
    """
    inputs = _read(zones)
    for note in store.notes():
        if note.source != inputs.digest:
            continue
        try:
            table = store.open(note.generation)
        except TableUnusable as error:
            log.alarm("table refused", generation=note.generation, reason=error)
            continue
        if not all(
            zone.not_before <= now and (now < zone.signatures_until or not zone.signatures_until)
            for zone in table.zones
        ):
            break  # verifying anew says precisely what is wrong
        # Never from later than now: the clock may have been set back.
        confirmed = tuple(now if confirm else min(now, each) for each in note.confirmed)
        if confirmed != note.confirmed:
            note = replace(note, confirmed=confirmed)
            store.note(note)
        return Loaded(note, table, made=False)
    return _make(inputs, store, now)


def _make(inputs: _Inputs, store: TableStore, now: float) -> Loaded:
    verified: list[VerifiedZone] = []
    for config, text, anchors in inputs.zones:
        began = time.perf_counter()
        zone = _verify(config, text, anchors, verified[0] if verified else None, now)
        verified.append(zone)
        took = round(1000 * (time.perf_counter() - began))
        log.event("zone verified", zone=config.name, serial=zone.contents.serial, source=config.file, took_ms=took)
        for line in zone.alarms:
            log.alarm("zone suspicious", zone=config.name, serial=zone.contents.serial, sign=line)
    began = time.perf_counter()
    octets = compile_table(verified[0], verified[1] if len(verified) > 1 else None)
    try:
        note = store.write(octets, inputs.digest, (now,) * len(verified))
    except OSError as error:
        raise LoadingFailed(f"{store.directory}: {error.strerror}") from error
    took = round(1000 * (time.perf_counter() - began))
    log.event("table compiled", generation=note.generation, octets=len(octets), took_ms=took)
    return Loaded(note, store.open(note.generation), made=True)


def _verify(config: ZoneConfig, text: bytes, anchors: bytes, root: VerifiedZone | None, now: float) -> VerifiedZone:
    try:
        contents = presentation.from_text(text, names.from_text(config.name))
        if root is not None:
            return verify_hosts(contents, root, now, zonemd=config.zonemd)
        if config.validation == "none":
            return accept_unverified(contents, now)
        return verify(contents, TrustAnchors.from_text(anchors.decode()), now, zonemd=config.zonemd)
    except ZoneMalformed as error:
        raise LoadingFailed(f"zone {config.name} from {config.file}: {error}") from error
    except ZoneRejected as error:
        raise LoadingFailed(f"zone {config.name} from {config.file} refused: {_fault(error)}: {error}") from error
    except (AnchorsMalformed, UnicodeDecodeError) as error:
        raise LoadingFailed(f"trust anchors from {config.trust_anchors}: {error}") from error


def _fault(error: ZoneRejected) -> str:
    return (type(error).__doc__ or type(error).__name__).split("\n")[0].rstrip(".")


def _read(zones: tuple[ZoneConfig, ...]) -> _Inputs:
    digest = hashlib.sha256(f"format {FORMAT_VERSION}".encode())
    parts = []
    for config in sorted(zones, key=lambda zone: zone.name != "."):
        if not config.file:
            raise LoadingFailed(f"zone {config.name}: there is no file to load it from")
        text = _octets(Path(config.file), f"zone {config.name}")
        anchors = _octets(Path(config.trust_anchors), "trust anchors") if config.trust_anchors else b""
        parts.append((config, text, anchors))
        policy = f"{config.name} {config.zonemd} {config.validation} {config.private_root}"
        for octets in (policy.encode(), text, anchors):
            digest.update(hashlib.sha256(octets).digest())
    return _Inputs(tuple(parts), digest.hexdigest())


def _octets(path: Path, what: str) -> bytes:
    try:
        return zone_file.read_octets(path)
    except zone_file.FileUnusable as error:
        raise LoadingFailed(f"{what}: {error}") from error
