"""What the system tests measured is printed at the end of the run."""

import pytest


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the end of the run: what was measured, and the bound that was tested."""
    lines: list[str] = []
    # Properties of the report, since those reach the process that prints whichever process ran the test.
    request.node.user_properties.append(("measured", lines))
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        each for group in terminalreporter.stats.values() for each in group if isinstance(each, pytest.TestReport)
    ]
    lines = [
        line
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "measured" and isinstance(value, list)
        for line in value
    ]
    if lines:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)
