"""What a worker answers from: generations come and go without a collection that would hold up who asks."""

import asyncio
import contextlib
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.answer.prepared import Prepared, PreparedAnswers
from rootsrv.answer.responder import Responder, ResponderSettings, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.page.layout import Page
from rootsrv.server import serving as module
from rootsrv.server.counters import Counters
from rootsrv.server.serving import Serving
from rootsrv.store.table_file import table_path
from tests.answer.conftest import Compiled, compiled  # noqa: F401  (a fixture)


@contextlib.contextmanager
def serving_the_first(directory: Path, compiled: Compiled) -> Iterator[tuple[Page, Serving]]:  # noqa: F811
    """The first worker's view of two tables, of which the first is answered from."""
    page, descriptor = Page.create(directory / "page"), os.open(directory, os.O_RDONLY)
    try:
        slot = page.worker(0)
        serving = Serving(page, slot, Counters(slot), descriptor, ResponderSettings())
        for generation in (1, 2):
            table_path(directory, generation).write_bytes(compiled.octets)
        page.active = 1
        serving.read_page()
        yield page, serving
    finally:
        gc.enable()
        gc.unfreeze()
        os.close(descriptor)


def test_a_table_that_is_no_longer_answered_from_is_let_go_of_without_a_collection(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables: list[weakref.ref[AnswerTable]] = []
    open_table = module.open_table

    def noted(name: str, *, directory: int) -> AnswerTable:
        table = open_table(name, directory=directory)
        tables.append(weakref.ref(table))
        return table

    monkeypatch.setattr(module, "open_table", noted)
    page, directory = Page.create(tmp_path / "page"), os.open(tmp_path, os.O_RDONLY)
    try:
        slot = page.worker(0)
        serving = Serving(page, slot, Counters(slot), directory, ResponderSettings())
        for generation in (1, 2, 3):
            table_path(tmp_path, generation).write_bytes(compiled.octets)
            page.active = generation
            serving.read_page()
            assert slot.active == generation
        gc.disable()
        for _ in range(1000):
            serving.tick()
        assert [table() is None for table in tables] == [True, True, False]
    finally:
        gc.enable()
        gc.unfreeze()
        os.close(directory)


async def stage_the_second(page: Page, serving: Serving) -> None:
    """Have *serving* map generation 2 in its thread, and say so."""
    page.staged = 2
    async with asyncio.timeout(20):
        while page.worker(0).staged != 2:
            serving.tick()
            await asyncio.sleep(0.01)


def test_a_flip_that_is_taken_back_while_a_worker_maps_the_table_is_not_followed(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving_the_first(tmp_path, compiled) as (page, serving):
        slot, open_table = page.worker(0), module.open_table

        def taken_back(name: str, *, directory: int) -> AnswerTable:
            page.active = 1
            return open_table(name, directory=directory)

        monkeypatch.setattr(module, "open_table", taken_back)
        page.active = 2
        serving.read_page()
        assert (slot.active, page.active) == (1, 1)
        serving.read_page()
        assert slot.active == 1


def test_a_table_that_was_staged_and_is_not_wanted_any_more_is_let_go_of(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
) -> None:
    """Void, or overtaken by a newer version: whoever says that it has it staged must not mean this one."""

    async def work() -> None:
        with serving_the_first(tmp_path, compiled) as (page, serving):
            slot = page.worker(0)
            await stage_the_second(page, serving)
            page.staged = 0
            serving.read_page()
            assert (slot.staged, slot.active) == (1, 1)
            assert serving._mapped is None

    asyncio.run(work())


@pytest.mark.parametrize("how", ["on the spot", "in a thread"])
def test_answers_are_prepared_after_the_table_is_mapped_and_no_collection_walks_them(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
    how: str,
) -> None:
    async def work() -> None:
        with serving_the_first(tmp_path, compiled) as (page, serving):
            assert serving.preparing.step()
            if how == "in a thread":
                while serving.preparing.step():
                    pass
                await stage_the_second(page, serving)
            assert not gc.isenabled()
            steps = 0
            while serving.preparing.step():
                steps += 1
            assert steps > len(list(compiled.table.names())) / 2
            assert gc.isenabled()
            walked = [each for each in gc.get_objects() if isinstance(each, Prepared)]
            assert walked == []
            if how == "in a thread":
                page.active = 2
                serving.read_page()
                assert page.worker(0).active == 2
                assert not serving.preparing.step()

    asyncio.run(work())


def test_the_collector_is_on_again_whatever_becomes_of_a_table(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving_the_first(tmp_path, compiled) as (page, serving):
        slot = page.worker(0)
        assert not gc.isenabled()
        table_path(tmp_path, 2).write_bytes(b"no table")
        page.active = 2
        serving.read_page()
        assert (gc.isenabled(), slot.active) == (True, 1)

        table_path(tmp_path, 3).write_bytes(compiled.octets)
        page.active = 3
        serving.read_page()
        assert (gc.isenabled(), slot.active) == (False, 3)
        page.active = 0  # nothing is answered: what was being prepared is let go of
        serving.read_page()
        assert (gc.isenabled(), slot.active, serving.preparing.step()) == (True, 0, False)

        def cannot(*_: object) -> Responder:
            raise MemoryError

        monkeypatch.setattr(module, "Responder", cannot)
        page.active = 4
        table_path(tmp_path, 4).write_bytes(compiled.octets)
        with pytest.raises(MemoryError):
            serving.read_page()
        assert gc.isenabled()


def test_an_answer_that_cannot_be_prepared_keeps_nothing_else_from_being_answered(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving_the_first(tmp_path, compiled) as (page, serving):
        page.set_deadline(0, 1 << 62)
        serving.read_page()

        def cannot(*_: object) -> tuple[Prepared, ...]:
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(PreparedAnswers, "_prepare_delegation", cannot)
            while serving.preparing.step():
                pass
            assert gc.isenabled()
            serving.tick()
        query = bytes.fromhex("0007000000010000000000000378787803636f6d0000010001")
        assert (response := serving.respond_to(query, bytes(4), Transport.UDP)) is not None
        assert response[3] & 15 == 0
