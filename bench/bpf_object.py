"""The benchmark's own BPF programs: compiled from bench/bpf when they are needed, since clang is on no router."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "bpf"


class CompilerMissing(Exception):
    """The program cannot be compiled here."""


def compiled(name: str) -> bytes:
    """The ELF object of bench/bpf/*name*.bpf.c."""
    clang = shutil.which("clang")
    if clang is None:
        raise CompilerMissing(f"clang is not installed: {name}.bpf.c cannot be compiled")
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "out.o"
        flags = ["-O2", "-g", "-Wall", "-target", "bpf", "-mcpu=v3", f"-I/usr/include/{os.uname().machine}-linux-gnu"]
        command = [clang, *flags, "-c", str(SOURCES / f"{name}.bpf.c"), "-o", str(output)]
        built = subprocess.run(command, capture_output=True, check=False)
        if built.returncode:
            raise CompilerMissing(f"{name}.bpf.c: {built.stderr.decode(errors='replace')[:500]}")
        return output.read_bytes()
