"""Every number and every picture of a report, computed anew from what was written into the files."""

import html
import re
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest

from rootsrv.capture.cdns import Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.facts import Fact, Kind
from rootsrv.capture.report import page
from rootsrv.capture.tally import Tally
from tests.capture import random_facts
from tests.capture.test_cdns import WALL, written

HEIGHT, WIDTH = 200, 640
TYPES = {1: "A", 28: "AAAA", 2: "NS", 6: "SOA", 43: "DS", 48: "DNSKEY", 65: "HTTPS", 255: "ANY"}
RCODES = {0: "NOERROR", 3: "NXDOMAIN", None: "no response"}


class Report:
    """What stands in a page, as a reader sees it."""

    def __init__(self, directory: Path, facts: list[Fact], **losses: int) -> None:
        self.queries = [each for each in facts if each.kind == Kind.QUERY]
        self.malformed = len(facts) - len(self.queries)
        third = len(facts) // 3
        tally = Tally()
        for number in range(3):
            some = facts[number * third : (number + 1) * third if number < 2 else None]
            path = directory / f"{number}.cdns"
            path.write_bytes(written(ColumnWriter, some, **(losses if number == 1 else {})))
            tally.read(path)
        self.text = page(tally, "Test")
        self.header = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", self.text))
        self.sections = dict(re.findall(r"<h2>(.*?)</h2>(.*?)(?=<h2>|</section>)", self.text, re.S))

    def rows(self, title: str) -> list[tuple[str, int, float, float]]:
        """Of a table: what it is, how many, their share in per cent, and how long the bar is."""
        found = re.findall(
            r"<th scope=row>(.*?)</th><td class=n>(.*?)</td><td class=n>(.*?) %</td>.*?width=\"(.*?)\"",
            self.sections[title],
        )
        return [(html.unescape(a), int(b.replace(",", "")), float(c), float(d)) for a, b, c, d in found]

    def key(self, title: str) -> list[str]:
        return [html.unescape(each) for each in re.findall(r"<span class=k\d>(.*?)</span>", self.sections[title])]

    def top(self, title: str) -> float:
        found = re.search(r'<div class="dim">([\d.,]+)', self.sections[title])
        assert found is not None
        return float(found[1].replace(",", ""))

    def areas(self, title: str) -> list[list[float]]:
        """Of each polygon its height at each point, in the chart's unit."""
        heights = []
        for points in re.findall(r'<polygon class="s\d" points="(.*?)"', self.sections[title]):
            corners = [tuple(map(float, each.split(","))) for each in points.split()]
            half = len(corners) // 2
            above, below = corners[:half], corners[half:][::-1]
            assert [x for x, _ in above] == [x for x, _ in below]
            assert (above[0][0], above[-1][0]) == (0.0, WIDTH)
            unit = self.top(title) / HEIGHT
            heights.append([(low[1] - high[1]) * unit for high, low in zip(above[::2], below[::2], strict=True)])
        return heights


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Some 19 hours and a half: 234 points of five minutes."""
    found = random_facts.facts(5, 7_000, anything=False, step=10 * 10**9)
    return Report(tmp_path_factory.mktemp("report"), found, lost=17, not_sampled=1234)


def rcode(fact: Fact) -> int | None:
    return fact.response_flags & 15 if fact.response_octets else None


def source(fact: Fact) -> str:
    return f"IPv{fact.family} {'UDP' if fact.transport == 0 else 'TCP'}"


def test_the_header(made: Report) -> None:
    times = [fact.time + WALL for fact in made.queries]
    seconds = (max(times) - min(times)) / 10**9
    assert {key: value.replace(",", "") for key, value in made.header.items()} == {
        "queries": str(len(made.queries)),
        "per second": str(round(len(made.queries) / seconds, 1)),
        "malformed": str(made.malformed),
        "lost": "17",
        "not wanted, or not in the sample": "1234",
        "files": "3",
    }


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Types", lambda fact: TYPES[fact.qtype]),
        ("RCODEs", lambda fact: RCODES[rcode(fact)]),
        ("Busiest networks", None),
        ("Undelegated top-level domains", None),
    ],
    ids=["types", "rcodes", "networks", "undelegated"],
)
def test_a_table(made: Report, title: str, text: Callable[[Fact], str] | None) -> None:
    asked = made.queries
    if title.startswith("Undelegated"):
        asked = [fact for fact in asked if rcode(fact) == 3]
    if text is None:
        text = network if title == "Busiest networks" else top_level_domain
    counts = Counter(map(text, asked))
    rows = made.rows(title)
    longest = max(counts.values())
    for name, count, share, bar in rows:
        assert count == counts[name], name
        assert share == pytest.approx(100 * count / len(asked), abs=0.051)
        assert bar == pytest.approx(100 * count / longest, abs=0.051)
    assert [count for _, count, _, _ in rows] == sorted(counts.values(), reverse=True)[:15]


def network(fact: Fact) -> str:
    if fact.family == 4:
        return ".".join(map(str, fact.source[:3])) + ".0/24"
    words = [fact.source[at : at + 2].hex().lstrip("0") or "0" for at in (0, 2, 4)]
    while words and words[-1] == "0":
        words.pop()
    return ":".join(words) + "::/48"


def top_level_domain(fact: Fact) -> str:
    labels, at = ["."], 0
    while fact.octets[at]:
        labels.append(fact.octets[at + 1 : at + 1 + fact.octets[at]].decode().lower())
        at += 1 + fact.octets[at]
    return labels[-1]


def test_the_shares_of_edns_do_and_rd(made: Report) -> None:
    wanted = {
        "with EDNS": [fact.opt_bits & 1 for fact in made.queries],
        "with DO": [fact.opt_bits >> 1 & 1 for fact in made.queries],
        "with RD": [fact.query_flags >> 8 & 1 for fact in made.queries],
    }
    assert [(name, count) for name, count, _, _ in made.rows("EDNS, DO, RD")] == [
        (name, sum(each)) for name, each in wanted.items()
    ]
    for _, count, share, bar in made.rows("EDNS, DO, RD"):
        assert share == bar == pytest.approx(100 * count / len(made.queries), abs=0.051)


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Queries by IP version and transport", source),
        ("Responses by RCODE", lambda fact: RCODES[rcode(fact)]),
    ],
)
def test_a_picture_over_time(made: Report, title: str, text: Callable[[Fact], str]) -> None:
    """Each area, at each of its points, is as high as there were queries a second."""
    times = [fact.time + WALL for fact in made.queries]
    first, last = min(times) / 10**9, max(times) / 10**9
    begin = int(first) // 300 * 300
    points = (int(last) - begin) // 300 + 1
    spans = [min(last, begin + 300 * n + 300) - max(first, begin + 300 * n) for n in range(points)]
    kinds = [kind for kind, _ in Counter(map(text, made.queries)).most_common()]
    counts = Counter((text(fact), ((fact.time + WALL) // 10**9 - begin) // 300) for fact in made.queries)
    drawn = made.areas(title)

    key = made.key(title)
    assert [each.rpartition(" ")[0] for each in key] == kinds
    assert len(drawn) == len(kinds)
    steps = made.top(title) / HEIGHT
    for kind, heights, told in zip(kinds, drawn, key, strict=True):
        assert len(heights) == points
        for number, height in enumerate(heights):
            # Drawn in tenths of a two-hundredth of what is highest, which is told with two digits or three.
            assert height == pytest.approx(counts[kind, number] / spans[number], abs=0.11 * steps, rel=0.06), (
                kind,
                number,
            )
        mean = sum(counts[kind, number] / spans[number] for number in range(points)) / points
        assert float(told.rpartition(" ")[2].removesuffix("/s")) == pytest.approx(mean, rel=0.06)
    highest = max(sum(counts[kind, number] for kind in kinds) / spans[number] for number in range(points))
    assert made.top(title) == pytest.approx(highest, rel=0.06)


def columns(made: Report, title: str) -> dict[tuple[int, int], float]:
    """By place and number of the series: how high, in per cent of all."""
    found = re.findall(r'<rect class="s(\d)" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"/>', made.sections[title])
    width = min(float(x) for _, x, _, _, _ in found)
    assert width >= 0.5
    step = float(found[0][3]) + 1
    stands_on: dict[str, float] = {}
    for _, x, y, _, height in found:
        assert float(y) + float(height) == pytest.approx(stands_on.get(x, HEIGHT), abs=0.11), "on top of each other"
        stands_on[x] = float(y)
    return {
        (round((float(x) - 0.5) / step), int(series)): float(height) / HEIGHT * made.top(title)
        for series, x, _, _, height in found
    }


@pytest.mark.parametrize(
    ("title", "size", "step"),
    [
        ("Name length", lambda fact: len(fact.octets), 8),
        ("Response length by RCODE", lambda fact: fact.response_octets, 64),
    ],
)
def test_a_picture_of_lengths(made: Report, title: str, size: Callable[[Fact], int], step: int) -> None:
    by_rcode = title.startswith("Response")
    asked = [fact for fact in made.queries if not by_rcode or fact.response_octets]
    series: list[Hashable] = [0]
    if by_rcode:
        series = [each for each, _ in Counter(map(rcode, asked)).most_common()]
        assert made.key(title) == [
            f"{RCODES[each]} {count:,}"
            for each, count in Counter(map(rcode, asked)).most_common()  # type: ignore[index]
        ]
    counts = Counter((size(fact) // step, series.index(rcode(fact)) if by_rcode else 0) for fact in asked)
    drawn = columns(made, title)
    assert drawn.keys() == counts.keys()
    for place, height in drawn.items():
        assert height == pytest.approx(100 * counts[place] / len(asked), abs=0.1)
    ticks = re.findall(r"<span>(.*?)</span>", made.sections[title])
    assert (ticks[0], ticks[-1]) == ("0", str(step * (1 + max(place for place, _ in counts))))


def test_nothing_in_a_page_is_obeyed_by_a_browser_or_a_terminal(tmp_path: Path) -> None:
    """Who made a file chose what it says about itself."""
    said = "<b>\x1b]0;x\x07\x9b31m\u202e\r\n&"
    path = tmp_path / "x.cdns"
    path.write_bytes(written(ColumnWriter, random_facts.facts(1, 10), Collection(host_id=said, filter=said)))
    tally = Tally()
    tally.read(path)

    for title in ("", said):
        made = page(tally, title)
        assert all(each.isprintable() for each in made.splitlines())
        assert "<b>" not in made
        assert r"&lt;b&gt;\x1b]0;x\x07\x9b31m\x202e\x0d" in made
