"""What a worker may still do once it reads packets."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.needs import REPOSITORY, require_root, require_tool
from tests.server.live import Instance, configure, free_port, wait_until

NOBODY = 65534
GIVEN = "+net_admin,+bpf,+dac_override"
"""As the unit gives them; dac_override stands for an interpreter that everybody may read."""


def capabilities(pid: int) -> dict[str, int]:
    """Its capability sets (proc(5)): CapInh, CapPrm, CapEff, CapBnd, CapAmb."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {name: int(value, 16) for name, value in re.findall(r"^(Cap\w+):\s+(\w+)$", status, re.MULTILINE)}


def test_a_worker_keeps_no_capability_that_the_parent_was_given(tmp_path: Path) -> None:
    require_root()
    setpriv = require_tool("setpriv")
    port = free_port()
    path = configure(tmp_path, port, 1)
    for each in (tmp_path, *tmp_path.iterdir()):
        shutil.chown(each, NOBODY, NOBODY)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--inh-caps={GIVEN}",
             f"--ambient-caps={GIVEN}", "--", sys.executable, "-m", "rootsrv", "run", "--config", str(path)],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    instance = Instance(tmp_path, port, 1, process)
    try:
        wait_until(lambda: instance.is_ready() or process.poll() is not None, "ready", 60)
        assert process.poll() is None, instance.log
        (worker,) = instance.worker_pids()

        assert capabilities(process.pid)["CapEff"]
        held = capabilities(worker)
        assert (held["CapInh"], held["CapPrm"], held["CapEff"], held["CapAmb"]) == (0, 0, 0, 0)
        assert instance.ask(".", "SOA").answer
    finally:
        process.terminate()
        process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
