"""The days' RSSAC002 records of all members, fetched by a distribution host, merged and published."""
# Theory of operation
# -------------------
#   host ── GET /mesh/rssac002/YYYYMMDD, with a request that it has signed ──▶ member's role report
#                                                     its role mesh verifies the request and seals the record
#   host ◀── envelope, signed by the member, with the record ──────────────────┘
#
# A record is taken once, and kept; what is missing is asked for again every ASK_SECONDS for KEEP_TRYING_DAYS.  Whenever
# one comes, the day's five files are written anew, with comments that name the instances that they do not count.  Each
# distribution host does this for itself: if one is lost, the other has the same.
#
# Registers of unique sources can be merged only if they were made with one key (RSSAC002v5 §2.6): a record that cannot
# be merged with the others is left out whole, and named with the reason.
#
# What each instance used of its machine (telemetry/utilisation.py) comes with its record: a file beside the five.

import asyncio
import base64
import contextlib
import datetime
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rootsrv.mesh.envelope import EnvelopeRefused, open_envelope
from rootsrv.mesh.roster import Member
from rootsrv.process import json_text, log, whole_file
from rootsrv.roles.mesh_presence import Presence
from rootsrv.telemetry import utilisation
from rootsrv.telemetry.rssac002 import DayRecord, RecordDamaged
from rootsrv.telemetry.utilisation import Utilisation
from rootsrv.wire import digits

ASK_SECONDS = 300.0
SETTLED_SECONDS = 900.0
"""After midnight, until the day before is asked for: instances write it within seconds, clocks may differ."""

KEEP_TRYING_DAYS = 7
KEPT_DAYS = 60
LONGEST_RECORD_OCTETS = 4 << 20
REQUEST_SECONDS = 300.0
"""A signed request is good for so long, as a TSIG is (RFC 8945 §5.2.3)."""

_FETCH_SECONDS = 20.0
_AT_ONCE = 8
_TOLD = 10_000


class NotFetched(Exception):
    """A record could not be had; the text names the cause."""


class NotKnown(NotFetched):
    """The member answers, and has no record of that day."""


def board_key(member: str, day: datetime.date) -> str:
    """What request and record are signed for."""
    return f"rssac002/{member}/{day:%Y%m%d}"


def seal_record(presence: Presence, day: datetime.date, request: bytes, record: bytes) -> bytes:
    """Our record of *day*, sealed, for the distribution host that signed *request*; EnvelopeRefused."""
    roster, key = presence.fleet.roster, board_key(presence.name, day)
    if roster is None:
        raise EnvelopeRefused("no roster is in force: who may ask is not known")
    now = presence.now.wall
    hosts = roster.keys_of(roster.distribution_hosts)
    asked = open_envelope(request, service=presence.settings.service, key=key, writers=hosts, now=now)
    if abs(now - asked.sent) > REQUEST_SECONDS:
        raise EnvelopeRefused(f"{key}: {asked.sender} asked {now - asked.sent:.0f} s ago")
    return presence.sign_now(key, {"record": record})


