import asyncio
import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rootsrv.admission.blocks import Block, BlockRefused, Blocks, Matcher, parse_prefix, parse_seconds
from rootsrv.control.protocol import Caller, Order, Refused, Reply, read_request
from rootsrv.page.layout import MAX_BLOCKS, Page
from tests.admission.clock import SECOND, Clock


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page.create(tmp_path / "page")


def matcher(page: Page, clock: Clock) -> Matcher:
    return Matcher(page.blocks(), clock())


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def test_sources_in_the_prefix_are_blocked_and_their_neighbours_are_not(page: Page, tmp_path: Path) -> None:
    clock = Clock()
    blocks = Blocks(page, tmp_path / "blocks.json", clock)
    blocks.block("198.51.100.0/25", 60, "flood", "anna")
    blocks.block("2001:db8:1::/48", 60, "flood", "anna")
    blocks.block("203.0.113.7", 60, "flood", "anna")

    found = matcher(page, clock)
    blocked = ["198.51.100.0", "198.51.100.127", "203.0.113.7", "2001:db8:1::", "2001:db8:1:ffff::1"]
    others = ["198.51.100.128", "198.51.99.255", "203.0.113.6", "2001:db8:2::", "2001:db8::", "::"]
    assert [found.blocks(packed(each)) for each in blocked] == [True] * 5
    assert [found.blocks(packed(each)) for each in others] == [False] * 6


@pytest.mark.parametrize("prefix", ["192.0.2.53", "192.0.2.0/24", "2001:db8::/32", "2001:db8::53"])
def test_no_block_holds_a_service_address_from_which_the_probes_ask(page: Page, tmp_path: Path, prefix: str) -> None:
    """Or an order to block what a flood pretends to be would withdraw the route."""
    clock, path = Clock(), tmp_path / "blocks.json"
    own = ("192.0.2.53", "2001:db8::53")
    blocks = Blocks(page, path, clock, own=own)
    with pytest.raises(BlockRefused, match="a service address of ours"):
        blocks.block(prefix, 60, "flood", "anna")
    blocks.block("192.0.2.0/27", 60, "beside it", "anna")
    assert matcher(page, clock).blocks(packed("192.0.2.7"))

    Blocks(page, path, clock).block(prefix, 60, "before it was one of ours", "anna")
    assert matcher(page, clock).blocks(packed(prefix.split("/", maxsplit=1)[0]))
    told = Blocks(page, path, clock, own=own).as_document()["blocks"]
    assert [each["prefix"] for each in told] == ["192.0.2.0/27"]
    assert not any(matcher(page, clock).blocks(packed(each)) for each in own)


def test_every_block_ends_by_itself(page: Page, tmp_path: Path) -> None:
    clock = Clock()
    blocks = Blocks(page, tmp_path / "blocks.json", clock)
    blocks.block("198.51.100.0/24", 60, "flood", "anna")
    blocks.block("203.0.113.0/24", 10, "flood", "anna")
    assert matcher(page, clock).next_end == clock.now + 10 * SECOND

    clock.now += 10 * SECOND
    assert not matcher(page, clock).blocks(packed("203.0.113.1"))
    assert matcher(page, clock).blocks(packed("198.51.100.1"))
    blocks.expire()
    assert [each["prefix"] for each in blocks.as_document()["blocks"]] == ["198.51.100.0/24"]
    assert len(page.blocks()) == 1


def test_a_block_is_ended_by_hand(page: Page, tmp_path: Path) -> None:
    clock = Clock()
    blocks = Blocks(page, tmp_path / "blocks.json", clock)
    blocks.block("198.51.100.0/24", 60, "flood", "anna")
    changes = page.block_changes

    blocks.unblock("198.51.100.0/24", "bert")

    assert not matcher(page, clock)
    assert page.block_changes == changes + 1
    with pytest.raises(BlockRefused, match=r"198\.51\.100\.0/24: is not blocked"):
        blocks.unblock("198.51.100.0/24", "bert")


