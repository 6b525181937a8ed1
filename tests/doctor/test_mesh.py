"""`rootsrv doctor` in a mesh: key, roster, engine."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.peers.etcd import Cluster, cluster
from rootsrv.config.anycast import AnycastConfig
from rootsrv.config.file import Config, load
from rootsrv.doctor import mesh
from rootsrv.doctor.finding import Finding, Grade
from rootsrv.engine.etcd import NodeStatus
from tests.mesh.fleets import section
from tests.mesh.mesh_of import mesh_of


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("engine"), clients=["member"]) as started:
        yield started


def member(directory: Path, engine: Cluster, name: str = "m2") -> Config:
    path = directory / "rootsrv.toml"
    zone = f'[[zone]]\nname = "."\nvalidation = "none"\nzonemd = "off"\n[state]\ndirectory = "{directory}/state"\n'
    path.write_text(zone + section(mesh_of(4), name, directory, engine))
    return load(path)


def changed(config: Config, **changes: Any) -> Config:
    assert config.mesh is not None
    return replace(config, mesh=replace(config.mesh, **changes))


def graded(config: Config, grade: Grade) -> str:
    return "\n".join(f"{each.about}: {each.found}" for each in mesh.checks(config) if each.grade is grade)


def test_a_member_that_is_as_it_should_be(tmp_path: Path, engine: Cluster) -> None:
    config = member(tmp_path, engine)
    assert "m2 is listed, of group all" in graded(config, Grade.GOOD)
    assert graded(config, Grade.BAD).splitlines() == [
        "mesh sources: 0 source of the root: if that is lost, so is every update"
    ]


def test_distribution_hosts_of_the_roster_are_sources(tmp_path: Path, engine: Cluster) -> None:
    config = member(tmp_path, engine)
    mesh_ = mesh_of(4)
    listed = (replace(each, transfers=f"192.0.2.{n}:53") for n, each in enumerate(mesh_.roster.member, 1))
    Path(config.mesh.roster).write_bytes(mesh_.changed(member=tuple(listed)).octets)  # type: ignore[union-attr]
    assert graded(config, Grade.BAD) == ""


def test_what_is_wrong_is_named(tmp_path: Path, engine: Cluster) -> None:
    config = member(tmp_path, engine)
    assert "m9 is not listed" in graded(changed(config, member="m9"), Grade.BAD)
    assert "has another public key there" in graded(changed(config, member="m3"), Grade.BAD)
    assert "signed by none of" in graded(changed(config, roster_keys=("ab" * 32,)), Grade.BAD)
    assert "https://127.0.0.1:1" in graded(changed(config, endpoints=("https://127.0.0.1:1",)), Grade.BAD)
    Path(config.mesh.key).chmod(0o644)  # type: ignore[union-attr]
    assert "others may read it" in graded(config, Grade.BAD)
    Path(config.mesh.roster).unlink()  # type: ignore[union-attr]
    assert "there is none" in graded(config, Grade.BAD)


def test_a_setting_that_is_not_the_rosters_is_remarked_on_and_does_not_count(tmp_path: Path, engine: Cluster) -> None:
    config = member(tmp_path, engine)
    assert "timing" not in graded(config, Grade.REMARK)
    odd = replace(
        config,
        service=replace(config.service, addresses=("192.0.2.53",)),
        switchover=replace(config.switchover, align_seconds=7),
        anycast=AnycastConfig(prefix_v4="192.0.2.0/24", bgp_v4=("up4",), stale_soft_seconds=600.0),
    )
    told = graded(odd, Grade.REMARK)
    assert "mesh timing: switchover.align_seconds is 7, the roster's align 60, which is what counts" in told
    assert "mesh timing: anycast.stale_soft_seconds is 600, the roster reckons with 3900" in told


def test_no_mesh_is_no_finding(tmp_path: Path, engine: Cluster) -> None:
    assert list(mesh.checks(replace(member(tmp_path, engine), mesh=None))) == []


VERSIONS = {
    "3.4.23": Grade.REMARK,
    "3.5.32": Grade.REMARK,
    "3.5.33": Grade.GOOD,
    "3.6.13": Grade.REMARK,
    "3.6.14": Grade.GOOD,
    "3.7.0": Grade.REMARK,
    "3.7.1": Grade.GOOD,
    "3.8.0": Grade.GOOD,
    "4.0.0": Grade.GOOD,
}


@pytest.mark.parametrize(("version", "grade"), VERSIONS.items())
def test_versions_with_holes_are_remarked_on(version: str, grade: Grade) -> None:
    (found,) = mesh._node("https://e:1", NodeStatus("https://e:1", version, 1000, True, ()))
    assert isinstance(found, Finding)
    assert found.grade is grade


def test_an_engine_that_keeps_all_that_was_ever_written_is_remarked_on(
    tmp_path: Path, engine: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = member(tmp_path, engine)
    monkeypatch.setattr(mesh, "UNCOMPACTED_REVISIONS", 3)
    for number in range(5):
        engine.ctl("put", "/elsewhere", str(number))
    revision = int(re.findall(r'"revision":(\d+)', engine.ctl("get", "/elsewhere", "--write-out=json"))[0])
    assert f"all {revision} revisions are kept: it is not compacted" in graded(config, Grade.REMARK)
    engine.ctl("compact", str(revision))
    assert "are kept" not in graded(config, Grade.REMARK)


def test_a_board_that_is_full_is_to_be_mended() -> None:
    told = NodeStatus("https://e:1", "3.6.14", 3 * 1024**3, True, ("memberID:1 alarm:NOSPACE ",))
    grades = [each.grade for each in mesh._node("https://e:1", told)]
    assert grades == [Grade.BAD, Grade.GOOD, Grade.REMARK]
