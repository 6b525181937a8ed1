"""Fixtures and rules for all tests."""

import os
import sys
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from tests import leftovers
from tests.needs import genuine_root_zone_text, require_genuine_zones, skipped_where_missing

CI = os.environ.get("CI") == "true"

# Keep compiled modules, whatever the environment says: the tests start some thousand Python processes from this tree,
# and each would compile it all again, 0.2 to 0.4 s of processor time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# No test is timed: a deadline of an example fails on a busy machine and says nothing.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("untimed")

# ── With CI=true a skip is a failure, whoever calls for it ──


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true: {_reason(report.longrepr)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped although CI=true: {_reason(report.longrepr)}"
    return report


def _reason(longrepr: object) -> str:
    if isinstance(longrepr, tuple):
        path, line, reason = longrepr
        return f"{path}:{line}: {reason}"
    return str(longrepr)


# ── A program of bench/peers that is not installed skips the test, wherever it is asked for ──


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    with skipped_where_missing():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    with skipped_where_missing():
        yield


# ── The slowest files first: with `--dist loadfile` one that starts last keeps one worker busy, the others idle ──

SECONDS = {
    "tests/system/test_mesh_floor.py": 165,
    "tests/system/test_anycast.py": 117,
    "tests/mesh/test_fleet.py": 101,
    "tests/roles/test_run.py": 86,
    "tests/bench/test_compare.py": 82,
    "tests/fastpath/test_orphans.py": 78,
    "tests/telemetry/test_sums.py": 75,
    "tests/secondary/test_decisions.py": 69,
    "tests/secondary/test_resume.py": 63,
    "tests/hyperlocal/test_resolvers.py": 62,
    "tests/doctor/test_doctor.py": 59,
    "tests/secondary/test_service_goes_on.py": 56,
    "tests/system/test_common_causes.py": 53,
    "tests/secondary/test_anchor_files.py": 51,
    "tests/mesh/test_transfers.py": 51,
    "tests/bench/test_other_figures.py": 50,
    "tests/portal/test_bad_input.py": 48,
    "tests/secondary/test_neighbours.py": 46,
    "tests/fastpath/test_admission.py": 45,
    "tests/secondary/test_own_faults.py": 44,
    "tests/secondary/test_failed_switchover.py": 43,
    "tests/secondary/test_hostile_primaries.py": 41,
    "tests/capture/test_sums.py": 40,
    "tests/fastpath/test_wire.py": 40,
    "tests/dot/test_hostile.py": 40,
    "tests/system/test_anycast_common_mode.py": 39,
    "tests/bench/test_abreast.py": 36,
    "tests/fastpath/test_lagging_kernel.py": 34,
    "tests/fuzz/test_respond.py": 34,
    "tests/secondary/test_missing_secrets.py": 32,
    "tests/deploy/test_wheel.py": 32,
    "tests/secondary/test_after_a_restart.py": 30,
    "tests/capture/test_collector.py": 30,
    "tests/portal/test_in_chromium.py": 30,
    "tests/secondary/test_short_leases.py": 28,
    "tests/conformance/test_differential.py": 28,
    "tests/secondary/test_no_way_back.py": 27,
    "tests/commands/test_demo.py": 26,
    "tests/server/test_reload.py": 26,
    "tests/deploy/test_network.py": 26,
    "tests/server/test_workers.py": 25,
    "tests/secondary/test_hosts.py": 24,
    "tests/fastpath/test_owner.py": 24,
    "tests/fastpath/test_passes.py": 23,
    "tests/telemetry/test_rules.py": 23,
    "tests/fastpath/test_switchover.py": 23,
    "tests/server/test_tcp.py": 23,
    "tests/hyperlocal/test_server.py": 23,
    "tests/test_runbook.py": 23,
    "tests/system/test_anycast_frr.py": 23,
    "tests/commands/test_floor_reset.py": 22,
    "tests/capture/test_role.py": 21,
    "tests/secondary/test_two_truths.py": 21,
    "tests/zone/test_presentation.py": 21,
    "tests/bench/test_independent.py": 21,
    "tests/conformance/test_conformance.py": 20,
    "tests/fastpath/test_differential.py": 19,
    "tests/capture/test_whole.py": 19,
    "tests/portal/test_accounts.py": 19,
}
"""By file, on two cores, as a run tells at its end; whoever is not named takes less."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    order = {tests.parent / name: -seconds for name, seconds in SECONDS.items()}
    items.sort(key=lambda item: order.get(item.path, 0))


# ── Nothing of a run is left when it ends ──


def pytest_configure() -> None:
    leftovers.begin()


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    yield
    if hasattr(session.config, "workerinput"):
        return  # the process that this one works for looks
    left = leftovers.end(Path(session.config._tmp_path_factory.getbasetemp()))  # type: ignore[attr-defined]
    session.config.stash[_LEFT] = left
    if left and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_LEFT = pytest.StashKey[list[str]]()


# ── What a test counted, told where the results are: record_property("summary", "one line") ──


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _tell_seconds_by_file(terminalreporter)
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = [
        str(value)
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "summary" and report.when == "call"
    ]
    if left := terminalreporter.config.stash.get(_LEFT, []):
        terminalreporter.section("left by this run, which fails for it", sep="=", red=True)
        for line in left:
            terminalreporter.line(line)
    if lines:
        terminalreporter.section("counted")
        for line in lines:
            terminalreporter.line(line)


def _tell_seconds_by_file(terminalreporter: pytest.TerminalReporter) -> None:
    """What SECONDS is made from, after a run that asked for durations."""
    if not terminalreporter.config.getoption("durations"):
        return
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                file = report.nodeid.partition("::")[0]
                seconds[file] = seconds.get(file, 0.0) + report.duration
    terminalreporter.section(f"seconds by file, {sum(seconds.values()):.0f} in all")
    for file, total in sorted(seconds.items(), key=lambda each: -each[1])[:_FILES_TOLD]:
        terminalreporter.line(f"{total:7.1f}  {file}")


_FILES_TOLD = 60

# ── Genuine zones ──


@pytest.fixture(scope="session")
def genuine_zones() -> Path:
    """The directory of genuine zones as they were published (root zones are gzip files); see its SOURCES.md."""
    return require_genuine_zones()


@pytest.fixture(scope="session")
def genuine_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A genuine root zone file in its published layout: serial 2025103100, valid at 2025-11-01T12:00Z."""
    path = tmp_path_factory.mktemp("genuine") / "root.zone"
    path.write_bytes(genuine_root_zone_text(2025103100))
    return path


@pytest.fixture(scope="session")
def genuine_root_servers_net(genuine_zones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The genuine root-servers.net zone file (unsigned), without the second SOA that ends the transfer it came from."""
    path = tmp_path_factory.mktemp("genuine") / "root-servers.net.zone"
    lines = (genuine_zones / "root-servers.net.zone.2025091000").read_text().splitlines(keepends=True)
    path.write_text("".join(line for at, line in enumerate(lines) if at == 0 or "SOA" not in line.split()))
    return path
