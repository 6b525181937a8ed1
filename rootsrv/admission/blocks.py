"""Blocks of source prefixes (D4): as narrow and brief as possible, each with a reason, each ending by itself.

RFC 7720 §3 wants every valid source answered; a block is for what causes operational trouble (RFC 2870 §2.6), and only
an operator makes one.  Kernel and workers both honour what stands in the shared page.
"""

import ipaddress
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rootsrv.control.protocol import Command, Commands, Nothing, Order, Refused
from rootsrv.page.layout import MAX_BLOCKS, BlockWords, Page
from rootsrv.process import json_text, log, whole_file

MAX_SECONDS = 86_400
"""A day: whatever takes longer belongs into a router, or was forgotten."""

_WIDEST = {4: 8, 6: 16}  # prefix lengths; wider is never narrow enough
MAPPED = 0xFFFF << 32
"""IPv4 addresses as IPv6 ones (RFC 4291 §2.5.5.2): one table for both."""

_MAPPED_NETWORK = ipaddress.IPv6Network("::ffff:0:0/96")

_UNITS = {"s": 1, "m": 60, "h": 3600}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BlockRefused(Refused):
    """The block cannot be made."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block."""

    prefix: str
    until_ns: int
    """CLOCK_BOOTTIME, nanoseconds."""

    reason: str
    who: str

    @property
    def network(self) -> Network:
        """The prefix, parsed."""
        return ipaddress.ip_network(self.prefix)

    def words(self) -> BlockWords:
        """As it stands in the page: an IPv6 prefix."""
        return *words_of_prefix(self.prefix), self.until_ns

    @classmethod
    def from_words(cls, words: BlockWords) -> "Block":
        """A block of which only what stands in the page is known."""
        upper, lower, size, until_ns = words
        address = upper << 64 | lower
        if size >= 96 and address >> 32 == MAPPED >> 32:
            return cls(f"{ipaddress.IPv4Address(address & 0xFFFFFFFF)}/{size - 96}", until_ns, _NOT_KEPT, "?")
        return cls(f"{ipaddress.IPv6Address(address)}/{size}", until_ns, _NOT_KEPT, "?")


_NOT_KEPT = "was not kept"


def _can_be(words: BlockWords, latest_ns: int) -> bool:
    """Whether *words* of the page, which may be damaged, are a block as it can be made, with an end by *latest_ns*."""
    try:
        network = parse_prefix(Block.from_words(words).prefix)
    except BlockRefused:
        return False
    return words[-1] <= latest_ns and not what_is_odd(network)


