"""Workers that die, hang, stop; and the flip from one table to another under load."""

import contextlib
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.message
import pytest

from bench.processes import memory_octets
from rootsrv.page import counts
from rootsrv.process import clock
from rootsrv.server.replacing import STARTS_APART_SECONDS
from tests.needs import require_root
from tests.process.test_time_slice import KNOWS_SLICES, attributes
from tests.server.live import SERIALS, Instance, serving, start, wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with serving(tmp_path_factory.mktemp("workers"), workers=2) as instance:
        yield instance


@pytest.fixture
def two_workers(shared: Instance) -> Instance:
    """An instance with two workers, whatever the tests before have done to them."""
    wait_until(lambda: 0 not in shared.worker_pids() and shared.is_ready(), "ready")
    return shared


def query(number: int, name: str, rtype: str = "A") -> bytes:
    message = dns.message.make_query(name, rtype, want_dnssec=True)
    message.id = number
    return message.to_wire()


class Load(threading.Thread):
    """Asks one query after the other from ever new ports until told to stop, and keeps what came back."""

    def __init__(self, instance: Instance, name: str = "no-such-tld.", timeout: float = 5.0) -> None:
        super().__init__()
        self.responses: list[bytes] = []
        self.sent = 0
        self._instance = instance
        self._name = name
        self._timeout = timeout
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
                asking.settimeout(self._timeout)
                asking.connect(("127.0.0.1", self._instance.port))
                # Several from each port: every worker has some of the ports.
                for number in range(8):
                    asking.send(query(number, self._name))
                self.sent += 8
                with contextlib.suppress(TimeoutError):  # lost: `sent` tells
                    for _ in range(8):
                        self.responses.append(asking.recv(4096))

    def end(self) -> None:
        self._ended.set()
        self.join(20)
        assert not self.is_alive()


def replaced(instance: Instance, slot: int, before: list[int]) -> list[int]:
    """The process ids once there is another worker in *slot* than *before*."""
    wait_until(lambda: instance.worker_pids()[slot] != before[slot] and instance.is_ready(), "replaced")
    return instance.worker_pids()


def test_a_killed_worker_is_replaced_and_what_waits_in_its_queues_is_answered(two_workers: Instance) -> None:
    before, count = two_workers.worker_pids(), two_workers.status()["workers_replaced"]
    load = Load(two_workers)
    load.start()
    wait_until(lambda: load.sent > 100, "load")

    os.kill(before[0], signal.SIGKILL)
    after = replaced(two_workers, 0, before)
    load.end()

    assert after[1] == before[1]
    assert two_workers.status()["workers_replaced"] == count + 1
    assert "worker replaced slot=0" in two_workers.log
    assert "ended by SIGKILL" in two_workers.log
    # What it had received and not yet answered is lost, and nothing else: at most one batch.
    assert load.sent - len(load.responses) <= 64


def test_who_answers_has_asked_for_a_short_slice_and_the_parent_has_not(two_workers: Instance) -> None:
    slices = [attributes(pid)[2] for pid in (*two_workers.worker_pids(), two_workers.status()["pid"])]
    assert slices[:2] == [100_000, 100_000] or not KNOWS_SLICES
    assert slices[2] != 100_000


def test_a_killed_worker_takes_at_most_one_batch_of_counts_with_it(two_workers: Instance) -> None:
    counted_before = counts.total(two_workers.page)[counts.RESPONSES]
    load = Load(two_workers)
    load.start()
    wait_until(lambda: load.sent > 500, "load")
    before = two_workers.worker_pids()
    os.kill(before[1], signal.SIGKILL)
    replaced(two_workers, 1, before)
    load.end()

    counted = counts.total(two_workers.page)[counts.RESPONSES] - counted_before
    assert len(load.responses) - 64 <= counted <= load.sent


