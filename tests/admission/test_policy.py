"""Rules in force: told to everybody, kept over a restart, ended by themselves; refused where they make no sense."""

import ipaddress
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rootsrv.admission.blocks import MAX_SECONDS, Matcher, words_of_prefix
from rootsrv.admission.limits import CELLS, cells_in_memory
from rootsrv.admission.policy import Policy
from rootsrv.admission.samples import (
    ANSWERED,
    DIMENSIONS,
    HAS_OPT,
    NAME_OCTETS,
    NOTE,
    NotesReader,
    NotesWriter,
    make_ring,
    map_ring,
    suffix_of,
    suggestions,
)
from rootsrv.admission.shed import MAX_RULES, Match, ShedRefused
from rootsrv.answer.question import Query
from rootsrv.config.limits import LimitsConfig
from rootsrv.page import counts
from rootsrv.page.layout import Page
from rootsrv.wire import edns
from rootsrv.wire import name as names
from tests.admission.clock import SECOND, Clock


class Desk:
    """A policy, and what it told its users."""

    def __init__(self, directory: Path, page: Page | None = None, **config: Any) -> None:
        self.clock = Clock()
        self.page = page or Page.create(directory / "page")
        self.page.worker(0).day = 1
        self.path = directory / "sheds.json"
        self.cells = cells_in_memory()
        self.policy = Policy(
            LimitsConfig(**config), service_addresses=["192.0.2.53"], page=self.page, path=self.path, cells=self.cells,
            now_ns=self.clock,
        )  # fmt: skip
        self.told: list[dict[str, Any]] = []
        self.policy.users.append(self.told.append)

    def shed(self, conditions: str, do: str = "tc", seconds: int = 60, **more: Any) -> int:
        made = self.policy.shed(Match.parse(conditions.split()), do, seconds, "flood", "anna", **more)  # type: ignore[arg-type]
        return made.rule.place


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_rule_is_told_and_ends_by_itself(desk: Desk) -> None:
    desk.shed("qtype=A", seconds=60)
    desk.shed("qtype=AAAA", seconds=10)
    assert [rule["place"] for rule in desk.told[-1]["rules"]] == [0, 1]
    assert desk.told[-1]["exempt"] == ["192.0.2.53"]
    desk.clock.now += 10 * SECOND
    desk.policy.tick()
    assert [rule["match"] for rule in desk.told[-1]["rules"]] == [["qtype=A"]]
    assert [rule["match"] for rule in desk.policy.as_document()["rules"]] == ["qtype=A"]


def test_rules_are_kept_over_a_restart_and_not_over_a_reboot(desk: Desk, tmp_path: Path) -> None:
    desk.shed("qname-suffix=a\\032b.example size=20-40", do="drop")
    again = Desk(tmp_path, desk.page)
    assert again.policy.rules == desk.policy.rules
    assert again.policy.as_document()["rules"][0]["who"] == "anna"

    document = json.loads(desk.path.read_text())
    desk.path.write_text(json.dumps(document | {"boot": [1, 2]}))
    assert Desk(tmp_path, desk.page).policy.rules == ()


@pytest.mark.parametrize("octets", [
    b"", b"{", b"[]", b'{"boot": 3}', b'{"boot": null, "rules": [7]}', b'{"rules": "x"}', b"\xff\xfe",
])  # fmt: skip
def test_a_file_that_says_nothing_is_no_rule(desk: Desk, tmp_path: Path, octets: bytes) -> None:
    desk.path.write_bytes(octets)
    assert Desk(tmp_path, desk.page).policy.rules == ()


def test_a_damaged_rule_among_good_ones_is_passed_over(desk: Desk, tmp_path: Path) -> None:
    desk.shed("qtype=A")
    document = json.loads(desk.path.read_text())
    (good,) = document["rules"]
    document["rules"] = [
        {**good, "action": "x"}, {**good, "place": 99}, {**good, "until_ns": "soon"}, {**good, "dry": None},
        {**good, "match": ["nosuch=1"]}, {"place": 1}, good, None,
    ]  # fmt: skip
    desk.path.write_text(json.dumps(document))
    assert len(Desk(tmp_path, desk.page).policy.rules) == 1


def test_a_rule_in_the_file_that_would_end_later_than_any_can_is_passed_over(desk: Desk, tmp_path: Path) -> None:
    desk.shed("qtype=A", seconds=MAX_SECONDS)
    desk.shed("qtype=AAAA")
    document = json.loads(desk.path.read_text())
    document["rules"][1]["until_ns"] = 2**62
    desk.path.write_text(json.dumps(document))
    assert [str(rule.match) for rule in Desk(tmp_path, desk.page).policy.rules] == ["qtype=A"]


