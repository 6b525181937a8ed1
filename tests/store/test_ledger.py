"""The ledger comes back as it was written, and one that an older version wrote is read."""

from typing import Any

import pytest

from rootsrv.store.ledger import Ledger, Next, Served
from rootsrv.store.store import StoreFailed
from rootsrv.zone.lease import Lease, Reading, TrustedClock

WALL, BOOTTIME = 1_800_000_000.0, 1_000.0
LEASE = Lease(7, WALL - 60, BOOTTIME - 60, 3600.0, None)
LEDGER = Ledger(
    generation=3,
    highest=4,
    leases={".": LEASE},
    served={".": Served(7, WALL - 50, WALL - 65.5), "root-servers.net.": Served(9, WALL - 50, None)},
    next=Next(4, WALL + 60, {".": LEASE}),
    dropped={".": [8]},
    last_seen_wall=WALL,
    trusted_offset=WALL - BOOTTIME,
)


def read(record: dict[str, Any]) -> Ledger:
    return Ledger.from_record(record, "boot", TrustedClock(Reading(WALL, BOOTTIME, True)), BOOTTIME)


def test_it_comes_back_as_it_was_written() -> None:
    assert read(LEDGER.to_record("boot")) == LEDGER


def test_one_of_a_version_that_did_not_note_since_when_zones_are_served_is_read() -> None:
    record = LEDGER.to_record("boot")
    del record["served"]
    older = read(record)
    assert older.served == {}
    assert (older.generation, older.leases, older.next, older.dropped) == (3, {".": LEASE}, LEDGER.next, {".": [8]})


def test_one_of_a_version_that_did_not_note_the_highest_number_of_a_table_is_read() -> None:
    record = LEDGER.to_record("boot")
    del record["highest"]
    assert read(record).highest == 3


def test_the_time_that_was_trusted_is_that_of_this_boot_and_may_be_odd() -> None:
    record = LEDGER.to_record("another")
    assert read(record).trusted_offset is None
    for odd in (None, "x", True, -1.0, 1e300, []):
        assert read({**LEDGER.to_record("boot"), "trusted_offset": odd}).trusted_offset is None
    del record["trusted_offset"]  # as an older version wrote it
    assert read(record).trusted_offset is None


@pytest.mark.parametrize("served", [7, [], {".": {}}, {".": {"serial": "x", "served_at": 1, "known_at": None}}])
def test_what_is_no_such_note_is_a_clear_error(served: object) -> None:
    with pytest.raises(StoreFailed, match=r"ledger\.json: damaged"):
        read({**LEDGER.to_record("boot"), "served": served})
