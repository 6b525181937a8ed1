"""At T + grace the kernel must not answer from the old zone: its owner is told to let it pass, or its promise ends."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fastpath.conftest import require_program
from tests.fastpath.site import SERVICE, Site, site
from tests.server.live import SERIALS, put, wait_until

# Sections follow the one of the fast path.  The set time is out of reach: an import with --now brings it about.
SECTIONS = """
orphan_seconds = 4
[clock]
source = "trusted"
[switchover]
align_seconds = 3600
lead_seconds = 60
grace_seconds = 0.5
"""


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Site]:
    require_program()
    with site(tmp_path, SECTIONS) as running:
        yield running


def serial(made: Site) -> int:
    printed = made.dig(f"@{SERVICE[4]}", ".", "SOA", "+short").split()
    return int(printed[2]) if len(printed) == 7 else 0


def import_next(made: Site, *, now: bool) -> None:
    """Put the next zone into service at once, or have it scheduled."""
    put(made.directory / "next.zone", made.zones.versions[1])
    done = made.order("zone-import", octets=(made.directory / "next.zone").read_bytes(), now=now)
    assert done.get("state") == ("served" if now else "scheduled")


def passes_everything(made: Site) -> bool:
    return not any(made.status()["answer_until_seconds"])


def test_a_kernel_that_is_told_to_passes_everything_until_the_next_switchover(made: Site) -> None:
    assert serial(made) == SERIALS[0]
    assert made.kernel_replies(4) > 0
    active = made.page.active
    told = made.ask_serve("fastpath-suspend", wanted=active, reason="an order that comes late")
    assert any(told["answer_until_seconds"])
    told = made.ask_serve("fastpath-suspend", wanted=active + 1, reason="a test")
    assert told["answer_until_seconds"] == [0.0, 0.0]
    before = made.kernel_replies(4)
    assert serial(made) == SERIALS[0]
    assert made.kernel_replies(4) == before
    assert 'reason="a test"' in made.log
    import_next(made, now=True)
    wait_until(lambda: not passes_everything(made), "the kernel answers again")
    assert serial(made) == SERIALS[1]
    assert made.kernel_replies(4) > before


def test_a_kernel_whose_owner_hangs_ceases_when_its_promise_ends_and_the_workers_answer_the_new_zone(
    made: Site,
) -> None:
    assert serial(made) == SERIALS[0]
    replies = made.kernel_replies(4)
    owner = made.serve_pid()
    import_next(made, now=False)
    os.kill(owner, signal.SIGSTOP)
    try:
        import_next(made, now=True)
        wait_until(lambda: "fast path cannot be switched off" in made.log, "told")
        assert "fast path does not switch" in made.log
        wait_until(lambda: serial(made) == SERIALS[1], "the workers answer", 10)
        assert serial(made) == SERIALS[1]
    finally:
        os.kill(owner, signal.SIGCONT)
    wait_until(lambda: made.status()["active"] == made.page.active, "the kernel follows")
    assert serial(made) == SERIALS[1]
    assert made.kernel_replies(4) > replies


def test_a_silenced_instance_is_silent_in_the_kernel_too_also_when_that_is_a_generation_behind(made: Site) -> None:
    page = made.page
    worker = page.worker(0).pid
    import_next(made, now=False)
    table = made.directory / "state" / "tables" / f"{page.staged}.table"
    damaged = table.with_suffix(".damaged")
    damaged.write_bytes(table.read_bytes()[:-8] + b"damaged!")
    damaged.replace(table)
    os.kill(worker, signal.SIGSTOP)
    import_next(made, now=True)
    wait_until(lambda: page.silenced, "silenced")
    wait_until(lambda: passes_everything(made), "the kernel passes")
    assert serial(made) == 0
