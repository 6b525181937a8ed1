"""Every file under deploy/ is accepted by the tool that is to read it."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.needs import REPOSITORY, require_tool

DEPLOY = REPOSITORY / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
ACCEPTABLE_EXPOSURE = 2.0


def run(*command: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)


# ── systemd ──


def test_systemd_accepts_every_unit(tmp_path: Path) -> None:
    verifier = require_tool("systemd-analyze")
    for unit in UNITS:
        # What they start is installed by the guide, not here; that the path is right is the guide's test.
        text = re.sub(r"/(opt/rootsrv/current/bin|usr/local/sbin)/rootsrv[\w-]*", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    done = run(verifier, "verify", "--man=no", *(f"./{unit.name}" for unit in UNITS), cwd=tmp_path)
    # Other units of this machine may have faults of their own.
    assert [line for line in done.stderr.splitlines() if "rootsrv" in line] == []


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_a_unit_may_do_little_more_than_its_role_needs(unit: Path) -> None:
    done = run(require_tool("systemd-analyze"), "security", "--offline=true", f"./{unit.name}", cwd=unit.parent)
    exposure = re.search(r"Overall exposure level for .*: (\d+\.\d+)", done.stdout)
    assert exposure, done.stderr
    assert float(exposure[1]) <= ACCEPTABLE_EXPOSURE


def test_a_purge_takes_the_directories_of_every_unit(tmp_path: Path) -> None:
    """hyperlocal's stayed: the copy of the root, and what is known of its keys."""
    removing = tmp_path / "rm"
    removing.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    removing.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(DEPLOY / "debian" / "rootsrv.postrm"), "purge"],
        env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
    places = {"State": "/var/lib", "Runtime": "/run"}
    made = {
        f"{places[kind]}/{name.split('/')[0]}"
        for unit in SERVICES
        for kind, name in re.findall(r"^(State|Runtime)Directory=(\S+)$", unit.read_text(), re.M)
    }
    assert {"/var/lib/rootsrv", "/var/lib/rootsrv-hyperlocal"} <= made
    assert made <= set(done.stdout.split())


APART = {"localroot", "portal"}
"""Roles that are no part of an instance: they have a configuration of their own (docs/localroot.md)."""


def test_there_is_a_unit_for_each_role() -> None:
    from rootsrv.roles.run import ROLES

    roles = {
        found[1] for unit in SERVICES if (found := re.search(r"^ExecStart=.*--role (\w+)$", unit.read_text(), re.M))
    }
    assert roles - APART == set(ROLES)


def test_who_is_nice_has_as_little_weight_among_units() -> None:
    """The kernel compares nice values within a session alone (sched(7)), and each unit is one of its own."""
    from rootsrv.roles import maintain

    weights = {nice: round(100 * share / 1024) or 1 for nice, share in ((5, 335), (10, 110), (19, 15))}
    seen = {}
    for unit in SERVICES:
        text = unit.read_text()
        if found := re.search(r"^Nice=(\d+)$", text, re.M):
            seen[unit.stem] = int(found[1])
    seen["rootsrv-maintain"] = maintain.NICENESS
    assert len(seen) > 5
    for unit in SERVICES:
        weight = re.search(r"^CPUWeight=(\d+)$", unit.read_text(), re.M)
        assert (weight and int(weight[1])) == (weights[seen[unit.stem]] if unit.stem in seen else None), unit.stem


def test_whom_the_kernel_ends_for_want_of_memory_takes_nobody_along() -> None:
    """systemd ends a whole unit of which the kernel has ended one process, unless it is told to go on."""
    roles = [text for text in (unit.read_text() for unit in SERVICES) if re.search(r"^ExecStart=.*--role ", text, re.M)]
    assert len(roles) > 5
    assert [text for text in roles if not re.search(r"^OOMPolicy=continue$", text, re.M)] == []


# ── the rest ──


def test_nft_accepts_the_filter() -> None:
    nft = require_tool("nft")
    done = run(nft, "-c", "-f", str(DEPLOY / "network" / "rootsrv.nft"))
    assert (done.returncode, done.stderr) == (0, "")


def test_sysctl_accepts_every_line(tmp_path: Path) -> None:
    file = DEPLOY / "network" / "60-rootsrv.conf"
    done = run(require_tool("sysctl"), "--dry-run", "-p", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    # Patterns are told as what they matched.
    assert {line for line in lines if "*" not in line} <= set(done.stdout.splitlines())
    for line in lines:
        assert re.search(re.escape(line).replace(r"\*", r"[^.]+"), done.stdout), line


def test_chronyd_accepts_its_file(tmp_path: Path) -> None:
    chronyd = shutil.which("chronyd", path="/usr/sbin:/usr/bin")
    if chronyd is None:
        # Not among the packages that the tests install: it would take the place of the machine's own time service.
        run("apt-get", "download", "chrony", cwd=tmp_path)
        for package in tmp_path.glob("chrony_*.deb"):
            run("dpkg", "-x", str(package), str(tmp_path))
        chronyd = str(tmp_path / "usr" / "sbin" / "chronyd")
        if not Path(chronyd).exists():
            pytest.skip("chronyd is not installed and could not be fetched")
    done = run(chronyd, "-p", "-f", str(DEPLOY / "chrony" / "rootsrv.conf"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "port 0" in done.stdout


@pytest.mark.parametrize("kind", ["global", "local"])
def test_bird_accepts_its_configuration(kind: str) -> None:
    done = run(require_tool("bird"), "-p", "-c", str(DEPLOY / "bird" / f"{kind}.conf"))
    # BIRD 2.17 wants `authentication md5` said beside a password, which 2.0 of Debian 12 does not know.
    complaints = [line for line in done.stderr.splitlines() if not line.endswith("option, assuming MD5")]
    assert (done.returncode, complaints) == (0, [])


def test_the_shell_accepts_the_script_and_its_settings() -> None:
    for name in ("network/rootsrv-network", "network/network.conf", "rootsrv-medium", "container/rootsrv-container"):
        done = run("sh", "-n", str(DEPLOY / name))
        assert (done.returncode, done.stderr) == (0, "")
    for line in (DEPLOY / "network" / "network.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[A-Z_]+=\S*", shlex.split(line)[0].replace(" ", "_")), line


def test_rootsrv_accepts_its_configuration() -> None:
    from rootsrv.config.file import load

    assert load(DEPLOY / "rootsrv.toml").zone
