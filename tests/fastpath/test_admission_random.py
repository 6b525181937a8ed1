"""Random rules and limits, mutated queries, clocks that jump: kernel and worker do the same at every step."""
# What changes is what an operator, a damaged worker and a suspended machine can change: rules come, go and end, modes
# and rates are others while what was charged stays, cells are written with nonsense, time stands still or jumps ahead.
# More of it: `make test-long`, or `pytest -m long tests/fastpath/test_admission_random.py`.

import ipaddress
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from bench.mix import Mix
from rootsrv.admission.limits import CELLS
from rootsrv.admission.shed import ACTIONS, OPT_STATES, Match, Rule
from rootsrv.config.limits import LimitsConfig
from rootsrv.wire import name as names
from tests.fastpath.conftest import Hook, Zones, message, opt, option, wire
from tests.fastpath.judged import BOOTTIME, DROPPED, PASSED, SECOND, Both, both_fed, source_of, with_cookies

QUERIES = 2500
TURN_QUERIES = 30


@pytest.fixture(scope="module")
def both(zones: Zones) -> Iterator[Both]:
    with both_fed(zones) as made:
        yield made


def label_of(rng: random.Random) -> bytes:
    """Short ones meet each other and those of rules; few are long, or of odd octets."""
    kind = rng.random()
    if kind < 0.7:
        return rng.choice((b"a", b"b", b"WWW", b"www", b"ww", b"example", b"eXample-1"))
    size = rng.randrange(1, 64)
    return bytes(rng.choices(b"abcXYZ019-_", k=size)) if kind < 0.9 else rng.randbytes(size)


def name_of(rng: random.Random, zones: Zones) -> bytes:
    """In wire format, at most 255 octets."""
    last = rng.choice((*rng.sample(zones.tlds, 3), b"com", b"nosuchtld", b"root-servers", b"net", label_of(rng)))
    labels = [label_of(rng) for _ in range(rng.choice((0, 0, 1, 1, 2, 3, 9)))] + [last] * (rng.random() < 0.95)
    while sum(len(each) + 1 for each in labels) > 254:
        del labels[0]
    return wire(*labels)


def query_of(rng: random.Random, zones: Zones, source: str, mix: list[bytes]) -> bytes:
    if rng.random() < 0.3:
        octets = rng.choice(mix)
    else:
        options = b""
        while rng.random() < 0.4:
            options += rng.choice((
                with_cookies(rng, source), with_cookies(rng, source), option(3),
                option(10, rng.randbytes(rng.randrange(41))), option(12, bytes(rng.randrange(30))),
                option(rng.randrange(20), rng.randbytes(rng.randrange(9))),
            ))  # fmt: skip
        extra = opt(rng.choice((0, 512, 1232, 4096)), do=rng.random() < 0.6, options=options)
        octets = message(
            name_of(rng, zones), rng.choice((1, 1, 2, 6, 28, 43, 48, 255, rng.randrange(65536))),
            opt=extra if rng.random() < 0.7 else b"", flags=rng.choice((0, 0, 0x0100, 0x0010, rng.randrange(65536))),
            qclass=1 if rng.random() < 0.97 else rng.randrange(65536), ident=rng.randrange(65536),
        )  # fmt: skip
    for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 3))):
        at = rng.randrange(len(octets))
        match rng.randrange(4):
            case 0:
                octets = octets[:at] + bytes([octets[at] ^ 1 << rng.randrange(8)]) + octets[at + 1 :]
            case 1:
                octets = octets[: max(1, at)]
            case 2:
                octets += rng.randbytes(rng.randrange(1, 30))
            case _:
                octets = octets[:at] + rng.randbytes(rng.randrange(4)) + octets[at:]
    return octets[:512]


