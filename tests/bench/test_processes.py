"""What the kernel says of processes: of this one, of one that it has begun, and of one that is gone."""

import os
import subprocess
import sys

from bench import processes

BUSY = "sum(range(3_000_000)); input()"


def test_a_child_is_in_the_tree_and_its_session_and_counted_when_it_has_ended() -> None:
    before = processes.cpu_seconds_with_ended(os.getpid())
    # Give the child a session of its own: the leader of this one may be in another pid namespace, and is 0 here
    with subprocess.Popen(
        [sys.executable, "-c", f"print(flush=True); {BUSY}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert {os.getpid(), child.pid} <= {*processes.tree(os.getpid())}
        assert [*processes.of_session(child.pid)] == [child.pid]
        kinds = [processes.memory_octets(child.pid, kind) for kind in ("Pss", "VmRSS", "VmHWM")]
        child.communicate(b"\n")
        assert 1_000_000 < kinds[0] <= kinds[1] + 100_000
        assert kinds[1] <= kinds[2] + 100_000
    assert child.pid not in {*processes.tree(os.getpid())}
    assert processes.memory_octets(child.pid) == processes.cpu_nanoseconds(child.pid) == 0
    assert processes.cpu_seconds_with_ended(os.getpid()) >= before + 0.02
    assert processes.cpu_nanoseconds(os.getpid()) > 10_000_000
    assert [*processes.of_session(0)] == []
