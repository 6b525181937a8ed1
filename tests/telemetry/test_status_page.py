"""The status page: what it says, in what state, and in a browser."""

import asyncio
import dataclasses
import datetime
import re
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest

from bench.peers.daemon import free_port
from rootsrv.config.file import Config, read
from rootsrv.http.server import HttpServer, Request, Response
from rootsrv.telemetry import chart
from rootsrv.telemetry.history import PATHS, SERIES, Event, Events, History, Rates
from rootsrv.telemetry.page_style import runbook_entry
from rootsrv.telemetry.problems import problems
from rootsrv.telemetry.prometheus import Statistics
from rootsrv.telemetry.rssac002 import DayRecord
from rootsrv.telemetry.status_page import PAGE_HEADERS, Content, render
from rootsrv.telemetry.view import Said, ServedZone, View, Worker
from tests.server.live import SERIALS, wait_until
from tests.telemetry.browser import Checker, browse
from tests.telemetry.test_rssac002 import a_record
from tests.telemetry.watched import REPORT_ADDRESS, Watched, watched
from tests.test_runbook import listed

NOW = 1_795_262_400.0  # 2026-11-21T12:00:00Z

WELL: dict[str, Any] = {
    "serve": {"pid": 2},
    "maintain": {
        "pid": 3, "clock": "synchronised", "switchover": {"state": "flipped", "generation": 7}, "alarms": [],
        "zones": [
            {
                "name": ".", "known": 2026112101, "received": 2026112101, "scheduled": None, "served": 2026112101,
                "known_age_seconds": None, "received_age_seconds": 4000, "served_age_seconds": 3900,
                "confirmed_age_seconds": 700, "lease_seconds": 604_000, "signatures_until": "2026-12-03T05:00:00Z",
                "source": "xfr.example (ixfr)", "held": [], "last_rejection": "", "alarms": [],
                "primaries": [{"name": "xfr.example", "serial": 2026112101, "reachable": True, "last_error": ""}],
            }
        ],
    },
    "advertise": {
        "families": [
            {
                "ip_version": 4, "prefix": "192.0.2.0/24", "state": "up", "announced": True, "route": "up",
                "since_seconds": 90_000, "reason": "all probes pass", "confirmed": True, "alarms": [],
            }
        ]
    },
}  # fmt: skip

ANYCAST = read(
    {
        "service": {"addresses": ["192.0.2.53"]},
        "anycast": {"prefix_v4": "192.0.2.0/24", "bgp_v4": ["upstream4"]},
        "report": {"contact": "NOC <noc@example.net>"},
    }
)


WITH = {
    "mesh": read(
        {
            "mesh": {
                "service": "x", "member": "m0", "key": "k", "roster_keys": ["0" * 64],
                "endpoints": ["http://127.0.0.1:2379"],
            }
        }
    ),
    "capture": read({"capture": {}}),
    "localroot": read({"localroot": {"name": "localroot.example", "addresses": ["192.0.2.7"]}}),
}  # fmt: skip


def content(changes: dict[str, Any] | None = None, **view: Any) -> Content:
    """An instance that is well but for *changes* (role → keys) and *view*."""
    roles = {role: Said(said | (changes or {}).get(role, {})) for role, said in WELL.items()}
    whole: dict[str, Any] = {
        "generation": 7,
        "workers": (Worker(0, 11, 0.01, 7),),
        "zones": (ServedZone(".", 2026112101, 0, 604_000.0),),
        "roles": roles,
    }
    rates = [
        Rates(NOW - 10 * at, dict.fromkeys(PATHS, 100.0 + at % 7), dict.fromkeys(SERIES, 130.0))
        for at in range(360, -1, -1)
    ]
    statistics = Statistics(a_record(), {"num-sources-ipv4": 7_123_456}, "")
    events = [Event("2026-11-21T11:00:00Z", "zone served: zone .")]
    return Content(statistics, View(NOW, **(whole | view)), rates, rates, events)


def found(of: Content, config: Config) -> list[str]:
    """What a person is told to look at."""
    all_of_them = list(problems(of.view, config, of.statistics.error, of.capture_lost))
    assert {each.entry for each in all_of_them} <= listed() | {""}
    return [each.text for each in all_of_them]


