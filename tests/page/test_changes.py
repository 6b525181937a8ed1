import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from rootsrv.page.changes import Changes
from rootsrv.page.layout import Page


async def told_of(page: Page, change: Callable[[], None]) -> bool:
    """Whether *change* is told: what a call has to tell is in the queue when it returns."""
    told = asyncio.Event()
    changes = Changes(page.watch(), told.set)
    try:
        change()
        for _ in range(3):  # turns of the loop, each of which takes what is there
            await asyncio.sleep(0)
        return told.is_set()
    finally:
        changes.close()


CHANGES: dict[str, Callable[[Page], None]] = {
    "staged": lambda page: setattr(page, "staged", 3),
    "active": lambda page: setattr(page, "active", 3),
    "silenced": lambda page: setattr(page, "silenced", True),
    "a deadline": lambda page: page.set_deadline(1, 99),
    "blocks": lambda page: page.set_blocks([(0, 1, 128, 5)]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_who_maps_the_page_is_told_of_each_change(tmp_path: Path, what: str) -> None:
    ours = Page.create(tmp_path / "page")
    theirs = Page.open(tmp_path / "page", writable=False)
    assert asyncio.run(told_of(theirs, lambda: CHANGES[what](ours)))


def test_a_page_that_is_put_back_is_told_of(tmp_path: Path) -> None:
    ours = Page.keep_head(tmp_path / "page")
    theirs = Page.open(tmp_path / "page", writable=False)

    def lose_and_put_back() -> None:
        (tmp_path / "page").unlink()
        ours.put_back()

    assert asyncio.run(told_of(theirs, lose_and_put_back))


def test_a_lease_that_is_granted_again_as_it_is_wakes_nobody(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    page.set_deadline(0, 5)

    def grant_again() -> None:
        page.set_deadline(0, 5)
        page.staged = 0

    assert not asyncio.run(told_of(page, grant_again))


def test_who_stores_into_a_page_whose_file_is_gone_goes_on(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    (tmp_path / "page").unlink()
    page.active = 5
    assert page.active == 5


def test_without_a_directory_there_is_an_error(tmp_path: Path) -> None:
    page = Page.create(tmp_path / "page")
    page._path = tmp_path / "gone" / "page"
    with pytest.raises(FileNotFoundError):
        page.watch()
