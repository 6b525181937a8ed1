"""What `make declarations` writes: all C declarations of rootsrv as cffi has parsed them (c_declarations.py)."""

import importlib
from pathlib import Path

from rootsrv.process import c_declarations, declared, whole_file

_DECLARE = (
    "rootsrv.server.mmsg", "rootsrv.server.accepting", "rootsrv.dot.libssl", "rootsrv.fastpath.layout",
    "rootsrv.fastpath.libbpf",
)  # fmt: skip


def files() -> dict[Path, str]:
    """All that is generated: path → contents."""
    for each in _DECLARE:
        importlib.import_module(each)
    directory = Path(declared.__file__).parent
    return {
        directory / f"{name}.py": c_declarations.module_of(name, text)
        for name, text in sorted(c_declarations.DECLARED.items())
    }


def main() -> None:
    """Write them."""
    for path, contents in files().items():
        whole_file.replace(path, contents.encode(), mode=0o644)


if __name__ == "__main__":
    main()