def test_a_worker_that_hangs_while_queries_wait_is_replaced(two_workers: Instance) -> None:
    before = two_workers.worker_pids()
    os.kill(before[1], signal.SIGSTOP)
    load = Load(two_workers, timeout=15)
    load.start()

    after = replaced(two_workers, 1, before)
    load.end()

    assert after[0] == before[0]
    assert "did not advance" in two_workers.log
    assert load.sent == len(load.responses)


def test_a_worker_that_dies_whenever_it_is_up_is_replaced_as_soon_each_time(two_workers: Instance) -> None:
    """A query that kills whoever takes it can be sent as often as one likes."""
    log = two_workers.log
    for _ in range(6):
        before = two_workers.worker_pids()
        os.kill(before[0], signal.SIGKILL)
        replaced(two_workers, 0, before)

    news = two_workers.log[len(log) :].splitlines()
    pauses = [float(line.rsplit("=", 1)[1]) for line in news if "worker replaced" in line]
    assert len(pauses) == 6
    assert max(pauses) <= STARTS_APART_SECONDS


def test_workers_end_with_their_parent_and_the_port_is_free_again(tmp_path: Path) -> None:
    with serving(tmp_path) as instance:
        (worker,) = instance.worker_pids()
        instance.process.kill()
        instance.process.wait()
        wait_until(lambda: not is_running(worker), "worker gone")

        again = start(tmp_path / "rootsrv.toml", instance.port, 1, role="serve")
        try:
            wait_until(lambda: again.is_ready() and again.worker_pids() != [worker], "serving again")
            assert again.ask(".", "SOA").answer
        finally:
            assert again.stop() == 0


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_answers_what_waits_and_ends(tmp_path: Path) -> None:
    queries = [query(number, "no-such-tld.") for number in range(60)]  # as many responses as a socket's queue holds
    with serving(tmp_path) as instance, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect(("127.0.0.1", instance.port))
        asking.settimeout(5)
        (worker,) = instance.worker_pids()
        os.kill(worker, signal.SIGSTOP)  # its parent lets it go on, once it has been told to end
        with instance.connect() as connection:
            for each in queries:
                asking.send(each)
            connection.sendall(b"".join(struct.pack("!H", len(q)) + q for q in [queries[1]] * 20))
            instance.process.terminate()

            ids = {int.from_bytes(asking.recv(4096)[:2], "big") for _ in range(60)}
            stream = connection.makefile("rb").read()

        assert ids == set(range(60))
        assert len(responses_in(stream)) == 20
        assert instance.process.wait(10) == 0
        assert "stopped serving" in instance.log
        assert not is_running(worker)


def responses_in(stream: bytes) -> list[bytes]:
    found = []
    while stream:
        size = int.from_bytes(stream[:2], "big")
        found.append(stream[2 : 2 + size])
        stream = stream[2 + size :]
    return found


