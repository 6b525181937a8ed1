"""What the role mesh tells maintain: all of it is taken, or nothing."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from rootsrv.mesh.roster import Timing
from rootsrv.secondary.membership import Membership
from rootsrv.zone.lease import Reading, TrustedClock

SUBJECT = {"zone": ".", "serial": 7, "digest": "ab"}
TOLD = {
    "timing": {},
    "canary": True,
    "wave": 2,
    "orders": [],
    "offers": [{**SUBJECT, "at": 5.0}],
    "verdicts": [],
    "canaries_failed": [{**SUBJECT, "failed": 1}],
    "silence": [{**SUBJECT, "allowed": True, "why": "all of them"}],
    "tables_differ": [],
    "engine": "",
    "partners": {"givers": [["m1", "192.0.2.1", 53, "key.", "AAAA"]], "takers": []},
}
VALUES = ("null", "[]", "{}", "[[]]", "[{}]", "7", "-1", '"x"', "1" + "0" * 400, '[{"zone": {}, "serial": []}]')


def member() -> Membership:
    return Membership(TrustedClock(Reading(1e9, 0.0, synchronised=True)), lambda: 100.0)


def taken(of: Membership) -> tuple[Any, ...]:
    return (
        of.known, of.engine, of.heard_at, of.partners, of.changed.is_set(), of._canaries_failed, of._silence,
        of._differing,
    )  # fmt: skip


def test_what_is_told_is_taken() -> None:
    of = member()
    of.hear(TOLD)
    assert (of.known.canary, of.known.wave, of.known.timing) == (True, 2, Timing())
    assert (of.engine, of.heard_at, len(of.partners.givers)) == ("", 100.0, 1)
    assert of.changed.is_set()
    of.changed.clear()
    of.hear(TOLD)
    assert not of.changed.is_set()


@pytest.mark.parametrize("text", VALUES)
@pytest.mark.parametrize("key", TOLD)
def test_where_one_part_is_odd_nothing_is_taken(key: str, text: str) -> None:
    of = member()
    before = taken(of)
    told: Mapping[str, Any] = {**TOLD, key: json.loads(text)}
    try:
        of.hear(told)
    except ValueError:
        assert taken(of) == before
    else:
        assert of.heard_at == 100.0


@pytest.mark.parametrize("at", ["1" + "0" * 400, "[]", '"soon"', "null"])
def test_an_instant_that_is_none_takes_nothing_with_it(at: str) -> None:
    of = member()
    before = taken(of)
    with pytest.raises(ValueError, match=r"\w"):
        of.hear({**TOLD, "offers": [{**SUBJECT, "at": json.loads(at)}]})
    assert taken(of) == before
