"""The day's statistics survive whatever ends a process, and a day ends at midnight, whoever looks when."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rootsrv.page import unique_sources
from rootsrv.page.layout import TLS_SLOT, Page
from rootsrv.page.unique_sources import SourcesKey
from rootsrv.process import whole_file
from rootsrv.server.counters import Counters
from rootsrv.telemetry import daybook
from rootsrv.telemetry.daybook import DayBook, find_record
from rootsrv.telemetry.rssac002 import DayRecord

DAY = 20_778  # 2026-11-21
DATE = datetime.date(2026, 11, 21)
MIDNIGHT = DAY * 86_400.0
SERVICE = "x.root-servers.net"
KEY = SourcesKey.random()

QUERY = b"\0\1\0\0\0\1\0\0\0\0\0\0\0\0\6\0\1"
RESPONSE = b"\0\1\x84\0\0\1\0\0\0\0\0\0\0\0\6\0\1"


class Site:
    """A page, a worker that counts in its slot 0, and the book."""

    def __init__(self, directory: Path, now: float) -> None:
        self.directory = directory
        self.page = Page.create(directory / "page")
        self.worker = counting(self.page, 0, now)
        self.book = DayBook(directory / "statistics", SERVICE)

    def count(self, amount: int, worker: Counters | None = None) -> None:
        (worker or self.worker).count(0, [QUERY] * amount, [RESPONSE] * amount)

    def look(self) -> None:
        self.book.look(self.page)

    def restart_book(self) -> None:
        """As after a crash: what was not written is gone."""
        self.book = DayBook(self.directory / "statistics", SERVICE)

    def queries(self, day: int = DAY) -> int:
        return queries(self.book.record(day))


def counting(page: Page, slot: int, now: float, key: SourcesKey = KEY) -> Counters:
    counters = Counters(page.worker(slot), (), key)
    counters.turn_day(now)
    page.worker(slot).counters  # noqa: B018  (mapped)
    return counters


def queries(record: DayRecord | None) -> int:
    """Queries of a record, which has as many responses in all metrics."""
    assert record is not None
    amount = record.volume.get("dns-udp-queries-received-ipv4", 0)
    assert sum(record.rcodes.values()) == sum(record.sizes.get("udp-request-sizes", {}).values()) == amount
    return amount


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    # The workers' own clock must not turn the day: the tests do.
    monkeypatch.setattr("rootsrv.server.counters.time.time", lambda: MIDNIGHT + 3600)
    return Site(tmp_path, MIDNIGHT + 3600)


def test_what_was_asked_over_tls_is_no_tcp_and_its_sources_are_among_all(tmp_path: Path) -> None:
    site = Site(tmp_path, MIDNIGHT)
    over_tls = counting(site.page, TLS_SLOT, MIDNIGHT)
    site.count(3)
    over_tls.count(2, [QUERY] * 5, [RESPONSE] * 5)
    over_tls.count(3, [QUERY] * 2, [RESPONSE] * 2)
    over_tls.note_sources([b"\xc0\0\2\1"])
    site.look()
    site.book.look_at_sources(site.page)
    record = site.book.record(DAY)

    assert queries_by_key(record) == {
        "dns-udp-queries-received-ipv4": 3,
        "dns-tls-queries-received-ipv4": 5,
        "dns-tls-queries-received-ipv6": 2,
    }
    assert dict(record.rcodes) == {0: 10}
    assert record.unique_sources()["num-sources-ipv4"] == 1
    site.book.write(MIDNIGHT + 2 * 86_400)
    text = (tmp_path / "statistics/rssac002/2026/11/traffic-volume/x-root-20261121-traffic-volume.yaml").read_text()
    assert "x-dns-tls-queries-received-ipv4: 5\n" in text


def queries_by_key(record: DayRecord) -> dict[str, int]:
    return {key: amount for key, amount in record.volume.items() if amount and "queries" in key}


def test_looking_often_or_seldom_gives_the_same(site: Site) -> None:
    for amount in (1, 2, 3):
        site.count(amount)
        site.look()
    site.look()
    site.count(4)
    site.look()

    assert site.queries() == 10


def test_what_was_counted_before_midnight_is_in_the_day_before_however_late_we_look(site: Site) -> None:
    site.count(5)
    site.look()
    site.count(7)
    site.worker.turn_day(MIDNIGHT + 86_400)
    site.count(11)
    site.look()

    assert (site.queries(DAY), site.queries(DAY + 1)) == (12, 11)


def test_workers_that_turn_the_day_one_after_the_other_are_both_split_exactly(site: Site) -> None:
    other = counting(site.page, 1, MIDNIGHT + 3600)
    site.count(1)
    site.count(10, other)
    site.worker.turn_day(MIDNIGHT + 86_400)
    site.count(100)
    site.count(1_000, other)
    site.look()
    other.turn_day(MIDNIGHT + 86_400)
    site.count(10_000, other)
    site.look()

    assert (site.queries(DAY), site.queries(DAY + 1)) == (1_011, 10_100)


def test_a_crash_of_ours_loses_nothing_and_repeats_nothing(site: Site) -> None:
    site.count(5)
    site.look()
    site.book.write(MIDNIGHT + 3600)
    site.count(7)
    site.look()
    site.restart_book()
    site.count(1)
    site.look()
    assert site.queries() == 13

    site.book.write(MIDNIGHT + 3700)
    site.restart_book()
    site.look()
    assert site.queries() == 13


def test_midnight_while_nobody_looked_is_still_split_exactly(site: Site) -> None:
    site.count(5)
    site.look()
    site.book.write(MIDNIGHT + 3600)
    site.count(7)
    site.worker.turn_day(MIDNIGHT + 86_400)
    site.count(11)
    site.restart_book()
    site.look()

    assert (site.queries(DAY), site.queries(DAY + 1)) == (12, 11)


def test_a_replaced_worker_counts_on_in_the_slot(site: Site) -> None:
    site.count(5)
    site.look()
    site.worker = counting(site.page, 0, MIDNIGHT + 3700)
    site.count(6)
    site.look()

    assert site.queries() == 11


def test_after_a_reboot_the_day_goes_on(site: Site) -> None:
    site.count(5)
    site.look()
    site.book.write(MIDNIGHT + 3600)
    site.page = Page.create(site.directory / "page")
    site.worker = counting(site.page, 0, MIDNIGHT + 3600)
    site.count(6)
    site.restart_book()
    site.look()

    assert site.queries() == 11


def test_a_page_made_anew_under_our_eyes_is_counted_from_0(site: Site) -> None:
    site.count(5)
    site.look()
    site.page = Page.create(site.directory / "page")
    site.worker = counting(site.page, 0, MIDNIGHT + 3600)
    site.count(9)
    site.look()

    assert site.queries() == 14


def test_a_clock_that_steps_over_midnight_and_back_loses_nothing(site: Site) -> None:
    site.count(5)
    site.look()
    for now in (MIDNIGHT + 86_400 + 10, MIDNIGHT + 86_400 - 10, MIDNIGHT + 40 * 86_400, MIDNIGHT + 86_400 - 5):
        site.worker.turn_day(now)
        site.count(100)
        site.look()

    days = (DAY, DAY + 1, DAY + 40)
    assert sum(site.queries(day) for day in days) == 405
    assert [site.queries(day) for day in days] == [105, 200, 100]


def test_steps_that_nobody_looked_at_lose_nothing_either(site: Site) -> None:
    site.count(5)
    site.look()
    for now in (MIDNIGHT + 86_400 + 10, MIDNIGHT + 40 * 86_400, MIDNIGHT + 7200):
        site.worker.turn_day(now)
        site.count(100)
    site.look()

    assert sum(site.queries(day) for day in range(DAY - 1, DAY + 42)) == 305


def test_unique_sources_of_a_day_are_kept_when_the_day_turns_and_the_page_goes(site: Site) -> None:
    site.worker.note_sources([number.to_bytes(4, "big") for number in range(2_000)])
    site.book.look_at_sources(site.page)
    site.book.write(MIDNIGHT + 3600)
    site.worker.note_sources([number.to_bytes(4, "big") for number in range(1_000, 3_000)])
    site.count(1)
    site.look()
    site.worker.turn_day(MIDNIGHT + 86_400)
    site.worker.note_sources([b"\1\2\3\4"])
    site.count(1)
    site.look()
    site.book.look_at_sources(site.page)
    site.book.write(MIDNIGHT + 86_400 + 60)
    site.restart_book()

    estimates = [site.book.record(day).unique_sources()["num-sources-ipv4"] for day in (DAY, DAY + 1)]
    assert abs(estimates[0] - 3_000) < 3_000 * 0.0081 * 4
    assert estimates[1] == 1


def test_a_key_that_changes_in_mid_day_loses_nothing_and_mixes_nothing(site: Site) -> None:
    sources = [number.to_bytes(4, "big") for number in range(5_000)]
    site.worker.note_sources(sources[:3_000])
    site.count(10)
    site.look()
    # A restart of the workers, before the book has looked at what the key before has noted.
    site.worker = counting(site.page, 0, MIDNIGHT + 7200, SourcesKey.random())
    site.worker.note_sources(sources[2_000:])
    site.count(20)
    site.look()
    site.book.look_at_sources(site.page)
    site.worker.turn_day(MIDNIGHT + 86_400)
    site.count(1)
    site.look()
    site.book.look_at_sources(site.page)
    site.book.write(MIDNIGHT + 86_400 + 60)
    site.restart_book()

    record = site.book.record(DAY)
    assert queries(record) == 30
    assert len(record.sketches) == 2
    assert abs(record.unique_sources()["num-sources-ipv4"] - 3_000) < 3_000 * 0.0081 * 4
    assert site.book.record(DAY + 1).sketches == {}


def test_an_upgrade_in_mid_day_goes_on_with_the_day_that_version_0_1_has_kept(site: Site) -> None:
    site.worker.note_sources([number.to_bytes(4, "big") for number in range(2_000)])
    site.count(10)
    site.look()
    site.book.look_at_sources(site.page)
    site.book.write(MIDNIGHT + 3600)
    book = site.directory / "statistics" / "book.json"
    document = json.loads(book.read_text())
    for each in document["days"].values():
        each["registers"] = each.pop("sketches").get(unique_sources.key_name(KEY.id), each["registers"])
    book.write_text(json.dumps(document))
    site.restart_book()
    site.worker.note_sources([number.to_bytes(4, "big") for number in range(500)])
    site.count(5)
    site.look()
    site.book.look_at_sources(site.page)

    record = site.book.record(DAY)
    assert queries(record) == 15
    assert set(record.sketches) == {"", unique_sources.key_name(KEY.id)}
    assert abs(record.unique_sources()["num-sources-ipv4"] - 2_000) < 2_000 * 0.0081 * 4


@pytest.mark.parametrize("day", [0, daybook._LAST_DAY + 1, 1 << 40, (1 << 64) - 1])
def test_a_day_that_is_none_ends_no_statistics(site: Site, day: int) -> None:
    liar = site.page.worker(5)
    liar.day = day
    liar.counters[:] = memoryview(b"\xff" * (8 * len(liar.counters))).cast("Q")
    site.count(3)
    site.look()
    site.book.look_at_sources(site.page)
    site.book.write(MIDNIGHT + 86_400 + daybook.SETTLE_SECONDS)

    assert site.queries() == 3


def test_a_slot_that_begins_ever_new_days_fills_neither_memory_nor_disk(site: Site) -> None:
    liar = site.page.worker(5)
    for day in range(DAY + 1, DAY + 1000):
        liar.day = day
        liar.counters[0] += 1
        site.look()
    site.count(3)
    site.look()
    site.book.write(MIDNIGHT + 3600)

    assert len(site.book._days) <= 51
    assert site.queries() == 3
    site.restart_book()
    assert site.queries() == 3


def test_the_files_of_a_day_are_written_when_it_is_over_and_no_earlier(site: Site) -> None:
    site.count(3)
    site.look()
    site.book.note_load_time(2026112101, MIDNIGHT + 5, 12.5)
    site.book.write(MIDNIGHT + 86_400 - 1)
    written = site.directory / "statistics" / "rssac002"
    assert not written.exists()
    assert queries(find_record(site.directory / "statistics", DATE)) == 3

    site.worker.turn_day(MIDNIGHT + 86_400)
    site.look()
    site.book.write(MIDNIGHT + 86_400 + daybook.SETTLE_SECONDS)
    names = sorted(path.name for path in written.rglob("*.yaml"))
    assert names == [
        f"x-root-20261121-{metric}.yaml"
        for metric in ("load-time", "rcode-volume", "traffic-sizes", "traffic-volume", "unique-sources")
    ]
    assert "2026112101: 13" in (written / "2026/11/load-time/x-root-20261121-load-time.yaml").read_text()
    assert queries(find_record(site.directory / "statistics", DATE)) == 3


def test_what_comes_late_is_added_to_the_files(site: Site) -> None:
    other = counting(site.page, 1, MIDNIGHT + 3600)
    site.count(3)
    site.look()
    site.worker.turn_day(MIDNIGHT + 86_400)
    site.book.write(MIDNIGHT + 86_400 + 60)
    site.count(4, other)  # a worker that was stopped over midnight
    other.turn_day(MIDNIGHT + 90_000)
    site.look()
    site.book.write(MIDNIGHT + 90_000)
    site.book.write(MIDNIGHT + 3 * 86_400)  # both days have left memory
    site.restart_book()

    assert site.queries() == 7


def full(*arguments: object) -> None:
    raise OSError(28, "No space left on device", "book.json.new")


def test_a_full_disk_loses_nothing_and_is_told_once(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rootsrv")
    with monkeypatch.context() as disk:
        disk.setattr(whole_file, "replace", full)
        for day in range(3):
            site.count(10)
            site.worker.turn_day(MIDNIGHT + (day + 1) * 86_400)
            site.look()
            site.book.write(MIDNIGHT + (day + 1) * 86_400 + 60)
        assert site.book.error == "book.json.new: No space left on device"
    site.book.write(MIDNIGHT + 3 * 86_400 + 70)
    site.restart_book()

    assert [site.queries(DAY + day) for day in range(3)] == [10, 10, 10]
    told = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert any("statistics written again" in record.getMessage() for record in caplog.records)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def other_format(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def nonsense(path: Path) -> None:
    path.write_text('{"format": 1, "days": [], "read": 3}')


@pytest.mark.parametrize("damage", [truncate, other_format, nonsense])
def test_a_damaged_book_is_told_and_what_the_page_holds_counts(
    site: Site, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    site.count(5)
    site.look()
    site.book.write(MIDNIGHT + 3600)
    damage(site.directory / "statistics" / "book.json")
    site.restart_book()
    site.count(1)
    site.look()

    assert site.queries() == 6
    assert "statistics unreadable" in caplog.text