def shown(of: Content, config: Config = ANYCAST) -> str:
    return render(of, config, "lax1a.example")


def test_dns_over_tls_is_shown_and_its_troubles_are_named() -> None:
    config = read({"dot": {}})
    dot = {
        "ready": True, "active": 7, "port": 853, "certificate": "/etc/dot.crt", "certificate_problem": "",
        "certificate_until": "2026-12-03T05:00:00Z", "certificate_expires_seconds": 90 * 86_400,
    }  # fmt: skip

    def trouble(**changes: object) -> list[str]:
        return found(content({"serve": {"dot": dot | changes}}), config)

    assert trouble() == []
    assert trouble(ready=False) == ["DNS over TLS is not answered."]
    assert trouble(active=6) == ["DNS over TLS is not answered."]
    assert trouble(certificate_problem="no <key>") == [
        "DNS over TLS shows another certificate than the configured one: no <key>."
    ]
    assert trouble(certificate_expires_seconds=86_400) == ["The certificate of DNS over TLS expires in 24 h."]
    page = render(content({"serve": {"dot": dot}}), config, "x")
    assert "DNS over TLS, port 853" in page
    assert "/etc/dot.crt, until 2026-12-03T05:00:00Z" in page
    assert "DNS over TLS" not in render(content(), Config(), "x")


def test_an_instance_that_is_well_says_so_and_all_that_is_asked_for_is_there() -> None:
    page = shown(content())

    assert found(content(), ANYCAST) == []
    assert "✓ All is well." in page
    for text in (
        "lax1a.example", "192.0.2.0/24", "up (up for 25 h)", "2026112101", "may be served for", "7 d",
        "2026-12-03T05:00:00Z",
        "udp queries received ipv4", "≈ 7,123,456", "zone served: zone .", "NOC &lt;noc@example.net&gt;", "NXDOMAIN",
    ):  # fmt: skip
        assert text in page
    checker = Checker()
    checker.feed(page)
    assert checker.open == []


MESH: dict[str, Any] = {
    "service": "x", "member": "m0", "engine": {"there": True}, "roster_version": 3, "leads": True,
    "members": [{"name": "m0", "present": True, "group": "all", "distribution_host": True}],
    "groups": [{"name": "all", "n": 1, "k": 1}],
}  # fmt: skip
CAPTURE: dict[str, Any] = {"state": "capturing", "format": "cdns", "lost": {"kernel": 0, "worker": 0, "disk": 0}}
LOCALROOT: dict[str, Any] = {"zones": [{"name": ".", "given": 7}], "failing": {}}


