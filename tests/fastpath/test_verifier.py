"""The verifier accepts both programs with room to spare; what it said is kept in build/verifier."""

import contextlib
import gzip
import os
import re

import pytest

from rootsrv.fastpath.admission import make_cells, prepare
from rootsrv.fastpath.libbpf import LOG_STATISTICS, BpfObject
from rootsrv.fastpath.program import prepare_capture
from tests.fastpath.conftest import require_program
from tests.needs import REPOSITORY

ARTEFACTS = REPOSITORY / "build" / "verifier"
LIMIT = 1_000_000  # instructions that the kernel looks at before it gives up (BPF_COMPLEXITY_LIMIT_INSNS)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.long)], ids=["counted", "logged"])
@pytest.mark.parametrize("capture_chunks", [0, 256], ids=["", "capture"])
@pytest.mark.parametrize("limits", [False, True], ids=["plain", "limits"])
@pytest.mark.parametrize("program", ["rootsrv_xdp", "rootsrv_tc"])
def test_the_verifier_needs_less_than_a_quarter_of_its_limit(
    program: str, limits: bool, capture_chunks: int, whole: bool
) -> None:
    with contextlib.ExitStack() as stack:
        loading = stack.enter_context(BpfObject.open(require_program(), "rootsrv"))
        cells = make_cells() if limits else None
        if cells is not None:
            stack.callback(os.close, cells)
        prepare(loading, cells)
        if capture_chunks:
            prepare_capture(loading, capture_chunks)
        # All that it says of 170,000 instructions takes it five times as long as to look at them.
        if whole and not capture_chunks:
            loading.keep_log(1 << 28)
        else:
            loading.keep_log(1 << 20, level=LOG_STATISTICS)
        loading.load(only=program)
        log = loading.log
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    name = f"{os.uname().release}-{program}{'-limits' if limits else ''}-{capture_chunks}.log.gz"
    with gzip.open(ARTEFACTS / name, "wt", compresslevel=1) as artefact:
        artefact.write(log)

    found = re.search(r"processed (\d+) insns", log)
    assert found is not None
    print(f"{program}, {limits=}: {found[1]} instructions processed on Linux {os.uname().release}")
    assert int(found[1]) < LIMIT / 4
