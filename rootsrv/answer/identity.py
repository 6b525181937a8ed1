"""How an anycast instance names itself: CHAOS TXT (RFC 4892; NSID is in edns.py)."""

CLASS_CHAOS = 3
TYPE_TXT = 16

_HOST_NAMES = (b"\2id\6server\0", b"\x08hostname\4bind\0")
_VERSION_NAMES = (b"\7version\6server\0", b"\7version\4bind\0")


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
