"""Start, restart, reload: what an operator does to `rootsrv run`."""

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import dns.edns
import pytest

from bench.peers.daemon import free_port
from rootsrv.answer.table import AnswerTable
from rootsrv.process import clock
from rootsrv.store.table_mac import TableKey, mac_path
from rootsrv.zone import instant
from tests.needs import require_root
from tests.server.live import (
    REPOSITORY,
    SERIALS,
    configure,
    put,
    running,
    start,
    wait_until,
    zone_files,
)


def failed_start(path: Path, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit status and log of an instance that does not start."""
    instance = start(path, 1, 1, environment)
    try:
        return instance.process.wait(45), instance.log
    finally:
        if instance.process.poll() is None:
            os.killpg(instance.process.pid, signal.SIGKILL)


def damage(path: Path, at: int) -> None:
    octets = bytearray(path.read_bytes())
    octets[at] ^= 1
    path.write_bytes(octets)


def test_a_restart_maps_the_stored_table_and_parses_no_zone(tmp_path: Path) -> None:
    with running(tmp_path) as instance:
        assert instance.stop() == 0
        log = instance.log
    shutil.rmtree(tmp_path / "run")  # as after a reboot

    restarted = start(tmp_path / "rootsrv.toml", instance.port, 1)
    try:
        wait_until(restarted.is_ready, "ready again")
        assert restarted.ask(".", "SOA").answer[0][0].serial == SERIALS[0]
        news = restarted.log[len(log) :]
        assert 'source="stored table"' in news
        assert "zone verified" not in news
    finally:
        restarted.stop()


def test_the_fast_paths_owner_keeps_to_its_cpus_and_the_workers_to_theirs(tmp_path: Path) -> None:
    path = configure(tmp_path, port := free_port(), 2)
    ours = os.sched_getaffinity(0)
    with path.open("a") as file:
        file.write(f"[fastpath]\nowner_cpus = [{max(ours)}]\n")
    instance = start(path, port, 2)
    try:
        wait_until(instance.is_ready, "ready")
        for pid in instance.worker_pids():
            assert os.sched_getaffinity(pid) == ours
            owner = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            assert os.sched_getaffinity(owner) == {max(ours)}
    finally:
        instance.stop()


def test_a_damaged_table_is_refused_and_made_anew_from_the_zone(tmp_path: Path) -> None:
    path = configure(tmp_path, port := free_port(), 1)
    tables = tmp_path / "state" / "tables"

    def serve_once(generation: int) -> str:
        """What a run logs that comes to serve *generation*, as if after a reboot."""
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        before = (tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""
        instance = start(path, port, 1)
        try:
            wait_until(instance.is_ready, "ready")
            assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[0]
            assert instance.page.active == generation
        finally:
            instance.stop()
        return instance.log[len(before) :]

    serve_once(1)
    damage(tables / "1.table", 5_000)
    log = serve_once(2)
    assert "table unusable generation=1" in log
    assert "digest does not match" in log
    assert "zone verified zone=." in log

    (tables / "2.table").write_bytes((tables / "2.table").read_bytes()[:-100])
    assert "table unusable generation=2" in serve_once(3)

    damage(tables / "3.table", 8)
    assert "format version" in serve_once(4)


def test_a_table_that_somebody_else_wrote_is_not_answered_from_and_one_that_the_zones_do_not_make_is_replaced(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as instance:
        assert instance.stop() == 0
    table, state = tmp_path / "state" / "tables" / "1.table", tmp_path / "state"
    genuine = table.read_bytes()
    forged = bytearray(genuine.replace(bytes([192, 0, 2]), bytes([203, 0, 113])))  # glue
    forged[16:48] = bytes(32)
    forged[16:48] = hashlib.sha256(forged).digest()
    assert forged != genuine
    AnswerTable(bytes(forged))  # by itself nothing tells

    def serve_once() -> tuple[str, bytes]:
        shutil.rmtree(tmp_path / "run")
        before = len((tmp_path / "log").read_text())
        restarted = start(tmp_path / "rootsrv.toml", instance.port, 1)
        try:
            wait_until(lambda: restarted.is_ready() and restarted.page.active == 2, "the table made anew answers")
        finally:
            restarted.stop()
        return restarted.log[before:], (state / "tables" / "2.table").read_bytes()

    table.write_bytes(forged)
    log, made = serve_once()
    assert "its MAC is not ours" in log
    assert "stored table" not in log
    assert made == genuine

    # One that has the key could do more, or the software compiles otherwise than it did: what is kept decides.
    shutil.rmtree(state / "tables")
    (state / "tables").mkdir()
    ledger = json.loads((state / "ledger.json").read_text())
    (state / "ledger.json").write_text(json.dumps({**ledger, "generation": 1, "highest": 1}))
    table.write_bytes(forged)
    mac_path(table).write_bytes(TableKey(state / "secret" / "table.key").mac(1, AnswerTable(bytes(forged)).digest))
    log, made = serve_once()
    assert "stored table answers generation=1" in log
    assert "stored table is replaced generation=1" in log
    assert made == genuine


def test_a_changed_zone_file_is_served_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as instance:
        instance.stop()
        instance.put_zone(1)
    restarted = start(tmp_path / "rootsrv.toml", instance.port, 1)
    try:
        # The generation of the last run is served until the new one is ready.
        wait_until(lambda: restarted.page.active == 2 and restarted.is_ready(), "the new zone")
        assert restarted.ask(".", "SOA").answer[0][0].serial == SERIALS[1]
    finally:
        restarted.stop()


def test_reload_serves_what_is_in_the_files_now_and_a_bad_zone_changes_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as instance:
        newer = zone_files().versions[1]
        bad, changed = re.subn(rb"(\sA\s+)198\.51\.100\.\d+", rb"\g<1>192.0.2.254", newer, count=1)
        assert changed == 1
        put(tmp_path / "root.zone", bad)
        instance.reload()
        wait_until(lambda: "zone rejected zone=." in instance.log, "refused")
        refusal = next(line for line in instance.log.splitlines() if "zone rejected" in line)
        assert "A ZONEMD record does not match the zone's contents" in refusal or "ZONEMD" in refusal
        assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[0]
        assert instance.page.active == 1

        instance.put_zone(1)
        instance.reload()
        wait_until(lambda: instance.page.active == 2 and instance.is_ready(), "second version")
        assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[1]


@pytest.mark.parametrize(
    ("file", "octets", "reason"),
    [
        ("root.zone", b"", "root.zone: there are no records"),
        ("root.zone", b"this is no zone\n", "root.zone: line 1: "),
        ("root.zone", None, "root.zone: No such file or directory"),
        ("anchor", b". IN DS 1 8 2 " + b"00" * 32 + b"\n", "No key in the DNSKEY RRset is covered"),
        ("anchor", b"nonsense", "a DS or DNSKEY record on one line"),
    ],
    ids=["an empty zone", "no zone", "no file", "another anchor", "no anchor"],
)
def test_what_cannot_be_served_is_refused_with_its_reason_at_start(
    tmp_path: Path, file: str, octets: bytes | None, reason: str
) -> None:
    path = configure(tmp_path, free_port(), 1)
    if octets is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(octets)

    status, log = failed_start(path)

    assert status == 1
    assert reason in log
    assert not list((tmp_path / "state" / "tables").glob("*.table"))


def test_hosts_that_contradict_the_root_are_refused_at_start_and_the_root_is_served_without_them(
    tmp_path: Path,
) -> None:
    path = configure(tmp_path, free_port(), 1)
    wrong, changed = re.subn(rb"(\sA\s+)198\.51\.100\.\d+", rb"\g<1>192.0.2.254", zone_files().hosts, count=1)
    assert changed == 1
    put(tmp_path / "hosts.zone", wrong)
    instance = start(path, int(re.findall(r"port = (\d+)", path.read_text())[0]), 1)
    try:
        wait_until(instance.is_ready, "ready")
        assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[0]
        host = instance.ask(".", "NS").answer[0][0].target.to_text()
        assert instance.ask(host, "A").answer == []  # what we have of it is the root's, as at any other root server
        reason = "contradicts the root zone: "
        assert f"zone rejected zone=root-servers.net. serial={SERIALS[0]}" in instance.log
        assert 'sign="served without root-servers.net.: The zone is not the flat zone' in instance.log
        assert reason in instance.log
        assert "192.0.2.254" in instance.log
        # … and the file that is mended is taken, also under the same serial.
        put(tmp_path / "hosts.zone", zone_files().hosts)
        instance.reload()
        wait_until(lambda: instance.ask(host, "A").answer, "the hosts are served")
    finally:
        instance.stop()


def test_an_expired_zone_is_refused_at_the_test_clocks_time_and_not_at_the_real_one(tmp_path: Path) -> None:
    path = configure(tmp_path, free_port(), 1)

    status, log = failed_start(path, {"ROOTSRV_TEST_CLOCK": "2035-01-01T00:00:00Z"})

    assert status == 1
    assert "TEST CLOCK" in log
    assert "now=2035-01-01T00:00:0" in log
    assert "A signature is not valid any more" in log


def test_a_test_clock_that_is_no_time_is_an_error_that_names_it(tmp_path: Path) -> None:
    status, log = failed_start(configure(tmp_path, free_port(), 1), {"ROOTSRV_TEST_CLOCK": "yesterday"})

    assert status == 2
    assert "ROOTSRV_TEST_CLOCK='yesterday': must be a UTC time such as 2025-09-20T12:00:00Z" in log


def test_the_test_clock_is_said_in_status_and_one_for_all_processes(tmp_path: Path) -> None:
    start_at = zone_files().expires - 6 * 86_400
    with running(tmp_path, environment={"ROOTSRV_TEST_CLOCK": instant.to_text(start_at)}) as instance:
        offset = instance.status()["test_clock_offset_seconds"]
        assert 0 <= start_at - (time.time() + offset - 1) + 30 < 60
        # The lease ends with the signatures, by that clock.
        left = (instance.page.deadline(0) - clock.boottime_ns()) / 1e9
        assert abs(left - (zone_files().expires - time.time() - offset)) < 5


def test_a_second_instance_on_one_directory_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as instance:
        log = instance.log
        assert start(tmp_path / "rootsrv.toml", instance.port, 1).process.wait(20) == 1
        assert "another instance is running on this directory" in instance.log[len(log) :]
        assert instance.ask(".", "SOA").answer


@pytest.mark.parametrize("role", [None, "maintain", "serve"])
def test_what_shares_only_the_runtime_directory_is_refused_too(tmp_path: Path, role: str | None) -> None:
    with running(tmp_path) as instance:
        text = (tmp_path / "rootsrv.toml").read_text()
        (state,) = re.findall(r'^directory = "(.*)"$', text, re.MULTILINE)
        other = tmp_path / "other.toml"
        other.write_text(text.replace(f'directory = "{state}"\n', 'directory = "another"\n'))
        sockets = {each: each.stat().st_ino for each in (tmp_path / "run").glob("*.sock")}

        command = [sys.executable, "-m", "rootsrv", "run", "--config", str(other), *(("--role", role) if role else ())]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

        assert ended.returncode == 1
        assert f"{tmp_path}/run/{role or 'run'}.lock: another instance" in ended.stderr
        assert sockets
        assert {each: each.stat().st_ino for each in (tmp_path / "run").glob("*.sock")} == sockets
        assert instance.status()["workers"]
        assert instance.ask(".", "SOA").answer


def test_a_role_that_is_killed_is_started_again_and_the_other_goes_on(tmp_path: Path) -> None:
    with running(tmp_path) as instance:
        workers = instance.worker_pids()
        children = Path(f"/proc/{instance.process.pid}/task/{instance.process.pid}/children").read_text().split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        (maintain,) = (pid for pid, command in commands.items() if command.endswith(b"--role\0maintain\0"))
        os.kill(maintain, signal.SIGKILL)
        wait_until(lambda: "role restarted role=maintain" in instance.log, "restarted")

        assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[0]
        assert instance.worker_pids() == workers
        instance.put_zone(1)
        wait_until(lambda: instance.log.count("stored table") >= 1, "maintain is back")
        instance.reload()
        wait_until(lambda: instance.ask(".", "SOA").answer[0][0].serial == SERIALS[1], "the second version")


def test_a_port_in_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        status, log = failed_start(configure(tmp_path, port, 1))

    assert status == 1
    assert f"127.0.0.1 port {port} (UDP): the port is in use" in log


def test_demo_serves_a_validated_root_and_leaves_nothing_behind(tmp_path: Path) -> None:
    port = free_port()
    demo = subprocess.Popen(
        (sys.executable, "-m", "rootsrv", "demo", "--port", str(port), "--tlds", "60", "--workers", "1"),
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stderr is not None
        welcome = []
        for line in demo.stderr:
            welcome.append(line.strip())
            if "Ctrl-C" in line:
                break
        text = "\n".join(welcome)
        assert "Trust anchor" in text
        commands = [line.split() for line in welcome if line.startswith("dig ")]
        assert len(commands) == 3
        if shutil.which("dig"):
            for command in commands:
                printed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
                assert "status: " in printed
                assert "timed out" not in printed
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 0
        assert not list(tmp_path.iterdir())
    finally:
        demo.kill()
        demo.wait()
        demo.stderr.close()


def test_demo_names_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = (sys.executable, "-m", "rootsrv", "demo", "--port", str(port))
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert "the port is in use" in done.stderr
    assert f"--port {port + 1}" in done.stderr


def test_a_role_that_cannot_be_started_ends_nothing_that_answers(tmp_path: Path) -> None:
    with running(tmp_path) as instance:
        assert instance.stop() == 0
    ledger = tmp_path / "state" / "ledger.json"
    kept = ledger.read_bytes()
    for each in (ledger, ledger.with_name("ledger.json.twin")):
        each.write_bytes(b"damaged")  # maintain ends at once; the page says until when the stored table may answer
    restarted = start(tmp_path / "rootsrv.toml", instance.port, 1)
    try:
        wait_until(lambda: restarted.log.count("role restarted role=maintain") > 1, "maintain is tried again", 60)
        wait_until(restarted.is_ready, "the workers answer", 60)
        assert restarted.ask(".", "SOA").answer[0][0].serial == SERIALS[0]
        assert restarted.process.poll() is None
        before = len(restarted.log)
        ledger.write_bytes(kept)
        wait_until(lambda: "zones in service" in restarted.log[before:], "maintain is back", 60)
    finally:
        restarted.stop()


def test_an_instance_starts_whatever_encoding_the_hosts_locale_has(tmp_path: Path) -> None:
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with running(tmp_path, environment=ascii_alone) as instance:
        assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[0]


def test_an_instance_starts_whatever_the_host_is_called(tmp_path: Path) -> None:
    require_root()
    port = free_port()
    path = configure(tmp_path, port, 1)
    path.write_text(path.read_text().replace('nsid = "live.example"', ""))
    named = ["unshare", "--uts", "sh", "-c", r"""printf 'k\377x' > /proc/sys/kernel/hostname; exec "$@" """, "sh"]
    instance = start(path, port, 1, by=named)
    try:
        wait_until(lambda: instance.is_ready() or instance.process.poll() is not None, "ready")
        (nsid,) = instance.ask(".", "SOA", use_edns=0, options=[dns.edns.GenericOption(dns.edns.NSID, b"")]).options
        assert nsid.nsid == rb"k\xffx", instance.log
    finally:
        instance.stop()
