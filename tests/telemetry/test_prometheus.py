"""/metrics of a running instance: what was sent, and what Prometheus' own tools say of it."""

import datetime
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from rootsrv.config.file import Config
from rootsrv.page import counts
from rootsrv.page.layout import COUNTER_WORDS
from rootsrv.telemetry.prometheus import Exposition, Statistics
from rootsrv.telemetry.rssac002 import DayRecord
from rootsrv.telemetry.view import Said, View
from tests.needs import REPOSITORY, require_tool
from tests.server.live import SERIALS, wait_until
from tests.telemetry.watched import Watched, samples, total, watched


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("metrics"), workers=2) as each:
        each.load(300)
        each.load(100, address="::1")
        each.load(120, tcp=True)
        each.load(60, tcp=True, address="::1")
        yield each


def test_every_query_that_was_sent_is_in_the_next_scrape(running: Watched) -> None:
    metrics = running.metrics()

    for path, amount in running.sent.items():
        transport, family = path.split("-")
        assert total(metrics, "rootsrv_queries_total", transport=transport, family=family) == amount
        assert total(metrics, "rootsrv_responses_total", transport=transport, family=family) == amount
    # A third of the questions each: the root's SOA, a name below no TLD, no TLD.
    assert total(metrics, "rootsrv_responses_total", rcode="NOERROR") == 194
    assert total(metrics, "rootsrv_response_size_bytes_bucket", le="+Inf") == 580
    assert total(metrics, "rootsrv_request_size_bytes_bucket", le="31.0") == 580
    assert total(metrics, "rootsrv_tcp_connections_total") == 2


def test_zone_worker_role_and_process_are_told(running: Watched) -> None:
    wait_until(lambda: running.metrics()['rootsrv_role_up{role="serve"}'] == 1, "heard of serve")
    metrics = running.metrics()

    assert metrics['rootsrv_zone_serial{stage="served",zone="."}'] == SERIALS[0]
    assert 0 < metrics['rootsrv_zone_lease_seconds{zone="."}'] <= 7 * 86_400
    assert [metrics[f'rootsrv_worker_current{{worker="{slot}"}}'] for slot in (0, 1)] == [1, 1]
    for process in ("serve", "worker-0", "worker-1", "report"):
        assert metrics[f'rootsrv_process_resident_memory_bytes{{process="{process}"}}'] > 10_000_000


def test_trust_anchors_that_resolvers_signal_are_counted_by_key_tag(running: Watched) -> None:
    before = total(running.metrics(), "rootsrv_trust_anchor_signals_total", key_tag="20326")
    for name in ("_ta-4f66.", "_TA-4F66-9728.", "www._ta-4f66.", "_ta-4f66."):
        running.instance.ask(name, "NULL")
    running.instance.ask("_ta-4f66.", "A")  # not a signal: RFC 8145 §5.1 asks for NULL

    metrics = running.metrics()
    assert total(metrics, "rootsrv_trust_anchor_signals_total", key_tag="20326") == before + 3
    assert total(metrics, "rootsrv_trust_anchor_signals_total", key_tag="38696") == 1


