"""Limits go off, dry-run, on and back by a reload: kernel and worker follow, nobody is started anew."""

import re
import socket
from pathlib import Path

import dns.message

from tests.fastpath.site import CLIENT, SERVICE, Site, site, socket_in
from tests.server.live import wait_until

KERNEL, WORKER = ("com.", "A"), ("id.server.", "TXT")
ASKED = 40


def truncated(made: Site, name: str, rtype: str, *, chaos: bool = False) -> int:
    """Of ASKED queries at once, how many were answered with TC."""
    message = dns.message.make_query(name, rtype, "CH" if chaos else "IN")
    with socket_in(made.client, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.bind((CLIENT[4], 0))
        for _ in range(ASKED):
            asking.sendto(message.to_wire(), (SERVICE[4], 53))
        return sum(asking.recv(4096)[2] >> 1 & 1 for _ in range(ASKED))


def reload(made: Site, mode: str) -> None:
    path = made.directory / "rootsrv.toml"
    text = re.sub(r'(\[limits\]\nmode = )"[a-z-]+"', rf'\1"{mode}"', path.read_text())
    path.write_text(text)
    assert made.ask_serve("reload")["ok"]
    wait_until(lambda: made.ask_serve("top")["limits"]["in_force"] == mode, f"limits are {mode}")


def test_kernel_and_worker_follow_a_reload_from_off_to_on_and_back(tmp_path: Path) -> None:
    limits = '[limits]\nmode = "off"\nrate = 4\nburst_seconds = 2.0\nipv4_multipliers = [1, 1, 1, 1]\n'
    with site(tmp_path, limits, mode="tc") as made:
        workers = [made.page.worker(0).pid, made.serve_pid()]
        programs = made.status()["interfaces"]

        def limited() -> tuple[int, int]:
            """In force and dry, as kernel and workers count."""
            limits = made.ask_serve("top")["limits"]
            return limits["limited"], limits["would_be_limited"]

        # In the worker only where the kernel has no part: the fast path is off for the second half.
        for where in ("kernel", "worker"):
            if where == "worker":
                assert made.ask_serve("fastpath-detach", reason="test")["ok"]
            replies = made.kernel_replies(4)
            assert truncated(made, *KERNEL) == 0
            assert (made.kernel_replies(4) > replies) is (where == "kernel")
            before = limited()
            reload(made, "dry-run")
            assert truncated(made, *KERNEL) == 0
            wait_until(lambda before=before: limited()[1] > before[1], "counted as what would be limited")
            reload(made, "on")
            assert truncated(made, *KERNEL) > ASKED / 2
            reload(made, "off")
            assert truncated(made, *KERNEL) == 0
        assert [made.page.worker(0).pid, made.serve_pid()] == workers
        assert made.status()["interfaces"][0]["name"] == programs[0]["name"]
