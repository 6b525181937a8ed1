"""The floor, with real routers: of two instances that want to go only one does, and whoever loses touch comes back."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.peers.etcd import Cluster, cluster
from rootsrv.commands.restart import canaries_before_us
from tests.mesh.fleets import section
from tests.mesh.mesh_of import QUICK, SERVICE, mesh_of
from tests.needs import REPOSITORY
from tests.server.live import wait_until
from tests.system.anycast_network import SERVICE as ADDRESSES
from tests.system.anycast_network import VERSIONS, Anycast, Site, address, anycast_network

TOKEN = QUICK.token
WITH_ALL_THERE_IS = """
[report]
addresses = ["127.0.0.1"]
port = 9353
[fastpath]
mode = "tc"
interfaces = ["to-a"]
[capture]
begin = "at-once"
rotation_seconds = 5
quota_gigabytes = 0.1
keep_free_gigabytes = 0.1
[limits]
mode = "on"
sample_every = 1
[dot]
"""
"""What a metric can be of, besides a mesh and anycast."""

_SCRAPE = """
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:9353/metrics", timeout=10).read().decode())
"""


@dataclass
class Floor:
    """Two of four members, a and b, with k = 1; b is a canary."""

    net: Anycast
    engine: Cluster

    def routes(self, site: Site) -> set[str]:
        """What is announced of both IP versions."""
        return {str(site.family(version).get("route")) for version in VERSIONS}

    def await_route(self, site: Site, *routes: str, seconds: float = 40.0) -> None:
        """Until both IP versions are announced as one of *routes*."""
        wait_until(
            lambda: self.routes(site) <= set(routes), f"{routes}: {self.routes(site)}\n{site.log[-3000:]}", seconds
        )


@pytest.fixture(scope="module")
def floor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Floor]:
    directory = tmp_path_factory.mktemp("floor")
    with anycast_network(directory, started=False) as net:
        at = address(1, 2, 4)  # on the router, which both reach
        with cluster(directory / "engine", clients=["member"], address=at, prefix=tuple(net.router.prefix)) as engine:
            mesh = mesh_of(4, timing=QUICK)
            for site, name in ((net.a, "m0"), (net.b, "m3")):
                more = section(mesh, name, site.directory, engine)
                site.configure(workers=1, more=more + (WITH_ALL_THERE_IS if site is net.a else ""))
                site.start()
            for site in (net.a, net.b):
                site.await_state("up", 90)
                wait_until(lambda site=site: site.ask("mesh", {"command": "status"})["engine"]["there"], "engine", 30)
            yield Floor(net, engine)


@pytest.mark.long
def test_of_two_drains_one_waits_for_the_token_of_the_other(floor: Floor) -> None:
    a, b = floor.net.a, floor.net.b
    a.rootsrv("drain", "--reason", "disk")
    floor.await_route(a, "draining", "withdrawn")
    assert floor.routes(b) == {"up"}
    told = b.rootsrv("drain", "--reason", "kernel")
    floor.await_route(b, "degraded")
    wait_until(lambda: "is held by m0: disk" in b.rootsrv("status"), told)
    floor.await_route(a, "withdrawn")
    assert floor.routes(b) == {"degraded"}

    a.rootsrv("undrain")
    floor.await_route(a, "up")
    floor.await_route(b, "withdrawn")
    b.rootsrv("undrain")
    floor.await_route(b, "up")


def test_whoever_holds_a_token_and_loses_the_engine_is_announced_before_the_token_is_free(
    floor: Floor, measured: list[str]
) -> None:
    a = floor.net.a
    a.rootsrv("drain")
    floor.await_route(a, "withdrawn")
    began = time.time()
    floor.engine.nodes[0].freeze()
    try:
        # The router goes on with b, which is not degraded: what counts is that the prefix is there again.
        a.await_state("degraded", TOKEN + 5)
        took = time.time() - began
        measured.append(f"token holder cut off: announced again after {took:.2f} s, free after {TOKEN:g} s")
        assert took < TOKEN
    finally:
        floor.engine.nodes[0].thaw()
    a.rootsrv("undrain")
    floor.await_route(a, "up")


@pytest.mark.long
def test_a_deleted_token_brings_its_holder_back(floor: Floor) -> None:
    a = floor.net.a
    a.rootsrv("drain")
    floor.await_route(a, "withdrawn")
    floor.engine.ctl("del", f"/rootsrv/v1/{SERVICE}/floor/all/0", client="member")
    floor.await_route(a, "degraded", seconds=TOKEN + 5)
    assert "token lost" in a.log
    a.rootsrv("undrain")
    floor.await_route(a, "up")


def test_without_an_engine_a_drain_degrades_a_hard_failure_withdraws_and_force_does_without(floor: Floor) -> None:
    a, b = floor.net.a, floor.net.b
    floor.engine.nodes[0].freeze()
    try:
        wait_until(lambda: not a.ask("mesh", {"command": "status"})["engine"]["there"], "gone", 30)
        a.rootsrv("drain")
        floor.await_route(a, "degraded")
        assert "the engine is gone" in a.rootsrv("status")
        with b.stopped("serve", "worker"):
            floor.await_route(b, "withdrawn")
        a.rootsrv("drain", "--force")
        floor.await_route(a, "draining", "withdrawn")
        assert re.search(r"control by=.*drain.*force\W+true", a.log, re.IGNORECASE)
    finally:
        floor.engine.nodes[0].thaw()


MAY_BE_ZERO = {
    "rootsrv_alarms", "rootsrv_capture_behind_seconds", "rootsrv_capture_late_queries_total",
    "rootsrv_capture_lost_queries_total", "rootsrv_capture_passed_over_queries_total",
    "rootsrv_capture_ring_fill_ratio", "rootsrv_clock_distance_seconds", "rootsrv_clock_synchronised",
    "rootsrv_dropped_messages_total", "rootsrv_fastpath_dropped_syns_total", "rootsrv_faults_total",
    "rootsrv_flood_values",
    "rootsrv_limit_cells_over_ratio", "rootsrv_limited_queries_total", "rootsrv_malformed_queries_total",
    "rootsrv_mesh_leads", "rootsrv_mesh_members_behind", "rootsrv_mesh_outside_ahead_seconds",
    "rootsrv_mesh_refused_total", "rootsrv_mesh_site_well", "rootsrv_mesh_tokens_taken",
    "rootsrv_processes_replaced_total", "rootsrv_security_events_total", "rootsrv_tcp_listen_overflows_total",
    "rootsrv_tcp_open_connections",
    "rootsrv_tls_open_connections",
    "rootsrv_transfer_bytes_total", "rootsrv_truncated_responses_total", "rootsrv_udp_receive_drops_total",
    "rootsrv_udp_waiting_bytes", "rootsrv_unsent_responses_total", "rootsrv_withdrawals_remembered",
    "rootsrv_worker_real_time_priority", "rootsrv_workers_replaced_total", "rootsrv_zone_held_versions",
    "rootsrv_zone_known_age_seconds",
}  # fmt: skip
"""Of what has not happened, is over, or was not asked for; all else of an instance that does everything is not zero."""


def documented_metrics() -> set[str]:
    """The first column of the table in docs/operations.md, but for a LocalRoot service and its pages.

    (tests/localroot/test_service.py, tests/portal/test_contributions.py)
    """
    lines = (REPOSITORY / "docs" / "operations.md").read_text().splitlines()
    named = {line.split("`")[1] for line in lines if line.startswith("| `rootsrv_")}
    return {each for each in named if not each.startswith(("rootsrv_localroot_", "rootsrv_portal_"))}


def scraped(site: Site) -> dict[str, list[float]]:
    """Name, as the table has it, to the values of all its samples."""
    found: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(site.host.run(sys.executable, "-c", _SCRAPE)):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = [sample.value for sample in family.samples]
    return found


def test_every_metric_of_the_table_comes_from_a_running_instance_and_no_other_does(floor: Floor) -> None:
    net = floor.net
    net.a.rootsrv("undrain")
    floor.await_route(net.a, "up")
    net.a.rootsrv("shed", "--match", "qname-suffix=shed.example", "--do", "tc", "--for", "10m", "--reason", "a trial")
    for transport in ("+notcp", "+tcp"):
        for version in VERSIONS:
            for question in (
                ("_ta-4f66.", "NULL"),
                ("com.", "NS"),
                ("a.shed.example.", "A"),
            ):  # one for the workers, one for the kernel
                net.client.run("dig", f"@{ADDRESSES[version]}", transport, "+norec", *question)

    for version in VERSIONS:
        net.client.run("kdig", f"@{ADDRESSES[version]}", "+tls", ".", "SOA")

    def missing() -> set[str]:
        """What the instance does not tell, or tells as nothing, although there is something."""
        found = scraped(net.a)
        return {name for name in documented_metrics() if not any(found.get(name, ())) and name not in MAY_BE_ZERO}

    try:
        wait_until(lambda: not missing(), "every metric", 30)
    except AssertionError:
        assert missing() == set()
    found = scraped(net.a)
    assert found.keys() == documented_metrics()
    assert {name for name in MAY_BE_ZERO if not found[name]} == set()
    assert found["rootsrv_mesh_members"] == [4]
    assert found["rootsrv_mesh_members_missing"] == [2]
    assert found["rootsrv_announced"] == found["rootsrv_route_confirmed"] == [1, 1]


def restarting(site: Site, *arguments: str) -> "subprocess.Popen[str]":
    """`rootsrv restart --when-token`, which kills the role maintain for a restart: its supervisor starts it again."""
    (pid,) = site.pids("maintain")
    return subprocess.Popen(
        [*site.host.prefix, sys.executable, "-m", "rootsrv", "restart", "--when-token", "--by", f"kill -9 {pid}",
         *arguments, "--config", "rootsrv.toml"],
        cwd=site.directory, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.long
def test_two_boxes_that_are_to_be_restarted_go_one_after_the_other(floor: Floor) -> None:
    a, b = floor.net.a, floor.net.b
    with restarting(a) as one, restarting(b) as other:
        both_away = 0
        while one.poll() is None or other.poll() is None:
            away = [site for site in (a, b) if "withdrawn" in floor.routes(site)]
            both_away += len(away) > 1
            time.sleep(0.1)
        assert one.stdout is not None
        assert other.stdout is not None
        said = one.stdout.read(), other.stdout.read()
        assert (one.returncode, other.returncode) == (0, 0), said
    assert both_away == 0
    for site in (a, b):
        floor.await_route(site, "up")
        assert "restart" in site.log


def test_a_version_that_cannot_read_the_configuration_is_never_put_in_use(floor: Floor, tmp_path: Path) -> None:
    a = floor.net.a
    new, link = tmp_path / "9.9.9", tmp_path / "current"
    (new / "bin").mkdir(parents=True)
    program = new / "bin" / "rootsrv"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "rootsrv 9.9.9"\nexit 0\n')
    program.chmod(0o755)
    link.symlink_to("0.1.0")
    upgrade = ("--upgrade", str(new), "--link", str(link), "--healthy-within", "3")
    # A canary has not got it: nobody may be the first with a version that no canary has.
    told = a.ask("mesh", {"command": "status"})
    assert "not all canaries have version 9.9.9: m3" in canaries_before_us(told, "9.9.9")
    program.write_text("#!/bin/sh\nexit 3\n")
    done = a.rootsrv("restart", "--when-token", *upgrade, check=False)
    assert "exit status 3" in done
    assert link.readlink() == Path("0.1.0")
    assert floor.routes(a) == {"up"}


def put_version(directory: Path, version: str, pid_file: Path, *, is_broken: bool = False) -> Path:
    """A version as it would be installed, which says that it is *version*; *is_broken*: it cannot keep a zone."""
    made = directory / version
    shutil.copytree(REPOSITORY / "rootsrv", made / "lib" / "rootsrv")
    (made / "lib" / "rootsrv" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    if is_broken:
        role = made / "lib" / "rootsrv" / "roles" / "maintain.py"
        role.write_text(role.read_text().replace("    os.nice(NICENESS)\n", '    raise RuntimeError("a new fault")\n'))
        assert "a new fault" in role.read_text()
    (made / "bin").mkdir()
    program = made / "bin" / "rootsrv"
    program.write_text(
        f'#!/bin/sh\n[ "$1" != run ] || echo $$ > {pid_file}\n'
        f'PYTHONPATH={made}/lib exec {sys.executable} -P -m rootsrv "$@"\n'
    )
    program.chmod(0o755)
    return made


@pytest.mark.long
def test_a_new_version_that_fails_is_taken_back_and_one_that_is_well_stays(floor: Floor, tmp_path: Path) -> None:
    """b is started from the link as its unit would be, and restarted by a signal: its keeper starts it again."""
    a, b = floor.net.a, floor.net.b
    pid_file, link = tmp_path / "pid", tmp_path / "current"
    old, broken, good = (
        put_version(tmp_path, version, pid_file, is_broken=version == "9.9.8")
        for version in ("0.1.0", "9.9.8", "9.9.9")
    )
    link.symlink_to(old)
    b.stop()
    with (b.directory / "log").open("ab") as log:
        b.process = subprocess.Popen(
            [*b.host.prefix, "/bin/sh", "-c", f"while :; do {link}/bin/rootsrv run --config rootsrv.toml; done"],
            cwd=b.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    b.await_state("up", 60)

    def upgraded(to: Path) -> str:
        return b.rootsrv(
            "restart", "--when-token", "--upgrade", str(to), "--link", str(link), "--healthy-within", "20",
            "--by", f"sh -c 'kill $(cat {pid_file})'", check=False, seconds=200,
        )  # fmt: skip

    def version() -> str:
        return str(b.ask("maintain", {"command": "status"})["version"])

    told = upgraded(broken)
    assert "going back to" in told, b.log[-3000:]
    assert "the version before is in use again: not well 20 s after the restart" in told
    assert "a new fault" in b.log
    assert (link.resolve(), version()) == (old, "0.1.0")
    floor.await_route(b, "up", seconds=60)

    told = upgraded(good)
    assert "restarted, and announced again" in told, told
    assert (link.resolve(), version()) == (good, "9.9.9")
    floor.await_route(b, "up", seconds=60)
    assert floor.routes(a) == {"up"}
