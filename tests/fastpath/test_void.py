"""A kernel that answers otherwise than the Responder makes the switchover void: old zone, old table, and it is said."""

import json
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.fastpath import libbpf
from rootsrv.fastpath.attachment import program_info
from rootsrv.fastpath.layout import ffi
from tests.fastpath.conftest import require_program
from tests.fastpath.site import SERVICE, Site, site
from tests.server.live import SERIALS, put, wait_until


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    require_program()
    with site(tmp_path, mode="tc") as made:
        yield made


def control_of(made: Site) -> mmap.mmap:
    """The control block of the program that *made* has attached, as the kernel has it."""
    (number,) = json.loads((made.directory / "run" / "fastpath.json").read_text())
    lib = libbpf.library()
    for ident in program_info(number).map_ids:
        descriptor = lib.bpf_map_get_fd_by_id(ident)
        described, size = libbpf.ffi.new("struct bpf_map_info *"), libbpf.ffi.new("uint32_t *", 80)
        try:
            assert lib.bpf_obj_get_info_by_fd(descriptor, described, size) == 0
            if libbpf.ffi.string(described.name).startswith(b".data.control"):
                return mmap.mmap(descriptor, -(-described.value_size // mmap.PAGESIZE) * mmap.PAGESIZE)
        finally:
            os.close(descriptor)
    raise AssertionError("no control block")


def reload(made: Site, version: int) -> None:
    put(made.directory / "root.zone", made.zones.versions[version])
    os.kill(made.process.pid, signal.SIGHUP)


def test_a_difference_in_the_kernel_makes_the_switchover_void(place: Site) -> None:
    serial = SERIALS[0]
    before = place.page.active
    with control_of(place) as octets:
        at = ffi.offsetof("struct control", "nsid_option") + 4
        octets[at] ^= 1  # as a flipped bit of memory would: the kernel's NSID is no longer the Responder's
        reload(place, 1)
        wait_until(lambda: "switchover void" in place.log, "the switchover is void", 40)
        octets[at] ^= 1

    void = next(line for line in place.log.splitlines() if "switchover void" in line)
    assert "differs from the Responder's" in void
    assert place.page.active == before
    assert place.page.staged == 0
    # The zone in service goes on, and the kernel goes on with it.
    answered = place.kernel_replies(4)
    assert str(serial) in place.dig(f"@{SERVICE[4]}", ".", "SOA", "+short")
    assert place.kernel_replies(4) == answered + 1
    assert place.status()["active"] == before
