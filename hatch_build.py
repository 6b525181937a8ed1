"""The wheel carries the compiled BPF program, so that the machine that runs it needs no compiler."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BPF = "rootsrv/fastpath/bpf"
OBJECT = f"{BPF}/rootsrv.bpf.o"


class BpfObject(BuildHookInterface):  # type: ignore[type-arg, misc, unused-ignore]
    """Builds it with clang where there is one, else takes the one that is there if it is not older than its sources.

    Without either the wheel has none and the workers answer everything; with ROOTSRV_BPF=required in the environment
    that is an error.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files."""
        if version == "editable":
            return
        root = Path(self.root)
        wrong = _build(root)
        if wrong:
            if os.environ.get("ROOTSRV_BPF") == "required":
                raise RuntimeError(f"the BPF program: {wrong} (ROOTSRV_BPF=required)")
            self.app.display_warning(f"the wheel has no BPF program, so no fast path: {wrong}")
            (root / OBJECT).unlink(missing_ok=True)
            return
        build_data["artifacts"].append(OBJECT)


def _build(root: Path) -> str:
    """Have an object that is up to date; why there is none, or nothing."""
    if shutil.which("clang") and shutil.which("make"):
        done = subprocess.run(
            ["make", "--no-print-directory", "bpf-objects"], cwd=root, capture_output=True, text=True, check=False
        )
        return f"clang failed: {done.stderr.strip()[-500:]}" if done.returncode else ""
    built = root / OBJECT
    if not built.exists():
        return "it is not built, and clang and make are not installed (apt install clang libbpf-dev make)"
    newest = max(each.stat().st_mtime for each in (root / BPF).iterdir() if each.suffix in (".c", ".h"))
    return "" if built.stat().st_mtime >= newest else "it is older than its sources, and clang is not installed"
