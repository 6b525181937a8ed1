"""deploy/prometheus: each alert fires on what it is for, and none on an instance that is well."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.needs import REPOSITORY, require_tool
from tests.server.live import wait_until
from tests.telemetry.prometheus_server import DEPLOY, RULES, ask, prometheus_server
from tests.telemetry.watched import REPORT_ADDRESS, Watched, watched

# What an instance exposes that is well, a value a minute; each alert's case changes some of it.
WELL = {
    'up{job="rootsrv"}': "1x40",
    'rootsrv_role_up{role="maintain"}': "1x40",
    "rootsrv_workers_replaced_total": "0x40",
    "rootsrv_mesh_engine_there": "1x40",
    "rootsrv_mesh_members_missing": "0x40",
    "rootsrv_mesh_refused_total": "0x40",
    'rootsrv_mesh_group_members{group="all"}': "8x40",
    'rootsrv_mesh_group_announced{group="all"}': "7x40",
    'rootsrv_mesh_group_may_withdraw{group="all"}': "1x40",
    "rootsrv_mesh_members_behind": "0x40",
    "rootsrv_mesh_anchor_digests": "1x40",
    "rootsrv_mesh_outside_ahead_seconds": "60x40",
    "rootsrv_faults_total": "0x40",
    'rootsrv_role_up{role="capture"}': "1x40",
    "rootsrv_capture_room": "1x40",
    'rootsrv_capture_lost_queries_total{where="kernel"}': "0x40",
    "rootsrv_capture_free_bytes": "100000000000x40",
    "rootsrv_capture_active": "1x40",
    'rootsrv_announced{family="ipv4"}': "1x40",
    'rootsrv_fully_preferred{family="ipv4"}': "1x40",
    'rootsrv_route_confirmed{family="ipv4"}': "1x40",
    "rootsrv_answering": "1x40",
    "rootsrv_switchover_in_order": "1x40",
    'rootsrv_zone_known_age_seconds{zone="."}': "0x40",
    'rootsrv_zone_confirmed_age_seconds{zone="."}': "900x40",
    'rootsrv_zone_lease_seconds{zone="."}': "600000x40",
    'rootsrv_zone_signatures_expire_timestamp_seconds{zone="."}': "1000000x40",
    'rootsrv_zone_sep_keys_covered{zone="."}': "1x40",
    'rootsrv_zone_held_versions{zone="."}': "0x40",
    'rootsrv_zone_last_version_accepted{zone="."}': "1x40",
    "rootsrv_clock_synchronised": "1x40",
    'rootsrv_queries_total{transport="udp",family="ipv4"}': "0+600000x40",
    "rootsrv_udp_receive_drops_total": "0x40",
    "rootsrv_unsent_responses_total": "0x40",
    'rootsrv_process_cpu_seconds_total{process="worker-0"}': "0+30x40",
    'rootsrv_tcp_closed_connections_total{reason="for-another"}': "0x40",
    "rootsrv_tcp_listen_overflows_total": "0x40",
    'rootsrv_security_events_total{event="tsig_failed"}': "0x40",
    "rootsrv_flood_values": "0x40",
    'rootsrv_limited_queries_total{family="ipv4",mode="on"}': "0x40",
    'rootsrv_judged_queries_total{cookie="any"}': "0+600000x40",
    "rootsrv_limits_as_configured": "1x40",
    "rootsrv_shed_rules": "0x40",
    "rootsrv_state_writable": "1x40",
    "rootsrv_statistics_writable": "1x40",
    'rootsrv_state_file_whole{role="advertise",file="orders.json"}': "1x40",
    'rootsrv_portal_working{what="mails"}': "1x40",
    'rootsrv_portal_working{what="register"}': "1x40",
    "rootsrv_portal_waiting_mails": "3x40",
    'rootsrv_portal_requests_total{status="500"}': "0x40",
    'rootsrv_portal_sign_ins_total{how="password",outcome="refused"}': "0+2x40",
}

CASES = {
    "RootsrvUnreachable": {'up{job="rootsrv"}': "0x40"},
    "RootsrvRoleDown": {'rootsrv_role_up{role="maintain"}': "0x40"},
    "RootsrvMeshEngineGone": {"rootsrv_mesh_engine_there": "0x40"},
    "RootsrvMeshMembersMissing": {"rootsrv_mesh_members_missing": "2x40"},
    "RootsrvFleetFewAnnounced": {'rootsrv_mesh_group_announced{group="all"}': "6x40"},
    "RootsrvFleetSkew": {"rootsrv_mesh_members_behind": "1x40"},
    "RootsrvFleetAnchorsDiffer": {"rootsrv_mesh_anchor_digests": "2x100"},
    "RootsrvOutsideAhead": {"rootsrv_mesh_outside_ahead_seconds": "2000x40"},
    "RootsrvMeshRefused": {"rootsrv_mesh_refused_total": "0x30 1x9"},
    "RootsrvWorkersReplaced": {"rootsrv_workers_replaced_total": "0x28 0+1x11"},
    "RootsrvFaults": {"rootsrv_faults_total": "0x30 1x9"},
    "RootsrvCaptureDown": {'rootsrv_role_up{role="capture"}': "0x40"},
    "RootsrvCaptureFull": {"rootsrv_capture_room": "0x40"},
    "RootsrvCaptureLoses": {'rootsrv_capture_lost_queries_total{where="kernel"}': "0+60x40"},
    "RootsrvCaptureFileFailed": {'rootsrv_capture_files_total{outcome="failed"}': "0x28 0+1x11"},
    "RootsrvWithdrawn": {'rootsrv_announced{family="ipv4"}': "0x40"},
    "RootsrvDegraded": {'rootsrv_fully_preferred{family="ipv4"}': "0x40"},
    "RootsrvRouteUnconfirmed": {'rootsrv_route_confirmed{family="ipv4"}': "0x40"},
    "RootsrvSwitchoverFailed": {"rootsrv_answering": "0x40"},
    "RootsrvSwitchoverVoid": {"rootsrv_switchover_in_order": "0x40"},
    "RootsrvStale": {'rootsrv_zone_known_age_seconds{zone="."}': "4000x40"},
    "RootsrvUnconfirmed": {'rootsrv_zone_confirmed_age_seconds{zone="."}': "15000x40"},
    "RootsrvLeaseRunsOut": {'rootsrv_zone_lease_seconds{zone="."}': "100000x40"},
    "RootsrvSignaturesExpire": {'rootsrv_zone_signatures_expire_timestamp_seconds{zone="."}': "300000x40"},
    "RootsrvUncoveredSepKey": {'rootsrv_zone_sep_keys_covered{zone="."}': "0x40"},
    "RootsrvZoneHeld": {'rootsrv_zone_held_versions{zone="."}': "1x40"},
    "RootsrvZoneRejected": {'rootsrv_zone_last_version_accepted{zone="."}': "0x40"},
    "RootsrvClockUnsynchronised": {"rootsrv_clock_synchronised": "0x40"},
    "RootsrvLoss": {"rootsrv_udp_receive_drops_total": "0+6000x40"},
    "RootsrvNearCapacity": {'rootsrv_process_cpu_seconds_total{process="worker-0"}': "0+55x40"},
    "RootsrvTcpRefused": {'rootsrv_tcp_closed_connections_total{reason="for-another"}': "0+100x40"},
    "RootsrvFlood": {"rootsrv_flood_values": "2x40"},
    "RootsrvLimiting": {'rootsrv_limited_queries_total{family="ipv4",mode="on"}': "0+60000x40"},
    "RootsrvLimitsFallback": {"rootsrv_limits_as_configured": "0x40"},
    "RootsrvShedForLong": {"rootsrv_shed_rules": "1x40"},
    "RootsrvSecurityEvents": {'rootsrv_security_events_total{event="tsig_failed"}': "0+5x40"},
    "RootsrvStateUnwritable": {"rootsrv_state_writable": "0x40"},
    "RootsrvStateFileDamaged": {'rootsrv_state_file_whole{role="advertise",file="orders.json"}': "0x40"},
    "RootsrvPortalMails": {"rootsrv_portal_waiting_mails": "200x40"},
    "RootsrvPortalFails": {'rootsrv_portal_requests_total{status="500"}': "0+6x40"},
    "RootsrvPortalGuessing": {'rootsrv_portal_sign_ins_total{how="password",outcome="refused"}': "0+20x40"},
}


LOSSES = [
    ("RootsrvCaptureLoses", {f'rootsrv_capture_lost_queries_total{{where="{where}"}}': "0+60x40"})
    for where in ("worker", "format", "writer", "interrupted")
]
"""Whatever a capture lost but for what its disk had no room for, which is RootsrvCaptureFull."""


@pytest.fixture(scope="module")
def promtool() -> str:
    return require_tool("promtool")


def run_promtool(promtool: str, *arguments: object) -> None:
    done = subprocess.run([promtool, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=DEPLOY)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_scrape_configuration_are_well_formed(promtool: str) -> None:
    run_promtool(promtool, "check", "rules", "--lint=all", "--lint-fatal", *RULES)
    for name in ("prometheus.yml", "fleet.yml"):
        run_promtool(promtool, "check", "config", name)


def test_there_is_a_case_for_every_alert_and_each_says_what_to_do() -> None:
    text = (DEPLOY / "alerts.yml").read_text()

    assert set(re.findall(r"- alert: (\w+)", text)) == set(CASES)
    assert len(re.findall(r"^ +action: \S", text, re.MULTILINE)) == len(CASES)
    assert len(re.findall(r"severity: (?:page|ticket)}", text)) == len(CASES)


def test_each_alert_fires_on_its_case_alone_and_none_on_an_instance_that_is_well(promtool: str, tmp_path: Path) -> None:
    def case(name: str, series: dict[str, str]) -> dict[str, Any]:
        firing = [] if not name else [{"labels": f'{{alertname="{name}"}}', "value": 1}]
        return {
            "name": name or "well",
            "interval": "1m",
            "input_series": [{"series": each, "values": values} for each, values in {**WELL, **series}.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": "35m",
                    "exp_samples": firing,
                }
            ],
        }

    document = {
        "rule_files": [str(DEPLOY / each) for each in RULES],
        "tests": [case("", {}), *(case(name, series) for name, series in (*CASES.items(), *LOSSES))],
    }
    path = tmp_path / "tests.yml"
    path.write_text(json.dumps(document))  # JSON is YAML

    run_promtool(promtool, "test", "rules", path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("prometheus"), workers=2) as each:
        yield each


@pytest.fixture
def prometheus(running: Watched, tmp_path: Path) -> Iterator[int]:
    """The port of a Prometheus that scrapes the instance, with our rules."""
    changes = {"192.0.2.10:9353": f"{REPORT_ADDRESS}:{running.port}", "15s": "1s"}
    with prometheus_server(tmp_path, "prometheus.yml", changes) as port:
        yield port


def test_a_prometheus_that_scrapes_a_loaded_instance_has_every_query(running: Watched, prometheus: int) -> None:
    wait_until(lambda: ask(prometheus, "rootsrv_queries_total"), "the first scrape", 20)
    for _ in range(4):
        running.load(500)
        running.load(200, tcp=True, address="::1")
    sent = sum(running.sent.values())

    def seen() -> bool:
        found = ask(prometheus, "sum(rootsrv_queries_total)")
        return bool(found) and float(found[0]["value"][1]) == sent

    wait_until(seen, f"{sent} queries in Prometheus", 20)
    wait_until(lambda: ask(prometheus, "instance:rootsrv_queries:rate1m > 0"), "a rate by our recording rule", 20)
    assert [each["value"][1] for each in ask(prometheus, 'up{job="rootsrv"}')] == ["1"]
    rules = json.load(urlopen(f"http://127.0.0.1:{prometheus}/api/v1/rules", timeout=5))["data"]["groups"]
    health = {rule["name"]: rule["health"] for group in rules for rule in group["rules"]}
    assert set(health.values()) <= {"ok", "unknown"}
    assert "err" not in health.values()


@pytest.mark.parametrize("name", ["rootsrv.json", "rootsrv-fleet.json"])
def test_every_query_of_a_dashboard_names_metrics_that_exist(
    promtool: str, tmp_path: Path, running: Watched, name: str
) -> None:
    dashboard = json.loads((REPOSITORY / "deploy" / "grafana" / name).read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    recorded = re.findall(r"- record: (\S+)", (DEPLOY / "recording.yml").read_text())
    exposed = {line.split()[2] for line in running.get("/metrics").splitlines() if line.startswith("# TYPE")}
    # This instance is no member; that the table names what a member exposes is tested with the metrics.
    table = (REPOSITORY / "docs" / "operations.md").read_text()
    exposed |= set(re.findall(r"^\| `(rootsrv_mesh_\w+)`", table, re.MULTILINE))
    known = exposed | {f"{name}_bucket" for name in exposed} | set(recorded)

    named = {name for each in expressions for name in re.findall(r"[a-z_:]*rootsrv_[a-z0-9_:]+", each)}
    assert named - known == set()
    variables = {"$__rate_interval": "1m", "$instance": ".*", "$service": ".*"}
    rules = []
    for number, each in enumerate(expressions):
        for variable, value in variables.items():
            each = each.replace(variable, value)
        rules.append({"record": f"dashboard:{number}", "expr": each})
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    run_promtool(promtool, "check", "rules", path)
