"""What a worker answers from: generations come and go without a collection that would hold up who asks."""

import asyncio
import contextlib
import gc
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.answer.responder import ResponderSettings
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
        serving.wake_up()
        yield page, serving
    finally:
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
            serving.wake_up()
            assert slot.active == generation
        gc.disable()
        for _ in range(1000):
            serving.tick()
        assert [table() is None for table in tables] == [True, True, False]
    finally:
        gc.enable()
        gc.unfreeze()
        os.close(directory)


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
        serving.wake_up()
        assert (slot.active, page.active) == (1, 1)
        serving.wake_up()
        assert slot.active == 1


def test_a_table_that_was_staged_and_is_not_wanted_any_more_is_let_go_of(
    tmp_path: Path,
    compiled: Compiled,  # noqa: F811
) -> None:
    """Void, or overtaken by a newer version: whoever says that it has it staged must not mean this one."""

    async def work() -> None:
        with serving_the_first(tmp_path, compiled) as (page, serving):
            slot = page.worker(0)
            page.staged = 2
            async with asyncio.timeout(20):
                while slot.staged != 2:
                    serving.tick()
                    await asyncio.sleep(0.01)
            page.staged = 0
            serving.wake_up()
            assert (slot.staged, slot.active) == (1, 1)
            assert serving._mapped is None

    asyncio.run(work())
