"""Fixtures and rules for all tests."""

import os
import sys
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer

from tests import leftovers, sharing
from tests.needs import genuine_root_zone_text, require_genuine_zones, skipped_where_missing
from tests.sharing import Sharing

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
    "tests/system/test_anycast.py": 131,
    "tests/mesh/test_fleet.py": 83,
    "tests/roles/test_run.py": 70,
    "tests/system/test_mesh_floor.py": 58,
    "tests/secondary/test_resume.py": 56,
    "tests/fastpath/test_orphans.py": 54,
    "tests/secondary/test_decisions.py": 53,
    "tests/telemetry/test_sums.py": 50,
    "tests/secondary/test_service_goes_on.py": 46,
    "tests/portal/test_bad_input.py": 46,
    "tests/telemetry/test_status_sections.py": 45,
    "tests/bench/test_abreast.py": 44,
    "tests/doctor/test_doctor.py": 43,
    "tests/secondary/test_failed_switchover.py": 38,
    "tests/bench/test_compare.py": 37,
    "tests/secondary/test_own_faults.py": 37,
    "tests/secondary/test_hostile_primaries.py": 36,
    "tests/hyperlocal/test_server.py": 34,
    "tests/fastpath/test_admission.py": 34,
    "tests/mesh/test_whole_members.py": 33,
    "tests/secondary/test_neighbours.py": 32,
    "tests/secondary/test_anchor_files.py": 32,
    "tests/system/test_common_causes.py": 32,
    "tests/system/test_anycast_common_mode.py": 32,
    "tests/secondary/test_no_way_back.py": 31,
    "tests/mesh/test_whole_weeks.py": 28,
    "tests/fastpath/test_wire.py": 27,
    "tests/dot/test_hostile.py": 27,
    "tests/capture/test_collector.py": 26,
    "tests/localroot/test_bad_input.py": 26,
    "tests/engine/test_etcd.py": 26,
    "tests/deploy/test_network.py": 26,
    "tests/fastpath/test_lagging_kernel.py": 26,
    "tests/secondary/test_short_leases.py": 25,
    "tests/conformance/test_differential.py": 23,
    "tests/portal/test_in_chromium.py": 23,
    "tests/deploy/test_wheel.py": 23,
    "tests/fastpath/test_owner.py": 22,
    "tests/fastpath/test_differential.py": 22,
    "tests/server/test_tcp.py": 20,
    "tests/telemetry/test_rules.py": 20,
    "tests/secondary/test_full_disk.py": 19,
    "tests/system/test_anycast_frr.py": 19,
    "tests/portal/test_accounts.py": 19,
    "tests/fastpath/test_passes.py": 18,
    "tests/mesh/test_private_root.py": 18,
    "tests/secondary/test_missing_secrets.py": 17,
    "tests/secondary/test_two_truths.py": 17,
    "tests/zone/test_presentation.py": 17,
    "tests/hyperlocal/test_publishers.py": 17,
    "tests/faults/test_fail_once.py": 17,
    "tests/zone/test_verify_genuine.py": 17,
    "tests/secondary/test_after_a_restart.py": 16,
    "tests/capture/test_cdns.py": 16,
    "tests/secondary/test_zone_from_file.py": 16,
    "tests/bench/test_independent.py": 16,
    "tests/fastpath/test_switchover.py": 16,
    "tests/fuzz/test_respond.py": 15,
    "tests/capture/test_sums.py": 15,
    "tests/telemetry/test_status_page.py": 15,
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
    sharing.begin()


@pytest.hookimpl(optionalhook=True)  # a run without pytest-xdist has no such thing
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Sharing | None:
    return Sharing(config, log) if config.getvalue("dist") == "loadfile" else None


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
