"""A budget of SYNs in XDP on a wire: what is over it is dropped and counted, who comes again gets in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fastpath.conftest import require_program
from tests.fastpath.site import SERVICE, site

BUDGET = 20  # a second, and two at once
COME = 6

CLIENT = """
import json, select, socket, sys
waiting, came = {}, 0
for _ in range(int(sys.argv[2])):
    one = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_STREAM)
    one.setblocking(False)
    one.connect_ex((sys.argv[1], 53))
    waiting[one.fileno()] = one
poll = select.poll()
for each in waiting:
    poll.register(each, select.POLLOUT)
at_once = len(poll.poll(200))
while waiting and (ready := poll.poll(20_000)):
    for each, _ in ready:
        came += not waiting.pop(each).getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        poll.unregister(each)
print(json.dumps({"at_once": at_once, "came": came}))
"""


@pytest.mark.parametrize("family", [4, 6])
def test_syns_over_the_budget_are_dropped_and_come_again(tmp_path: Path, family: int) -> None:
    require_program()
    with site(tmp_path, f"syns_per_core = {BUDGET}", mode="xdp") as made:
        assert made.hook() == "xdp"
        done = subprocess.run(
            [*made.client.prefix, sys.executable, "-c", CLIENT, SERVICE[family], str(COME)],
            check=True, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        told = json.loads(done.stdout)
        dropped = made.status()["counters"]["dropped_syns"]
        assert told["came"] == COME, "a second later, or three, as the kernel of a client tries again"
        assert dropped["ipv4" if family == 4 else "ipv6"] >= COME - told["at_once"] > 0
        assert made.process.poll() is None