class FleetRecords:
    """Fetches, merges and publishes."""

    def __init__(self, presence: Presence, service: str) -> None:
        """*service* names the files (`report.service`)."""
        self._presence = presence
        self._service = service
        self.directory = Path(presence.config.state.directory) / "mesh" / "statistics"
        self._records = Path(presence.config.state.directory) / "mesh" / "records"
        self._told: dict[tuple[str, datetime.date], str] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._presence.fleet.roster is None or self._presence.maintain:
                await asyncio.sleep(1.0)  # who is listed, or what time it is, is not known yet
                continue
            if self._presence.me is not None and self._presence.me.distribution_host:
                for day in self._due():
                    await self.gather(day)
                await asyncio.to_thread(self._forget_old)
            await asyncio.sleep(ASK_SECONDS)

    def _due(self) -> list[datetime.date]:
        now = datetime.datetime.fromtimestamp(self._presence.now.wall - SETTLED_SECONDS, datetime.UTC).date()
        return [now - datetime.timedelta(days) for days in range(KEEP_TRYING_DAYS, 0, -1)]

    async def gather(self, day: datetime.date) -> None:
        """Fetch what is missing of *day*; write its files if anything came."""
        roster = self._presence.fleet.roster
        assert roster is not None
        missing = [each for each in roster.member if not self._path(day, each.name).exists()]
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def fetch(member: Member) -> bool:
            async with at_once:
                try:
                    octets = await self._fetch(member, day)
                except NotFetched as error:
                    # Before its first day there is nothing to be had: no fault, and the files name it as missing.
                    is_new = isinstance(error, NotKnown) and not self._has_before(day, member.name)
                    # A roster that does not say where is told once, and not once for each day.
                    self._tell(member.name, "" if is_new else str(error), day if member.metrics else datetime.date.min)
                    return False
            await asyncio.to_thread(self._keep, self._path(day, member.name), octets)
            self._tell(member.name, "", day)
            return True

        if any(await asyncio.gather(*(fetch(each) for each in missing))):
            await asyncio.to_thread(self.publish, day, tuple(each.name for each in roster.member))

    def _tell(self, member: str, why: str, day: datetime.date) -> None:
        if why and self._told.get((member, day)) != why:
            log.alarm("record not fetched", member=member, day=day, reason=why)
        self._told[member, day] = why
        while len(self._told) > _TOLD:
            del self._told[next(iter(self._told))]

    def _path(self, day: datetime.date, member: str) -> Path:
        return self._records / f"{day:%Y%m%d}" / f"{member}.json"

    def _has_before(self, day: datetime.date, member: str) -> bool:
        """Whether a record of *member* of a day before *day* was fetched."""
        return any(each.parent.name < f"{day:%Y%m%d}" for each in self._records.glob(f"*/{member}.json"))

    def _keep(self, path: Path, octets: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.replace(path, octets)

    async def _fetch(self, member: Member, day: datetime.date) -> bytes:
        """The record as JSON; NotFetched."""
        if not member.metrics:
            raise NotFetched("the roster does not say where its report role is (metrics)")
        host, _, port = member.metrics.rpartition(":")
        key = board_key(member.name, day)
        request = base64.b64encode(self._presence.sign_now(key, {})).decode()
        head = (
            f"GET /mesh/rssac002/{day:%Y%m%d} HTTP/1.1\r\nHost: {member.metrics}\r\n"
            f"Authorization: Rootsrv {request}\r\nConnection: close\r\n\r\n"
        )
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                reader, writer = await asyncio.open_connection(host.strip("[]"), digits.whole(port, 1, 65_535))
                try:
                    writer.write(head.encode())
                    octets = await reader.read(LONGEST_RECORD_OCTETS)
                    while len(octets) <= LONGEST_RECORD_OCTETS and (more := await reader.read(65_536)):
                        octets += more
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError) as error:
            raise NotFetched(f"{member.metrics}: {error or 'no answer in time'}") from error
        headers, _, body = octets.partition(b"\r\n\r\n")
        status = headers.split(b"\r\n", 1)[0].decode("latin-1")
        if " 200 " not in status:
            refusal = NotKnown if status.split(" ")[1:2] == ["404"] else NotFetched
            raise refusal(f"{member.metrics}: {status[:80]}: {body[:200].decode('latin-1').strip()}")
        assert self._presence.fleet.roster is not None
        try:
            sealed = open_envelope(
                body,
                service=self._presence.settings.service,
                key=key,
                writers=self._presence.fleet.roster.keys_of([member.name]),
                now=self._presence.now.wall,
                longest_octets=LONGEST_RECORD_OCTETS,
            )
        except EnvelopeRefused as error:
            log.security("record refused", member=member.name, day=day, reason=error)
            raise NotFetched(str(error)) from error
        record = sealed.content.get("record")
        if not isinstance(record, bytes):
            raise NotFetched("the envelope has no record")
        try:
            found = DayRecord.from_document(json_text.parse(record))
        except (RecordDamaged, ValueError) as error:
            raise NotFetched(f"not a day's record: {error}") from error
        if found.day != day:
            raise NotFetched(f"a record of {found.day}")
        return record

    # ── files ───────────────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, day: datetime.date, members: tuple[str, ...]) -> None:
        """Merge what there is of *day* and write the five files; those of *members* that are not in it are named."""
        records: dict[str, DayRecord] = {}
        used: dict[str, Utilisation] = {}
        for name in members:
            try:
                document = json_text.parse(self._path(day, name).read_bytes())
                records[name] = DayRecord.from_document(document)
            except (OSError, ValueError):
                continue
            with contextlib.suppress(ValueError, TypeError):
                for number, each in enumerate(document.get("utilisation", ())):
                    used[f"{name}-{number + 1}" if number else name] = Utilisation.from_document(each)
        merged, refused = merge(records)
        if merged is None:
            return
        missing = [name for name in members if name not in records]
        left_out = [f"# {name} is missing\n" for name in missing]
        left_out += [f"# {name} is left out: {why}\n" for name, why in refused.items()]
        for name, text in merged.texts(self._service).items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            whole_file.replace(path, (text + "".join(left_out)).encode(), mode=0o644)
        utilisation.write(self.directory, self._service, day, used, [name for name in members if name not in used])
        published: dict[str, Any] = {
            "utilisation": {name: asdict(each) for name, each in used.items()},
            "record": merged.to_document(),
            "instances": sorted(set(records) - set(refused)),
            "missing": missing,
            "refused": dict(refused),
        }
        whole_file.replace(self.directory / f"{day:%Y%m%d}.json", json.dumps(published).encode(), mode=0o644)
        log.event("statistics of the fleet", day=day, instances=len(published["instances"]),
                  missing=",".join((*missing, *refused)) or "none")  # fmt: skip

    def _forget_old(self) -> None:
        oldest = datetime.datetime.fromtimestamp(self._presence.now.wall, datetime.UTC).date()
        oldest -= datetime.timedelta(KEPT_DAYS)
        with contextlib.suppress(OSError):
            for each in self._records.iterdir():
                if each.name < f"{oldest:%Y%m%d}":
                    shutil.rmtree(each, ignore_errors=True)


def merge(records: Mapping[str, DayRecord]) -> tuple[DayRecord | None, dict[str, str]]:
    """All that can be merged, and by name why the others cannot; most instances decide what the others must fit."""
    best: tuple[list[str], dict[str, str]] = ([], {})
    for first in records:
        fits, refused = [first], dict[str, str]()
        for name, record in records.items():
            if name == first:
                continue
            try:
                DayRecord.sum([records[first], record])
            except ValueError as error:
                refused[name] = f"it does not fit {first}: {error}"
            else:
                fits.append(name)
        if len(fits) > len(best[0]):
            best = (fits, refused)
        if not refused or 2 * len(fits) > len(records):
            break
    if not best[0]:
        return None, {}
    return DayRecord.sum([records[name] for name in best[0]]), best[1]
