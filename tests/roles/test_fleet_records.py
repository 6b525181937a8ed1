"""The records of all members: merged where they can be, and whoever is not in the files is named in them."""

import datetime
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rootsrv.commands.parser import main
from rootsrv.roles.fleet_records import FleetRecords, merge
from rootsrv.telemetry import statistics_page
from rootsrv.telemetry.rssac002 import DayRecord
from tests.telemetry.test_rssac002 import a_record

DAY = datetime.date(2026, 11, 21)


def records(state: Path) -> FleetRecords:
    """Of a distribution host whose state directory is *state*."""
    presence: Any = SimpleNamespace(config=SimpleNamespace(state=SimpleNamespace(directory=str(state))))
    return FleetRecords(presence, "x.root-servers.net")


def keep(state: Path, member: str, record: DayRecord) -> None:
    path = state / "mesh" / "records" / "20261121" / f"{member}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record.to_document()))


def test_what_cannot_be_merged_with_most_is_left_out_and_named() -> None:
    fits, other = a_record(), a_record(datetime.date(2026, 11, 20))
    merged, refused = merge({"odd": other, "a": fits, "b": fits, "c": fits})
    assert merged is not None
    assert merged.day == DAY
    assert set(refused) == {"odd"}
    assert "different days" in refused["odd"]
    assert merge({}) == (None, {})


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
