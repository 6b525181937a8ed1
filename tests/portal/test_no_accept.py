"""Where the pages have no descriptor for another connection: no core goes for that, and whoever waits is answered."""

import os
import resource
import socket
import time
from pathlib import Path

from bench.processes import cpu_nanoseconds
from tests.portal.site import running, wait_for


def test_a_portal_without_descriptors_spins_on_nobody_who_waits(tmp_path: Path) -> None:
    with running(tmp_path / "portal") as site, socket.socket() as waiting:
        pid = site.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), limits[1]))
        waiting.connect(("127.0.0.1", site.port))
        waiting.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        wait_for(lambda: "portal connection is not accepted" in site.log())
        began, used = time.monotonic(), cpu_nanoseconds(pid)
        wait_for(lambda: time.monotonic() - began >= 2)
        assert cpu_nanoseconds(pid) - used < 0.5e9, "who tries without a pause has a whole core"

        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        waiting.settimeout(10)
        assert waiting.recv(12).startswith(b"HTTP/1.1 ")
        wait_for(lambda: "portal connections are accepted again" in site.log())
        assert site.log().count("portal connection is not accepted") == 1
