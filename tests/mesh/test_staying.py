"""A switchover that nobody here can make silences nobody while it is not proven that the failure is ours alone."""

import os
import signal
from pathlib import Path

from bench.peers.etcd import Cluster, Node, make_certificates
from tests.mesh.fleets import section
from tests.mesh.mesh_of import QUICK, mesh_of
from tests.secondary.maintained import maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version

NEXT = FIRST + 1


def test_workers_that_cannot_take_a_zone_go_on_with_the_one_that_they_have(tmp_path: Path) -> None:
    nobody = Cluster([Node("none", 1, 1, [], tmp_path / "none")], make_certificates(tmp_path / "tls", ["member"]))
    home = tmp_path / "home"
    home.mkdir()
    mesh = mesh_of(3, timing=QUICK)
    with scripted(version(FIRST)) as primary:
        sections = primary_section(primary, "scripted") + section(mesh, "m0", home, nobody)
        with maintained(home, sections, switchover="grace_seconds = 0.5") as instance:
            instance.wait_for_serial(FIRST)
            primary.publish(version(NEXT))
            instance.notify(NEXT)
            instance.wait(lambda: instance.status()["switchover"]["state"] == "scheduled", "scheduled")
            generation = instance.status()["switchover"]["generation"]
            table = home / "state" / "tables" / f"{generation}.table"
            damaged = table.with_suffix(".damaged")
            damaged.write_bytes(table.read_bytes()[:-8] + b"damaged!")
            damaged.replace(table)
            worker = instance.status()["workers"][0]["pid"]
            os.kill(worker, signal.SIGKILL)  # the next one can map what is in service, and not what is staged
            instance.wait(lambda: "switchover void" in instance.log, "void")
            assert "no worker answers from generation" in instance.log
            instance.wait(lambda: instance.serial() == FIRST, "goes on")
            status = instance.status()
            assert (status["silenced"], status["health"]["switchover_failed"]) == (False, False)
            assert status["zones"][0]["served"] == FIRST
            assert status["generation"] < generation
