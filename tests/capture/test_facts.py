import random

import numpy
import pytest

from rootsrv.capture import facts
from rootsrv.capture.facts import FACT_OCTETS, FIELDS, Fact, Kind
from tests.capture import random_facts


def test_a_fact_comes_back_from_its_rows() -> None:
    for seed, anything in ((1, True), (2, False)):
        found = random_facts.facts(seed, 3_000, anything=anything)
        assert list(facts.read(random_facts.rows(found))) == found


@pytest.mark.parametrize("octets", [1, 3, 54, 55, 56, 167, 168, 254, 255])
def test_a_name_takes_as_few_continuations_as_it_needs(octets: int) -> None:
    draw = random.Random(octets)
    name = random_facts.wire_name(draw, octets)
    fact = random_facts.query(draw, 1)._replace(octets=name, name_octets=octets)
    assert len(name) == octets
    assert len(fact.to_rows()) == FACT_OCTETS * (1 + facts.continuations(octets))
    assert list(facts.read(fact.to_rows())) == [fact]


@pytest.mark.parametrize("octets", [0, 1, 55, 56, 65535])
def test_a_raw_message_of_every_size_comes_back(octets: int) -> None:
    draw = random.Random(octets)
    fact = random_facts.malformed(draw, 1, draw.randbytes(octets))
    after = random_facts.query(draw, 2)
    assert list(facts.read(fact.to_rows() + after.to_rows())) == [fact, after]


def test_rows_may_come_in_pieces_between_any_two() -> None:
    found = random_facts.facts(3, 200)
    octets = random_facts.rows(found)
    pieces = [memoryview(octets)[at : at + FACT_OCTETS] for at in range(0, len(octets), FACT_OCTETS)]
    assert list(facts.read(pieces)) == found


def test_a_continuation_that_is_missing_shortens_the_octets() -> None:
    fact = random_facts.malformed(random.Random(4), 1, bytes(range(200)))
    rows = fact.to_rows()
    (found,) = facts.read(rows[:-FACT_OCTETS])
    assert found.query_octets == 200
    assert found.octets == bytes(range(55 + 112))


def test_fields_lie_side_by_side_and_fill_the_row() -> None:
    at = 0
    described = facts.dtype()
    assert described.fields is not None
    for name, _, offset in FIELDS:
        assert offset == at, name
        kind, numpys = described.fields[name][:2]
        assert numpys == offset
        at += kind.itemsize
    assert at == FACT_OCTETS == described.itemsize
    assert Fact._fields == tuple(name for name, _, _ in FIELDS) == described.names


def test_numpy_and_struct_read_the_same() -> None:
    found = random_facts.facts(5, 500)
    octets = random_facts.rows(found)
    rows = facts.array(octets)
    heads = rows[rows["kind"] != Kind.CONTINUATION]
    assert len(heads) == len(found)
    for fact, row in zip(found, heads, strict=True):
        for name, value in zip(Fact._fields, fact, strict=True):
            if name == "octets":
                assert row[name].tobytes()[: len(value)] == value[: facts.INLINE_OCTETS]
            elif isinstance(value, bytes):
                assert row[name].tobytes() == value, name
            else:
                assert row[name] == value, name
    with pytest.raises(ValueError, match="read-only"):
        rows["time"][0] = numpy.uint64(1)
