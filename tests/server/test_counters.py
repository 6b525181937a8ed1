import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rootsrv.page import counts
from rootsrv.page.counts import PATHS
from rootsrv.page.layout import Page, WorkerSlot
from rootsrv.page.unique_sources import SourcesKey
from rootsrv.server.counters import Counters

UDP4, UDP6, TCP4, TCP6 = range(4)
DAY = 86_400
KEY = SourcesKey.of(bytes(16))


def registers(slot: WorkerSlot, day: int) -> bytes:
    return slot.sketches(day).get(KEY.id, b"")


def query(size: int = 40) -> bytes:
    return bytes(size)


def response(rcode: int = 0, size: int = 100, *, truncated: bool = False, counts: bytes = b"\0\1\0\0\0\6\0\2") -> bytes:
    head = b"\0\0" + bytes((0x80 | (2 if truncated else 0), rcode)) + counts
    return head + bytes(size - len(head))


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page.create(tmp_path / "page")


@pytest.fixture
def counting(page: Page) -> Counters:
    return Counters(page.worker(0))


@pytest.mark.parametrize("times", [1, 7])
def test_a_batch_and_its_queries_one_by_one_count_the_same(page: Page, times: int) -> None:
    batch, singly = Counters(page.worker(0)), Counters(page.worker(1))
    requests = [query(size) for size in (12, 17, 31, 32, 287, 288, 300, 4_000)]
    responses = [
        response(0, 40),
        response(3, 1_040),
        response(0, 512, truncated=True),
        response(1, 12),
        response(7, 100),
        response(0, 23, counts=b"\0\1\0\0\0\0\0\1"),
        response(5, 4_095),
        response(2, 4_096),
    ]

    batch.count(UDP6, requests * times, responses * times)
    for asked, answered in zip(requests * times, responses * times, strict=True):
        singly.count(UDP6, [asked], [answered])

    assert page.worker(0).counters.tolist() == page.worker(1).counters.tolist()
    words = page.worker(0).counters
    assert words[counts.RESPONSES + UDP6] == 8 * times
    assert words[counts.QUERIES + UDP6] == 7 * times
    assert words[counts.MALFORMED + UDP6] == times
    by_rcode = counts.rcodes(words, UDP6)
    assert {rcode: number // times for rcode, number in enumerate(by_rcode) if number} == {
        0: 2, 1: 1, 2: 1, 3: 1, 5: 1, 16: 1, 23: 1,
    }  # fmt: skip
    assert sum(counts.truncated(words, UDP6)) == times


def test_badvers_without_a_question_is_told_from_an_answer_to_a_cookie(page: Page) -> None:
    def without_question(upper_rcode: int) -> bytes:
        counts = b"\0\0\0\0\0\0\0\1"
        return b"\0\0\x80\0" + counts + b"\0\0\x29\x04\xd0" + bytes((upper_rcode, 0)) + bytes(4)

    responses = [without_question(1), without_question(0), without_question(1), response(3), without_question(1)]
    batch, singly = Counters(page.worker(0)), Counters(page.worker(1))
    batch.count(UDP4, [query()] * 5, responses)
    for each in responses:
        singly.count(UDP4, [query()], [each])
    batch.count_unsent(UDP4, responses[:1])
    singly.count_unsent(UDP4, responses[:1])

    for number in (0, 1):
        by_rcode = counts.rcodes(page.worker(number).counters, UDP4)
        assert {rcode: number for rcode, number in enumerate(by_rcode) if number} == {0: 1, 3: 1, 16: 2}


def test_sizes_fall_into_bins_of_16_octets_and_malformed_requests_into_none(page: Page, counting: Counters) -> None:
    counting.count(TCP4, [query(15), query(16), query(287), query(288), query(12)], [response()] * 4 + [response(1)])

    first = counts.REQUEST_SIZES + counts.REQUEST_BINS
    sizes = page.worker(0).counters[first : first + counts.REQUEST_BINS].tolist()
    assert sizes == [1, 1, *[0] * 15, 1, 1]


def test_short_requests_of_a_batch_are_counted_by_size_as_one_by_one(page: Page) -> None:
    batch, singly = Counters(page.worker(0)), Counters(page.worker(1))
    sizes = [*range(12, 256), *range(12, 256, 7)]
    batch.count(UDP4, [query(size) for size in sizes], [response()] * len(sizes))
    for size in sizes:
        singly.count(UDP4, [query(size)], [response()])

    assert page.worker(0).counters.tolist() == page.worker(1).counters.tolist()
    assert sum(page.worker(0).counters[counts.REQUEST_SIZES : counts.RESPONSE_SIZES]) == len(sizes)