def parse_seconds(text: str) -> int:
    """Seconds in `90s`, `10m` or `2h`; BlockRefused for anything else, or more than a day."""
    found = re.fullmatch(r"([0-9]{1,6})([smh])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= MAX_SECONDS:
        raise BlockRefused(f"--for {text}: must be like 90s, 10m or 2h, and at most 24h")
    return seconds


def parse_prefix(text: str) -> Network:
    """An IPv4 or IPv6 prefix; BlockRefused when it is none, or too wide."""
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise BlockRefused(str(error)) from error
    if network.prefixlen < _WIDEST[network.version]:
        raise BlockRefused(f"{text}: wider than /{_WIDEST[network.version]}; block as narrowly as possible (RFC 7720)")
    return network


def what_is_odd(network: Network) -> str:
    """Why a prefix cannot be one of a rule; empty if it can.

    IPv4 addresses stand among those of IPv6 as ::ffff:0:0/96, so ::/16, say, would be every IPv4 client's.
    """
    if network.version == 4:
        return ""
    if getattr(network.network_address, "scope_id", None):
        return f"{network}: a scope says nothing about where a query comes from"
    if network.overlaps(_MAPPED_NETWORK):
        return f"{network} holds ::ffff:0:0/96, which stands for IPv4 (write 192.0.2.0/24); all of IPv6 is 2000::/3"
    return ""


def words_of_prefix(text: str) -> tuple[int, int, int]:
    """Upper and lower half and length of a prefix as an IPv6 one."""
    network = ipaddress.ip_network(text)
    address, size = int(network.network_address), network.prefixlen
    if network.version == 4:
        address, size = address | MAPPED, size + 96
    return address >> 64, address & (1 << 64) - 1, size


class Matcher:
    """What a worker asks: is this source blocked now?"""

    def __init__(self, words: Sequence[BlockWords], boottime_ns: int) -> None:
        """The blocks in *words* that have not ended at *boottime_ns*."""
        living = [each for each in words if each[3] > boottime_ns]
        self.next_end = min((each[3] for each in living), default=1 << 63)
        """When to make another one."""

        self._prefixes: dict[int, set[int]] = {}
        for upper, lower, size, _ in living:
            shift = 128 - size
            self._prefixes.setdefault(shift, set()).add((upper << 64 | lower) >> shift)

    def __bool__(self) -> bool:
        return bool(self._prefixes)

    def blocks(self, source: bytes) -> bool:
        """Whether the packed address *source* (4 or 16 octets) is blocked."""
        address = int.from_bytes(source, "big") | (MAPPED if len(source) == 4 else 0)
        return any(address >> shift in prefixes for shift, prefixes in self._prefixes.items())


class Blocks:
    """The blocks in force, kept by the role *serve*; they survive its restart, but not the machine's."""

    def __init__(
        self, page: Page, path: Path, now_ns: Callable[[], int] | None = None, *, own: Sequence[str] = ()
    ) -> None:
        """*path*: where reasons are kept, in the runtime directory; *now_ns*: CLOCK_BOOTTIME.

        *own*: our service addresses, from which the health probe asks: were they blocked, the route would go.
        """
        self._own = [ipaddress.ip_address(each) for each in own]
        self._page = page
        self._path = path
        self._now_ns = now_ns or (lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self._unkept = ""
        """Why the file is not as it should be; empty if it is."""

        # What is in force is what the page says, which knows this boot of the machine from others.
        told = {block.words(): block for block in self._read()}
        latest = self._now_ns() + MAX_SECONDS * 10**9
        found = [told.get(words) or Block.from_words(words) for words in page.blocks() if _can_be(words, latest)]
        self._blocks = {}
        for block in found:
            if own_address := self._holds_own(block.network):  # made before it was one, or by another version
                log.event("block ended", prefix=block.prefix, by=f"service address {own_address}", reason=block.reason)
            else:
                self._blocks[block.prefix] = block
        self._store()

    def _read(self) -> Iterable[Block]:
        """What the file tells, as far as it can be read: an older version, or a newer one, may have written it."""
        try:
            documents = json_text.parse(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            documents = []
        for document in documents if isinstance(documents, list) else ():
            try:
                block = Block(**{each.name: document[each.name] for each in fields(Block)})
                if not isinstance(block.prefix, str) or not isinstance(block.until_ns, int):
                    continue
                block.words()
            except (TypeError, KeyError, ValueError, AttributeError):
                continue
            yield block

    def _holds_own(self, network: Network) -> str:
        """The service address of ours that is in *network*; empty if none is."""
        return next((str(each) for each in self._own if each in network), "")

    def _store(self) -> None:
        """In force at once; who made them why is kept as soon as that can be written."""
        self._page.set_blocks([block.words() for block in self._blocks.values()])
        self._keep()

    def _keep(self) -> None:
        try:
            whole_file.replace(self._path, json.dumps([asdict(block) for block in self._blocks.values()]).encode())
        except OSError as error:
            reason = error.strerror or str(error)
            if reason != self._unkept:
                log.alarm("reasons of blocks cannot be kept", file=self._path, reason=reason)
            self._unkept = reason
        else:
            self._unkept = ""

    def block(self, prefix: str, seconds: int, reason: str, who: str) -> Block:
        """Block *prefix* from now on for so many seconds; a block of the same prefix is replaced."""
        network = parse_prefix(prefix)
        if odd := what_is_odd(network):
            raise BlockRefused(odd)
        if own := self._holds_own(network):
            raise BlockRefused(
                f"{network} holds {own}, a service address of ours: the health probe asks from it, and the route would"
                " go; block what is beside it"
            )
        if not reason.strip():
            raise BlockRefused("a block needs a reason")
        if not 0 < seconds <= MAX_SECONDS:
            raise BlockRefused(f"a block lasts 1 to {MAX_SECONDS} seconds, got {seconds}")
        if len(self._blocks) >= MAX_BLOCKS and str(network) not in self._blocks:
            raise BlockRefused(f"there are {MAX_BLOCKS} blocks already")
        block = Block(str(network), self._now_ns() + seconds * 10**9, reason, who)
        self._blocks[block.prefix] = block
        self._store()
        log.alarm("block made", prefix=block.prefix, seconds=seconds, reason=reason, who=who)
        return block

    def unblock(self, prefix: str, who: str) -> None:
        """End the block of *prefix*; BlockRefused when there is none."""
        block = self._blocks.pop(str(parse_prefix(prefix)), None)
        if block is None:
            raise BlockRefused(f"{prefix}: is not blocked")
        self._store()
        log.event("block ended", prefix=block.prefix, by=who, reason=block.reason)

    def expire(self) -> None:
        """Forget the blocks that have ended; kernel and workers have stopped honouring them by themselves."""
        now = self._now_ns()
        ended = [block for block in self._blocks.values() if block.until_ns <= now]
        for block in ended:
            del self._blocks[block.prefix]
            log.event("block ended", prefix=block.prefix, by="its time", reason=block.reason)
        if ended:
            self._store()
        elif self._unkept:
            self._keep()

    def as_document(self) -> dict[str, Any]:
        """For `rootsrv blocks`."""
        now = self._now_ns()
        return {
            "blocks": [
                {"prefix": each.prefix, "ends_in_seconds": round(max(0, each.until_ns - now) / 1e9, 1),
                 "reason": each.reason, "who": each.who}
                for each in self._blocks.values()
            ]
        }  # fmt: skip

    def commands(self) -> Commands:
        """What the control socket of *serve* does for blocks."""

        async def block(order: Order[BlockOrder]) -> Mapping[str, Any]:
            self.block(order.wanted.prefix, order.wanted.seconds, order.wanted.reason, str(order.caller))
            return self.as_document()

        async def unblock(order: Order[UnblockOrder]) -> Mapping[str, Any]:
            self.unblock(order.wanted.prefix, str(order.caller))
            return self.as_document()

        async def blocks(_: Order[Nothing]) -> Mapping[str, Any]:
            return self.as_document()

        return {
            "block": Command(block, BlockOrder),
            "unblock": Command(unblock, UnblockOrder),
            "blocks": Command(blocks, Nothing, changes=False),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockOrder:
    """`block`: what the operator wants blocked."""

    prefix: str
    seconds: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnblockOrder:
    """`unblock`: which block is to end."""

    prefix: str
