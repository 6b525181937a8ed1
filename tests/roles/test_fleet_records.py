"""The records of all members: merged where they can be, and whoever is not in the files is named in them."""

import asyncio
import datetime
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rootsrv.commands.parser import main
from rootsrv.roles.fleet_records import FleetRecords, merge
from rootsrv.telemetry import statistics_page, utilisation
from rootsrv.telemetry.rssac002 import DayRecord
from rootsrv.telemetry.utilisation import Utilisation
from tests.telemetry.test_rssac002 import OTHER_KEY, a_record

DAY = datetime.date(2026, 11, 21)


def records(state: Path) -> FleetRecords:
    """Of a distribution host whose state directory is *state*."""
    presence: Any = SimpleNamespace(config=SimpleNamespace(state=SimpleNamespace(directory=str(state))))
    return FleetRecords(presence, "x.root-servers.net")


def keep(state: Path, member: str, record: DayRecord, **also: Any) -> None:
    path = state / "mesh" / "records" / "20261121" / f"{member}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record.to_document() | also))


def test_a_day_before_a_members_first_is_no_alarm_and_one_that_it_has_lost_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\n\r\nnothing is known of it\n")
        await writer.drain()
        writer.close()

    async def gather(*days: datetime.date) -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            fleet = records(tmp_path)
            member = SimpleNamespace(name="m0", metrics=f"127.0.0.1:{port}")
            fleet._presence.fleet = SimpleNamespace(roster=SimpleNamespace(member=(member,)))  # type: ignore[assignment]
            fleet._presence.sign_now = lambda key, content: b"signed"  # type: ignore[method-assign]
            for day in days:
                await fleet.gather(day)
                await fleet.gather(day)

    before, after = DAY - datetime.timedelta(1), DAY + datetime.timedelta(1)
    asyncio.run(gather(before, DAY, after))
    assert "record not fetched" not in caplog.text
    keep(tmp_path, "m0", a_record())
    asyncio.run(gather(before, after))
    told = [each.getMessage() for each in caplog.records if "record not fetched" in each.getMessage()]
    assert len(told) == 1
    assert f"day={after}" in told[0]


def test_what_cannot_be_merged_with_most_is_left_out_and_named() -> None:
    fits, other = a_record(), a_record(datetime.date(2026, 11, 20))
    merged, refused = merge({"odd": other, "a": fits, "b": fits, "c": fits})
    assert merged is not None
    assert merged.day == DAY
    assert set(refused) == {"odd"}
    assert "different days" in refused["odd"]
    assert merge({}) == (None, {})


def test_registers_of_another_key_are_refused_to_merge_and_the_instance_is_named(tmp_path: Path) -> None:
    fleet = records(tmp_path)
    keep(tmp_path, "m0", a_record())
    keep(tmp_path, "m1", a_record(key=OTHER_KEY))
    keep(tmp_path, "m2", a_record(sources=range(500, 1500)))
    fleet.publish(DAY, ("m0", "m1", "m2"))
    text = (fleet.directory / "2026/11/unique-sources/x-root-20261121-unique-sources.yaml").read_text()
    assert "# m1 is left out: it does not fit m0: unique sources were counted under different keys" in text
    (day,) = statistics_page.read(fleet.directory)
    assert day.instances == ("m0", "m2")
    assert day.refused is not None
    assert set(day.refused) == {"m1"}
    assert day.record.volume["dns-udp-queries-received-ipv4"] == 200  # nothing of m1 is in any of the five
    assert day.record.unique_sources()["num-sources-ipv4"] == pytest.approx(1500, rel=0.03)
    assert "m1" in statistics_page.render([day], "x.root-servers.net", "")


def test_what_instances_used_of_their_machines_is_published_beside_the_five_files(tmp_path: Path) -> None:
    fleet = records(tmp_path)
    used = Utilisation(processors=8, processor_percent=12.5, memory_octets_peak=300_000_000, network_octets_sent=7)
    keep(tmp_path, "m0", a_record(), utilisation=[asdict(used)])
    keep(tmp_path, "m1", a_record(), utilisation=[asdict(used), asdict(used)])  # renamed on that day
    keep(tmp_path, "m2", a_record())  # of an older version
    keep(tmp_path, "m3", a_record(), utilisation=[{"processors": "many"}])
    fleet.publish(DAY, ("m0", "m1", "m2", "m3", "m4"))

    assert set(utilisation.read(fleet.directory, "x.root-servers.net", DAY)) == {"m0", "m1", "m1-2"}
    document = json.loads(utilisation.file_of(fleet.directory, "x.root-servers.net", DAY).read_bytes())
    assert document["missing"] == ["m2", "m3", "m4"]
    (day,) = statistics_page.read(fleet.directory)
    assert day.used["m0"] == used
    assert len(day.instances) == 4
    page = statistics_page.render([day], "x.root-servers.net", "")
    assert "12.5 %, at most 0 % of 8" in page


def test_the_files_are_right_and_name_who_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet = records(tmp_path)
    keep(tmp_path, "m0", a_record())
    keep(tmp_path, "m1", a_record(scale=2, sources=range(500, 1500)))
    (tmp_path / "mesh" / "records" / "20261121" / "m2.json").write_text("{damaged")
    fleet.publish(DAY, ("m0", "m1", "m2", "m3"))
    assert main(["rssac002", "validate", "--sums", str(fleet.directory)]) == 0, capsys.readouterr()
    volume = (fleet.directory / "2026/11/traffic-volume/x-root-20261121-traffic-volume.yaml").read_text()
    assert "# m2 is missing\n# m3 is missing\n" in volume
    assert "dns-udp-queries-received-ipv4: 300" in volume

    (day,) = statistics_page.read(fleet.directory)
    assert (day.instances, day.missing) == (("m0", "m1"), ("m2", "m3"))
    assert day.record.unique_sources()["num-sources-ipv4"] == pytest.approx(1500, rel=0.03)

    # One that comes later is counted, and not twice.
    keep(tmp_path, "m3", a_record())
    fleet.publish(DAY, ("m0", "m1", "m2", "m3"))
    (day,) = statistics_page.read(fleet.directory)
    assert day.instances == ("m0", "m1", "m3")
    assert day.record.volume["dns-udp-queries-received-ipv4"] == 400


def test_the_statistics_page_shows_the_day_and_the_month(tmp_path: Path) -> None:
    days = [
        statistics_page.FleetDay(replace(a_record(scale=n + 1), day=DAY + datetime.timedelta(n)), ("m0",), ("m<1>",))
        for n in range(3)
    ]
    page = statistics_page.render(days, "x.root-servers.net", "NOC <noc@example.net>")
    assert "2026-11-23: volume" in page
    assert "300 queries, 300 responses" in page
    assert "m&lt;1&gt;" in page
    assert "Queries a day, last 3 days" in page
    assert "NOC &lt;noc@example.net&gt;" in page
    assert page.count("<svg") == 4
    assert "No day is over yet" in statistics_page.render([], "x.root-servers.net", "")
    (tmp_path / "20261121.json").write_text("[]")
    assert statistics_page.read(tmp_path) == []
