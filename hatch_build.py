"""Compiles the BPF program for the wheel, where clang is installed; without it the wheel has no kernel fast path."""

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROGRAM = Path("rootsrv/fastpath/bpf/rootsrv.bpf")


class BpfBuildHook(BuildHookInterface):  # type: ignore[type-arg, misc, unused-ignore]
    """`make bpf` for a wheel; an object that is there already is taken as it is."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the object packed."""
        target = Path(self.root) / PROGRAM.with_suffix(".bpf.o")
        if version == "editable":
            return
        if not target.exists():
            if shutil.which("clang") is None:
                self.app.display_warning("clang is not installed: the wheel has no kernel fast path")
                return
            headers = f"-I/usr/include/{platform.machine()}-linux-gnu"
            source = Path(self.root) / PROGRAM.with_suffix(".bpf.c")
            subprocess.run(
                ("clang", "-O2", "-g", "-target", "bpfel", "-mcpu=v3", headers, "-c", source, "-o", target), check=True
            )
        build_data["artifacts"].append(str(PROGRAM.with_suffix(".bpf.o")))
