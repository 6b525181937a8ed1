"""The structures and numbers that the BPF program and Python share, parsed from the program's own headers."""

import enum
import functools
import hashlib
import struct
from collections.abc import Sequence
from importlib import resources
from typing import Any, Self

from rootsrv.process.c_declarations import declared

_headers = [
    resources.files("rootsrv.fastpath").joinpath("bpf", name).read_text(encoding="utf-8")
    for name in ("shared.h", "table.h")
]
ffi = declared("layout", "".join(_headers))

LAYOUT = int(hashlib.sha256("".join(_headers).encode()).hexdigest()[:16], 16)
"""Tells these headers from others: `make bpf` compiles it into the program."""


_ENUMS = (
    "enum sizes", "enum family", "enum reason", "enum interface_flags", "enum table_flags", "enum limit_mode",
    "enum shed_condition", "enum shed_action", "enum shed_opt", "enum note_flag", "enum note_outcome",
    "enum capture_shape", "enum capture_kind", "enum capture_wanted",
)  # fmt: skip


@functools.cache
def constant(name: str) -> int:
    """The value of an enumerator in the headers."""
    for kind in _ENUMS:
        values = ffi.typeof(kind).relements
        if name in values:
            return int(values[name])
    raise KeyError(name)


Reason = enum.IntEnum(  # type: ignore[misc]
    "Reason",
    {
        name.removeprefix("PASS_"): number
        for name, number in ffi.typeof("enum reason").relements.items()
        if name.startswith("PASS_")
    },
)
"""Why a packet was passed up to the asyncio server."""


COUNTERS_OCTETS: int = ffi.sizeof("struct counters")


class KernelCounters:
    """What the program counted; the fields of `struct counters`, as integers and lists of them."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._struct = ffi.cast("struct counters *", ffi.from_buffer(octets))

    @classmethod
    def total(cls, per_cpu: Sequence[bytes]) -> Self:
        """All CPUs' counters added up."""
        words = [sum(column) for column in zip(*(memoryview(octets).cast("Q") for octets in per_cpu), strict=True)]
        return cls(struct.pack(f"={len(words)}Q", *words))

    def __getattr__(self, name: str) -> Any:
        """Field *name*, as it is called in shared.h."""
        return _plain(getattr(self._struct, name))

    def passed(self) -> dict[str, int]:
        """Packets passed up, by reason; reasons that never applied are left out."""
        return {reason.name.lower(): number for reason in Reason if (number := int(self._struct.passes[reason]))}

    def as_document(self) -> dict[str, Any]:
        """By name, for status."""
        families = ("ipv4", "ipv6")
        return {
            "replies": {
                family: {
                    str(rcode): sum(pair) for rcode, pair in enumerate(_by_rcode(self.replies[index])) if sum(pair)
                }
                for index, family in enumerate(families)
            },
            "whole": self.whole,
            "cut": self.cut,
            "truncated": self.truncated,
            "good_cookies": self.good_cookies,
            "made_cookies": self.made_cookies,
            "blocked": dict(zip(families, self.blocked, strict=True)),
            "tapped": self.tapped,
            "tap_lost": self.tap_lost,
            "judged": self.judged[0],
            "limited": dict(zip(families, self.limited[:2], strict=True)),
            "shed": dict(zip(families, self.shed, strict=True)),
            "shed_dropped": self.shed_dropped,
            "dropped_syns": dict(zip(families, self.syns, strict=True)),
            "passes": self.passed(),
        }

    def answered(self) -> int:
        """Responses sent."""
        return sum(sum(family) for family in self.replies)


def _by_rcode(replies: Sequence[int]) -> list[tuple[int, int]]:
    """(whole or cut, truncated) by rcode."""
    truncated = constant("TRUNCATED")
    return list(zip(replies[:truncated], replies[truncated:], strict=True))


def _plain(value: Any) -> Any:
    return value if isinstance(value, int) else [_plain(each) for each in value]
