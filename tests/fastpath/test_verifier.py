"""The verifier accepts both programs with room to spare; what it said is kept in build/verifier."""

import gzip
import os
import re

import pytest

from rootsrv.fastpath.libbpf import BpfObject
from tests.fastpath.conftest import require_program
from tests.needs import REPOSITORY

ARTEFACTS = REPOSITORY / "build" / "verifier"
LIMIT = 1_000_000  # instructions that the kernel looks at before it gives up (BPF_COMPLEXITY_LIMIT_INSNS)


@pytest.mark.parametrize("program", ["rootsrv_xdp", "rootsrv_tc"])
def test_the_verifier_needs_less_than_a_quarter_of_its_limit(program: str) -> None:
    with BpfObject.open(require_program(), "rootsrv") as loading:
        loading.keep_log(1 << 27)
        loading.load(only=program)
        log = loading.log
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    with gzip.open(ARTEFACTS / f"{os.uname().release}-{program}.log.gz", "wt", compresslevel=1) as artefact:
        artefact.write(log)

    found = re.search(r"processed (\d+) insns", log)
    assert found is not None
    print(f"{program}: {found[1]} instructions processed on Linux {os.uname().release}")
    assert int(found[1]) < LIMIT / 4
