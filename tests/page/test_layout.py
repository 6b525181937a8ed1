from pathlib import Path

import pytest

from rootsrv.page.layout import REGISTER_SETS, REGISTERS, WORKER_SLOTS, Page, PageUnusable


def test_what_one_process_stores_the_others_read(tmp_path: Path) -> None:
    ours = Page.create(tmp_path / "page")
    theirs = Page.open(tmp_path / "page")

    ours.set_deadline(1, 123)
    ours.active = 17
    theirs.worker(WORKER_SLOTS - 1).counters[5] = 42

    assert (theirs.active, theirs.deadline(1)) == (17, 123)
    assert ours.worker(WORKER_SLOTS - 1).counters[5] == 42
    assert ours.worker(WORKER_SLOTS - 2).counters[5] == 0


def test_the_head_changes_with_everything_that_a_worker_follows(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    heads = [page.head()]
    page.staged = 1
    heads.append(page.head())
    page.active = 1
    heads.append(page.head())
    page.set_deadline(7, 1)
    heads.append(page.head())
    page.silenced = True
    heads.append(page.head())

    assert len(set(heads)) == len(heads)


def test_registers_of_two_days_and_the_counters_do_not_overlap(tmp_path: Path) -> None:
    slot = Page.create(tmp_path / "page").worker(3)
    parts = [slot.counters, slot.day_start, slot.registers(20_000), slot.registers(20_001)]
    for number, part in enumerate(parts, 1):
        part[0] = part[len(part) - 1] = number

    assert [(part[0], part[len(part) - 1]) for part in parts] == [(n, n) for n in range(1, 5)]
    assert len(parts[2]) == REGISTER_SETS * REGISTERS
    assert slot.registers(20_002)[0] == 3


def test_counters_outlive_the_instance_and_the_head_outlives_no_boot(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    page.active = 3
    page.worker(0).counters[0] = 99
    assert Page.open_or_create(tmp_path / "page").active == 3

    page.words[5] ^= 1  # as another boot would have written it
    after = Page.open_or_create(tmp_path / "page")

    assert after.active == 0
    assert after.worker(0).counters[0] == 99


@pytest.mark.parametrize("octets", [b"", b"x" * 100])
def test_another_file_is_refused_and_replaced(tmp_path: Path, octets: bytes) -> None:
    (tmp_path / "page").write_bytes(octets)

    with pytest.raises(PageUnusable, match="page: "):
        Page.open(tmp_path / "page")
    assert Page.open_or_create(tmp_path / "page").active == 0


def test_a_page_of_another_version_is_refused(tmp_path: Path) -> None:
    Page.create(tmp_path / "page").words[1] = 1

    with pytest.raises(PageUnusable, match="not a shared page of version"):
        Page.open(tmp_path / "page")
