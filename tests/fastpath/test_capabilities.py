"""The fast path with no more capabilities than deploy/systemd/rootsrv-serve.service gives."""

import re
import shutil
from pathlib import Path

from tests.fastpath.site import SERVICE, site
from tests.needs import REPOSITORY, require_tool
from tests.server.live import wait_until

NOBODY = 65534


def test_it_attaches_and_stays_with_what_the_unit_gives(tmp_path: Path) -> None:
    unit = (REPOSITORY / "deploy/systemd/rootsrv-serve.service").read_text()
    found = re.search(r"^AmbientCapabilities=(.*)$", unit, re.MULTILINE)
    assert found
    given = [f"+{name.removeprefix('CAP_').lower()}" for name in found[1].split()]
    # dac_override stands for an interpreter that everybody may read.
    capabilities = ",".join([*given, "+dac_override"])
    shutil.chown(tmp_path, NOBODY, NOBODY)
    launcher = [
        require_tool("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
        f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", "--",
    ]  # fmt: skip
    with site(tmp_path, launcher=launcher) as here:
        hook = here.hook()
        assert hook != "off", here.log
        asked = 0

        def answered_for_a_while() -> bool:
            nonlocal asked
            assert "RRSIG" in here.dig(f"@{SERVICE[4]}", "+dnssec", ".", "SOA")
            asked += 1
            return asked >= 5 and here.kernel_replies(4) >= 5

        wait_until(answered_for_a_while, "the kernel answers", 30)
        # The owner looks after its attachment once a second.
        began = here.page.worker(0).heartbeat
        wait_until(lambda: here.page.worker(0).heartbeat > began + 3e9, "three seconds", 30)
        assert "detached" not in here.log
        assert here.hook() == hook
