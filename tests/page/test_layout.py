import fcntl
import mmap
import os
import shutil
from pathlib import Path

import pytest

from rootsrv.page.layout import REGISTER_SETS, REGISTERS, WORKER_SLOTS, Page, PageUnusable


def test_what_one_process_stores_the_others_read(tmp_path: Path) -> None:
    ours = Page.create(tmp_path / "page")
    theirs = Page.open_or_create(tmp_path / "page")

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
    parts = [
        slot.counters,
        slot.day_start,
        slot.registers(20_000, 7),
        slot.registers(20_001, 7),
        slot.registers(20_001, 8),
    ]
    for number, part in enumerate(parts, 1):
        part[0] = part[len(part) - 1] = number

    assert [(part[0], part[len(part) - 1]) for part in parts] == [(n, n) for n in range(1, 6)]
    assert len(parts[2]) == REGISTER_SETS * REGISTERS


def test_registers_of_a_new_day_or_key_take_the_place_of_the_oldest(tmp_path: Path) -> None:
    slot = Page.create(tmp_path / "page").worker(3)
    for number, label in enumerate([(20_000, 7), (20_001, 7), (20_001, 8)], 1):
        slot.registers(*label)[0] = number
    assert {key: octets[0] for key, octets in slot.sketches(20_001).items()} == {7: 2, 8: 3}

    assert not any(slot.registers(20_002, 8))
    assert slot.registers(20_001, 7)[0] == 2
    assert slot.sketches(20_000) == {}
    assert slot.sketches(20_002) == {8: bytes(REGISTER_SETS * REGISTERS)}


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


def test_a_worker_holds_no_descriptor_by_which_it_could_write_more_than_its_own_slot(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    page.active = 7
    head, serving, own = page.descriptors(1)

    for descriptor in (head, serving):
        assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, 8)
    theirs = Page.from_descriptors(head, serving, own, slot=1)
    with pytest.raises(TypeError, match="read-only"):
        theirs.silenced = True
    with pytest.raises(TypeError, match="read-only"):
        theirs.workers = 1
    with pytest.raises(TypeError, match="read-only"):
        theirs.worker(0).pid = 1
    theirs.worker(1).pid = 4711
    assert (page.worker(1).pid, page.worker(0).pid, theirs.active) == (4711, 0, 7)


def test_mapping_its_slot_leaves_a_worker_no_descriptor_to_cut_it_short_by(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    descriptors = page.descriptors(0)
    before = _descriptors_of(tmp_path / "page.worker-0")
    theirs = Page.from_descriptors(*descriptors, slot=0)
    theirs.worker(0).pid = 1
    assert _descriptors_of(tmp_path / "page.worker-0") == before


def _descriptors_of(path: Path) -> int:
    return sum(os.path.realpath(each) == str(path) for each in Path("/proc/self/fd").iterdir())


def test_each_role_can_write_its_own_part_alone(tmp_path: Path) -> None:
    maintain = Page.keep_head(tmp_path / "page")
    serve = Page.keep_serving(tmp_path / "page", may_make_head=False)

    maintain.active = 3
    serve.workers = 2
    serve.worker(1).active = 3
    assert (serve.active, maintain.workers, maintain.worker(1).active, maintain.worker(0).active) == (3, 2, 3, 0)
    with pytest.raises(TypeError, match="read-only"):
        serve.active = 4
    with pytest.raises(TypeError, match="read-only"):
        maintain.workers = 4
    with pytest.raises(TypeError, match="read-only"):
        maintain.worker(1).pid = 4


def test_who_serves_waits_for_a_head_that_is_not_his_to_make(tmp_path: Path) -> None:
    with pytest.raises(PageUnusable, match="No such file"):
        Page.keep_serving(tmp_path / "page", may_make_head=False)
    page = Page.keep_head(tmp_path / "page")
    page.words[5] ^= 1
    with pytest.raises(PageUnusable, match="another boot"):
        Page.keep_serving(tmp_path / "page", may_make_head=False)
    assert Page.keep_serving(tmp_path / "page", may_make_head=True).active == 0


def test_all_memory_is_had_when_it_is_made(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    page.worker(0)
    for each in (tmp_path / "page", tmp_path / "page.serving", tmp_path / "page.worker-0"):
        status = each.stat()
        assert status.st_blocks * 512 >= status.st_size
        assert status.st_mode & 0o777 == 0o640


def test_a_head_that_is_lost_is_put_back_with_all_that_it_said_and_readers_follow(tmp_path: Path) -> None:
    path = tmp_path / "run" / "page"
    path.parent.mkdir()
    serving = Page.keep_serving(path, may_make_head=True)
    keeper, reader = Page.keep_head(path), Page.open(path, writable=False)
    keeper.active, keeper.staged, keeper.silenced = 7, 8, True
    keeper.set_deadline(1, 99)
    serving.worker(0).pid = 5
    assert not any(each.lost_head() for each in (serving, keeper, reader))

    path.unlink()
    assert all(each.lost_head() for each in (serving, keeper, reader))
    with pytest.raises(PageUnusable):
        serving.follow()
    assert serving.active == 7

    # Who serves was started anew meanwhile, and has made a head that says nothing.
    Page.keep_serving(path, may_make_head=True)
    keeper.put_back()
    for each in (serving, reader):
        each.follow()
    for each in (serving, keeper, reader, Page.open(path)):
        assert (each.active, each.staged, each.silenced, each.deadline(1)) == (7, 8, True, 99)
        assert not each.lost_head()
    keeper.active = 9
    assert (serving.active, reader.active, reader.worker(0).pid, serving.worker(0).pid) == (9, 9, 5, 5)


def test_a_page_whose_directory_is_gone_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "page"
    path.parent.mkdir()
    keeper = Page.keep_head(path)
    keeper.active = 3
    shutil.rmtree(path.parent)
    keeper.put_back()

    assert Page.open(path).active == 3
