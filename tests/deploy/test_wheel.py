"""The wheel: the BPF program in it, what an operator needs beside it, and what happens where it cannot be built."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.needs import REPOSITORY, require_tool


def clone(directory: Path) -> Path:
    """The tracked files as they are now: what is built of them is not there."""
    listed = subprocess.run(["git", "-C", REPOSITORY, "ls-files", "-z"], capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).exists() and not name.startswith(("tests/", "bench/")):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, directory / name)
    return directory


def build(source: Path, target: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        # With what is installed here: a build of its own would ask the registry, and wait for it.
        [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps",
         "--wheel-dir", str(target), str(source)],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def names(target: Path) -> list[str]:
    (wheel,) = target.glob("rootsrv-*-py3-none-any.whl")
    return zipfile.ZipFile(wheel).namelist()


OBJECT = "rootsrv/fastpath/bpf/rootsrv.bpf.o"


def test_it_carries_the_bpf_program_and_what_an_operator_needs(tmp_path: Path) -> None:
    require_tool("clang")
    done = build(clone(tmp_path / "source"), tmp_path / "wheel", ROOTSRV_BPF="required")
    assert done.returncode == 0, done.stderr

    inside = names(tmp_path / "wheel")
    assert inside.count(OBJECT) == 1
    shared = {name.partition(".data/data/share/")[2] for name in inside if ".data/data/share/" in name}
    deployed = {
        f"rootsrv/{path.relative_to(REPOSITORY)}"
        for path in (REPOSITORY / "deploy").rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert deployed <= shared
    assert {"man/man1/rootsrv.1", "bash-completion/completions/rootsrv", "zsh/site-functions/_rootsrv"} <= shared


def without_compiler(directory: Path) -> str:
    """A PATH on which there is neither clang nor make."""
    directory.mkdir()
    return str(directory)


def test_without_a_compiler_there_is_a_wheel_without_it_unless_it_is_required(tmp_path: Path) -> None:
    source, path = clone(tmp_path / "source"), without_compiler(tmp_path / "bin")

    required = build(source, tmp_path / "none", PATH=path, ROOTSRV_BPF="required")
    assert required.returncode != 0
    assert "clang and make are not installed (apt install clang libbpf-dev make)" in required.stdout + required.stderr

    done = build(source, tmp_path / "wheel", PATH=path)
    assert done.returncode == 0, done.stderr
    assert OBJECT not in names(tmp_path / "wheel")


@pytest.mark.parametrize("age", ["newer", "older"])
def test_an_object_that_is_there_is_taken_unless_it_is_older_than_its_sources(tmp_path: Path, age: str) -> None:
    source = clone(tmp_path / "source")
    (source / OBJECT).write_bytes(b"\x7fELF")
    os.utime(source / OBJECT, (0, 0) if age == "older" else None)

    done = build(source, tmp_path / "wheel", PATH=without_compiler(tmp_path / "bin"))

    assert done.returncode == 0, done.stderr
    assert (OBJECT in names(tmp_path / "wheel")) == (age == "newer")
