"""Whether shed rules are, one or together, about every query: known without having seen one."""
# Each condition but type and name is a range of numbers, or of the three things that an OPT record can be.  Between two
# ends of ranges nothing changes, so one number of each such piece stands for all of it.  Names and types that no rule
# says are left over whatever rules say, so who asks for one of either says nothing here; the root is every name.
#
# What no query has is not asked for: port 0, and a size that is none of a question's (RFC 1035 §2.3.4, RFC 6891 §6.1,
# RFC 9018): 17 octets are `.` without, 310 the longest name with, an OPT record and a COOKIE.

from collections.abc import Callable, Sequence

from rootsrv.admission.blocks import MAPPED
from rootsrv.admission.shed import Match
from rootsrv.wire import name as names

_Range = tuple[int, int]

_PORTS, _SIZES = (1, 65_535), (17, 310)
_ADDRESSES = ((MAPPED, MAPPED | 0xFFFFFFFF), (0x2 << 124, (0x4 << 124) - 1))
"""Of IPv4; of IPv6 what is given out: 2000::/3."""

_OPT_STATES = (frozenset(("absent", "no-do")), frozenset(("present", "no-do")), frozenset(("present", "do")))
"""What `opt` may say of each of: no OPT record, one without DO, one with it."""


def is_everything(matches: Sequence[Match]) -> bool:
    """Whether every query of one IP version is one of some match."""
    others = [each for each in matches if each.qtype is None and each.suffix in (None, names.ROOT)]
    return any(
        all(_are_all([each for each in others if each.opt in ("", *state)], addresses) for state in _OPT_STATES)
        for addresses in _ADDRESSES
    )


def _are_all(matches: Sequence[Match], addresses: _Range) -> bool:
    return _cover(matches, [(_addresses_of, addresses), (_ports_of, _PORTS), (_sizes_of, _SIZES)])


def _cover(matches: Sequence[Match], asked: Sequence[tuple[Callable[[Match], _Range], _Range]]) -> bool:
    """Whether whatever is *asked*, of all that it may be, is in the ranges of some match."""
    if not matches or not asked:
        return bool(matches)
    (range_of, (lowest, highest)), *others = asked
    ranges = [range_of(each) for each in matches]
    begin = {lowest, *(first for first, _ in ranges), *(last + 1 for _, last in ranges)}
    pieces = {
        tuple(number for number, (first, last) in enumerate(ranges) if first <= value <= last)
        for value in begin
        if lowest <= value <= highest
    }
    return all(_cover([matches[number] for number in piece], others) for piece in pieces)


def _addresses_of(match: Match) -> _Range:
    address, mask = match.words
    return address, address | ~mask & (1 << 128) - 1


def _ports_of(match: Match) -> _Range:
    return match.ports or _PORTS


def _sizes_of(match: Match) -> _Range:
    return match.sizes or _SIZES
