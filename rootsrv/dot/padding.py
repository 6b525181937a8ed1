"""Padding of responses (RFC 7830) to blocks of 468 octets (RFC 8467 §4.1): only for queries that have some."""
# A response is made as over TCP, and its OPT record, the last one, is made longer.  Where that stands is found from its
# end: the few options that we send are known, and nothing in them looks like an OPT record that ends with the message.

import struct

from rootsrv.answer.question import HEADER_OCTETS
from rootsrv.wire import edns

PADDING = 12
"""Option code."""

BLOCK_OCTETS = 468

_OPTION = struct.Struct("!HH")
_CODE = PADDING.to_bytes(2, "big")
_COUNTS = struct.Struct("!6xHH")  # ANCOUNT, NSCOUNT
_LONGEST_OPT = 512  # of ours: NSID, cookie, keepalive, ZONEVERSION, extended errors
_SIZE_AT, _OPTIONS_AT = 9, 11
_MAX_MESSAGE_OCTETS = 0xFFFF


def padded(query: bytes, response: bytes | None) -> bytes | None:
    """*response*, padded if *query* has the option; as it is if not, or if it has no OPT record at its end."""
    if response is None or _CODE not in query or not asks_for_padding(query):
        return response
    at = _find_opt(response)
    if at is None:
        return response
    size = len(response) + _OPTION.size
    if size > _MAX_MESSAGE_OCTETS:
        return response
    more = min(-size % BLOCK_OCTETS, _MAX_MESSAGE_OCTETS - size)
    at += _SIZE_AT
    options = (len(response) - at - 2 + _OPTION.size + more).to_bytes(2, "big")
    return b"".join((response[:at], options, response[at + 2 :], _OPTION.pack(PADDING, more), bytes(more)))


def asks_for_padding(query: bytes) -> bool:
    """Whether there is a PADDING option in the record behind the question of *query*, which is an OPT record."""
    end = len(query)
    if end < HEADER_OCTETS or query[5] != 1 or any(_COUNTS.unpack_from(query)):
        return False
    at = HEADER_OCTETS
    while at < end and (size := query[at]):
        at += 1 + size
    at += 5
    if query[at : at + len(edns.OPT_HEAD)] != edns.OPT_HEAD:
        return False
    end = min(end, at + _OPTIONS_AT + int.from_bytes(query[at + _SIZE_AT : at + _OPTIONS_AT], "big"))
    at += _OPTIONS_AT
    for _ in range(edns.MAX_OPTIONS):
        if at + _OPTION.size > end:
            break
        code, size = _OPTION.unpack_from(query, at)
        if code == PADDING:
            return True
        at += _OPTION.size + size
    return False


def _find_opt(response: bytes) -> int | None:
    """Where the OPT record that ends *response* begins; None: it does not end in one."""
    end = len(response)
    lowest = max(HEADER_OCTETS, end - _LONGEST_OPT)
    at = response.rfind(edns.OPT_HEAD, lowest)
    while at >= 0:
        size = int.from_bytes(response[at + _SIZE_AT : at + _OPTIONS_AT], "big")
        if at + _OPTIONS_AT + size == end and _are_options(response, at + _OPTIONS_AT, end):
            return at
        at = response.rfind(edns.OPT_HEAD, lowest, at)
    return None


def _are_options(octets: bytes, at: int, end: int) -> bool:
    while at + _OPTION.size <= end:
        at += _OPTION.size + int.from_bytes(octets[at + 2 : at + 4], "big")
    return at == end
