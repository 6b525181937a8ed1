"""Who goes before ordinary processes does so alone, cannot hold a core for long, and can get no further."""

import os
import signal
import subprocess
import sys

import pytest

from rootsrv.process import real_time
from tests.server.test_leaving import needs_real_time

TAKEN = "from rootsrv.process import real_time; print(real_time.take(2)); real_time.confine()\n"


def run(program: str, *, by: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
    command = [*by, sys.executable, "-c", TAKEN + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@needs_real_time
def test_a_priority_is_taken_by_one_thread_alone() -> None:
    program = (
        "import os, threading; print(*real_time.of(os.getpid()).values(), real_time.goes_first())\n"
        "thread = threading.Thread(target=lambda: print(real_time.goes_first())); thread.start(); thread.join()"
    )
    assert run(program).stdout.split() == ["fifo", "2", "True", "False"]


@needs_real_time
def test_the_kernel_ends_who_holds_a_core_without_a_sleep() -> None:
    assert run("while True: pass").returncode == -signal.SIGXCPU


@needs_real_time
def test_who_sleeps_may_go_on_for_longer() -> None:
    program = (
        "import time\n"
        "until = time.thread_time() + 1.5 * real_time.HOLD_SECONDS\n"
        "while time.thread_time() < until:\n"
        "    pause = time.thread_time() + 0.05\n"
        "    while time.thread_time() < pause: pass\n"
        "    time.sleep(0.0001)\n"
    )
    assert run(program).returncode == 0


@needs_real_time
def test_who_has_taken_it_gets_no_higher_one() -> None:
    program = (
        "import os, sys\n"
        "os.execvp('setpriv', ['setpriv', '--bounding-set', '-sys_nice', '--inh-caps', '-sys_nice', sys.executable,"
        " '-c', 'from rootsrv.process import real_time; print(real_time.take(3))'])"
    )
    assert run(program).stdout.splitlines()[-1] == "Operation not permitted; RLIMIT_RTPRIO is 0"


def test_of_a_process_that_has_ended_nothing_is_said() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert real_time.of(process.pid) == {}


def test_an_ordinary_process_is_none_that_goes_first() -> None:
    said = real_time.of(os.getpid())
    assert said == {"policy": "ordinary", "priority": 0}
    assert not real_time.is_real_time(said["policy"])
    assert all(map(real_time.is_real_time, ("fifo", "rr")))


@pytest.mark.parametrize(
    ("status", "told"),
    [(3, "exit status 3"), (-9, "by SIGKILL"), (-signal.SIGXCPU, "held its core for 1 s before all others (SIGXCPU)")],
)
def test_how_a_process_ended_is_told(status: int, told: str) -> None:
    from rootsrv.process.children import describe_end

    assert told in describe_end(status)