def test_a_block_whose_time_is_over_is_not_said_to_last_less_than_nothing(page: Page, tmp_path: Path) -> None:
    clock = Clock()
    blocks = Blocks(page, tmp_path / "blocks.json", clock)
    blocks.block("198.51.100.0/24", 60, "flood", "anna")
    clock.now += 61 * SECOND  # and nobody has looked since
    assert [each["ends_in_seconds"] for each in blocks.as_document()["blocks"]] == [0]


def test_blocks_outlive_the_process_but_not_the_machine(page: Page, tmp_path: Path) -> None:
    clock = Clock()
    Blocks(page, tmp_path / "blocks.json", clock).block("198.51.100.0/24", 60, "flood", "anna")

    again = Blocks(page, tmp_path / "blocks.json", clock)
    (told,) = again.as_document()["blocks"]
    assert (told["reason"], told["who"], told["ends_in_seconds"]) == ("flood", "anna", 60)

    fresh = Page.create(tmp_path / "page after a reboot")
    assert Blocks(fresh, tmp_path / "blocks.json", clock).as_document() == {"blocks": []}
    assert json.loads((tmp_path / "blocks.json").read_text()) == []


@pytest.mark.parametrize("damage", [{"size": 200}, {"size": 1}, {"size": 100}, {"size": 0}, {"until": 2**63}])
def test_words_of_the_page_that_can_be_no_block_are_passed_over(
    page: Page, tmp_path: Path, damage: dict[str, int]
) -> None:
    """They would end who keeps the workers, or a block for half of the world, or one without an end, would stay."""
    clock = Clock()
    Blocks(page, tmp_path / "blocks.json", clock).block("198.51.100.0/24", 60, "flood", "anna")
    (words,) = page.blocks()
    damaged = tuple({**dict(zip(("upper", "lower", "size", "until"), words, strict=True)), **damage}.values())
    page.set_blocks([damaged, words])  # type: ignore[list-item]

    again = Blocks(page, tmp_path / "blocks.json", clock)
    assert [each["prefix"] for each in again.as_document()["blocks"]] == ["198.51.100.0/24"]
    assert page.blocks() == [words]


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("198.51.100.0/7", "has host bits set"),
        ("0.0.0.0/0", "wider than /8"),
        ("2000::/3", "wider than /16"),
        ("everybody", "does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_prefixes_that_are_refused(prefix: str, said: str) -> None:
    with pytest.raises(BlockRefused, match=said):
        parse_prefix(prefix)


@pytest.mark.parametrize("prefix", ["::/16", "::/80", "::ffff:0:0/96", "::ffff:192.0.2.0/120"])
def test_no_prefix_of_ipv6_blocks_ipv4(page: Page, tmp_path: Path, prefix: str) -> None:
    blocks = Blocks(page, tmp_path / "blocks.json")
    with pytest.raises(BlockRefused, match="stands for IPv4"):
        blocks.block(prefix, 60, "odd", "anna")
    assert page.blocks() == []


@pytest.mark.parametrize("text", ["0s", "10", "m", "25h", "-1m", "1d", "", "٣m"])
def test_durations_that_are_refused(text: str) -> None:
    with pytest.raises(BlockRefused, match="must be like 90s, 10m or 2h, and at most 24h"):
        parse_seconds(text)


def test_durations() -> None:
    assert [parse_seconds(each) for each in ("90s", "10m", "24h")] == [90, 600, 86_400]


def test_a_block_needs_a_reason_and_there_is_room_for_so_many(page: Page, tmp_path: Path) -> None:
    blocks = Blocks(page, tmp_path / "blocks.json", Clock())
    with pytest.raises(BlockRefused, match="a block needs a reason"):
        blocks.block("198.51.100.0/24", 60, " ", "anna")
    for number in range(MAX_BLOCKS):
        blocks.block(f"10.0.{number}.0/24", 60, "flood", "anna")
    with pytest.raises(BlockRefused, match=f"there are {MAX_BLOCKS} blocks already"):
        blocks.block("198.51.100.0/24", 60, "flood", "anna")
    assert len(page.blocks()) == MAX_BLOCKS


def test_commands_answer_with_what_is_blocked_or_with_an_error(page: Page, tmp_path: Path) -> None:
    commands = Blocks(page, tmp_path / "blocks.json", Clock()).commands()

    def order(command: str, **facts: Any) -> Mapping[str, Any]:
        asked = read_request(json.dumps({"command": command, **facts}).encode(), commands)
        told = asyncio.run(asked.command.run(Order(asked.wanted, Caller(1000, 77, "anna"))))
        assert not isinstance(told, Reply)
        return told

    told = order("block", prefix="198.51.100.0/24", seconds=60, reason="flood")
    assert told["blocks"][0]["who"] == "anna (uid 1000, pid 77)"
    assert told == order("blocks")
    for command, facts in (
        ("block", {"prefix": "198.51.100.0/24", "seconds": "soon", "reason": "flood"}),
        ("block", {"prefix": "198.51.100.0/24", "seconds": 10**30, "reason": "flood"}),
        ("block", {"prefix": "198.51.100.0/24", "seconds": 60, "reason": "flood", "who": "anna"}),
        ("block", {"prefix": 7, "seconds": 60, "reason": "flood"}),
        ("unblock", {"prefix": "203.0.113.0/24"}),
        ("unblock", {}),
    ):
        with pytest.raises(Refused):
            order(command, **facts)
    assert order("unblock", prefix="198.51.100.0/24") == {"blocks": []}


def test_a_block_in_a_wider_one_ends_and_the_wider_one_goes_on(page: Page, tmp_path: Path) -> None:
    """And the other way round: the wider one ends first."""
    for narrow, wide in ((10, 60), (60, 10)):
        clock = Clock()
        blocks = Blocks(page, tmp_path / "blocks.json", clock)
        blocks.block("198.51.100.7", narrow, "flood", "anna")
        blocks.block("198.51.0.0/16", wide, "flood", "anna")
        clock.now += 10 * SECOND

        found = matcher(page, clock)
        assert found.blocks(packed("198.51.100.7"))
        assert found.blocks(packed("198.51.100.8")) == (wide == 60)
        blocks.unblock("198.51.100.7", "anna")
        blocks.unblock("198.51.0.0/16", "anna")


def test_words_map_ipv4_into_ipv6() -> None:
    assert Block("192.0.2.0/24", 5, "", "").words() == (0, 0xFFFF_C000_0200, 120, 5)


@pytest.mark.parametrize(
    "octets",
    [b"", b"{}", b"[1]", b'[{"prefix": "198.51.100.0/24"}]', b'[{"prefix": "198.51.100.0/24", "of": "later"}]',
     b'[{"prefix": 5, "until_ns": "x", "reason": [], "who": null, "more": 1}]'],
)  # fmt: skip
def test_what_stands_in_the_page_is_in_force_whatever_is_left_of_the_reasons(
    page: Page, tmp_path: Path, octets: bytes
) -> None:
    clock = Clock()
    before = Blocks(page, tmp_path / "blocks.json", clock)
    before.block("198.51.100.0/24", 60, "flood", "anna")
    before.block("2001:db8::/32", 60, "flood", "anna")
    words = page.blocks()
    (tmp_path / "blocks.json").write_bytes(octets)

    again = Blocks(page, tmp_path / "blocks.json", clock)
    assert page.blocks() == words
    assert [(each["prefix"], each["reason"]) for each in again.as_document()["blocks"]] == [
        ("198.51.100.0/24", "was not kept"),
        ("2001:db8::/32", "was not kept"),
    ]
    again.unblock("198.51.100.0/24", "bert")


def test_where_nothing_can_be_written_blocks_are_in_force_and_their_reasons_are_kept_later(
    page: Page, tmp_path: Path
) -> None:
    path = tmp_path / "full" / "blocks.json"  # a directory that is not there stands for a /run without room
    blocks = Blocks(page, path, Clock())
    blocks.block("198.51.100.0/24", 60, "flood", "anna")
    assert len(page.blocks()) == 1
    path.parent.mkdir()
    blocks.expire()
    assert "flood" in path.read_text()