@pytest.mark.parametrize(
    ("section", "role", "said", "problem", "entry"),
    [
        ("mesh", "mesh", MESH | {"engine": {"reason": "no quorum"}}, "gone: no quorum", "RootsrvMeshEngineGone"),
        ("mesh", "mesh", MESH | {"members": []}, "No roster is in force", "roster not recalled"),
        ("mesh", "mesh", MESH | {"outside": {"ahead_seconds": 7200}}, "newer root for 2 h", "RootsrvOutsideAhead"),
        ("mesh", "", {}, "The role mesh does not answer", "RootsrvRoleDown"),
        ("capture", "capture", CAPTURE | {"state": "full", "why": "disk full"}, "disk full", "RootsrvCaptureFull"),
        ("capture", "capture", CAPTURE | {"error": "a.gz: no room"}, "a.gz: no room", "capture file not finished"),
        ("capture", "capture", CAPTURE | {"order_error": "order.json cannot be read"}, "order.json cannot be read",
         "capture order cannot be read"),
        ("capture", "capture", CAPTURE | {"failing": {"collect": "KeyError"}}, "(collect): KeyError", "attempt failed"),
        ("capture", "", {}, "The role capture does not answer", "RootsrvCaptureDown"),
        ("localroot", "localroot", LOCALROOT | {"zones": [{"name": ".", "withheld": "old"}]}, "withheld: old",
         "zone is withheld"),
        ("localroot", "localroot", LOCALROOT | {"register_error": "locked"}, "locked", "register cannot be read"),
        ("localroot", "localroot", LOCALROOT | {"observations_error": "full"}, "Observations cannot be written: full",
         "observations cannot be written"),
        ("localroot", "localroot", LOCALROOT | {"statistics_error": "full"}, "subscribers cannot be written: full",
         "statistics cannot be written"),
        ("localroot", "localroot", LOCALROOT | {"tls_lacks": "no key"}, "over TLS: no key", "no transfers over TLS"),
        ("localroot", "", {}, "The role localroot does not answer", "RootsrvRoleDown"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_what_else_is_configured_stands_there_with_the_way_to_what_can_be_done(
    section: str, role: str, said: dict[str, Any], problem: str, entry: str
) -> None:
    config = WITH[section]
    roles = {name: Said(each) for name, each in WELL.items()} | ({role: Said(said)} if role else {})
    ill = content(roles=roles)
    whole = shown(ill, config)

    assert [(problem in each.text, each.entry) for each in problems(ill.view, config)] == [(True, entry)]
    assert escape(problem) in whole
    assert f'<a href="/docs/runbook#{runbook_entry(entry)}" title="{entry}">what to do</a>' in whole
    assert entry in listed()


def test_what_a_capture_has_lost_is_told_of() -> None:
    whole = content(roles={name: Said(each) for name, each in WELL.items()} | {"capture": Said(CAPTURE)})
    lossy = dataclasses.replace(whole, capture_lost=1200)
    assert found(whole, WITH["capture"]) == []
    assert found(lossy, WITH["capture"]) == ["The capture has lost 1,200 queries in the last quarter of an hour."]


def test_what_two_roles_and_both_families_say_is_told_once() -> None:
    family = {"ip_version": 4, "announced": True, "route": "up", "alarms": ["clock stepped, 3.1 s off", "lost probes"]}
    both = {"families": [family, family | {"ip_version": 6}]}
    alarms = {"alarms": ["clock stepped, 3.2 s off"], "alarm_entries": ["RootsrvClockUnsynchronised"]}
    assert found(content({"advertise": both, "maintain": alarms}), ANYCAST) == [
        "IPv4, IPv6: lost probes",
        "clock stepped, 3.2 s off",
    ]


def test_a_role_of_a_release_that_does_not_know_the_runbook_is_heard_all_the_same() -> None:
    of = content({"maintain": {"alarms": ["one", "two"], "alarm_entries": ["lease over"]}})
    assert [(each.text, each.entry) for each in problems(of.view, ANYCAST)] == [("one", "lease over"), ("two", "")]
    assert "<li>two</li>" in shown(of)


@pytest.mark.parametrize(
    ("changes", "view", "problem"),
    [
        ({}, {"silenced": True}, "This instance has ceased to answer"),
        ({}, {"generation": 0, "workers": ()}, "No zone is in service"),
        ({}, {"zones": (ServedZone(".", 1, 0, -1.0),)}, "Zone . may not be served any more"),
        ({}, {"roles": {}}, "The role maintain does not answer"),
        ({}, {"workers": (Worker(0, 11, 0.1, 6),)}, "1 of 1 workers do not answer from the active table"),
        ({"maintain": {"alarms": ["clock free-running"]}}, {}, "clock free-running"),
        ({"maintain": {"zones": [{"name": ".", "known_age_seconds": 4000}]}}, {}, "Zone . is stale"),
        ({"maintain": {"alarms": ["zone . 5 is held: gross"]}}, {}, "zone . 5 is held: gross"),
        (
            {"advertise": {"families": [{"ip_version": 6, "announced": False, "reason": "no answer in 500 ms"}]}}, {},
            "IPv6 is not announced: no answer in 500 ms.",
        ),
        (
            {"advertise": {"families": [{"ip_version": 4, "announced": True, "route": "degraded", "reason": "stale"}]}},
            {},
            "IPv4 is announced degraded: stale.",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_stands_at_the_top(changes: dict[str, Any], view: dict[str, Any], problem: str) -> None:
    page = shown(content(changes, **view))

    assert "✗ Somebody should look:" in page
    assert problem in page.partition("</header>")[0]


def test_what_strangers_name_is_shown_and_not_obeyed() -> None:
    evil = "<script>alert(1)</script>"
    page = shown(
        content(
            {
                "maintain": {
                    "alarms": [evil], "zones": [{"name": evil, "source": evil, "last_rejection": evil, "held": [
                        {"serial": evil, "reasons": [evil]}], "primaries": [{"name": evil, "last_error": evil}]}],
                },
                "advertise": {"families": [{"reason": evil, "prefix": evil, "state": evil, "route": evil}]},
                "fastpath": {"interfaces": [{"name": evil, "hook": evil, "why": evil}]},
            }
        )
    )  # fmt: skip

    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_page_of_an_instance_of_which_nothing_is_known_is_a_page() -> None:
    page = render(
        Content(Statistics(DayRecord(datetime.date(2026, 11, 21)), {}, "full"), View(NOW), [], [], []), Config(), "x"
    )

    assert "The role serve does not answer." in page
    assert "Statistics cannot be written: full." in page


# ── the last hour ──


def words(queries: int, nxdomain: int) -> list[int]:
    from rootsrv.page import counts

    whole = [0] * counts.END
    whole[counts.QUERIES] = queries
    whole[counts.RCODES] = queries - nxdomain
    whole[counts.RCODES + 3] = nxdomain
    return whole


def test_rates_are_differences_of_counters_over_time() -> None:
    history = History()
    for at, queries in ((0, 0), (3, 50), (10, 1000), (20, 1500)):
        history.note(NOW + at, words(queries, queries // 2))

    assert [each.queries["udp-ipv4"] for each in history.hour()] == [100.0, 50.0]
    assert [each.responses["NXDOMAIN"] for each in history.hour()] == [50.0, 25.0]


def test_counters_that_began_anew_and_a_clock_that_stepped_back_make_no_negative_rate() -> None:
    history = History()
    history.note(NOW, words(5000, 0))
    history.note(NOW + 10, words(100, 0))
    assert [each.queries["udp-ipv4"] for each in history.hour()] == [10.0]

    history.note(NOW - 3600, words(200, 0))
    history.note(NOW - 3590, words(300, 0))
    assert [each.queries["udp-ipv4"] for each in history.hour()] == [10.0]


def test_it_remembers_an_hour_and_a_day_and_no_more_in_half_a_megabyte() -> None:
    tracemalloc.start()
    history = History()
    for number in range(2 * 8640):
        history.note(NOW + 10 * number, words(number * 10, 0))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert len(history.hour()) == 360
    assert len(history.day()) == 288
    assert held < 500_000


@pytest.mark.parametrize(
    ("minutes", "hour", "day"),
    [(0.5, 300, 14_400), (5, 300, 14_400), (6, 900, 14_400), (50, 3600, 14_400), (300, 3600, 86_400)],
)
def test_an_instance_that_has_just_started_has_charts_of_what_there_is(minutes: float, hour: int, day: int) -> None:
    history = History()
    for number in range(int(minutes * 6) + 1):
        history.note(NOW + 10 * number, words(number, 0))
    points = [[chart.ChartPoint(each.at, [0.0]) for each in rates] for rates in (history.hour(), history.day())]
    assert chart.span(points[0], 300, 3600, 10.0) == hour
    assert chart.span(points[1], 14_400, 86_400, 300) == day
    assert chart.span([], 300, 3600, 10.0) == 300


def test_a_day_is_in_points_of_five_minutes_each_with_its_busiest_ten_seconds() -> None:
    history = History()
    counted = 0
    for number in range(91):  # fifteen minutes: a hundred a second, and ten seconds of a thousand
        history.note(NOW + 10 * number, words(counted, 0), words(counted // 2, 0))
        counted += 10_000 if number == 44 else 1000
    first, second, third, last = history.day()

    assert [each.at - NOW for each in (first, second, third, last)] == [290, 590, 890, 900]
    assert first.queries["udp-ipv4"] == pytest.approx(100)
    assert second.queries["udp-ipv4"] == pytest.approx(100 + 9000 / 300)
    assert second.queries["tls"] == pytest.approx(50 + 4500 / 300)
    assert second.most_queries == pytest.approx(1500)
    assert second.most_responses == pytest.approx(1500)
    assert third.most_queries == pytest.approx(150)


def test_what_a_capture_has_lost_lately_is_known_though_its_role_began_anew_and_was_away() -> None:
    history = History()
    for number, lost in enumerate((5, 5, 25, None, 3, 3)):
        history.note(NOW + 10 * number, words(0, 0), lost=lost)
    assert history.lost_lately() == 23
    for number in range(6, 100):
        history.note(NOW + 10 * number, words(0, 0), lost=3)
    assert history.lost_lately() == 0


def test_events_are_changes_with_their_reason_and_maintains_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text(
        '{"at": "2026-11-21T10:00:00Z", "event": "zone served", "zone": ".", "serial": 2026112101}\n'
        'not json\n[]\n{"at": "2026-11-21T13:00:00Z", "event": "zone held", "reasons": ["412 delegations gone"]}\n{"at'
    )
    events = Events(journal)
    events.note(content().view)
    down = {"ip_version": 4, "state": "down", "route": "withdrawn", "reason": "no answer in 500 ms"}
    events.note(content({"advertise": {"families": [down]}}, replaced=2).view)

    assert [event.text for event in events.latest(10)] == [
        "zone held: reasons 412 delegations gone",
        "IPv4: up, up → down, withdrawn: no answer in 500 ms",
        "2 workers replaced",
        "zone served: zone ., serial 2026112101",
    ]


def test_without_a_journal_there_are_no_events(tmp_path: Path) -> None:
    assert Events(tmp_path / "none").latest(10) == []


# ── in a browser ──


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("page"), more='contact = "NOC, +1 555 0100"') as each:
        each.load(300)
        yield each


def has_all(document: str) -> bool:
    return all(text in document for text in (str(SERIALS[0]), "NOC, +1 555 0100", "udp queries received ipv4", "300"))


def test_a_running_instance_is_shown_on_a_phone_too_without_any_complaint_of_the_browser(
    running: Watched, tmp_path: Path
) -> None:
    url = f"http://{REPORT_ADDRESS}:{running.port}/"
    wait_until(lambda: has_all(running.get("/")), "all on the page", 20)
    picture = tmp_path / "phone.png"
    _, complaints = browse(url, tmp_path, "--window-size=390,1800", f"--screenshot={picture}")

    octets = picture.read_bytes()
    assert octets[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack_from("!II", octets, 16) == (390, 1800)
    assert len(octets) > 20_000  # an empty page has some 5,000
    assert [line for line in complaints.splitlines() if "CONSOLE" in line] == []


@pytest.fixture
def counting_server() -> Iterator[tuple[int, list[int]]]:
    """A server whose pages say how often they were asked for: its port, and the number so far."""
    asked = [0]

    async def page(request: Request) -> Response:
        asked[0] += 1
        text = render(content(), ANYCAST, f"answer-{min(asked[0], 2)}.example")
        return Response(text.encode(), "text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def page_without_scripts(request: Request) -> Response:
        plain = await page(request)
        policy = {"Content-Security-Policy": f"sandbox; {PAGE_HEADERS['Content-Security-Policy']}"}
        return Response(plain.body, plain.content_type, headers=policy)

    port = free_port(REPORT_ADDRESS)
    loop = asyncio.new_event_loop()
    server = HttpServer({"/": page, "/plain": page_without_scripts})
    loop.run_until_complete(server.listen((REPORT_ADDRESS,), port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield port, asked
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def test_the_page_refreshes_itself(counting_server: tuple[int, list[int]], tmp_path: Path) -> None:
    port, asked = counting_server
    document, complaints = browse(
        f"http://{REPORT_ADDRESS}:{port}/", tmp_path, "--virtual-time-budget=25000", "--dump-dom"
    )

    assert asked[0] >= 2
    assert "answer-2.example" in document
    assert [line for line in complaints.splitlines() if "CONSOLE" in line] == []


def test_without_javascript_the_page_is_whole(counting_server: tuple[int, list[int]], tmp_path: Path) -> None:
    port, _ = counting_server
    picture = tmp_path / "plain.png"
    browse(f"http://{REPORT_ADDRESS}:{port}/plain", tmp_path, "--window-size=1200,1500", f"--screenshot={picture}")

    assert len(picture.read_bytes()) > 20_000
    assert re.search(r'<noscript><meta http-equiv="refresh" content="\d+"></noscript>', shown(content()))
    whole = re.sub(r"<script>.*?</script>", "", shown(content()), flags=re.DOTALL)
    assert re.findall(r"<[^>]+ hidden[^>]*>", whole) == ['<p id="late" class="bad" hidden>']
