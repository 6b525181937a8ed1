"""Subscribers that never read, keys that go, registers and disks that fail: the zone goes on to everybody else."""

import contextlib
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.localroot import register as registers
from rootsrv.localroot.observations import FILE, TransferSeen
from rootsrv.wire.codes import NOTAUTH
from tests.control.asking import ask
from tests.distribution.service import send
from tests.framing import receive
from tests.localroot import zones
from tests.localroot.service import ARPA, FIRST, ROOT, Service, localroot, question, transferred
from tests.needs import require_root, require_tool
from tests.secondary.test_full_disk import fill

OURS, OTHER, STRANGER = "127.23.5.1", "127.23.6.1", "127.23.7.1"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    extra = "idle_seconds = 2\nwithout_key_at_a_time = 5\nwithout_key_per_serial = 1000\ntransfers_at_a_time = 10"
    with localroot(tmp_path_factory.mktemp("localroot"), address="127.23.0.4", extra=extra) as made:
        # More than fits into the buffers of a few connections; that it changes so much is an operator's to say.
        made.publish(ROOT, zones.root(FIRST + 1, tlds=1000))
        made.wait(lambda: "zone held" in made.log, "it is held")
        ask(made.directory / "run" / "maintain.sock", "zone-approve", serial=FIRST + 1)
        made.wait_for(ROOT, FIRST + 1)
        yield made


def deaf(service: Service, address: str, *requests: bytes) -> socket.socket:
    """A client that asks and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.bind((address, 0))
    client.connect((service.address, service.port))
    for each in requests:
        send(client, each)
    return client


def test_strangers_that_never_read_take_no_place_from_a_server_and_are_let_go(running: Service) -> None:
    key = running.key(running.sign_up("reads", (OURS,)))
    running.knows(key, OURS)
    with contextlib.ExitStack() as stack:
        for number in range(30):
            asked = [question(ROOT, 252, None)[0] for _ in range(40)]
            stack.enter_context(deaf(running, f"127.24.{number}.1", *asked))
        running.wait(lambda: running.status()["transfers_running"] == 5, "as many run as strangers may have")
        for _ in range(5):
            assert not isinstance(running.axfr(ROOT, key, address=OURS), int)
        running.wait(lambda: running.status()["transfers_running"] == 0, "they are let go")
    assert not isinstance(running.axfr(ROOT, address=STRANGER), int)


def test_a_key_that_is_deleted_in_the_middle_of_a_transfer_ends_it_and_no_other(running: Service) -> None:
    going, staying = running.sign_up("going", (OURS,)), running.sign_up("staying", (OTHER,))
    deleted, kept = running.key(going), running.key(staying)
    running.knows(deleted, OURS)
    running.knows(kept, OTHER)
    with deaf(running, OURS, *(question(ROOT, 252, deleted)[0] for _ in range(40))) as slow:
        running.wait(lambda: running.status()["transfers_running"] == 1, "it runs")
        running.servers.delete_key(running.user, going, deleted.name)
        running.wait(lambda: running.soa(ROOT, deleted, address=OURS) == NOTAUTH, "the key is gone")
        whole = 0
        with contextlib.suppress(EOFError, OSError):
            while True:
                receive(slow)
                whole += 1
    assert whole < 40 * 8
    assert not isinstance(running.axfr(ROOT, kept, address=OTHER), int)
    running.wait(lambda: running.status()["transfers_running"] == 0, "its place is free")


def test_observations_that_cannot_be_written_wait_and_zones_go_out(running: Service) -> None:
    server = running.sign_up("seen", (OTHER,))
    key = running.key(server)
    running.knows(key, OTHER)
    path = running.directory / "state" / FILE
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not isinstance(running.axfr(ARPA, key, address=OTHER), int)
        running.wait(lambda: running.status()["observations_error"], "it is seen")
        assert not isinstance(running.axfr(ROOT, key, address=OTHER), int)
        other.execute("ROLLBACK")
    running.wait(
        lambda: {each.zone for each in running.observed.of_server(TransferSeen, server)} == {ROOT, ARPA},
        "nothing was lost",
    )
    running.wait(lambda: not running.status()["observations_error"], "it is well again")


def test_ten_thousand_wrong_signatures_fill_nothing(running: Service) -> None:
    """Of a key that is known and of names that nobody knows: one observation, and a bounded log."""
    server = running.sign_up("forged", (OURS,))
    key = running.key(server)
    running.knows(key, OURS)
    before = len(running.log)
    octets, _ = question(ROOT, 6, key)
    with running.connect(STRANGER) as client:
        for number in range(500):
            forged = bytearray(octets)
            forged[-20] ^= 1 + number % 255
            send(client, bytes(forged))
            assert receive(client)[3] & 15 == NOTAUTH
    with running.connect(OURS) as client:
        assert not isinstance(transferred(client, ROOT, key), int)
    assert running.log[before:].count("tsig_failed") <= 3


def test_a_register_that_is_locked_damaged_or_gone_changes_nothing_for_who_is_known(running: Service) -> None:
    """The last one of the module: who signs people up goes on with the file that was taken away."""
    server = running.sign_up("known", (OURS,))
    key = running.key(server)
    running.knows(key, OURS)
    directory = running.directory / "state" / registers.DIRECTORY
    kept = running.directory / "register.kept"
    with running.register.writing():  # a lock that lasts
        assert not isinstance(running.axfr(ROOT, key, address=OURS), int)
    shutil.copytree(directory, kept)
    for path in directory.glob(f"{registers.FILE}*"):
        path.unlink()
    (directory / registers.FILE).write_bytes(b"no database" * 1000)
    running.wait(lambda: running.status()["register_error"], "it is seen")
    assert not isinstance(running.axfr(ROOT, key, address=OURS), int)
    shutil.rmtree(directory)
    shutil.copytree(kept, directory)
    running.wait(lambda: not running.status()["register_error"], "it is well again")
    assert not isinstance(running.axfr(ROOT, key, address=OURS), int)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A directory whose state is on a file system of 8 MiB of its own."""
    require_root()
    directory = tmp_path / "small"
    (directory / "state").mkdir(parents=True)
    command = [require_tool("mount"), "-t", "tmpfs", "-o", "size=8m", "rs-small", str(directory / "state")]
    subprocess.run(command, check=True, timeout=20)
    try:
        yield directory
    finally:
        subprocess.run([require_tool("umount"), "-l", str(directory / "state")], check=True, timeout=20)


def test_a_full_disk_stops_no_zone_and_room_heals_it_unasked(small: Path) -> None:
    with localroot(small, address="127.23.0.5") as service:
        server = service.sign_up("goes on", (OURS,))
        key = service.key(server)
        service.knows(key, OURS)
        filler = fill(small / "state")
        service.publish(ARPA, zones.delegated(zones.ARPA, FIRST + 1))
        service.publish(ROOT, zones.root(FIRST + 1))
        service.wait(lambda: "No space left" in service.zone(ARPA)["last_rejection"], "it is seen")
        assert (service.zone(ARPA)["given"], service.zone(ROOT)["given"]) == (FIRST, FIRST)
        for name in (ROOT, ARPA):
            assert not isinstance(service.axfr(name, key, address=OURS), int)
            assert not isinstance(service.axfr(name, address=STRANGER), int)
        filler.unlink()
        service.wait_for(ARPA, FIRST + 1)
        service.wait_for(ROOT, FIRST + 1)
        service.wait(lambda: not service.status()["observations_error"], "it is well again")
