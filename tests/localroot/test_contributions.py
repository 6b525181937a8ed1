"""Counts that operators contribute: what is taken, what is kept, and that nobody's can be told from their sum."""

import datetime
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rootsrv.localroot.contributions import (
    FEWEST_OPERATORS,
    KEPT_DAYS,
    OPEN_DAYS,
    SUMS_KEPT_DAYS,
    Contributions,
)
from rootsrv.localroot.register import DIRECTORY, Register
from rootsrv.localroot.servers import NotAccepted, Servers, ServerWish
from rootsrv.resolvers.day_counts import MAX_COUNT, TRAFFIC_KEYS, CountsMalformed, DayCounts, added
from tests.localroot.accounts import add_user

DAY = datetime.date(2026, 11, 20)
DAY_SECONDS = 86_400.0


def at(days: float) -> float:
    """So many days after the end of DAY, seconds since 1970."""
    end = datetime.datetime.combine(DAY, datetime.time(), datetime.UTC) + datetime.timedelta(1 + days)
    return end.timestamp()


def counts(queries: int = 10, day: datetime.date = DAY) -> DayCounts:
    return DayCounts(day, {TRAFFIC_KEYS[0]: queries}, {3: queries})


class Operators:
    """A register with operators, each with a server."""

    def __init__(self, directory: Path) -> None:
        self.register = Register(directory / DIRECTORY)
        self.servers = Servers(self.register, "localroot.example", ["."], private=True)
        self.contributions = Contributions(self.register)

    def add(self, name: str, *, user: int | None = None, contributes: bool = True) -> tuple[int, int]:
        """User and server."""
        user = user or add_user(self.register, f"{name}@example.net", at(-9))
        return user, self.servers.add(user, ServerWish(name, "unbound", [], ["."], contributes), at(-9))

    def send(self, of: tuple[int, int], sent: DayCounts, now: float = at(1)) -> None:
        self.contributions.take(self.servers.get(*of), sent, now)

    def settle(self, now: float) -> None:
        self.contributions.settle(now)


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[Operators]:
    made = Operators(tmp_path)
    yield made
    made.register.close()


# ── the document ──

GOOD = {
    "format": "localroot-counts-1",
    "day": "2026-11-20",
    "traffic-volume": {"dns-udp-queries-received-ipv4": 7, "dns-tcp-queries-received-ipv6": 2},
    "rcode-volume": {"0": 3, "3": 5},
}

