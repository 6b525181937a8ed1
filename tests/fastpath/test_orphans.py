"""Whose program goes with its owner, and whose answers end when the owner's promise does: kill -9, on each hook."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fastpath.conftest import Zones, message, opt, require_program, wire
from tests.fastpath.site import CLIENT, SERVICE, WIRE, site, socket_in
from tests.needs import REPOSITORY
from tests.network import Host, network
from tests.server.live import wait_until

ORPHAN_SECONDS = 3.0
QUERY = message(wire(b"nosuchtld"), opt=opt())

LIST_ATTACHED = """
import socket, sys
from rootsrv.fastpath.attachment import attached_programs
index = socket.if_nametoindex(sys.argv[1])
print([info.name for hook in ("xdp", "tcx", "clsact") for info in attached_programs(index, hook)])
"""


class OwnerFailed(Exception):
    """The owner could not attach."""


@dataclass
class Place:
    """A wire without any server."""

    server: Host
    client: Host
    asking: socket.socket
    table: Path
    number: int = 0
    """The kernel's number of the program that was attached last."""

    def is_answered(self) -> bool:
        """Whether the kernel answers a query within a fifth of a second."""
        with contextlib.suppress(ConnectionRefusedError):  # the stack's answer to a query before
            while select.select([self.asking], [], [], 0)[0]:
                self.asking.recv(4096)
        try:
            self.asking.send(QUERY)
            return self.asking.recv(4096)[3] & 15 == 3
        except (TimeoutError, ConnectionRefusedError):
            return False

    def attached(self) -> list[str]:
        """Names of the programs on the server's end."""
        command = (*self.server.prefix, sys.executable, "-c", LIST_ATTACHED, WIRE)
        printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=True).stdout
        names: list[str] = [name.strip(" '") for name in printed.strip()[1:-1].split(",") if name]
        return names

    @contextlib.contextmanager
    def owner(
        self, hook: str, *, keep: bool = False, left_behind: tuple[int, ...] = ()
    ) -> Iterator["subprocess.Popen[str]"]:
        """An owner that has attached; *left_behind*: programs that it knows for a dead owner's."""
        promise = (hook, "keep" if keep else "link", str(ORPHAN_SECONDS), str(self.table), *map(str, left_behind))
        with subprocess.Popen(
            (*self.server.prefix, sys.executable, "-m", "tests.fastpath.owner", *promise),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stderr is not None
                line = process.stdout.readline()
                if not line.startswith("attached "):
                    said = process.stderr.read()
                    if "this kernel has no tcx" in said or "no native XDP" in said:
                        pytest.skip(said.splitlines()[-1])
                    raise OwnerFailed(said)
                self.number = int(line.split()[1])
                yield process
            finally:
                process.kill()


@pytest.fixture(scope="module")
def place(zones: Zones, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    require_program()
    table = tmp_path_factory.mktemp("orphans") / "1.table"
    table.write_bytes(zones.table.octets)
    with network() as made:
        server, client = made.host("server"), made.host("client")
        made.link(server, client, WIRE, ((f"{SERVICE[4]}/24", f"{CLIENT[4]}/24"),))
        asking = socket_in(client, socket.AF_INET, socket.SOCK_DGRAM)
        asking.settimeout(0.2)
        asking.connect((SERVICE[4], 53))
        try:
            yield Place(server, client, asking, table)
        finally:
            asking.close()


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_tcx_link_goes_with_its_killed_owner_at_once(place: Place) -> None:
    with place.owner("tcx") as owner:
        wait_until(place.is_answered, "answered")
        assert place.attached() == ["rootsrv_tc"]
        kill(owner)
        wait_until(lambda: place.attached() == [], "the link is gone", 3)
        assert not place.is_answered()


def test_an_xdp_link_goes_with_its_killed_owner_at_once(place: Place) -> None:
    with place.owner("xdp") as owner:
        assert place.attached() == ["rootsrv_xdp"]
        kill(owner)
        wait_until(lambda: place.attached() == [], "the link is gone", 3)


@pytest.mark.parametrize(("hook", "keep"), [("tcx", True), ("clsact", False)])
def test_what_stays_attached_answers_as_long_as_its_owner_promised_and_no_longer(
    place: Place, hook: str, keep: bool
) -> None:
    with place.owner(hook, keep=keep) as owner:
        wait_until(place.is_answered, "answered")
        kill(owner)
        assert place.is_answered(), "the owner is dead; its promise is not"
        assert place.attached() == ["rootsrv_tc"]
        wait_until(lambda: not place.is_answered(), "silent after answer_until", 30)
        assert place.attached() == ["rootsrv_tc"]
        # Once the dead owner cannot be alive any more, the next one takes its place without being told to replace.
    wait_until(lambda: takes_over(place, hook), "the next owner takes over", 60)
    assert place.attached() == []


def takes_over(place: Place, hook: str) -> bool:
    try:
        with place.owner(hook) as owner:
            answered = place.is_answered()
            assert owner.stdin is not None
            owner.stdin.close()
            owner.wait(10)
            return answered
    except OwnerFailed as error:
        if "--replace" not in str(error):
            raise
        return False


def test_the_owner_renews_its_promise(place: Place) -> None:
    with place.owner("tcx") as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        ends = []
        for _ in range(2):
            owner.stdin.write("x")
            owner.stdin.flush()
            assert owner.stdout.readline() == "renewed\n"
            ends.append(place.is_answered())
        wait_until(lambda: not place.is_answered(), "silent after answer_until", 30)
        owner.stdin.write("x")
        owner.stdin.flush()
        assert owner.stdout.readline() == "renewed\n"
        assert [*ends, place.is_answered()] == [True, True, True]


@pytest.mark.parametrize("hook", ["xdp", pytest.param("clsact", marks=pytest.mark.long)])
def test_what_the_dead_owner_had_noted_is_taken_over_at_once(place: Place, hook: str) -> None:
    with place.owner(hook, keep=True) as owner:
        kill(owner)
    with place.owner(hook, left_behind=(place.number,)) as owner:
        assert len(place.attached()) == 1
        assert owner.stdin is not None
        owner.stdin.close()
        owner.wait(20)
    assert place.attached() == []
    # The queueing discipline that the dead owner had made for its filter is gone, too.
    assert "clsact" not in place.server.run("tc", "qdisc", "show", "dev", WIRE)


def test_a_queueing_discipline_that_others_use_stays(place: Place) -> None:
    with place.owner("clsact") as owner:
        kill(owner)
    try:
        everything = ("bytecode", "1,6 0 0 4294967295")
        place.server.run("tc", "filter", "add", "dev", WIRE, "egress", "prio", "7", "bpf", *everything)
        with place.owner("clsact", left_behind=(place.number,)) as owner:
            assert owner.stdin is not None
            owner.stdin.close()
            owner.wait(20)
        assert "pref 7" in place.server.run("tc", "filter", "show", "dev", WIRE, "egress")
    finally:
        place.server.run("tc", "qdisc", "del", "dev", WIRE, "clsact")


@pytest.mark.parametrize("hook", [pytest.param("xdp", marks=pytest.mark.long), "clsact"])
def test_a_living_program_is_not_replaced_and_is_named(place: Place, hook: str) -> None:
    with place.owner(hook, keep=True), pytest.raises(OwnerFailed) as refused:
        with place.owner(hook):
            pass
    assert f"program rootsrv_{'xdp' if hook == 'xdp' else 'tc'} (id " in str(refused.value)
    assert "--replace" in str(refused.value)
    wait_until(lambda: cleaned(place, hook), "taken away by the next owner", 60)


def cleaned(place: Place, hook: str) -> bool:
    try:
        with place.owner(hook) as owner:
            assert owner.stdin is not None
            owner.stdin.close()
            owner.wait(10)
    except OwnerFailed:
        return False
    return place.attached() == []


def test_with_every_process_of_an_instance_killed_nothing_is_left(tmp_path: Path) -> None:
    require_program()
    with site(tmp_path) as made:
        hook = made.hook()
        if hook == "clsact":
            pytest.skip("clsact filters stay: see the tests above")
        os.killpg(made.process.pid, signal.SIGKILL)
        made.process.wait()
        place = Place(made.server, made.client, socket.socket(), tmp_path)
        wait_until(lambda: place.attached() == [], "nothing is attached", 5)
        place.asking.close()