def address_of(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.85:
        return source_of(rng, rng.choice((4, 6)))
    return rng.choice(("198.51.100.1", "::ffff:198.51.100.1", "2001:db8::198.51.100.1", "198.51.96.0", "2001:db8:1::"))


def match_of(rng: random.Random, zones: Zones, sizes: list[int]) -> Match:
    said = []
    if rng.random() < 0.5:
        suffix = name_of(rng, zones) if rng.random() < 0.7 else wire(rng.choice((b"com", b"nosuchtld")))
        said.append(f"qname-suffix={names.to_text(suffix)}")
    if rng.random() < 0.2:
        said.append(f"qtype={rng.choice(('A', 'AAAA', 'DS', 'DNSKEY', 'NS', 'ANY', f'TYPE{rng.randrange(65536)}'))}")
    if rng.random() < 0.2:
        low, high = sorted((rng.randrange(65_536), rng.choice((0, 65_535, rng.randrange(65_536)))))
        said.append(f"source-port={low}-{high}")
    if rng.random() < 0.2:
        low, high = sorted((rng.choice(sizes), rng.choice((0, 65_535, rng.choice(sizes)))))
        said.append(f"size={low}-{high}")
    if rng.random() < 0.2:
        said.append(f"opt={rng.choice(OPT_STATES)}")
    if rng.random() < 0.3 or not said:
        said.append("prefix=" + rng.choice((
            "198.51.96.0/20", "198.51.100.0/31", "0.0.0.0/0", "128.0.0.0/1", "198.51.100.1", "2001:db8:1::/48",
            "2000::/3", "2001:db8:1:1::/65", "2001:db8::198.51.100.1/128",
        )))  # fmt: skip
    return Match.parse(said)


def near(rng: random.Random, rule: Rule) -> tuple[bytes, str, int]:
    """(query, source, port) at the edges of what *rule* is about: just in it, or just beside it."""
    match = rule.match
    suffix = match.suffix or wire(b"com")
    inside = wire(b"x" + suffix[:-1]) if len(suffix) < 63 else suffix  # one label, and not below the name
    qname = rng.choice((suffix, suffix.upper(), b"\1a" + suffix, inside, suffix[1 + suffix[0] :] or suffix))
    ends = opt(do=match.opt == "do" or rng.random() < 0.5) if match.opt != "absent" and rng.random() < 0.9 else b""
    qtype = match.qtype or rng.choice((1, 28))
    query = message(qname if len(qname) < 256 else suffix, qtype + (rng.random() < 0.05), opt=ends)
    source = address_of(rng)
    if match.prefix is not None:
        first, last = int(match.prefix[0]), int(match.prefix[-1])
        number = rng.choice((first, last, rng.randint(first, last), max(1, first - 1)))
        source = str(ipaddress.ip_address(number.to_bytes(4 if match.prefix.version == 4 else 16, "big")))
        if not ipaddress.ip_address(source).is_private and source.startswith(("0.", "255.", "ff")):
            source = address_of(rng)  # what no query comes from
    low, high = match.ports or (5353, 5353)
    return query, source, rng.choice((low, high, max(1, low - 1), min(65_535, high + 1))) or 1


class World:
    """What is in force, and what time it is."""

    def __init__(self, both: Both, zones: Zones, seed: int) -> None:
        self.rng = random.Random(seed)
        self.both = both
        self.zones = zones
        self.at = BOOTTIME + self.rng.randrange(1 << 40)
        self.rules: dict[int, Rule] = {}
        self.sizes = [28]
        """Of the latest queries: rules are about these, too."""

        self.stands_still = 0
        self.mode = "off"
        self.config = LimitsConfig(rate=40, burst_seconds=0.5)
        self.key = self.rng.randbytes(16)
        both.change()

    def tell(self) -> None:
        """As the keeper of rules does at its ticks, which may be late."""
        rules = [self.rules[place] for place in sorted(self.rules)]
        self.both.change(self.mode, rules, self.config, clear=False, key=self.key)

    def step(self) -> None:
        """Change something."""
        rng = self.rng
        match rng.randrange(10):
            case 0 | 1 | 2:
                place = rng.randrange(16)
                until = self.at + rng.choice((1, rng.randrange(SECOND), rng.randrange(300 * SECOND)))
                match = match_of(rng, self.zones, self.sizes)
                action, dry = rng.choice(ACTIONS), rng.random() < 0.3
                self.rules[place] = Rule(place=place, match=match, action=action, until_ns=until, dry=dry)
            case 3 if self.rules:
                del self.rules[rng.choice(sorted(self.rules))]
            case 4:
                self.rules = {place: rule for place, rule in self.rules.items() if rule.until_ns > self.at}
            case 5:
                self.mode = rng.choice(("off", "dry-run", "on", "on"))
            case 6:
                rate, burst = rng.choice(((8, 0.5), (40, 0.1), (40, 0.5), (40, 10), (400, 2), (1_000_000, 0.05)))
                self.config = LimitsConfig(rate=rate, burst_seconds=burst)
            case 7:
                self.key = rng.randbytes(16)
            case 8:
                self.scribble()
                return
            case _:
                if self.rules:  # just before, at and after its end
                    rule = self.rules[rng.choice(sorted(self.rules))]
                    self.at, self.stands_still = max(self.at, rule.until_ns + rng.choice((-1, 0, 1))), 9
                return
        self.tell()

    def scribble(self) -> None:
        """A worker that was taken over writes into the cells."""
        rng = self.rng
        used = [place for place in range(CELLS) if self.both.cells[place]] if rng.random() < 0.2 else []
        for place in rng.sample(used, min(len(used), 40)) or [rng.randrange(CELLS) for _ in range(40)]:
            nonsense = rng.choice((0, 1, 1 << 63, (1 << 64) - 1, self.at + rng.randrange(20 * SECOND)))
            self.both.cells[place] = self.both.gate_cells[place] = nonsense

    def later(self) -> None:
        """Mostly none or little; a worker's clock never goes back, but may be hours on after a suspend."""
        rng = self.rng
        if self.stands_still:
            self.stands_still -= 1
            return
        self.at += rng.choice((0, 0, 400_000, rng.randrange(SECOND // 100), rng.randrange(SECOND // 100)))
        if rng.random() < 0.002:
            self.at += rng.choice((SECOND, 3600 * SECOND))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 14))])
def test_whatever_happens_kernel_and_worker_do_the_same(both: Both, hook: Hook, zones: Zones, seed: int) -> None:
    world = World(both, zones, seed)
    rng = world.rng
    mix = [each.octets for each in Mix.read().queries([tld.decode() for tld in zones.tlds], 400, seed=seed)]
    outcomes: Counter[str] = Counter()
    for number in range(QUERIES):
        if rng.random() < 1 / TURN_QUERIES:
            world.step()
        world.later()
        source, port = address_of(rng), rng.choice((53_000, 5353, rng.randrange(1, 65_536)))
        query = query_of(rng, zones, source, mix)
        if world.rules and rng.random() < 0.4:
            query, source, port = near(rng, world.rules[rng.choice(sorted(world.rules))])
        world.sizes = [*world.sizes[-9:], len(query)]
        kernel, worker = both.ask(hook, query, source, port, world.at)
        about = (seed, number, query.hex(), source, port, world.at, world.mode, world.rules)
        assert kernel == worker, about
        outcomes[kernel if isinstance(kernel, str) else "tc" if kernel[2] & 2 else "answered"] += 1
        if number % 100 == 99:
            kernel_counts, worker_counts = both.counted()
            assert kernel_counts == worker_counts, about
    assert both.cells.tobytes() == both.gate_cells.tobytes()
    assert min(outcomes[each] for each in ("answered", "tc", PASSED)) > QUERIES // 50, outcomes
    assert outcomes[DROPPED] > 0
