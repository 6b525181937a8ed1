"""What shall be captured: an order, as the collector sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rootsrv.capture import rings
from rootsrv.capture.compression import Compressor
from rootsrv.capture.formats import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedCapture:
    """What shall be captured."""

    make_format: Callable[[], Format]
    begin_member: Callable[[], Compressor]
    compression: str
    name: str
    rotation_seconds: int
    every: int = 1
    bits: int = rings.EVERYTHING
    until: float = 0.0
    """Wall time; 0 = until it is stopped."""

    for_so_long: bool = False
    """Whether `until` follows from how long it shall last: a step of the clock moves it."""

    about: dict[str, Any] = field(default_factory=dict)
    """What each file's metadata says besides."""
