"""Our files under the schema of RFC 8618, Appendix A, by a verifier that is not ours."""

from functools import cache
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cddl_verifier import Validator

from rootsrv.capture.anonymise import Truncation
from rootsrv.capture.cdns import Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.cdns_plain import PlainWriter
from tests.capture import random_facts
from tests.capture.test_cdns import written

SCHEMA = Path(__file__).with_name("rfc8618-appendix-a.cddl")
FACTS = random_facts.facts(8618, 2, malformed_share=0) + random_facts.facts(3, 1, malformed_share=1)


@cache
def schema() -> Validator:
    return Validator(SCHEMA)


def without_private_keys(item: Any) -> Any:
    """Negative keys are for implementations (§7.1); the schema itself has no room for them."""
    if isinstance(item, dict):
        return {key: without_private_keys(value) for key, value in item.items() if key >= 0}
    return [without_private_keys(each) for each in item] if isinstance(item, list) else item


def problems(file: Any) -> list[str]:
    return [str(each) for each in schema().validate(cbor2.dumps(file), "File").diagnostics]


@pytest.mark.parametrize("writer", [ColumnWriter, PlainWriter])
def test_the_schema_accepts_our_files(writer: type[ColumnWriter | PlainWriter]) -> None:
    whole = Collection(
        host_id="a.example", interfaces=("eth0",), server_addresses=(bytes(4), bytes(16)), filter="port 53"
    )
    cut = Collection(sampling="urn:x", anonymiser=Truncation())
    for collection in (whole, cut):
        file = cbor2.loads(written(writer, FACTS, collection, lost=3))
        assert {key for key in file[2][0][1] if key < 0} == {-6, -7, -8}
        assert problems(without_private_keys(file)) == []


def test_the_schema_rejects_broken_files() -> None:
    def broken(*path: int, value: Any) -> list[str]:
        file = without_private_keys(cbor2.loads(written(ColumnWriter, FACTS[-2:])))
        at = file
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        return problems(file)

    assert broken(0, value="C-DNT")
    assert broken(1, 0, value=2)
    assert broken(1, 3, 0, 0, 4, value=[])
    assert broken(1, 3, 0, 0, 6, value=33)
    assert broken(2, 0, 3, 0, 0, value=-1)
    assert broken(2, 0, 2, 0, 0, value=bytes(17))
    assert broken(2, 0, 2, 3, 0, 4, value=64)
    assert broken(2, 0, 5, value=[])