def test_whatever_came_before_sources_of_few_and_of_many_are_all_noted(page: Page) -> None:
    few, many = Counters(page.worker(0), (), KEY), Counters(page.worker(1), (), KEY)
    sources = [bytes((192, 0, 2, number)) for number in range(200)] + [
        bytes(15) + bytes((number,)) for number in range(99)
    ]
    many.note_sources(sources)
    few.note_sources(sources[:5])
    few.note_sources(sources[3:90])
    for source in sources:
        few.note_sources([source, sources[0]])

    day = page.worker(0).day
    assert registers(page.worker(0), day) == registers(page.worker(1), day)
    assert any(registers(page.worker(1), day))


def test_signals_are_counted_by_key_tag(page: Page, counting: Counters) -> None:
    def signal(label: bytes, rest: bytes = b"\0\0\x0a\0\1") -> bytes:
        return bytes(12) + bytes((len(label),)) + label + rest

    asked = [
        signal(b"_ta-4f66"),
        signal(b"_TA-4F66-9728"),
        signal(b"_ta-4f66", b"\3com\0\0\x0a\0\1"),  # not at the root
        signal(b"_ta-4f66", b"\0\0\1\0\1"),  # not of type NULL
        signal(b"_ta-4f6"),
        signal(b"_ta-4f66x"),
        signal(b"_ta4f66-"),
        signal(b"_ta-4f6--728"),
        signal(b"_ta-4f6-9728-"),
        signal(b"_ta-4g66"),
        signal(b"_ta"),
    ]
    counting.count(UDP4, asked, [response(3)] * len(asked))

    assert counts.signals(page.worker(0).counters) == {0x4F66: 2, 0x9728: 1}


def test_messages_cut_short_beside_a_signal_are_none(page: Page, counting: Counters) -> None:
    whole = bytes(12) + b"\x08_ta-4f66\0\0\x0a\0\1"
    short = [whole[:size] for size in range(12, len(whole))]

    counting.count(UDP4, [*short, whole], [response(3)] * len(whole[11:]))

    assert counts.signals(page.worker(0).counters) == {0x4F66: 1}


def test_signals_without_a_place_are_counted_together(page: Page, counting: Counters) -> None:
    asked = [bytes(12) + b"\x08_ta-" + b"%04x" % tag + b"\0\0\x0a\0\1" for tag in range(40)]
    counting.count(UDP4, asked, [response(3)] * 40)

    assert len(counts.signals(page.worker(0).counters)) == counts.MAX_SIGNALS
    assert page.worker(0).counters[counts.SIGNALS] == 40 - counts.MAX_SIGNALS


def signal(*tags: int) -> bytes:
    label = b"_ta" + b"".join(b"-%04x" % tag for tag in tags)
    return bytes(12) + bytes((len(label),)) + label + b"\0\0\x0a\0\1"


def all_signals(words: Sequence[int]) -> int:
    return sum(counts.signals(words).values()) + words[counts.SIGNALS]


def test_of_one_signal_a_few_tags_are_told_apart(page: Page, counting: Counters) -> None:
    counting.count(UDP4, [signal(*range(1, 12))], [response(3)])

    assert len(counts.signals(page.worker(0).counters)) == 4
    assert page.worker(0).counters[counts.SIGNALS] == 7


def test_invented_tags_leave_room_for_those_of_anchors_and_for_real_ones(page: Page) -> None:
    """Whoever fills the table loses it: tags of keys and anchors are kept, others are found by their number."""
    anchor, key, real = 0x4F66, 0x9728, 0x1234
    counting = Counters(page.worker(0))
    invented = [signal(tag) for tag in range(0x5000, 0x5000 + counts.MAX_SIGNALS)]
    counting.count(UDP4, invented, [response(3)] * len(invented))
    counting = Counters(page.worker(0), (anchor,))
    counting.keep_signals([key])
    flood = [signal(*range(tag, tag + 11)) for tag in range(0x6000, 0x8000, 11)]
    usual = [signal(anchor, real)] * 3000
    mixed = [each for pair in zip(flood * 5, usual, strict=False) for each in pair]
    for at in range(0, len(mixed), 64):
        batch = mixed[at : at + 64]
        counting.count(UDP4, batch, [response(3)] * len(batch))

    words = page.worker(0).counters
    found = counts.signals(words)
    assert found[anchor] == len(mixed) // 2
    assert found[key] == 0
    assert found[real] > 0.9 * len(mixed) // 2
    assert len(found) == counts.MAX_SIGNALS
    assert all_signals(words) == len(invented) + len(mixed) // 2 * (11 + 2)
    total = counts.total(page)
    assert counts.signals(total) == found
    # A worker that is replaced knows them still; the next day only the kept ones are left.
    replaced = Counters(page.worker(0))
    replaced.count(UDP4, [signal(real)], [response(3)])
    assert counts.signals(words)[real] == found[real] + 1
    replaced.turn_day(time.time() + DAY)
    assert set(counts.signals(words)) == {anchor, key}
    assert all_signals(words) == all_signals(total) + 1


