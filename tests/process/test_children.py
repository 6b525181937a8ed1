"""Another program that ends with the process that started it."""

import secrets
import subprocess
import sys

from bench.guardian import marked
from tests.needs import REPOSITORY
from tests.server.live import wait_until

PARENT = """\
import subprocess
from rootsrv.process.children import ends_with_us, environment
started = subprocess.Popen(ends_with_us(["sleep", "97"]), env=environment() | {"MARK": "%s"}, start_new_session=True)
print(flush=True)
input()
"""


def test_another_program_ends_with_us_when_we_are_killed() -> None:
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [sys.executable, "-c", PARENT % mark], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (pid,) = wait_until(lambda: marked(f"MARK={mark}"), "it runs")
        with open(f"/proc/{pid}/comm") as name:
            wait_until(lambda: (name.seek(0), name.read())[1] == "sleep\n", "it is another program")
        parent.kill()
        parent.wait()
        wait_until(lambda: not marked(f"MARK={mark}"), "it has ended")
