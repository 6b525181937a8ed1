"""Many words in one number, each in a lane of its own: one operation of Python's is that of all of them."""
# A lane has 128 bits, which is what the product of a word and a constant takes.  So nothing reaches the next lane, if
# sums and products are cut to a word again.

import functools

LANE_OCTETS = 16
MOST_LANES = 64
"""More in one number gain nothing (bench/responder.py, "noting sources")."""

WORD = (1 << 64) - 1


@functools.lru_cache(maxsize=32 * MOST_LANES)
def in_each(word: int, amount: int) -> int:
    """*word*, of 64 bits, in each of *amount* lanes."""
    return int.from_bytes(word.to_bytes(LANE_OCTETS, "little") * amount, "little")