def test_kept_tags_come_first_when_workers_are_summed(page: Page) -> None:
    for slot in range(3):
        counting = Counters(page.worker(slot))
        counting.keep_signals([0x4F66])
        tags = range(0x5000 + 40 * slot, 0x5000 + 40 * slot + 31)
        counting.count(UDP4, [signal(tag) for tag in tags] * 2, [response(3)] * 62)
        counting.count(UDP4, [signal(0x4F66)] * 3, [response(3)] * 3)

    words = counts.total(page)

    assert counts.signals(words)[0x4F66] == 9
    assert all_signals(words) == 3 * (62 + 3)


def test_totals_sum_workers_whatever_the_order_of_their_signals(page: Page) -> None:
    workers = [Counters(page.worker(slot)) for slot in (0, 5)]
    tags = [b"\x08_ta-4f66", b"\x08_ta-9728"]
    for each, order in zip(workers, (tags, tags[::-1]), strict=True):
        each.count(UDP4, [bytes(12) + label + b"\0\0\x0a\0\1" for label in order], [response(3)] * 2)

    words = counts.total(page)

    assert words[counts.QUERIES + UDP4] == 4
    assert counts.signals(words) == {0x4F66: 2, 0x9728: 2}
    document = counts.as_document(words)
    assert document["rcodes"] == {"3": 4}
    assert document["queries"] == dict(zip(PATHS, (4, 0, 0, 0), strict=True))


def test_unsent_responses_are_taken_back(page: Page, counting: Counters) -> None:
    counting.count(UDP4, [query()] * 3, [response(0, 50), response(3, 60), response(3, 60)])
    counting.count_unsent(UDP4, [response(3, 60)])

    words = page.worker(0).counters
    assert (words[counts.RESPONSES + UDP4], words[counts.UNSENT]) == (2, 1)
    assert (counts.rcodes(words, UDP4)[0], counts.rcodes(words, UDP4)[3]) == (1, 1)


def test_the_day_turns_once_and_remembers_where_it_began(page: Page) -> None:
    slot = page.worker(0)
    slot.day = 20_000
    counting = Counters(slot, (), KEY)  # begins today, whatever it is
    today = slot.day
    counting.count(UDP4, [query()], [response()])
    counting.note_sources([b"\xc0\0\2\1"])

    counting.turn_day((today + 1) * DAY - 1)
    assert slot.day == today
    counting.turn_day((today + 1) * DAY)
    counting.count(UDP4, [query()], [response()])
    counting.turn_day((today + 1) * DAY - 5)  # a small step back over midnight

    assert slot.day == today + 1
    assert slot.counters[counts.QUERIES] - slot.day_start[counts.QUERIES] == 1
    assert slot.day_start[counts.QUERIES] == 1
    assert any(registers(slot, today))
    assert not any(registers(slot, today + 1))


def test_a_source_counts_again_on_the_next_day(page: Page) -> None:
    slot = page.worker(0)
    counting = Counters(slot, (), KEY)
    today = slot.day
    counting.note_sources([b"\xc0\0\2\1"])
    counting.turn_day((today + 1) * DAY)
    counting.note_sources([b"\xc0\0\2\1"])

    assert registers(slot, today) == registers(slot, today + 1)
    assert any(registers(slot, today))


def test_under_another_key_sources_are_noted_apart_and_a_replaced_worker_goes_on(page: Page) -> None:
    slot = page.worker(0)
    sources = [bytes((192, 0, 2, number)) for number in range(9)]
    first, second = Counters(slot, (), KEY), SourcesKey.random()
    first.note_sources(sources[:5])
    noted = registers(slot, slot.day)
    for _ in range(2):
        Counters(slot, (), second).note_sources(sources[5:])

    assert slot.sketches(slot.day).keys() == {KEY.id, second.id}
    assert registers(slot, slot.day) == noted
    assert sum(map(bool, slot.sketches(slot.day)[second.id])) == 4

    Counters(slot, (), KEY).note_sources(sources)
    assert sum(map(bool, registers(slot, slot.day))) == 9


def test_a_replaced_worker_counts_on(page: Page) -> None:
    Counters(page.worker(0)).count(UDP4, [query()], [response()])
    Counters(page.worker(0)).count(UDP4, [query()], [response()])

    assert page.worker(0).counters[counts.QUERIES + UDP4] == 2
