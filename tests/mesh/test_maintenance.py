"""Maintenance is announced, never more than k of a group at one time, and calendars can read it."""

import pytest

from rootsrv.mesh.envelope import Envelope, EnvelopeMalformed
from rootsrv.mesh.maintenance import Maintenance, MaintenanceRefused, board_key, check, standing, to_calendar
from rootsrv.zone import instant
from tests.mesh.mesh_of import mesh_of

ROSTER = mesh_of(8, k=2).roster
NOW = instant.from_text("2026-11-21T12:00:00Z")
HOUR = 3600.0


def planned(name: str, start: float, end: float, *members: str) -> Maintenance:
    """From *start* to *end*, hours from now."""
    return Maintenance(name, members, NOW + start * HOUR, NOW + end * HOUR, "new disks")


@pytest.mark.parametrize(
    ("new", "refusal"),
    [
        (planned("a", 1, 2, "m0", "m1"), ""),
        (planned("a", 1, 2, "m0", "m1", "m2"), "3 members of all would be away (m0, m1, m2), k is 2"),
        (planned("a", 1, 2, "m9"), "lists no member m9"),
        (planned("a", 2, 2, "m0"), "before it begins"),
        (planned("a", -2, -1, "m0"), "it is over"),
        (planned("a", 1, 1000, "m0"), "longer than 31 days"),
        # m2 and m3 are away from 4 to 6, m4 from 5 to 8.
        (planned("a", 3, 4, "m0", "m1"), ""),
        (planned("a", 6, 9, "m0"), ""),
        (planned("a", 3, 4.1, "m0"), "m0, m2, m3"),
        (planned("a", 3, 4.1, "m2"), ""),  # who is away already is not away twice
        (planned("a", 7, 9, "m0", "m1"), "it overlaps three"),
        (planned("three", 7, 9, "m0", "m1"), ""),  # takes the place of the one that it would overlap
    ],
)
def test_what_would_have_more_than_k_away_at_one_time_is_refused(new: Maintenance, refusal: str) -> None:
    others = [planned("two", 4, 6, "m2", "m3"), planned("three", 5, 8, "m4")]
    others[1] = planned("three", 6.5, 8, "m4")
    if not refusal:
        check(new, others, ROSTER, NOW)
        return
    with pytest.raises(MaintenanceRefused, match=refusal.replace("(", r"\(").replace(")", r"\)")):
        check(new, others, ROSTER, NOW)


def test_one_that_was_cancelled_or_is_over_stands_in_nobodys_way() -> None:
    cancelled = Maintenance("two", ("m2", "m3"), NOW + HOUR, NOW + 2 * HOUR, "", cancelled=True)
    check(planned("a", 1, 2, "m0", "m1"), [cancelled], ROSTER, NOW)
    announced = {each.id: each for each in (cancelled, planned("later", 5, 6, "m1"), planned("now", -1, 1, "m0"))}
    announced["over"] = planned("over", -3, -2, "m1")
    assert [each.id for each in standing(announced, NOW)] == ["now", "later"]


def envelope(content: dict[str, object], key: str = "maintenance/a") -> Envelope:
    return Envelope(key, "alice", NOW, 0, NOW, NOW, content)


def test_it_comes_out_of_an_envelope_as_it_went_in() -> None:
    went_in = planned("a", 1, 2, "m0", "m1")
    came_out = Maintenance.of(envelope(went_in.to_content()))
    assert (came_out.members, came_out.start, came_out.end, came_out.by) == (
        went_in.members, went_in.start, went_in.end, "alice"
    )  # fmt: skip
    assert board_key("a") == "maintenance/a"


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b"}, {"id": 7}, {"id": "A B"}, {"members": "m0"}, {"members": []}, {"members": [7]},
        {"members": ["m0"] * 2000}, {"start": "now"}, {"start": float("nan")}, {"end": 2.0**60}, {"end": 0.0},
    ],
)  # fmt: skip
def test_what_is_no_maintenance_is_malformed(change: dict[str, object]) -> None:
    with pytest.raises(EnvelopeMalformed):
        Maintenance.of(envelope(planned("a", 1, 2, "m0").to_content() | change))


def test_a_calendar_has_short_lines_and_nothing_that_ends_them_early() -> None:
    one = Maintenance("a", ("m0", "m1"), NOW, NOW + HOUR, "Zürich; disks, " + "x" * 90 + "\r\nEND:VCALENDAR")
    text = to_calendar([one], "x-root")
    lines = text.split("\r\n")
    assert lines[0] == "BEGIN:VCALENDAR"
    assert lines[-2:] == ["END:VCALENDAR", ""]
    assert lines.count("END:VCALENDAR") == 1
    assert all(len(line.encode()) <= 75 for line in lines)
    unfolded = text.replace("\r\n ", "")
    assert r"DESCRIPTION:Zürich\; disks\, xxx" in unfolded
    assert r"xxx\nEND:VCALENDAR" in unfolded
    assert "DTSTART:20261121T120000Z" in lines
