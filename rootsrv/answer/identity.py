"""How an anycast instance names itself: CHAOS TXT (RFC 4892; NSID is in edns.py)."""

from rootsrv.zone import name as names

CLASS_CHAOS = 3
TYPE_TXT = 16

_HOST_NAMES = (names.from_text("id.server."), names.from_text("hostname.bind."))
_VERSION_NAMES = (names.from_text("version.server."), names.from_text("version.bind."))


def chaos_answers(nsid: bytes, version: bytes) -> dict[bytes, bytes]:
    """By qname: the answer section (one TXT record, TTL 0) behind a question for that name; empty values are not told.

    *nsid* and *version* have at most 255 octets.
    """
    answers = {}
    for value, owners in ((nsid, _HOST_NAMES), (version, _VERSION_NAMES)):
        if value:
            text = bytes((len(value),)) + value
            record = b"\xc0\x0c\0\x10\0\x03\0\0\0\0" + len(text).to_bytes(2) + text
            answers.update(dict.fromkeys(owners, record))
    return answers
