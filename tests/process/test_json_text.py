"""Files of JSON that are damaged in any way end no role: each has its own way on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rootsrv.admission.blocks import Blocks
from rootsrv.anycast.flaps import load_flaps
from rootsrv.anycast.managed import _read as read_note
from rootsrv.anycast.wishes import Orders
from rootsrv.fastpath.owner import _noted as read_programs
from rootsrv.health.state import Wish
from rootsrv.page.layout import Page
from rootsrv.process import json_text
from rootsrv.store.ledger import Ledger
from rootsrv.store.store import Store, StoreFailed
from rootsrv.telemetry.daybook import DayBook
from rootsrv.telemetry.history import Events
from rootsrv.zone.lease import Reading, TrustedClock
from tests.needs import REPOSITORY

DAMAGED = {
    "nothing": b"", "cut": b'{"days": {', "deep": b"[" * 100_000, "deep_inside": b'{"days": ' + b'{"":' * 100_000,
    "a_number": b"7", "a_list": b"[[]]", "null": b"null", "a_text": b'"x"', "no_utf_8": b'{"\xff": 1}',
    "huge_numbers": b'{"boot": "b", "4": {"withdrawals": 1e999, "announced_since": null, "quiet_since": "x"}}',
    "wrong_types": b'{"format": 1, "days": [], "unwritten": 7, "identity": {}, "served": [], "read": "x", "4": []}',
}  # fmt: skip


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "orders": ("orders.json", lambda directory: Orders(directory / "orders.json")[4].wish),
    "flaps": ("flaps.json", lambda directory: load_flaps(directory / "flaps.json", "b", 0.0)),
    "addresses": ("note.json", lambda directory: read_note(directory / "note.json")),
    "programs": ("note.json", lambda directory: read_programs(directory / "note.json")),
    "blocks": ("blocks.json", lambda directory: Blocks(Page.create(directory / "page"), directory / "blocks.json")),
    "book": ("book.json", lambda directory: DayBook(directory, "x.root-servers.net").record(1)),
    "journal": ("journal.jsonl", lambda directory: Events(directory / "journal.jsonl").latest(9)),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_no_exception(tmp_path: Path, reader: str, damage: str) -> None:
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(DAMAGED[damage])
    found = read(tmp_path)
    if reader == "orders" and damage != "wrong_types":
        assert found is Wish.WITHDRAW  # a site that was drained for good reason does not come back


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_ledger_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / "ledger.json").write_bytes(DAMAGED[damage])
    store = Store(tmp_path)
    try:
        with pytest.raises(StoreFailed, match="ledger"):
            read_all(store)
    finally:
        store.close()


def read_all(store: Store) -> None:
    Ledger.from_record(store.read_ledger(), "b", TrustedClock(Reading(1e9, 1.0, True)), 1.0)


@pytest.mark.parametrize("damage", ["nothing", "cut", "deep", "deep_inside", "no_utf_8"])
def test_what_is_not_json_is_a_value_error(damage: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.parse(DAMAGED[damage])


def test_what_was_kept_is_read_nowhere_without_that() -> None:
    """Where the text comes from the process itself, or from one that it has started, json.loads will do."""
    using = {
        path.relative_to(REPOSITORY / "rootsrv").as_posix()
        for path in (REPOSITORY / "rootsrv").rglob("*.py")
        if "json.loads(" in path.read_text()
    }
    assert using == {
        "process/json_text.py", "control/protocol.py", "doctor/network.py", "server/worker.py",
        "server/worker_orders.py", "portal/account_pages.py", "portal/signing_in.py",
    }  # fmt: skip