def expected(instance: Instance) -> bytes:
    """The whole response, without id, that the generation in service gives to what `Load` asks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.connect(("127.0.0.1", instance.port))
        asking.send(query(0, "no-such-tld."))
        return asking.recv(4096)[2:]


def test_a_flip_between_two_tables_under_load_loses_nothing_and_mixes_nothing(two_workers: Instance) -> None:
    page, count = two_workers.page, two_workers.status()["workers_replaced"]
    versions = []
    for generation in (1, 2):
        page.active = generation
        wait_until(two_workers.is_ready, "switched")
        versions.append(expected(two_workers))
    assert versions[0] != versions[1]

    loads = [Load(two_workers) for _ in range(2)]
    for load in loads:
        load.start()
    with two_workers.connect() as connection:
        stream = connection.makefile("rb")
        over_tcp: list[bytes] = []
        for generation in (1, 2) * 4:
            page.staged = generation
            wait_until(lambda g=generation: all(page.worker(s).staged == g for s in (0, 1)), "staged")
            page.active = generation
            page.staged = 0
            flipped_at = clock.boottime_ns()
            wait_until(lambda g=generation: all(page.worker(s).active == g for s in (0, 1)), "flipped", 0.5)
            assert clock.boottime_ns() - flipped_at < 0.4e9
            for _ in range(10):
                asked = query(0, "no-such-tld.")
                connection.sendall(struct.pack("!H", len(asked)) + asked)
                over_tcp.append(stream.read(int.from_bytes(stream.read(2), "big"))[2:])
            # What is asked after every worker has switched is answered from nothing else.
            assert expected(two_workers) == versions[generation - 1]
    for load in loads:
        load.end()

    for load in loads:
        assert load.sent == len(load.responses)
        assert {response[2:] for response in load.responses} == set(versions)
    assert over_tcp == [versions[generation - 1] for generation in (1, 2) * 4 for _ in range(10)]
    assert two_workers.status()["workers_replaced"] == count


def test_memory_is_bounded_over_switchovers(two_workers: Instance) -> None:
    page = two_workers.page

    def flip(times: int) -> int:
        for turn in range(times):
            generation = 1 + turn % 2
            page.staged = generation
            wait_until(lambda g=generation: all(page.worker(s).staged == g for s in (0, 1)), "staged")
            page.active = generation
            wait_until(lambda g=generation: all(page.worker(s).active == g for s in (0, 1)), "flipped")
            page.staged = 0
        return sum(memory_octets(pid, "VmRSS") // 1024 for pid in two_workers.worker_pids())

    settled = flip(10)
    assert flip(20) - settled < 3_000  # one leaked table more at each flip would be 20,000


def test_a_zone_whose_lease_is_over_is_servfail_and_the_other_zone_is_not(two_workers: Instance) -> None:
    page = two_workers.page
    kept = page.deadline(1)
    page.set_deadline(1, clock.boottime_ns())
    wait_until(lambda: two_workers.ask("a.root-servers.net.", "A").rcode() == 2, "expired")
    for tcp in (False, True):
        assert two_workers.ask("a.root-servers.net.", "A", tcp=tcp).rcode() == 2
        assert two_workers.ask(".", "SOA", tcp=tcp).answer[0][0].serial in SERIALS

    page.set_deadline(1, kept)
    wait_until(lambda: two_workers.ask("a.root-servers.net.", "A").rcode() == 0, "healed")


def test_a_silenced_instance_answers_nothing_and_counts_it(two_workers: Instance) -> None:
    page = two_workers.page
    word = counts.DROPPED + counts.DROP_REASONS.index("silenced")
    count = counts.total(page)[word]
    page.silenced = True
    for slot in range(page.workers):  # what follows is asked after wake-ups of both
        words = page.worker(slot)
        for _ in range(2):
            seen = words.heartbeat
            wait_until(lambda words=words, seen=seen: words.heartbeat != seen, "a wake-up")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        asking.connect(("127.0.0.1", two_workers.port))
        asking.send(query(1, "."))
        wait_until(lambda: counts.total(page)[word] > count, "dropped")
        with pytest.raises(BlockingIOError):
            asking.recv(4096)
    assert counts.total(page)[word] == count + 1

    page.silenced = False
    wait_until(lambda: two_workers.ask(".", "SOA").answer, "answers again")


def test_workers_run_as_the_configured_user(tmp_path: Path) -> None:
    require_root()
    tmp_path.chmod(0o700)  # nothing in here can be reached by path after privileges are dropped
    with serving(tmp_path, service='user = "nobody"') as instance:
        (worker,) = instance.worker_pids()
        status = Path(f"/proc/{worker}/status").read_text()
        assert {line for line in status.splitlines() if line.startswith("Uid")} == {"Uid:\t65534\t65534\t65534\t65534"}
        assert "NoNewPrivs:\t1" in status
        instance.page.active = 2
        wait_until(instance.is_ready, "the second table is mapped too")
        assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[1]
