"""The program in the kernel and a worker's gate, both fed the same queries under the same limits and shed rules."""

import contextlib
import dataclasses
import ipaddress
import os
import random
from collections.abc import Iterator, Sequence

from bench.frames import Frame
from rootsrv.admission.gate import Gate
from rootsrv.admission.limits import LimitSettings, cells_in_memory, map_cells
from rootsrv.admission.shed import ACTIONS, OPT_STATES, Match, Rule
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import Responder, Transport
from rootsrv.config.limits import LimitsConfig
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.admission import make_cells
from rootsrv.fastpath.program import Program
from rootsrv.page import counts
from rootsrv.page.layout import COUNTER_WORDS
from tests.fastpath.conftest import (
    NOW,
    PREVIOUS_SECRET,
    SECRET,
    SERVICE,
    SETTINGS,
    Hook,
    Zones,
    frame,
    in_kernel,
    option,
)

SECOND = 10**9
BOOTTIME = 5000 * SECOND
DROPPED = "dropped"
PASSED = "passed up"
MONITOR = "203.0.113.0/28"


class Both:
    """The program with the cells of its own, and a worker's gate with others: both are fed the same."""

    def __init__(self, program: Program, zones: Zones, cells: memoryview) -> None:
        self.program = program
        self.cells = cells
        self.responder = Responder(zones.table, SETTINGS)
        self.words = memoryview(bytearray(8 * COUNTER_WORDS)).cast("Q")
        self.gate = Gate(self.words, cells_in_memory(), None)
        self.gate_cells: memoryview = self.gate._limiter._cells  # type: ignore[union-attr]
        self._before: list[int] = []
        self._descriptors: dict[str, int] = {}

    def change(
        self, mode: str = "off", rules: Sequence[Rule] = (), config: LimitsConfig | None = None, clear: bool = True,
        key: bytes = b"",
    ) -> None:  # fmt: skip
        """Both obey these from now on; cells and counters are as new, unless *clear* is false."""
        config = dataclasses.replace(config or LimitsConfig(rate=40, burst_seconds=0.5), mode=mode)  # type: ignore[arg-type]
        document = {
            "limits": LimitSettings.of(config, key or os.urandom(16)).to_document(),
            "rules": [rule.to_document() for rule in rules],
            "exempt": [*SERVICE.values(), MONITOR],
            "sample_every": 0,
        }
        if clear:
            for each in (self.cells, self.gate_cells):
                each.cast("B")[:] = bytes(len(each) * 8)
        self.gate.change(document)
        self.program.admission.change(document)
        self.program.set_responses(SETTINGS)
        self.program.publish_time(NOW)
        if clear:
            self.words[:] = memoryview(bytes(8 * COUNTER_WORDS)).cast("Q")
            self._before = self._counted()

    def _counted(self) -> list[int]:
        found = self.program.counters(test_runs=True)
        rules = [number for pair in found.rules for number in pair]
        return [*found.judged, *found.limited, *found.shed, *rules, found.shed_dropped]

    def counted(self) -> tuple[list[int], list[int]]:
        """Of the kernel and of the worker, since `change`."""
        kernel = [now - before for now, before in zip(self._counted(), self._before, strict=True)]
        worker = self.words[counts.JUDGED : counts.LOOKED_AT].tolist()
        return kernel, [*worker, self.words[counts.DROPPED + counts.DROP_REASONS.index("shed")]]

    def ask(self, hook: Hook, query: bytes, source: str, port: int, at: int) -> tuple[bytes | str, bytes | str]:
        """What the kernel sends, and what the worker would."""
        self.program.admission.words.test_clock = at
        family = ipaddress.ip_address(source).version
        sent = dataclasses.replace(frame(query, family), source=source, source_port=port)
        if hook.program not in self._descriptors:
            self._descriptors[hook.program] = self.program.descriptor(hook.program)
        run = libbpf.run_on_packet(self._descriptors[hook.program], sent.to_octets())
        if run.verdict == hook.passed:
            return PASSED, PASSED
        kernel: bytes | str = DROPPED
        if run.verdict == hook.reply:
            received = Frame.from_octets(run.packet)  # right in every respect, checksum and all
            kernel = received.payload
        packed = ipaddress.ip_address(source).packed
        without = self.responder.respond(query, packed, Transport.UDP, NOW)
        responses: list[bytes | None] = [without]
        self.gate.judge(
            [query], [packed], [port], responses, boottime=at, now=NOW, cookies=SETTINGS.cookies,
            truncate=self.responder.respond_truncated,
        )  # fmt: skip
        judged = responses[0]
        assert judged is None or len(judged) <= len(without or b""), f"{query.hex()}: a rule or limit makes it larger"
        return kernel, DROPPED if judged is None else judged


@contextlib.contextmanager
def both_fed(zones: Zones) -> Iterator[Both]:
    """Kernel and worker with the answers of *zones*."""
    descriptor = make_cells()
    with in_kernel(zones.table, cells=descriptor) as made:
        yield Both(made.program, zones, map_cells(descriptor))
    os.close(descriptor)


def source_of(rng: random.Random, family: int) -> str:
    """Few heavy sources, some in their prefixes, many others, monitors."""
    kind = rng.random()
    if family == 4:
        if kind < 0.4:
            return f"198.51.100.{rng.randrange(4)}"
        if kind < 0.7:
            return f"198.51.{96 + rng.randrange(16)}.{rng.randrange(256)}"
        return (
            f"203.0.113.{rng.randrange(32)}"
            if kind < 0.8
            else str(ipaddress.IPv4Address(0x64400000 + rng.getrandbits(20)))
        )
    if kind < 0.4:
        return f"2001:db8:1:{rng.randrange(3):x}::{rng.randrange(9):x}"
    return f"2001:db8:{rng.randrange(3):x}:{rng.getrandbits(16):x}::{rng.randrange(9):x}"


def with_cookies(rng: random.Random, source: str) -> bytes:
    packed = ipaddress.ip_address(source).packed
    kind = rng.randrange(5)
    if kind == 0:
        return option(10, b"client12")
    secret = (SECRET, PREVIOUS_SECRET, bytes(16))[min(kind - 1, 2)]
    return option(10, ServerCookies(secret).make(b"client12", packed, NOW - rng.choice((0, 1900, 4000))))


def random_rule(rng: random.Random, zones: Zones, place: int, at: int) -> Rule:
    said = []
    tld = rng.choice(zones.tlds).decode()
    if rng.random() < 0.5:
        said.append(f"qname-suffix={rng.choice(['www.' + tld, tld, 'nosuchtld', '.', 'ww.' + tld])}")
    if rng.random() < 0.3:
        said.append(f"qtype={rng.choice(['A', 'AAAA', 'DS', 'DNSKEY', 'NS'])}")
    if rng.random() < 0.2:
        said.append("source-port=" + rng.choice(["5353", "1024-30000", "53000-65535"]))
    if rng.random() < 0.3:
        said.append("size=" + rng.choice(["17-40", "41-512", "28", "0-65535"]))
    if rng.random() < 0.3:
        said.append(f"opt={rng.choice(OPT_STATES)}")
    if rng.random() < 0.3 or not said:
        said.append(
            "prefix=" + rng.choice(["198.51.96.0/20", "2001:db8:1::/48", "0.0.0.0/0", "2000::/3", "198.51.100.1"])
        )
    until = at + rng.choice((1, 20, 400)) * SECOND
    return Rule(
        place=place, match=Match.parse(said), action=rng.choice(ACTIONS), until_ns=until, dry=rng.random() < 0.3
    )
