"""The table file: what is written is read, and what is damaged is refused."""

from pathlib import Path

import pytest

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import HEADER, INDEX_COUNT, TableUnusable
from rootsrv.store.table_file import open_table
from rootsrv.wire import name as names
from tests.answer.conftest import Compiled


def test_the_same_zones_give_the_same_octets(compiled: Compiled) -> None:
    assert compile_table(compiled.root, compiled.hosts) == compiled.octets


def test_a_mapped_table_says_what_its_zones_say(compiled: Compiled, tmp_path: Path) -> None:
    path = tmp_path / "17.table"
    path.write_bytes(compiled.octets)
    table = open_table(path)
    root, hosts = table.zones
    assert root.name == names.ROOT
    assert root.serial == compiled.generated.root.serial
    assert root.expire == compiled.generated.root.soa.expire
    assert root.not_before == compiled.root.not_before
    assert root.signatures_until == compiled.root.signatures_until
    assert hosts.name == names.from_text("root-servers.net")
    assert (hosts.not_before, hosts.signatures_until) == (0, 0)


def test_names_are_in_canonical_order_and_the_index_finds_them(compiled: Compiled) -> None:
    labels = [name.label for name in compiled.table.names()]
    assert labels == sorted(labels)
    assert labels[1:] == sorted(owner[1:-1] for owner in compiled.root.contents.delegations)
    index_at = HEADER.unpack_from(compiled.octets)[4 + 5]
    index = memoryview(compiled.octets)[index_at : index_at + 2 * INDEX_COUNT].cast("H")
    for number, label in enumerate(labels):
        prefix = int.from_bytes(label.ljust(2, b"\0")[:2])
        assert index[prefix] <= number < index[prefix + 1]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda octets: b"", "empty file"),
        (lambda octets: b"not a table" * 20, "wrong magic"),
        (lambda octets: octets[:-1], "its header says"),
        (lambda octets: octets[:8] + b"\1" + octets[9:], "format version 1, this program reads 4"),
        (lambda octets: octets[:-1] + bytes((octets[-1] ^ 1,)), "damaged"),
        (lambda octets: octets[:100] + b"\1" + octets[101:], "damaged"),
        (lambda octets: octets[:40], "wrong magic"),
    ],
)
def test_a_damaged_table_is_refused(compiled: Compiled, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "1.table"
    path.write_bytes(damage(compiled.octets))
    with pytest.raises(TableUnusable, match=message):
        open_table(path)