MALFORMED: dict[str, tuple[Any, str]] = {
    "no_object": ([], ""),
    "nothing": (None, ""),
    "another_format": (GOOD | {"format": "localroot-counts-2"}, "format"),
    "no_format": ({key: value for key, value in GOOD.items() if key != "format"}, "format"),
    "names_of_somebody": (GOOD | {"names": ["example.com"]}, "names"),
    "no_day": (GOOD | {"day": None}, "day"),
    "a_day_of_another_form": (GOOD | {"day": "20261120"}, "day"),
    "a_day_of_the_week": (GOOD | {"day": "2026-W47-5"}, "day"),
    "no_such_day": (GOOD | {"day": "2026-02-30"}, "day"),
    "no_traffic": (GOOD | {"traffic-volume": {}}, "traffic-volume"),
    "no_query": (GOOD | {"traffic-volume": {"dns-udp-queries-received-ipv4": 0}, "rcode-volume": {}}, "traffic-volume"),
    "traffic_of_an_unknown_kind": (GOOD | {"traffic-volume": {"192.0.2.1": 7}}, "traffic-volume"),
    "a_negative_count": (GOOD | {"traffic-volume": {TRAFFIC_KEYS[0]: -1}}, "traffic-volume"),
    "too_large_a_count": (GOOD | {"traffic-volume": {TRAFFIC_KEYS[0]: MAX_COUNT + 1}}, "traffic-volume"),
    "a_fraction": (GOOD | {"traffic-volume": {TRAFFIC_KEYS[0]: 1.5}}, "traffic-volume"),
    "yes": (GOOD | {"traffic-volume": {TRAFFIC_KEYS[0]: True}}, "traffic-volume"),
    "a_text": (GOOD | {"traffic-volume": {TRAFFIC_KEYS[0]: "7"}}, "traffic-volume"),
    "a_list": (GOOD | {"rcode-volume": [1]}, "rcode-volume"),
    "an_rcode_by_name": (GOOD | {"rcode-volume": {"NXDOMAIN": 1}}, "rcode-volume"),
    "an_rcode_written_otherwise": (GOOD | {"rcode-volume": {"03": 1}}, "rcode-volume"),
    "an_rcode_of_other_digits": (GOOD | {"rcode-volume": {"²": 1}}, "rcode-volume"),
    "an_rcode_there_is_not": (GOOD | {"rcode-volume": {"4096": 1}}, "rcode-volume"),
    "many_rcodes": (GOOD | {"rcode-volume": {str(at): 0 for at in range(33)}}, "rcode-volume"),
    "more_responses_than_queries": (GOOD | {"rcode-volume": {"0": 10}}, "rcode-volume"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_document_is_refused_and_the_field_is_named(case: str) -> None:
    document, field = MALFORMED[case]
    with pytest.raises(CountsMalformed) as raised:
        DayCounts.from_document(document)
    assert raised.value.field == field


def test_a_document_is_read_back_as_it_was_written() -> None:
    parsed = DayCounts.from_document(GOOD)
    assert parsed.to_document() == GOOD
    assert (parsed.queries, parsed.over_ipv6, parsed.over_tcp) == (9, 2, 2)
    without_responses = {key: value for key, value in GOOD.items() if key != "rcode-volume"}
    assert DayCounts.from_document(without_responses).rcodes == {}


def test_a_sum_of_the_largest_is_read_back() -> None:
    most = DayCounts(DAY, dict.fromkeys(TRAFFIC_KEYS, MAX_COUNT), dict.fromkeys(range(32), MAX_COUNT // 9))
    others = DayCounts(DAY, dict.fromkeys(TRAFFIC_KEYS, MAX_COUNT), dict.fromkeys(range(100, 132), 1))
    total = added(DAY, [most, others])
    assert DayCounts.from_document(total.to_document(), is_sum=True) == total


# ── what is taken ──


def test_a_day_is_taken_when_it_is_over_and_until_it_is_added_up(operators: Operators) -> None:
    server = operators.add("one")
    for days, why in ((-0.001, "not over yet"), (-30, "not over yet"), (OPEN_DAYS + 0.001, "added up already")):
        with pytest.raises(NotAccepted, match=why):
            operators.send(server, counts(), at(days))
    operators.send(server, counts(1), at(0))
    operators.send(server, counts(2), at(OPEN_DAYS - 0.001))
    (kept,) = operators.contributions.of_server(server[1])
    assert kept.counts == counts(2)  # the one of before was replaced


def test_a_server_that_does_not_contribute_cannot(operators: Operators) -> None:
    server = operators.add("one", contributes=False)
    with pytest.raises(NotAccepted, match="does not contribute"):
        operators.send(server, counts())
    assert operators.contributions.of_server(server[1]) == []


# ── what is deleted ──


@pytest.mark.parametrize("how", ["opts out", "server", "account", "time"])
def test_what_was_sent_goes_with_the_consent_the_server_the_account_and_time(operators: Operators, how: str) -> None:
    server, other = operators.add("one"), operators.add("other")
    for each in (server, other):
        operators.send(each, counts())
    if how == "opts out":
        operators.servers.change(*server, ServerWish("one", "unbound", [], ["."]), at(2))
    elif how == "server":
        operators.servers.delete(*server)
    elif how == "account":
        with operators.register.writing() as database:
            database.execute("DELETE FROM users WHERE id = ?", (server[0],))
    else:
        operators.settle(at(KEPT_DAYS - 1.001))
        assert operators.contributions.of_server(server[1])
        operators.settle(at(KEPT_DAYS))
    assert operators.contributions.of_server(server[1]) == []
    assert bool(operators.contributions.of_server(other[1])) is (how != "time")


# ── sums ──


def test_a_day_is_added_up_once_and_never_changes(operators: Operators) -> None:
    """Whoever watched it change could tell what one of them had sent."""
    several = [operators.add(f"o{each}") for each in range(FEWEST_OPERATORS)]
    for number, each in enumerate(several):
        operators.send(each, counts(10**number))
    operators.settle(at(OPEN_DAYS - 1))
    assert operators.contributions.sums() == []
    operators.settle(at(OPEN_DAYS + 1))
    (total,) = operators.contributions.sums()
    assert (total.operators, total.servers) == (FEWEST_OPERATORS, FEWEST_OPERATORS)
    assert total.counts == counts(sum(10**number for number in range(FEWEST_OPERATORS)))
    operators.servers.delete(*several[0])
    with pytest.raises(NotAccepted):
        operators.send(several[1], counts(5), at(OPEN_DAYS + 2))
    operators.settle(at(OPEN_DAYS + 3))
    assert operators.contributions.sums() == [total]
    operators.settle(at(SUMS_KEPT_DAYS + 1))
    assert operators.contributions.sums() == []


def test_of_too_few_operators_there_is_no_sum_however_many_servers(operators: Operators) -> None:
    users = [operators.add(f"o{each}") for each in range(FEWEST_OPERATORS - 1)]
    users += [operators.add(f"second of {each}", user=users[0][0]) for each in range(3)]
    for each in users:
        operators.send(each, counts())
    operators.settle(at(OPEN_DAYS + 1))
    assert operators.contributions.sums() == []
    # One more in the same days does not bring it about later: the difference would be that one's.
    with operators.register.writing() as database:
        late = operators.add("late")
        database.execute(
            "INSERT INTO contributions SELECT ?, day, received, document FROM contributions LIMIT 1", (late[1],)
        )
    operators.settle(at(OPEN_DAYS + 2))
    assert operators.contributions.sums() == []


def test_one_that_is_suspended_or_damaged_takes_no_other_with_it(operators: Operators) -> None:
    several = [operators.add(f"o{each}") for each in range(FEWEST_OPERATORS + 2)]
    random.Random(3).shuffle(several)
    for each in several:
        operators.send(each, counts(7))
    with operators.register.writing() as database:
        database.execute("UPDATE users SET suspended = 'sends nonsense' WHERE id = ?", (several[0][0],))
        database.execute("UPDATE contributions SET document = '{' WHERE server = ?", (several[1][1],))
    operators.settle(at(OPEN_DAYS + 1))
    (total,) = operators.contributions.sums()
    assert total.counts == counts(7 * FEWEST_OPERATORS)


def test_a_register_of_before_gets_what_is_missing(tmp_path: Path) -> None:
    register = Register(tmp_path)
    with register.writing() as database:
        database.execute("DROP TABLE contributions")
        database.execute("DROP TABLE contributed")
    register.close()
    again = Register(tmp_path)
    assert Contributions(again).sums() == []
    again.close()
