"""Files of JSON that are damaged in any way end no role: each has its own way on."""

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.admission.blocks import Blocks
from rootsrv.admission.limits import cells_in_memory
from rootsrv.admission.policy import Policy
from rootsrv.admission.shed import Match, pack_rules
from rootsrv.anycast.flaps import keep_flaps, load_flaps
from rootsrv.anycast.managed import _read as read_note
from rootsrv.anycast.wishes import Orders
from rootsrv.capture.offer import WANTED, CaptureWish
from rootsrv.capture.rings import EVERYTHING, PACKETS
from rootsrv.config.limits import LimitsConfig
from rootsrv.fastpath.owner import _noted as read_programs
from rootsrv.health.state import Flaps, Wish
from rootsrv.page.layout import COUNTER_WORDS, Page
from rootsrv.process import json_text
from rootsrv.roles.fleet_records import merge
from rootsrv.store.ledger import Ledger
from rootsrv.store.store import Store, StoreFailed
from rootsrv.telemetry.daybook import DayBook, read_record
from rootsrv.telemetry.history import Events
from rootsrv.telemetry.rssac002 import DayRecord, RecordDamaged
from rootsrv.zone import instant
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


ODD = [
    "null", "true", "-1", "0", "1.5", "9223372036854775808", "1" + 30 * "0", "1" + 400 * "0", "1e300", "1e999", "NaN",
    "-Infinity", '""', '"x"', '"\\ud800"', '"1e999"', "[]", "[[]]", "{}", '{"a": 1}',
]  # fmt: skip
"""What may stand in the place of any one value of a file that was good."""


def _use_orders(directory: Path) -> None:
    orders = Orders(directory / "orders.json")
    for version in (4, 6):
        instant.to_text(orders[version].since)


def _use_rules(directory: Path, page: Page) -> None:
    path = directory / "sheds.json"
    policy = Policy(LimitsConfig(), service_addresses=["192.0.2.53"], page=page, path=path, cells=cells_in_memory())
    pack_rules(policy.rules)
    policy.as_document()
    policy.tick()


def _use_blocks(directory: Path, page: Page) -> None:
    Blocks(page, directory / "blocks.json").as_document()


def _use_record(directory: Path, page: Page) -> None:
    try:
        record = read_record(directory / "record.json")
    except RecordDamaged:
        return
    assert merge({"one": record, "other": record})[0] is not None


def _block(directory: Path, page: Page) -> None:
    Blocks(page, directory / "blocks.json").block("192.0.2.0/24", 600, "flood", "anna")


def _rule(directory: Path, page: Page) -> None:
    path = directory / "sheds.json"
    policy = Policy(LimitsConfig(), service_addresses=["192.0.2.53"], page=page, path=path, cells=cells_in_memory())
    policy.shed(Match.parse(["qtype=A"]), "tc", 600, "flood", "anna", really=True)


def _record(directory: Path, page: Page) -> None:
    counted = DayRecord.from_words(datetime.date(2026, 11, 21), [1] * COUNTER_WORDS)
    document = counted.to_document() | {"load_times": {"7": 1.5}}
    (directory / "record.json").write_text(json.dumps(document))


KEPT: dict[str, tuple[str, Callable[[Path, Page], object], Callable[[Path, Page], object]]] = {
    "orders": (
        "orders.json",
        lambda directory, _: Orders(directory / "orders.json").give((4,), Wish.DRAIN, "works", "anna"),
        lambda directory, _: _use_orders(directory),
    ),
    "flaps": (
        "flaps.json",
        lambda directory, _: keep_flaps(directory / "flaps.json", "b", {4: Flaps(2, 1.0), 6: Flaps()}),
        lambda directory, _: load_flaps(directory / "flaps.json", "b", 0.0),
    ),
    "blocks": ("blocks.json", _block, _use_blocks),
    "rules": ("sheds.json", _rule, _use_rules),
    "record": ("record.json", _record, _use_record),
    "wanted": (
        WANTED,
        lambda directory, _: CaptureWish(PACKETS, 1, EVERYTHING).leave(directory),
        lambda directory, _: CaptureWish.left(directory),
    ),
}
"""What it is called, who writes it, who reads and uses it."""


def _with_one_other(document: Any, odd: str) -> Iterator[str]:
    """*document* as text, once for each of its values, in whose place *odd* stands."""
    yield odd
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items if isinstance(document, dict | list) else ():
        for text in _with_one_other(value, odd) if isinstance(value, dict | list) else (odd,):
            marked = dict(document) if isinstance(document, dict) else list(document)
            marked[key] = _MARK
            yield json.dumps(marked).replace(json.dumps(_MARK), text)


_MARK = "in this place"


@pytest.mark.parametrize("odd", ODD, ids=[each[:12] for each in ODD])
@pytest.mark.parametrize("kept", KEPT)
def test_one_odd_value_in_a_good_file_is_no_exception(tmp_path: Path, kept: str, odd: str) -> None:
    """Neither when it is read nor when what was read is used."""
    name, write, use = KEPT[kept]
    page = Page.create(tmp_path / "page")
    write(tmp_path, page)
    good = json_text.parse((tmp_path / name).read_bytes(), infinite=True)
    tried = 0
    for text in _with_one_other(good, odd):
        (tmp_path / name).write_text(text)
        use(tmp_path, page)
        tried += 1
    assert tried > 3


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", '{"a": [1e400]}', "1" + 20 * "0"])
def test_what_is_no_number_that_can_be_used_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|more than 64 bits"):
        json_text.parse(text)
    json_text.parse(text, infinite=True)
    assert json_text.parse("[1.5e300, 18446744073709551615, -9223372036854775808]")[1:] == [2**64 - 1, -(2**63)]


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
