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
    "tests/capture/test_facts.py", "tests/config/", "tests/fuzz/test_respond.py", "tests/health/",
    "tests/mesh/test_clock_at_start.py", "tests/mesh/test_envelope.py", "tests/mesh/test_host.py",
    "tests/mesh/test_maintenance.py", "tests/mesh/test_member.py", "tests/mesh/test_quorum.py",
    "tests/mesh/test_roster.py", "tests/mesh/test_tables.py", "tests/mesh/test_whole_", "tests/page/test_changes.py",
    "tests/page/test_day.py", "tests/store/test_ledger.py", "tests/telemetry/test_daybook.py",
    "tests/telemetry/test_documentation.py", "tests/telemetry/test_load_times.py", "tests/telemetry/test_rssac002.py",
    "tests/wire/", "tests/zone/",
)  # fmt: skip
"""Beginnings of the names of files whose tests start nothing and wait for nothing, on the test clock at most."""

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
