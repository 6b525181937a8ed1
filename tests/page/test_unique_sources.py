import random

from rootsrv.page import unique_sources
from rootsrv.page.layout import REGISTERS


def registers_of(sources: list[bytes]) -> bytes:
    registers = bytearray(3 * REGISTERS)
    unique_sources.observe(memoryview(registers), sources)
    return bytes(registers)


def estimates(registers: bytes) -> list[int]:
    return [unique_sources.count(registers[at : at + REGISTERS]) for at in range(0, 3 * REGISTERS, REGISTERS)]


def test_the_hash_is_murmur3s_64_bit_finaliser() -> None:
    # Reference values: fmix64 of MurmurHash3_x64_128.
    assert unique_sources.mix(0) == 0
    assert unique_sources.mix(1) == 0xB456BCFC34C2CB2C
    assert unique_sources.mix(0xFFFFFFFFFFFFFFFF) == 0x64B5720B4B825F21


def test_estimates_are_within_four_standard_errors_of_exact_sets() -> None:
    draw = random.Random(9018)
    v4 = {draw.randbytes(4) for _ in range(40_000)}
    networks = [b"\x20\x01\x0d\xb8" + draw.randbytes(4) for _ in range(2_000)]
    v6 = {draw.choice(networks) + draw.randbytes(8) for _ in range(20_000)}

    found = estimates(registers_of([*v4, *v6]))

    for estimate, exact in zip(found, (len(v4), len(v6), len(networks)), strict=True):
        assert abs(estimate - exact) <= 4 * 0.0081 * exact


def test_counters_in_a_row_are_told_apart_as_well_as_random_addresses() -> None:
    found = estimates(registers_of([number.to_bytes(4, "big") for number in range(0x0A000000, 0x0A000000 + 65_536)]))

    assert abs(found[0] - 65_536) <= 4 * 0.0081 * 65_536


def test_merged_registers_are_those_of_one_observer() -> None:
    draw = random.Random(1)
    sources = [draw.randbytes(4) for _ in range(3_000)]
    parts = [registers_of(sources[:2_000]), registers_of(sources[1_000:])]

    assert unique_sources.merge(parts) == registers_of(sources)


def test_nobody_is_counted_as_nobody() -> None:
    assert estimates(registers_of([])) == [0, 0, 0]
