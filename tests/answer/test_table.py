"""The table file: what is written is read, and what is damaged is refused."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import (
    ANSWER,
    HEADER,
    INDEX_COUNT,
    Answer,
    AnswerTable,
    Cut,
    NameInfo,
    OwnerInfo,
    TableContents,
    TableUnusable,
    ZoneInfo,
    to_octets,
)
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
        (lambda octets: octets[:8] + b"\1" + octets[9:], "format version 1, this program reads 5"),
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


def _sealed(octets: bytearray) -> bytes:
    """*octets* with a digest that is right, as from a compiler that is wrong, or from somebody who means harm."""
    octets[16:48] = bytes(32)
    octets[16:48] = hashlib.sha256(octets).digest()
    return bytes(octets)


# By name: where the section that a field belongs to is said (the header's number of it; None: in the header), the
# field's offset there and its octets.
_FIELDS = {
    **{f"header word {number}": (None, 48 + 4 * number, 4) for number in range(12) if number != 10},
    "zone's name_size": (1, 256 + 4 * 5, 4),
    "zone's nxdomain": (1, 256 + 40, 4),
    **{f"name's answer {number}": (3, 12 + 4 * number, 4) for number in range(5)},
    "owner's size": (7, 0, 2),
    "owner's types": (7, 2, 2),
    "owner's types_at": (7, 4, 4),
    "owner's nodata": (7, 8, 4),
    "owner's nodata, DO": (7, 12, 4),
    "owner's zone": (7, 16, 1),
    "type's answer": (9, 4, 4),
    "type's answer, DO": (9, 8, 4),
}


@pytest.mark.parametrize("field", _FIELDS)
def test_what_points_out_of_a_table_is_refused_though_its_digest_is_right(compiled: Compiled, field: str) -> None:
    section, offset, size = _FIELDS[field]
    at = offset + (0 if section is None else int.from_bytes(compiled.octets[48 + 4 * section :][:4], "little"))
    largest = (1 << 8 * size) - 1
    for value in (largest, largest - 3, largest >> 1, len(compiled.octets) & largest | 1 << 8 * size - 1):
        octets = bytearray(compiled.octets)
        octets[at : at + size] = value.to_bytes(size, "little")
        with pytest.raises(TableUnusable, match="answer table is damaged: "):
            AnswerTable(_sealed(octets))


def test_what_all_signed_nxdomains_have_stands_in_the_table_once(compiled: Compiled) -> None:
    table = compiled.table
    pieces = [table.pieces(info.nxdomain) for info in table.names() if info.label]
    assert len({first for first, _, _ in pieces}) == len({last for _, _, last in pieces}) == 1
    for first, own, last in pieces:
        assert own[1] < (first[1] + last[1]) * 0.6


def test_what_a_referral_with_do_has_is_not_written_again_for_the_other_answers_of_its_tld(compiled: Compiled) -> None:
    table = compiled.table
    for info in table.names():
        if not info.label:
            continue
        first, own, last = table.pieces(info.referral[1])
        assert first[1] == last[1] == 0 < own[1], "what is asked for most is copied in one go"
        assert table.pieces(info.referral[0])[1][1] == 0
        for at in info.ds:
            _, (_, own_size), _ = table.pieces(at)
            assert own_size == 0


PIECE = st.binary(max_size=3)


@given(bodies=st.lists(st.tuples(st.lists(PIECE, max_size=5), st.booleans()), min_size=1, max_size=12))
def test_whatever_answers_share_each_is_read_as_it_was_written(bodies: list[tuple[list[bytes], bool]]) -> None:
    answers = []
    for number, (parts, in_one) in enumerate(bodies):
        body = b"".join(parts)
        ends = [len(b"".join(parts[:count])) for count in range(len(parts))]
        seams = tuple(sorted({end for end in ends if 0 < end < len(body)}))
        cuts = (Cut(0, 0, 0, 0, 0, 0, 0, truncated=True), Cut(len(body), 1, number, 3, 4, 0, 0, truncated=False))
        answers.append(Answer(0x400, number, 0, cuts, (), body, seams, in_one))
    # As little of all else as a table may have, with answer number 1 everywhere.
    zone, name = ZoneInfo(b"\0", 1, 2, 3, 4, 0, 0, (1, 0)), NameInfo(b"", 0, (0, 0), (0, 0), 1)
    owner = OwnerInfo(b"\0", 0, {6: (1, 1)}, (1, 1))
    octets = to_octets(TableContents((zone,), (0,), (name,), (owner,), tuple(answers)))
    table = AnswerTable(octets)
    found, at = [], HEADER.unpack_from(octets)[-1]
    for answer in answers:
        at = next(place for place in range(at, len(octets)) if _stands_at(table, place, answer))
        found.append(table.answer(at))
    assert found == [answer._replace(seams=(), in_one=False) for answer in answers]


def _stands_at(table: AnswerTable, at: int, answer: Answer) -> bool:
    """Whether the header of *answer*, which its anchor's size tells apart, stands there."""
    if (at - 16) % 64 or at + 28 > len(table.octets):
        return False
    _, size, flags, anchor_size, _, cut_count, *_ = ANSWER.unpack_from(table.octets, at)
    return (size, flags, anchor_size, cut_count) == (len(answer.body), 0x400, answer.anchor_size, 2)
