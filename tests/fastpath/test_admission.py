"""Limits and shed rules: kernel and worker do the same with every query, octet for octet, cell for cell."""

import dataclasses
import random
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bench.mix import Mix
from rootsrv.admission.samples import NOTE, ROOM
from rootsrv.admission.shed import ACTIONS, OPT_STATES, RULE, Match, Rule
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import constant, ffi
from rootsrv.page import counts
from tests.fastpath.conftest import Hook, Zones, frame, message, opt, option, wire
from tests.fastpath.judged import BOOTTIME, DROPPED, SECOND, Both, both_fed, random_rule, source_of, with_cookies


@pytest.fixture(scope="module")
def both(zones: Zones) -> Iterator[Both]:
    with both_fed(zones) as made:
        yield made


def queries(zones: Zones, amount: int, seed: int) -> Iterator[tuple[bytes, str, int, int]]:
    """(query, source, port, when): the mix of the root, DNSKEY and cookies in between."""
    rng = random.Random(seed)
    at = BOOTTIME
    for asked in Mix.read().queries([tld.decode() for tld in zones.tlds], amount, seed=seed):
        at += rng.choice((0, 0, 400_000, rng.randrange(SECOND // 200)))
        octets, source = asked.octets, source_of(rng, asked.family)
        kind = rng.random()
        if kind < 0.05:
            octets = message(wire(), 48, opt=opt(4096))
        elif kind < 0.3:
            options = with_cookies(rng, source) + (option(3) if rng.random() < 0.3 else b"")
            octets = message(wire(b"Www", rng.choice([*zones.tlds, b"nosuchtld"])), 1, opt=opt(options=options))
        yield octets, source, rng.choice((53_000, 5353, rng.randrange(1024, 65_536))), at


@pytest.mark.parametrize("mode", ["off", pytest.param("dry-run", marks=pytest.mark.long), "on"])
def test_limits_are_the_same_in_kernel_and_worker_for_the_mix_of_the_root(
    both: Both, hook: Hook, zones: Zones, mode: str
) -> None:
    both.change(mode)
    outcomes: Counter[str] = Counter()
    for query, source, port, at in queries(zones, 3000, seed=5):
        kernel, worker = both.ask(hook, query, source, port, at)
        assert kernel == worker, (query.hex(), source, at)
        if isinstance(kernel, bytes):
            outcomes["tc" if kernel[2] & 2 and kernel[6:10] == bytes(4) else "answered"] += 1
    kernel_counts, worker_counts = both.counted()
    assert kernel_counts == worker_counts
    assert both.cells.tobytes() == both.gate_cells.tobytes()
    limited = sum(kernel_counts[2:6])
    assert (limited > 200) is (mode != "off")
    assert (outcomes["tc"] > 200) is (mode == "on")
    assert any(both.cells) is (mode != "off")


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_shed_rules_are_the_same_in_kernel_and_worker(both: Both, hook: Hook, zones: Zones, seed: int) -> None:
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for turn in range(3):
        rules = [random_rule(rng, zones, place, BOOTTIME) for place in rng.sample(range(16), rng.randrange(1, 9))]
        both.change(rng.choice(("off", "on")), rules)
        for query, source, port, at in queries(zones, 500, seed=10 * seed + turn):
            kernel, worker = both.ask(hook, query, source, port, at)
            assert kernel == worker, (query.hex(), source, port, at, rules)
            outcomes[kernel if isinstance(kernel, str) else "tc" if kernel[2] & 2 else "answered"] += 1
        kernel_counts, worker_counts = both.counted()
        assert kernel_counts == worker_counts
    assert outcomes["answered"] > 100
    assert outcomes["tc"] + outcomes[DROPPED] > 20


def test_suffixes_of_every_length_and_letter(both: Both, hook: Hook) -> None:
    labels = [bytes([97 + n % 26]) * size for n, size in enumerate((1, 7, 8, 9, 30, 62, 63, 63))]
    for end in range(1, len(labels) + 1):
        names = labels[-end:]
        if sum(len(each) + 1 for each in names) > 230:
            break
        suffix = b".".join(names).decode()
        both.change(
            rules=[Rule(place=15, match=Match.parse([f"qname-suffix={suffix}"]), action="drop", until_ns=2 * BOOTTIME)]
        )
        for qname in (
            names,
            [b"X", *names],
            [each.upper() for each in names],
            names[1:],
            [b"x" + names[0][:62], *names[1:]],
        ):
            kernel, worker = both.ask(hook, message(wire(*qname), opt=opt()), "198.51.100.9", 999, BOOTTIME)
            assert kernel == worker, (suffix, qname)


def test_when_the_last_rule_is_over_neither_counts_whom_it_judges(both: Both, hook: Hook) -> None:
    """Nobody has told the kernel: the owner of a rule sees only at its next tick that it has ended."""
    both.change(
        rules=[
            Rule(place=place, match=Match.parse(["qtype=AAAA"]), action="tc", until_ns=BOOTTIME + end, dry=place > 0)
            for place, end in ((0, 5), (3, 9))
        ]
    )
    for at in (4, 5, 8, 9, 10):
        kernel, worker = both.ask(hook, message(wire(b"com"), 28), "198.51.100.9", 999, BOOTTIME + at)
        assert kernel == worker
    kernel_counts, worker_counts = both.counted()
    assert kernel_counts == worker_counts
    assert kernel_counts[0] == 3
    assert both.gate.is_open


def test_nobody_is_judged_in_the_self_test_of_a_table(both: Both, hook: Hook) -> None:
    """It runs while rules are in force: what they cause must not look like wrong data."""
    everything = Rule(place=0, match=Match.parse(["qname-suffix=."]), action="drop", until_ns=2**62)
    both.change("on", [everything])
    assert both.ask(hook, message(wire(b"com")), "198.51.100.9", 999, BOOTTIME)[0] == DROPPED

    both.program.admission.words.test_clock = 0
    run = libbpf.run_on_packet(both.program.descriptor(hook.program), frame(message(wire(b"com"))).to_octets())
    assert run.verdict == hook.reply


def test_what_a_worker_writes_is_over_in_the_kernel_after_a_burst(both: Both, hook: Hook) -> None:
    both.change("on")
    both.ask(hook, message(wire(b"com")), "198.51.100.9", 999, BOOTTIME)
    written = [place for place, value in enumerate(both.cells) if value]
    assert len(written) == 8
    for place in written:
        both.cells[place] = both.gate_cells[place] = 2**64 - 1
    for at, expected in ((BOOTTIME, True), (BOOTTIME + SECOND // 2 + 1, False)):
        kernel, worker = both.ask(hook, message(wire(b"com")), "198.51.100.9", 999, at)
        assert kernel == worker
        assert isinstance(kernel, bytes)
        assert bool(kernel[2] & 2) is expected


def test_the_structures_are_those_of_the_workers() -> None:
    assert ffi.sizeof("struct shed_rule") == RULE.size
    assert ffi.sizeof("struct query_note") == NOTE.size
    assert constant("NOTES") == ROOM
    for place, action in enumerate(ACTIONS):
        assert constant("SHED_" + action.replace("-", "_").upper()) == place
    for place, state in enumerate(OPT_STATES):
        assert constant("OPT_" + state.replace("-", "_").upper()) == place
    fields: dict[str, Any] = dict(ffi.typeof("struct admission").fields)
    assert fields["rules"].type.item.length == constant("MAX_RULES") == counts.MAX_RULES
    assert fields["intervals"].type.item.length == constant("LIMIT_LEVELS")
    match = Match.parse(
        ["qname-suffix=x.example", "qtype=DS", "source-port=1-2", "size=3-4", "opt=do", "prefix=10.0.0.0/8"]
    )
    rule = ffi.from_buffer("struct shed_rule *", bytearray(match.pack("tc", 77, dry=True)))
    assert (rule.until, rule.qtype, rule.port_low, rule.port_high, rule.size_low, rule.size_high) == (
        77,
        43,
        1,
        2,
        3,
        4,
    )
    assert bytes(ffi.buffer(rule.name))[: rule.name_size] == b"\1x\7example\0"
    assert (rule.action, rule.opt) == (constant("SHED_TC"), constant("OPT_DO"))
    conditions = ("BY_SUFFIX", "BY_QTYPE", "BY_PORT", "BY_SIZE", "BY_OPT", "BY_PREFIX", "RULE_DRY", "RULE_IN_USE")
    assert rule.conditions == sum(map(constant, conditions))
    assert bytes(ffi.buffer(rule.address)) == bytes(10) + b"\xff\xff" + struct.pack("!I", 10 << 24)


@pytest.mark.parametrize("name", ["rootsrv_xdp", "rootsrv_tc"])
def test_live_packets_are_judged_by_the_clock_and_noted(both: Both, name: str) -> None:
    both.change("on", [Rule(place=3, match=Match.parse(["qtype=AAAA"]), action="drop", until_ns=2**62)])
    both.program.admission.words.note_every = 2
    both.program.notes()
    before = both.program.counters()
    descriptor, replies = both.program.descriptor(name), (3 if name == "rootsrv_xdp" else 7)
    long_name = [b"x" * 30, b"y" * 30, b"z" * 30, b"com"]
    verdicts = []
    for number in range(40):
        query = message(wire(*long_name) if number % 4 else wire(b"Www", b"com"), 28 if number >= 36 else 1, opt=opt())
        sent = dataclasses.replace(frame(query), source="198.51.100.200", source_port=4000 + number)
        verdicts.append(libbpf.run_on_packet(descriptor, sent.to_octets()).verdict)
    assert verdicts[:36] == [replies] * 36
    assert verdicts[36:] == [1 if name == "rootsrv_xdp" else 2] * 4
    notes = [NOTE.unpack(each) for each in both.program.notes()]
    assert len(notes) == 20
    assert {each[0][:4] for each in notes} == {bytes((198, 51, 100, 200))}
    assert {each[2] for each in notes} == {1, 28}
    long_ones = [each for each in notes if each[6] == len(wire(*long_name))]
    assert long_ones
    assert {each[-1] for each in long_ones} == {wire(*long_name)[-64:]}
    now = both.program.counters()
    limited = now.limited[0] - before.limited[0]
    assert limited > 0, "40 a second, and half a second of it at once"
    assert now.rules[3][0] - before.rules[3][0] == now.shed_dropped - before.shed_dropped == 4
    assert now.looked_at - before.looked_at == 40
