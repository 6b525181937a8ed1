"""Freshness, day files, and counting on after a restart."""

from pathlib import Path

from rootsrv.distribution.notify import NotifyOutcome, Told
from rootsrv.distribution.requests import Asker, Given
from rootsrv.localroot.observations import Fresh, Observations, Observed
from rootsrv.localroot.statistics import TODAY, SubscriberStatistics
from rootsrv.zone import instant

NOON = instant.from_text("2026-11-28T12:00:00Z")
TCP, TLS = Asker("192.0.2.1", over_tcp=True), Asker("192.0.2.1", over_tcp=True, over_tls=True)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def made(directory: Path, clock: Clock) -> tuple[SubscriberStatistics, Observations]:
    observations = Observations(directory / "seen")
    return SubscriberStatistics("localroot.example", observations, directory / "statistics", clock), observations


def had(
    statistics: SubscriberStatistics, server: int | None, serial: int, *, how: str = "axfr", asker: Asker = TCP
) -> None:
    statistics.transferred(Given(".", serial, how, 1000), asker, key="k." if server == 1 else "", server=server)


def fresh(observations: Observations) -> Fresh:
    observations.write()
    return Observed(observations.path).fresh(".")[0]


def test_freshness_is_of_those_who_had_the_zone_lately(tmp_path: Path) -> None:
    clock = Clock()
    statistics, observations = made(tmp_path, clock)
    statistics.recall(9, ".", 1, NOON - 8 * 86_400)  # not for a week
    statistics.published(".", 1)
    for server in (1, 2, 3, 4):
        had(statistics, server, 1)
    clock.now += 600
    statistics.published(".", 2)
    had(statistics, None, 2)
    for server, after in ((1, 5), (2, 55), (3, 400)):
        clock.now = NOON + 600 + after
        statistics.tick()
        had(statistics, server, 2)
    had(statistics, 5, 2)  # new: it is due for the next
    clock.now = NOON + 600 + 601
    statistics.tick()
    assert fresh(observations) == Fresh(".", 2, NOON + 600, 4, 2, 3, None)
    clock.now = NOON + 600 + 3601
    statistics.tick()
    assert fresh(observations) == Fresh(".", 2, NOON + 600, 4, 2, 3, 3)
    assert statistics.freshness()["."][:3] == (2, 4, 3)
    assert statistics.has(1, ".", 2)
    assert not statistics.has(4, ".", 2)
    statistics.forget([3])
    assert statistics.freshness()["."][:3] == (2, 3, 2)
    observations.close()


def test_a_restart_goes_on_with_the_version_and_the_day(tmp_path: Path) -> None:
    clock = Clock()
    statistics, observations = made(tmp_path, clock)
    statistics.recall(1, ".", 1, NOON - 60)
    statistics.recall(2, ".", 1, NOON - 60)
    statistics.published(".", 2)
    had(statistics, 1, 2)
    clock.now += 61
    assert statistics.tick()
    statistics.write()
    before = fresh(observations)
    observations.close()

    again, observations = made(tmp_path, clock)
    again.recall(1, ".", 2, NOON)
    again.recall(2, ".", 1, NOON - 60)
    again.recall_fresh(before)
    again.published(".", 2)  # the same: nothing begins anew
    had(again, 2, 2)
    clock.now = NOON + 601
    again.tick()
    assert fresh(observations) == Fresh(".", 2, NOON, 2, 1, 2, None)
    assert '".":\n    axfr-tcp-address: 1\n    axfr-tcp-key: 1' in again.day_text()
    observations.close()


def test_the_file_of_a_day_is_written_when_it_is_over(tmp_path: Path) -> None:
    clock = Clock()
    statistics, observations = made(tmp_path, clock)
    statistics.published(".", 1)
    had(statistics, 1, 1, how="ixfr", asker=TLS)
    had(statistics, None, 1)
    statistics.fetched(".", 1, 500, "gzip")
    for outcome, tries in (
        (NotifyOutcome.SENT, 0),
        (NotifyOutcome.SENT, 1),
        (NotifyOutcome.CONFIRMED, 1),
        (NotifyOutcome.UNCONFIRMED, 5),
    ):
        statistics.notified(".", Told(1, outcome, tries=tries))
    statistics.tsig_failed("BADTIME")
    clock.now += 86_400
    statistics.tick()
    statistics.write()
    text = (tmp_path / "statistics" / "2026" / "11" / "localroot.example-20261128-localroot.yaml").read_text()
    assert text == (
        "---\n"
        'version: "localroot-1"\n'
        'service: "localroot.example"\n'
        'start-period: "2026-11-28T00:00:00Z"\n'
        'metric: "localroot"\n'
        "servers: 1\n"
        'transfers:\n  ".":\n    axfr-tcp-stranger: 1\n    https-gzip: 1\n    ixfr-tls-key: 1\n'
        'transfer-octets:\n  ".":\n    axfr-tcp-stranger: 1000\n    https-gzip: 500\n    ixfr-tls-key: 1000\n'
        'notify:\n  ".":\n    confirmed: 1\n    not-confirmed: 1\n    sent: 1\n'
        "tsig-errors:\n  BADTIME: 1\n"
        'freshness:\n  - zone: "."\n    serial: 1\n    subscribers: 0\n'
        "    after-1-minutes: 0\n    after-10-minutes: 0\n    after-60-minutes: 0\n"
    )
    assert statistics.total["transfers . https-gzip"] == 1
    clock.now += 86_400
    statistics.tick()
    statistics.write()
    empty = (tmp_path / "statistics" / "2026" / "11" / "localroot.example-20261129-localroot.yaml").read_text()
    assert empty.endswith(
        "servers: 0\ntransfers: {}\ntransfer-octets: {}\nnotify: {}\ntsig-errors: {}\nfreshness: []\n"
    )
    observations.close()


def test_a_directory_that_cannot_be_written_loses_nothing(tmp_path: Path) -> None:
    clock = Clock()
    statistics, observations = made(tmp_path, clock)
    had(statistics, 1, 1)
    (tmp_path / "statistics").write_text("in the way")
    clock.now += 86_400
    statistics.tick()
    statistics.write()
    assert "statistics" in statistics.error
    (tmp_path / "statistics").unlink()
    statistics.write()
    assert statistics.error == ""
    assert len(list((tmp_path / "statistics").rglob("*.yaml"))) == 1
    observations.close()


def test_a_damaged_file_of_today_begins_it_anew(tmp_path: Path) -> None:
    (tmp_path / "statistics").mkdir()
    for text in ("{", "[]", '{"format": 9}', '{"format": 1, "day": "x"}'):
        (tmp_path / "statistics" / TODAY).write_text(text)
        statistics, observations = made(tmp_path, Clock())
        assert "servers: 0" in statistics.day_text()
        observations.close()