@pytest.mark.parametrize(("conditions", "do", "more", "says"), [
    ("qtype=A", "burn", {}, "--do burn: must be one of"),
    ("qtype=A", "tc", {"seconds": 0}, "lasts 1 to 86400 seconds"),
    ("qtype=A", "tc", {"seconds": 86_401}, "lasts 1 to 86400 seconds"),
    ("qname-suffix=x.com", "drop", {}, "rule 0 does tc with all of these"),
    ("qname-suffix=a.x.com qtype=A", "drop", {}, "end it first"),
    ("qname-suffix=x.com", "tc", {}, "rule 0 says so already"),
    ("qname-suffix=.", "tc", {}, "is 100% of all queries; if that is what you want, say --really"),
    ("prefix=0.0.0.0/0", "tc", {}, "say --really"),
    ("size=0-65535 source-port=0-65535", "drop", {}, "say --really"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(desk: Desk, conditions: str, do: str, more: dict[str, Any], says: str) -> None:
    desk.shed("qname-suffix=x.com")
    with pytest.raises(ShedRefused, match=says):
        desk.shed(conditions, do=do, **more)
    assert len(desk.policy.rules) == 1
    assert desk.told[-1]["rules"] == [rule.to_document() for rule in desk.policy.rules]


def test_a_wider_rule_does_not_hide_a_narrower_one_that_was_there_before(desk: Desk) -> None:
    first = desk.shed("qtype=MX")
    narrow = desk.shed("prefix=192.0.2.0/24", "drop")
    desk.policy.unshed(first, "anna")
    assert desk.shed("prefix=198.51.100.0/24", "drop") == first  # nothing in common: any place will do
    desk.policy.unshed(first, "anna")
    assert desk.shed("prefix=192.0.0.0/16", "tc") > narrow


def test_there_must_be_a_place_behind_a_narrower_rule(desk: Desk) -> None:
    for number in range(MAX_RULES - 1):
        desk.shed(f"source-port={number}")
    last = desk.shed("prefix=192.0.2.0/24", "drop")
    with pytest.raises(ShedRefused, match="there are 16 rules already"):
        desk.shed("prefix=192.0.0.0/16", "tc")
    desk.policy.unshed(3, "anna")
    with pytest.raises(ShedRefused, match=f"no place behind it: end it first .rootsrv unshed {last}"):
        desk.shed("prefix=192.0.0.0/16", "tc")
    assert desk.shed("prefix=192.0.0.0/16", "tc", dry=True) == 3


@pytest.mark.parametrize("prefix", ["::/0", "::ffff:192.0.2.1", "::ffff:192.0.2.0/120"])
def test_an_exempt_prefix_among_which_ipv4_stands_exempts_that_too(tmp_path: Path, prefix: str) -> None:
    # It turns nobody away, and a configuration that was good enough to start with must start with the next release.
    desk = Desk(tmp_path, mode="on", exempt=(prefix,))
    exempt = Matcher([(*words_of_prefix(each), 1 << 63) for each in desk.policy.to_document()["exempt"]], 0)
    assert exempt.blocks(ipaddress.ip_address("192.0.2.1").packed)


def test_limits_that_are_off_have_not_fallen_back(tmp_path: Path) -> None:
    desk = Desk(tmp_path, mode="on")
    for place in range(0, CELLS, 2):
        desk.cells[place] = desk.clock.now + 60 * SECOND
    desk.policy.tick()
    assert desk.policy.limits_document()["falls_back"]
    desk.policy.reconfigure(LimitsConfig(mode="off"))
    assert not desk.policy.limits_document()["falls_back"]


@pytest.mark.parametrize(
    "name", [b"\3`x`\4evil\0", b"\5a|x&;\4evil\0", b"\4$(x)\4evil\0", b"\3a b\4evil\0", b"\2'\"\4evil\0"]
)
def test_what_is_suggested_is_one_word_to_a_shell_whatever_names_are_asked_for(name: bytes) -> None:
    value = names.to_text(name)
    top: dict[str, Any] = {dimension: [] for dimension in DIMENSIONS}
    top["qname-suffix"] = [{"value": value, "share": 1.0}]
    (command,) = suggestions({"queries": 10**6, "top": top})
    words = shlex.split(command)
    assert words[:4] == ["rootsrv", "shed", "--match", f"qname-suffix={value}"]
    shell = ["sh", "-c", command.replace("rootsrv shed", "printf '%s\n'")]
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines() == words[2:]
    assert Match.parse(words[3:4]).suffix == name


def test_what_is_suggested_is_never_what_would_be_refused() -> None:
    """Whoever asks from ::1 is of ::/64, which holds all that stands for IPv4: a rule for that is refused."""
    top: dict[str, Any] = {dimension: [] for dimension in DIMENSIONS}
    top["address"] = [{"value": "::/64", "share": 0.5}, {"value": "2001:db8::/64", "share": 0.5}]
    top["prefix"] = [{"value": "::/48", "share": 0.5}, {"value": "198.51.100.0/24", "share": 0.5}]
    found = [shlex.split(command)[3] for command in suggestions({"queries": 10**6, "top": top})]
    assert found == ["prefix=2001:db8::/64", "prefix=198.51.100.0/24"]
    assert [str(Match.parse([each])) for each in found] == found


def test_a_rule_whose_time_is_over_is_not_said_to_last_less_than_nothing(desk: Desk) -> None:
    desk.shed("qtype=A", seconds=1)
    desk.clock.now += 2 * SECOND  # and nobody has looked since
    assert [rule["ends_in_seconds"] for rule in desk.policy.as_document()["rules"]] == [0]


def test_a_dry_run_needs_no_second_word_and_contradicts_nobody(desk: Desk) -> None:
    desk.shed("qname-suffix=x.com")
    desk.shed("qname-suffix=.", do="drop", dry=True)
    desk.shed("qname-suffix=a.x.com", do="drop", dry=True)
    desk.shed("qname-suffix=.", do="drop", really=True)
    for number in range(MAX_RULES - 4):
        desk.shed(f"source-port={number}", do="drop")
    with pytest.raises(ShedRefused, match=f"there are {MAX_RULES} rules already"):
        desk.shed("source-port=999", do="drop")
    desk.policy.unshed(2, "bert")
    assert desk.shed("source-port=999", do="drop") == 2
    with pytest.raises(ShedRefused, match="there is no rule 77"):
        desk.policy.unshed(77, "bert")


def test_shares_count_from_when_the_rule_was_made(desk: Desk) -> None:
    words = desk.page.worker(0).counters
    words[counts.JUDGED], words[counts.RULES], words[counts.RULES + 1] = 1000, 900, 9
    desk.shed("qtype=A", dry=True)
    words[counts.JUDGED] += 200
    words[counts.JUDGED + 1] += 50
    words[counts.RULES] += 30
    words[counts.RULES + 1] += 5
    (rule,) = desk.policy.as_document()["rules"]
    assert (rule["hits"], rule["queries"], rule["share"], rule["share_with_cookie"]) == (30, 200, 0.15, 0.1)


def test_what_the_kernel_has_counted_before_a_rule_was_made_is_none_of_its_queries(desk: Desk) -> None:
    """It stands in the page up to a second later: of 4,543 queries that a rule was made for it seemed to be 6,322."""
    kernel, words = {counts.JUDGED: 1000, counts.RULES: 900}, desk.page.worker(0).counters

    def count() -> None:
        for word, number in kernel.items():
            words[word] = number

    desk.policy.count = count
    desk.shed("qtype=A")
    kernel = {counts.JUDGED: 1200, counts.RULES: 1050}
    (rule,) = desk.policy.as_document()["rules"]
    assert (rule["hits"], rule["queries"], rule["share"]) == (150, 200, 0.75)
    kernel[counts.RULES] += 7
    desk.policy.unshed(0, "anna")
    assert words[counts.RULES] == 1057


def test_limits_fall_back_to_dry_run_and_are_told(tmp_path: Path) -> None:
    desk = Desk(tmp_path, mode="on")
    desk.policy.tick()
    assert desk.told == []
    desk.cells[:] = memoryview((desk.clock.now + 2 * SECOND).to_bytes(8, "little") * CELLS).cast("Q")
    desk.policy.tick()
    assert desk.told[-1]["limits"]["mode"] == "dry-run"
    assert desk.policy.limits_document()["falls_back"] is True
    desk.clock.now += 10 * SECOND
    desk.policy.tick()
    assert desk.told[-1]["limits"]["mode"] == "on"


def test_limits_are_reconfigured_but_not_from_off(tmp_path: Path) -> None:
    desk = Desk(tmp_path, mode="dry-run")
    desk.policy.reconfigure(LimitsConfig(mode="on", rate=7))
    assert desk.told[-1]["limits"]["mode"] == "on"
    without = Policy(
        LimitsConfig(), service_addresses=["192.0.2.53"], page=desk.page, path=desk.path, now_ns=desk.clock
    )
    without.reconfigure(LimitsConfig(mode="on"))
    assert without.to_document()["limits"]["mode"] == "off"


@pytest.mark.parametrize(("values", "says"), [
    ({"rate": 0}, "limits.rate: must be 1"),
    ({"burst_seconds": 0}, "limits.burst_seconds: must be 0.05"),
    ({"rate": 1, "burst_seconds": 1.0}, "must be at least 4"),
    ({"connections": 0}, "limits.connections"),
    ({"ipv4_multipliers": (1, 2, 3)}, "must be 4 numbers"),
    ({"ipv6_multipliers": (1, 8, 4, 16)}, "a wider prefix must not have less"),
    ({"ipv4_multipliers": (0, 1, 1, 1)}, "limits.ipv4_multipliers: must be 1"),
    ({"exempt": ("10.0.0.1/8",)}, "limits.exempt: .* has host bits set"),
    ({"exempt": tuple(f"10.0.{n // 256}.{n % 256}" for n in range(1025))}, "limits.exempt: at most 1024, got 1025"),
    ({"sample_every": -1}, "limits.sample_every"),
])  # fmt: skip
def test_limits_that_cannot_be_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        LimitsConfig(**values)


def notes_of(*asked: tuple[str, int, str]) -> list[bytes]:
    """Notes of queries: name, port, source."""
    descriptor = make_ring()
    reader, writer = NotesReader(descriptor), NotesWriter(map_ring(descriptor), 1)
    for name, port, source in asked:
        qname = names.from_text(name)
        query = Query(b"?", qname, 28, 1, edns.Edns(1232, 0, True), None)
        packed = bytes(map(int, source.split(".")))
        octets = bytes(12) + qname + bytes(15)
        writer.write(octets, packed, port, bytes(300), query, outcome=ANSWERED, cookie_is_good=False)
    return reader.read()


def test_what_queries_have_in_common_is_told_with_what_to_look_at(desk: Desk) -> None:
    flood = desk.policy.flood
    for _ in range(3):
        notes = notes_of(
            *[(f"n{n}.x.victim.com.", 53_000, f"198.51.100.{n}") for n in range(60)],
            *[(f"n{n}.org.", 1024 + n, f"203.0.{n}.1") for n in range(40)],
        )
        flood.take(notes, 16 * len(notes))
    document = flood.as_document()
    assert (document["queries"], document["queries_per_second"]) == (4800, 1600.0)
    top = {dimension: values[0] for dimension, values in document["top"].items()}
    assert top["qname-suffix"] == {"value": "victim.com.", "share": 0.6}
    assert top["source-port"] == {"value": "53000", "share": 0.6}
    assert top["prefix"] == {"value": "198.51.100.0/24", "share": 0.6}
    assert top["qtype"] == {"value": "AAAA", "share": 1.0}
    assert "rootsrv shed --match qname-suffix=victim.com. --do tc-unless-cookie --dry-run" in document["suggestions"]
    assert "rootsrv shed --match source-port=53000 --do tc-unless-cookie --dry-run" in document["suggestions"]
    assert not any("qtype" in each for each in document["suggestions"])
    assert flood.share_of([Match.parse(["qname-suffix=victim.com"])]) == 0.6
    assert flood.share_of([Match.parse(["prefix=203.0.0.0/16"])]) == 0.4
    with pytest.raises(ShedRefused, match="is 100% of all queries"):
        desk.shed("opt=do", do="drop")


def note_of(name: bytes, *, has_opt: bool = True) -> bytes:
    """As the kernel writes it: letters as they were asked, and the end of a long name."""
    return NOTE.pack(
        bytes((192, 0, 2, 1)), b"\0\x35", 1, 40, 0, HAS_OPT * has_opt, len(name), 0, ANSWERED, 100, name[-NAME_OCTETS:]
    )


@pytest.mark.parametrize("name", [
    b"\1n\6ViCtIm\7eXaMpLe\0", b"\x3f" + b"n" * 63 + b"\6victim\7example\0",
    b"\x3f" + b"5" * 63 + b"\x3f" + b"n" * 63 + b"\6Victim\7Example\0", b"\x31" + b"n" * 49 + b"\6victim\7example\0",
])  # fmt: skip
def test_a_name_is_below_another_however_long_it_is_and_however_its_letters_are_written(
    desk: Desk, name: bytes
) -> None:
    desk.policy.flood.take([note_of(name)] * 200, 200)
    assert desk.policy.flood.as_document()["top"]["qname-suffix"] == [{"value": "victim.example.", "share": 1.0}]
    for suffix in ("victim.example", "example", "."):
        with pytest.raises(ShedRefused, match="is 100% of all queries"):
            desk.shed(f"qname-suffix={suffix}", do="drop")
    desk.shed("qname-suffix=a.example")
    desk.shed("qname-suffix=im.example")
    desk.shed(f"qname-suffix={'m' * 63}.victim.example")
    desk.shed(f"qname-suffix={'n' * 63}.{'n' * 63}.{'n' * 63}.victim.example")


def test_rules_that_are_everything_together_are_asked_for_twice(desk: Desk) -> None:
    victim = b"\6victim\7example\0"
    desk.policy.flood.take([note_of(victim), note_of(victim, has_opt=False)] * 100, 200)
    desk.shed("opt=present", do="drop", dry=True)
    desk.shed("opt=present", do="drop")
    with pytest.raises(ShedRefused, match=r"together with the rules in force, 100% of all queries.*say --really"):
        desk.shed("opt=absent", do="drop")
    desk.shed("opt=absent", do="drop", really=True)
    desk.shed("qtype=A source-port=53", do="tc", dry=True)
    desk.shed("size=1-20", do="tc")  # it makes no difference any more


def test_without_many_samples_too_rules_that_are_everything_are_asked_for_twice(desk: Desk) -> None:
    for everything in ("prefix=2000::/3", "size=12-65535"):
        with pytest.raises(ShedRefused, match=r"is 100% of all queries.*say --really"):
            desk.shed(everything, do="drop")
    desk.shed("source-port=1-40000", do="drop")
    with pytest.raises(ShedRefused, match=r"together with the rules in force, 100% of all queries.*say --really"):
        desk.shed("source-port=40001-65535", do="drop")


def test_where_the_last_label_but_one_is_too_long_to_be_noted_the_last_one_is_told(desk: Desk) -> None:
    names_asked = [bytes([size]) + b"r" * size + b"\3coM\0" for size in (58, 59, 62, 63)]
    desk.policy.flood.take([note_of(name) for name in names_asked] * 50, 200)
    told = desk.policy.flood.as_document()["top"]["qname-suffix"]
    assert {each["value"]: each["share"] for each in told} == {f"{'r' * 58}.com.": 0.25, "com.": 0.75}


def test_without_samples_every_rule_is_asked_for_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path, sample_every=0)
    with pytest.raises(ShedRefused, match=r"sample_every is 0: look with --dry-run.*say --really"):
        desk.shed("qtype=A", do="drop")
    desk.shed("qtype=A", do="drop", dry=True)
    desk.shed("qtype=A", do="drop", really=True)
    with pytest.raises(ShedRefused, match="is 100% of all queries"):
        desk.shed("size=0-65535")


def test_ordinary_traffic_suggests_nothing(desk: Desk) -> None:
    notes = notes_of(*[(f"n{n}.{'com' if n % 2 else 'net'}.", 1024 + n, f"198.{n}.7.1") for n in range(200)])
    desk.policy.flood.take(notes, 16 * len(notes))
    assert desk.policy.flood.as_document()["suggestions"] == []


def test_more_notes_than_there_is_room_for_stand_for_all() -> None:
    descriptor = make_ring()
    reader, writer = NotesReader(descriptor), NotesWriter(map_ring(descriptor), 1)
    for number in range(3000):
        writer.write(bytes(17), number.to_bytes(4, "big"), 7, None, None, outcome=ANSWERED, cookie_is_good=True)
    read = [int.from_bytes(NOTE.unpack(each)[0][:4], "big") for each in reader.read()]
    assert read == list(range(3000 - 1024, 3000))
    assert reader.read() == []


@pytest.mark.parametrize("octets", [b"\x40" * 64, b"\x01a" * 32, b"\x3f" + b"a" * 63, bytes(64), b"\xff" * 64])
def test_a_note_that_a_worker_has_made_up_is_no_error(octets: bytes) -> None:
    for size in range(256):
        assert isinstance(suffix_of(octets, size), bytes)
