import hashlib
import random

import pytest

from rootsrv.page import unique_sources
from rootsrv.page.layout import REGISTERS

KEY = unique_sources.SourcesKey.of(bytes.fromhex("5eed0f5e11ab1e5ed0b5e55edba5eba1"))


def registers_of(sources: list[bytes]) -> bytes:
    registers = bytearray(3 * REGISTERS)
    unique_sources.observe(memoryview(registers), sources, KEY.octets)
    return bytes(registers)


def estimates(registers: bytes) -> list[int]:
    return [unique_sources.count(registers[at : at + REGISTERS]) for at in range(0, 3 * REGISTERS, REGISTERS)]


def test_registers_of_the_same_sources_are_the_same_from_version_to_version() -> None:
    # By a program in C, made from what unique_sources.py says of the hash.
    key, message = bytes(range(16)), bytes(range(16))
    registers = bytearray(3 * REGISTERS)
    unique_sources.observe(memoryview(registers), [message[:4], message], key)

    hashes = (0x7985604B65AAA99D, 0x95B0A145F09B8ECC, 0xC9669EA918ECE63D)  # of 4, 16 and 8 octets
    expected = bytearray(3 * REGISTERS)
    for estimate, hashed in enumerate(hashes):
        expected[estimate * REGISTERS + (hashed >> 50)] = 51 - (hashed & (1 << 50) - 1).bit_length()
    assert registers == expected


@pytest.mark.parametrize("amount", [1, 2, 3, 63, 64, 65, 129, 1_000])
@pytest.mark.parametrize("families", ["IPv4", "IPv6", "both"])
def test_sources_noted_at_once_leave_what_they_leave_one_after_the_other(amount: int, families: str) -> None:
    draw = random.Random(amount)
    extremes = [bytes(4), b"\xff" * 4, bytes(16), b"\xff" * 16]
    drawn = [draw.randbytes(draw.choice((4, 16))) for _ in range(6 * amount)]
    sources = [each for each in extremes + drawn if families == "both" or len(each) == (4, 16)[families == "IPv6"]]
    sources = draw.choices(sources[:amount], k=amount)  # some of them twice

    singly = bytearray(3 * REGISTERS)
    for source in sources:
        unique_sources.observe(memoryview(singly), [source], KEY.octets)

    assert any(singly)
    assert registers_of(sources) == singly


def test_a_register_keeps_its_greatest_value_whatever_comes_later_in_one_batch() -> None:
    draw = random.Random(3)
    sources = [draw.randbytes(4) for _ in range(200_000)]  # some 12 for each register

    whole = registers_of(sources)

    assert registers_of(sources[::-1]) == whole
    assert max(whole) > 14
    assert unique_sources.merge([registers_of(sources[at::2]) for at in (0, 1)]) == whole


# ── the attack on the hash that there was: MurmurHash3's finaliser, which anybody can invert ──

WORD = 1 << 64
MURMUR = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)
SALT = 0x9E3779B97F4A7C15


def mix(word: int) -> int:
    for factor in MURMUR:
        word = (word ^ word >> 33) * factor % WORD
    return word ^ word >> 33


def unmix(word: int) -> int:
    word ^= word >> 33
    for factor in reversed(MURMUR):
        word = word * pow(factor, -1, WORD) % WORD
        word ^= word >> 33
    return word


def test_sources_chosen_for_a_known_hash_count_as_so_many_sources() -> None:
    upper = 0x20010DB800000000
    chosen = [
        ((upper << 64) | unmix(register << 50) ^ mix(upper ^ SALT)).to_bytes(16, "big") for register in range(REGISTERS)
    ]
    # What the hash that there was makes of them: each register has its greatest value.
    lower = [int.from_bytes(source[8:], "big") for source in chosen]
    ranks = [51 - (mix(mix(upper ^ SALT) ^ each) & (1 << 50) - 1).bit_length() for each in lower]
    assert unique_sources.count(bytes(ranks)) > 10**19

    v4, v6, networks = estimates(registers_of(chosen))

    assert (v4, networks) == (0, 1)
    assert abs(v6 - REGISTERS) <= 4 * 0.0081 * REGISTERS


def test_estimates_are_within_four_standard_errors_of_exact_sets() -> None:
    draw = random.Random(9018)
    v4 = {draw.randbytes(4) for _ in range(40_000)}
    networks = [b"\x20\x01\x0d\xb8" + draw.randbytes(4) for _ in range(2_000)]
    v6 = {draw.choice(networks) + draw.randbytes(8) for _ in range(20_000)}

    found = estimates(registers_of([*v4, *v6]))

    for estimate, exact in zip(found, (len(v4), len(v6), len(networks)), strict=True):
        assert abs(estimate - exact) <= 4 * 0.0081 * exact


IN_A_ROW = 65_536
OF_ONE_NETWORK = bytes.fromhex("20010db800000001")


@pytest.mark.parametrize(
    ("sources", "estimate"),
    [
        ([(0x0A000000 + number).to_bytes(4, "big") for number in range(IN_A_ROW)], 0),
        ([number.to_bytes(4, "little") for number in range(IN_A_ROW)], 0),
        ([OF_ONE_NETWORK + number.to_bytes(8, "big") for number in range(IN_A_ROW)], 1),
        ([OF_ONE_NETWORK + number.to_bytes(8, "little") for number in range(IN_A_ROW)], 1),
        ([OF_ONE_NETWORK + (number << 24).to_bytes(8, "big") for number in range(IN_A_ROW)], 1),
        ([number.to_bytes(8, "big") + bytes(8) for number in range(IN_A_ROW)], 1),
        ([number.to_bytes(8, "big") + bytes(8) for number in range(IN_A_ROW)], 2),
        ([number.to_bytes(8, "little") + bytes(8) for number in range(IN_A_ROW)], 2),
    ],
    ids=["IPv4", "IPv4, first octets", "one /64", "one /64, first octets", "one /64, in the middle", "/64s",
         "/64s alone", "/64s, first octets"],
)  # fmt: skip
@pytest.mark.parametrize("key", [KEY.octets, bytes(16), bytes(range(16))], ids=bytes.hex)
def test_counters_in_a_row_are_told_apart_as_well_as_random_addresses(
    sources: list[bytes], estimate: int, key: bytes
) -> None:
    registers = bytearray(3 * REGISTERS)
    unique_sources.observe(memoryview(registers), sources, key)

    assert abs(estimates(bytes(registers))[estimate] - IN_A_ROW) <= 4 * 0.0081 * IN_A_ROW


def test_registers_of_the_hash_before_have_another_id() -> None:
    before = hashlib.sha256(b"rootsrv unique sources\0" + KEY.octets).digest()

    assert KEY.id != int.from_bytes(before[:8], "big")


def test_merged_registers_are_those_of_one_observer() -> None:
    draw = random.Random(1)
    sources = [draw.randbytes(4) for _ in range(3_000)]
    parts = [registers_of(sources[:2_000]), registers_of(sources[1_000:])]

    assert unique_sources.merge(parts) == registers_of(sources)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_of_each_register_the_highest_is_kept(count: int) -> None:
    draw = random.Random(2)
    many = [bytes(draw.randrange(52) for _ in range(1_000)) for _ in range(count)]

    assert unique_sources.merge(many) == bytes(max(column) for column in zip(*many, strict=True))


def test_nobody_is_counted_as_nobody() -> None:
    assert estimates(registers_of([])) == [0, 0, 0]