def test_promtool_finds_nothing_to_complain_of(running: Watched) -> None:
    promtool = require_tool("promtool")
    checked = subprocess.run(
        (promtool, "check", "metrics"), input=running.get("/metrics"), capture_output=True, text=True, check=False
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_openmetrics_is_given_to_who_asks_for_it(running: Watched) -> None:
    text = running.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")

    families = {family.name for family in text_string_to_metric_families(text)}
    assert text.endswith("# EOF\n")
    assert {"rootsrv_queries", "rootsrv_zone_serial", "rootsrv_announced"} <= families


def test_every_metric_is_in_the_table_of_the_documentation_and_the_other_way_round(running: Watched) -> None:
    documented = {
        line.split("`")[1]
        for line in (REPOSITORY / "docs" / "operations.md").read_text().splitlines()
        if line.startswith("| `rootsrv_")
    }
    texts = (
        running.get("/metrics"),
        exposition_text(
            fastpath={"counters": {"cut": 0}},
            mesh=MESH,
            capture={"state": "idle"},
            serve={"dot": DOT},
            localroot=LOCALROOT,
            portal=PORTAL,
        ),
    )
    exposed = {line.split()[2] for text in texts for line in text.splitlines() if line.startswith("# TYPE")}

    assert exposed - documented == set()
    assert documented - exposed == set()
    # Of a running instance, and not of a document that a test has made.
    measured = samples(running.get("/metrics"))
    assert measured["rootsrv_switchover_verify_seconds"] > 0
    assert measured["rootsrv_switchover_confirm_seconds"] > 0


DOT = {
    "ready": True, "active": 0, "certificate_problem": "dot.key: x is not the key of y",
    "certificate_until": "2027-02-26T12:00:28Z",
}  # fmt: skip

MESH = {
    "engine": {"there": True},
    "members": [
        {
            "name": "m0", "present": True, "group": "all", "site": "here",
            "status": {"serials": {".": 7}, "routes": {"4": "up"}, "anchors": "ab"},
        },
        {"name": "m1", "present": False, "group": "all", "site": "here"},
        {
            "name": "m2", "group": "all", "site": "here", "present": True,
            "status": {"serials": {".": 6}, "routes": {"4": "withdrawn"}, "anchors": "cd"},
        },
    ],
    "groups": [{"name": "all", "n": 3, "k": 1}],
    "sites": [{"name": "here"}],
    "tokens": [{"slot": "floor/all/0"}],
    "roster_version": 7,
    "refused": 3,
    "leads": True,
}  # fmt: skip


LOCALROOT = {
    "zones": [
        {"name": ".", "given": 7, "subscribers": 4, "with_newest": 3, "newest_age_seconds": 61.5},
        {"name": "arpa.", "given": None, "subscribers": 0, "with_newest": 0, "newest_age_seconds": 0.0},
    ],
    "servers": 5,
    "keys": 6,
    "proved_addresses": 3,
    "transfers_running": 1,
    "notify_on_their_way": 2,
    "counters": {
        "transfers . axfr-tcp-key": 8,
        "transfer-octets . axfr-tcp-key": 9000,
        "notify . not-confirmed": 1,
        "tsig-errors BADTIME": 2,
        "something new": 3,
    },
    "register_error": "locked",
    "observations_error": "",
    "statistics_error": "",
}


PORTAL = {
    "accounts": 3,
    "tokens": 4,
    "sessions": 2,
    "contributing_servers": 1,
    "mails_waiting": 9,
    "register_octets": 98304,
    "counters": {
        "requests 200": 70,
        "requests 429": 5,
        "sign-ups asked": 6,
        "sign-ins password refused": 8,
        "mails sent": 7,
        "counts taken": 2,
        "mails of somebody": 1,
        "something new": 3,
    },
    "register_error": "",
    "observations_error": "locked",
    "mails_error": "refused",
}


def test_the_pages_are_in_the_metrics() -> None:
    metrics = exposition(portal=PORTAL)
    assert metrics["rootsrv_portal_accounts"] == 3
    assert metrics["rootsrv_portal_waiting_mails"] == 9
    assert metrics["rootsrv_portal_register_bytes"] == 98304
    assert metrics['rootsrv_portal_working{what="register"}'] == 1
    assert (
        metrics['rootsrv_portal_working{what="mails"}'] == metrics['rootsrv_portal_working{what="observations"}'] == 0
    )
    assert metrics['rootsrv_portal_requests_total{status="429"}'] == 5
    assert metrics['rootsrv_portal_sign_ins_total{how="password",outcome="refused"}'] == 8
    assert metrics['rootsrv_portal_mails_total{outcome="sent"}'] == 7
    assert not [each for each in metrics if "somebody" in each]
    # What is not known is not nought.
    locked = exposition(portal={"counters": {}, "register_error": "locked"})
    assert "rootsrv_portal_accounts" not in locked
    assert locked['rootsrv_portal_working{what="register"}'] == 0


def test_a_localroot_service_is_in_the_metrics() -> None:
    metrics = exposition(localroot=LOCALROOT)
    assert metrics['rootsrv_localroot_given{zone="."}'] == 1
    assert metrics['rootsrv_localroot_given{zone="arpa."}'] == metrics['rootsrv_localroot_serial{zone="arpa."}'] == 0
    assert metrics['rootsrv_localroot_fresh_subscribers{zone="."}'] == 3
    assert metrics["rootsrv_localroot_pending_notifies"] == 2
    assert metrics['rootsrv_localroot_working{what="register"}'] == 0
    assert metrics['rootsrv_localroot_working{what="observations"}'] == 1
    assert metrics['rootsrv_localroot_transfers_total{way="axfr-tcp-key",zone="."}'] == 8
    assert metrics['rootsrv_localroot_transfer_bytes_total{way="axfr-tcp-key",zone="."}'] == 9000
    assert metrics['rootsrv_localroot_notifies_total{outcome="not-confirmed",zone="."}'] == 1
    assert metrics['rootsrv_localroot_tsig_errors_total{error="BADTIME"}'] == 2


def test_a_capture_is_in_the_metrics_with_what_it_lost_and_where() -> None:
    metrics = exposition(
        capture={
            "state": "full",
            "items": 7,
            "lost": {"kernel": 1, "worker": 2, "disk": 3},
            "files_finished": 4,
            "ring_fill": 0.25,
        }
    )

    assert metrics["rootsrv_capture_active"] == metrics["rootsrv_capture_room"] == 0
    assert metrics["rootsrv_capture_queries_total"] == 7
    lost = {where: metrics[f'rootsrv_capture_lost_queries_total{{where="{where}"}}'] for where in ("kernel", "disk")}
    assert lost == {"kernel": 1, "disk": 3}
    assert metrics['rootsrv_capture_files_total{outcome="finished"}'] == 4
    assert metrics["rootsrv_capture_ring_fill_ratio"] == 0.25


def exposition(**roles: Any) -> dict[str, float]:
    """The samples for what the roles say."""
    return samples(exposition_text(**roles))


def test_what_is_asked_over_tls_is_counted_for_itself() -> None:
    words = [0] * COUNTER_WORDS
    words[counts.QUERIES + 2], words[counts.QUERIES + 3] = 5, 7
    words[counts.TLS], words[counts.TLS + 5] = 3, 2_500_000
    words[counts.TCP + 1] = 9
    replaced = {"dot": {"ended": 0, "hung": 2}, "worker": {"ended": 1}}
    view = View(0.0, tls_words=words, roles={"serve": Said({"dot": DOT, "replaced_by": replaced})})
    statistics = Statistics(DayRecord.from_words(_DAY, view.words), {}, "")
    metrics = samples(Exposition(Config(), "digest").text(view, statistics, "")[0].decode())

    assert metrics['rootsrv_tls_queries_total{family="ipv4"}'] == 5
    assert metrics['rootsrv_tls_queries_total{family="ipv6"}'] == 7
    assert metrics['rootsrv_queries_total{family="ipv4",transport="tcp"}'] == 0
    assert metrics['rootsrv_tls_handshakes_total{outcome="completed"}'] == 3
    assert metrics["rootsrv_tls_handshake_cpu_seconds_total"] == 2.5
    assert metrics["rootsrv_tls_open_connections"] == 9
    assert metrics["rootsrv_tls_answering"] == 1
    assert metrics['rootsrv_processes_replaced_total{process="dot",why="hung"}'] == 2
    assert metrics['rootsrv_processes_replaced_total{process="worker",why="ended"}'] == 1
    assert metrics["rootsrv_tls_certificate_as_configured"] == 0
    assert metrics["rootsrv_tls_certificate_expires_timestamp_seconds"] == 1803643228


def exposition_text(**roles: Any) -> str:
    """/metrics for what the roles say."""
    view = View(0.0, roles={role: Said(said) for role, said in roles.items()})
    statistics = Statistics(DayRecord.from_words(_DAY, view.words), {}, "")
    return Exposition(Config(), "digest").text(view, statistics, "")[0].decode()


_DAY = datetime.date(2026, 11, 21)


def test_who_goes_before_ordinary_processes_is_told_as_serve_sees_it() -> None:
    workers = [
        {"slot": 0, "pid": 7, "policy": "fifo", "priority": 3},
        {"slot": 1, "pid": 8, "policy": "ordinary", "priority": 0},
        {"slot": 2, "pid": 0},  # being replaced
    ]
    metrics = exposition(serve={"workers": workers, "real_time_priority": 3})
    told = {name: value for name, value in metrics.items() if name.startswith("rootsrv_worker_real_time_priority")}
    assert told == {
        'rootsrv_worker_real_time_priority{worker="0"}': 3,
        'rootsrv_worker_real_time_priority{worker="1"}': 0,
    }
    assert "rootsrv_worker_real_time" not in exposition_text(serve={"workers": [{"slot": 0, "pid": 0}]})


def test_what_the_roles_say_becomes_metrics() -> None:
    metrics = exposition(
        maintain={
            "clock": "free-running",
            "clock_distance_seconds": 0.25,
            "state_writable": True,
            "files": [{"name": "ledger.json", "trouble": ""}],
            "switchover": {"state": "void"},
            "security_events": {"tsig_failed": 3},
            "zones": [
                {
                    "name": ".", "known": 5, "received": 4, "scheduled": None, "known_age_seconds": 61,
                    "held": [{"serial": 5, "reasons": ["gross"]}], "last_rejection": "serial 5: no", "alarms": [],
                    "primaries": [{"name": "b", "reachable": False}],
                }
            ],
        },
        advertise={
            "files": [{"name": "orders.json", "trouble": "orders.json: damaged; its twin was read"}],
            "families": [
                {
                    "ip_version": 4, "announced": True, "route": "degraded", "state": "degraded",
                    "changes": [
                        {"route": "degraded", "reason": "stale", "count": 2},
                        {"route": "withdrawn", "reason": "no_answer", "count": 0},
                    ],
                }
            ]
        },
    )  # fmt: skip

    assert metrics["rootsrv_clock_synchronised"] == 0
    assert metrics["rootsrv_switchover_in_order"] == 0
    assert metrics['rootsrv_state_file_whole{file="ledger.json",role="maintain"}'] == 1
    assert metrics['rootsrv_state_file_whole{file="orders.json",role="advertise"}'] == 0
    assert metrics['rootsrv_security_events_total{event="tsig_failed"}'] == 3
    assert metrics['rootsrv_zone_serial{stage="known",zone="."}'] == 5
    assert metrics['rootsrv_zone_current{zone="."}'] == 0
    assert metrics['rootsrv_zone_held_versions{zone="."}'] == 1
    assert metrics['rootsrv_zone_last_version_accepted{zone="."}'] == 0
    assert metrics['rootsrv_primary_reachable{primary="b",zone="."}'] == 0
    assert metrics['rootsrv_announced{family="ipv4"}'] == 1
    assert metrics['rootsrv_fully_preferred{family="ipv4"}'] == 0
    changes = "rootsrv_announcement_changes_total"
    assert metrics[changes + '{family="ipv4",reason="stale",route="degraded"}'] == 2
    assert metrics[changes + '{family="ipv4",reason="no_answer",route="withdrawn"}'] == 0


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"zones": None, "switchover": 7, "security_events": [], "families": "none"},
        {"zones": [None, 3, {"name": None, "held": {}, "primaries": [{}]}], "families": [{}]},
        {"clock_distance_seconds": float("nan"), "zones": [{"known": "abc", "known_age_seconds": True}]},
    ],
    ids=range(4),
)
def test_a_role_that_says_something_else_is_no_error(said: Any) -> None:
    metrics = exposition(maintain=said, advertise=said, serve=said)

    assert metrics["rootsrv_statistics_writable"] == 1


def test_without_any_role_or_page_there_are_still_metrics(tmp_path: Path) -> None:
    from rootsrv.telemetry.view import Viewer

    view = Viewer(tmp_path, tmp_path, ["127.0.0.1", "::1"], 53).view()

    assert view.roles == {}
    assert sum(view.words) == 0


def test_a_member_of_a_mesh_tells_of_it_and_nobody_else_does() -> None:
    told = exposition(mesh=MESH)
    names = ("engine_there", "members", "members_missing", "roster_version", "tokens_taken", "leads", "refused_total")
    assert [told[f"rootsrv_mesh_{name}"] for name in names] == [1, 3, 1, 7, 1, 1, 3]
    assert (told["rootsrv_mesh_members_behind"], told["rootsrv_mesh_anchor_digests"]) == (1, 2)
    of_group = ("members", "announced", "may_withdraw")
    assert [told[f'rootsrv_mesh_group_{name}{{group="all"}}'] for name in of_group] == [3, 1, 1]
    assert told['rootsrv_mesh_site_well{site="here"}'] == 1
    assert not [name for name in exposition() if name.startswith("rootsrv_mesh_")]
