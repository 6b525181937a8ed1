"""The benchmark's own C: compiled when it is needed, since most hosts have no compiler."""

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import cffi

from bench.bpf_object import CompilerMissing

_HERE = Path(__file__).parent


def program(source: str, output: Path) -> None:
    """Compile bench/*source* into the program *output*; CompilerMissing says why not."""
    _compile(source, output)


def library(source: str, ffi: cffi.FFI) -> Any:
    """bench/*source* as a library, opened with the declarations of *ffi*; CompilerMissing says why not."""
    with tempfile.TemporaryDirectory(prefix="rs-bench-") as directory:
        output = Path(directory) / "library.so"
        _compile(source, output, "-shared", "-fPIC")
        return ffi.dlopen(str(output))  # which stays when the file is gone


def _compile(source: str, output: Path, *flags: str) -> None:
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        raise CompilerMissing(f"no C compiler for bench/{source}")
    command = [compiler, "-O2", "-Wall", *flags, "-o", str(output), str(_HERE / source)]
    built = subprocess.run(command, capture_output=True, check=False)
    if built.returncode:
        raise CompilerMissing(f"bench/{source}: {built.stderr.decode(errors='replace')[:300]}")
