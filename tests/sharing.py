"""How the tests are shared among pytest-xdist's processes: two, and one more for what only computes."""
# What starts servers waits for a quarter to a third of its time: for a lease that ends, a role that begins.  A third
# process as the others would be done no sooner, and what counts lost queries would count those of a client that did
# not get its turn.  So with more processes than cores the last one is nice, has the tests that only compute, and ends
# with them; what is left of these in the end is everybody's.

import os

from xdist.scheduler.loadfile import LoadFileScheduling
from xdist.workermanage import WorkerController

_COMPUTE = (
    "tests/admission/test_limits.py", "tests/admission/test_policy.py", "tests/answer/", "tests/capture/test_cdns",
    "tests/capture/test_facts.py", "tests/capture/test_kept_order.py", "tests/capture/test_kernel_rows.py",
    "tests/capture/test_tally.py", "tests/capture/test_unexpected.py", "tests/commands/test_mesh.py",
    "tests/commands/test_mistyped.py", "tests/commands/test_security_events.py", "tests/commands/test_tables.py",
    "tests/commands/test_zone_files.py", "tests/config/", "tests/conformance/test_in_kernel.py",
    "tests/conformance/test_wire.py", "tests/deploy/test_wheel.py", "tests/fastpath/test_accounting.py",
    "tests/fastpath/test_differential.py", "tests/fastpath/test_large_zones.py", "tests/fastpath/test_layout.py",
    "tests/fastpath/test_new_shapes.py", "tests/fastpath/test_room.py", "tests/fastpath/test_sizes.py",
    "tests/fastpath/test_verifier.py", "tests/fuzz/test_respond.py", "tests/health/",
    "tests/localroot/test_statistics.py", "tests/mesh/test_clock_at_start.py", "tests/mesh/test_envelope.py",
    "tests/mesh/test_host.py", "tests/mesh/test_maintenance.py", "tests/mesh/test_member.py",
    "tests/mesh/test_quorum.py", "tests/mesh/test_roster.py", "tests/mesh/test_tables.py", "tests/mesh/test_whole_",
    "tests/page/test_changes.py", "tests/page/test_day.py", "tests/process/test_c_declarations.py",
    "tests/process/test_json_text.py", "tests/process/test_places.py", "tests/process/test_troubles.py",
    "tests/process/test_whole_file.py", "tests/server/test_counters.py", "tests/server/test_idle.py",
    "tests/server/test_newcomers.py", "tests/server/test_serving.py", "tests/server/test_turns.py",
    "tests/store/test_ledger.py", "tests/telemetry/test_daybook.py", "tests/telemetry/test_documentation.py",
    "tests/telemetry/test_fleet_page.py", "tests/telemetry/test_load_times.py", "tests/telemetry/test_rssac002.py",
    "tests/test_docs.py", "tests/test_duties.py", "tests/test_house.py", "tests/test_readme.py",
    "tests/test_runbook.py", "tests/wire/", "tests/zone/",
)  # fmt: skip
"""Beginnings of the names of files whose tests start no server and wait for nothing, on the test clock at most."""

_NICENESS = 15


def begin() -> None:
    """Be nice, where this is the process for what only computes."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "")
    if number and _is_one_more(number, int(os.environ["PYTEST_XDIST_WORKER_COUNT"])):
        os.nice(_NICENESS)


def _is_one_more(name: str, count: int) -> bool:
    cores = len(os.sched_getaffinity(0))
    return count > cores and name == f"gw{count - 1}"


class Sharing(LoadFileScheduling):  # type: ignore[misc]
    """By file, in the given order, but for the process that is one more."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        is_one_more = _is_one_more(node.gateway.id, len(self.config.getvalue("tx")))
        wanted = next((each for each in self.workqueue if each.startswith(_COMPUTE) == is_one_more), None)
        if wanted is not None:
            self.workqueue.move_to_end(wanted, last=False)
        elif is_one_more:
            node.shutdown()
            return
        super()._assign_work_unit(node)
