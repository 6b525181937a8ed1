"""The guide's emergency update and KSK roll, command by command against a running instance.

tests/deploy/test_guide.py follows the whole guide on machines that boot; this takes seconds.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rootsrv.demo.signed import generate_keys
from tests.deploy.test_guide import APPROVED, block
from tests.secondary import versions
from tests.secondary.maintained import REPOSITORY, Maintained, maintained


class Operator:
    """A shell at which the guide is typed; directories of the box are in *root*."""

    def __init__(self, instance: Maintained, root: Path) -> None:
        self.root = root
        command = " ".join(map(shlex.quote, (sys.executable, "-m", "rootsrv")))
        (root / "bin").mkdir()
        typed = root / "bin" / "rootsrv"
        typed.write_text(f'#!/bin/sh\nexec {command} "$@" --config {shlex.quote(str(instance.configuration))}\n')
        typed.chmod(0o755)

    def type(self, label: str) -> "subprocess.CompletedProcess[str]":
        """The block *label* of the guide."""
        script = block(label)
        for directory in ("/etc/rootsrv/", "/media/"):
            script = script.replace(directory, f"{self.root}/")
        path = f"{self.root}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-ec", script], cwd=self.root, env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


def put(path: Path, serial: int, **changes: object) -> None:
    path.write_bytes(versions.text(versions.version(serial, **changes)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With the first zone."""
    put(tmp_path / "first.zone", versions.FIRST)
    return tmp_path


def settings(root: Path) -> str:
    return f'file = "{root}/first.zone"'


def test_an_emergency_update_is_in_service_at_once_and_a_gross_one_after_a_word(root: Path) -> None:
    # Set times are an hour apart: what is in service at once did not wait for one.
    switchover = "align_seconds = 3600\nlead_seconds = 1800"
    with maintained(root / "box", "", zone=settings(root), switchover=switchover) as instance:
        instance.wait_for_serial(versions.FIRST)
        operator = Operator(instance, root)
        put(root / "root.zone", versions.FIRST + 1)
        done = operator.type("box: emergency")
        assert done.returncode == 0, done.stderr
        assert instance.serial() == versions.FIRST + 1

        put(root / "root.zone", APPROVED, tlds=10)
        done = operator.type("box: emergency")
        assert "held" in done.stdout + done.stderr
        assert instance.serial() == versions.FIRST + 1
        done = operator.type("box: emergency held")
        assert done.returncode == 0, done.stderr
        instance.wait_for_serial(APPROVED)

        # Verified like any other: one that nobody signed gets nowhere, however urgent it is.
        damaged = versions.with_rdata(versions.version(APPROVED + 1), 43, lambda _: b"\0\1\x0d\2" + bytes(32))
        (root / "root.zone").write_bytes(versions.text(damaged))
        done = operator.type("box: emergency")
        assert done.returncode == 1
        assert instance.serial() == APPROVED


def test_after_the_guides_ksk_roll_both_keys_are_trusted(root: Path) -> None:
    old_ksk, zsk = versions.keys()
    new_ksk = generate_keys(13)[0]
    with maintained(root / "box", "", zone=settings(root)) as instance:
        (root / "root-anchors.xml").write_text(versions.anchor())
        configuration = instance.configuration.read_text()
        instance.wait_for_serial(versions.FIRST)
        instance.configuration.write_text(
            configuration.replace(f"{instance.directory}/anchors", f"{root}/root-anchors.xml")
        )
        operator = Operator(instance, root)

        put(root / "root.zone", versions.FIRST + 1, keys=(new_ksk, zsk))
        assert operator.type("box: emergency").returncode == 1  # not yet trusted
        assert instance.serial() == versions.FIRST

        (root / "root-anchors.xml.new").write_text(versions.anchor(new_ksk))
        done = operator.type("box: ksk")
        assert done.returncode == 0, done.stderr
        assert not (root / "root-anchors.xml.new").exists()
        put(root / "root.zone", versions.FIRST + 2, keys=(old_ksk, zsk))
        assert operator.type("box: emergency").returncode == 0
        assert instance.serial() == versions.FIRST + 2
        put(root / "root.zone", versions.FIRST + 3, keys=(new_ksk, zsk))
        assert operator.type("box: emergency").returncode == 0
        assert instance.serial() == versions.FIRST + 3
