"""How other servers' responses differ from what the corpus expects: classes by name, each with its sign in a response.

docs/protocol-notes.md says for each what the RFC says, what they do, what we do and why.
"""

from collections.abc import Callable

from tests.conformance.wire import NS, SIGNATURE_OF, Message

Sign = Callable[[Message], bool]

NOERROR, FORMERR, SERVFAIL, NOTIMP, REFUSED, NOTAUTH, BADVERS, BADCOOKIE = 0, 1, 2, 4, 5, 9, 16, 23
COOKIE, KEEPALIVE, EXTENDED_ERROR, ZONEVERSION, CLIENT_SUBNET = 10, 11, 15, 19, 8
DS, NSEC, SOA, ANY, DNSKEY = 43, 47, 6, 255, 48
RD, CD = 0x0100, 0x0010


def qtype(message: Message) -> int:
    return message.question[0][1]


def has_option(message: Message, code: int) -> bool:
    return message.opt is not None and any(code == each for each, _ in message.opt.options)


def is_empty(message: Message) -> bool:
    return not (message.answer or message.authority or message.additional)


def is_refused(message: Message) -> bool:
    return message.rcode == REFUSED


SIGNS: dict[str, Sign] = {
    # ── what is in an answer ──
    "authority-added": lambda m: bool(m.answer) and any(key[1] == NS for key in m.authority),
    "fewer-addresses": lambda m: not m.tc and 0 < len(m.additional) < 26,
    "nsec-at-cut": lambda m: m.aa and any(key[1] == NSEC for key in m.answer),
    "nsec-without-do": lambda m: not m.answer and any(key[1] == SOA for key in m.authority),
    "ds-without-do": lambda m: any(key[1] == DS for key in m.authority) and (m.opt is None or not m.opt.flags),
    "any-all": lambda m: m.tc or len({key[1] for key in m.answer if key[1] < SIGNATURE_OF}) > 1,
    "any-other-rrset": lambda m: {key[1] for key in m.answer if key[1] < SIGNATURE_OF} == {NS},
    "rrsig-all": lambda m: m.tc or len(m.answer) > 1,
    "rrsig-other": lambda m: set(m.answer) == {(b"\0", SIGNATURE_OF + NS, 1)},
    "rrsig-refused": is_refused,
    "meta-type-refused": lambda m: m.rcode == NOTIMP,
    "servfail-on-special-octets": lambda m: m.rcode == SERVFAIL,
    # ── what does not fit ──
    "empty-when-truncated": lambda m: m.tc and is_empty(m),
    "broken-rrset-when-truncated": lambda m: m.tc and any(key[1] == DNSKEY for key in m.answer),
    "in-domain-glue-without-tc": lambda m: not m.tc and bool(m.additional),
    # (glue-as-it-fits, truncated-as-it-fits, suffix-not-shared take a comparison: test_differential.py)
    # ── EDNS ──
    "no-cookies": lambda m: not has_option(m, COOKIE) and m.rcode in (NOERROR, FORMERR),
    "no-keepalive": lambda m: not has_option(m, KEEPALIVE),
    "no-zoneversion": lambda m: not has_option(m, ZONEVERSION),
    "zoneversion-twice": lambda m: m.rcode == NOERROR and has_option(m, ZONEVERSION),
    "badcookie": lambda m: m.rcode == BADCOOKIE and has_option(m, COOKIE),
    "no-extended-errors": lambda m: m.rcode == REFUSED and not has_option(m, EXTENDED_ERROR),
    "other-extended-error": lambda m: m.rcode == REFUSED and has_option(m, EXTENDED_ERROR),
    "echoes-client-subnet": lambda m: has_option(m, CLIENT_SUBNET),
    "badvers-clears-do": lambda m: m.rcode == BADVERS and m.opt is not None and not m.opt.flags,
    "formerr-clears-do": lambda m: m.rcode == FORMERR and m.opt is not None and not m.opt.flags,
    "badvers-after-options": lambda m: m.rcode == FORMERR,
    # ── errors ──
    "formerr-without-opt": lambda m: m.rcode == FORMERR and m.opt is None,
    "answers-malformed": lambda m: m.rcode == NOERROR,
    "aa-on-errors": lambda m: m.aa and m.rcode in (REFUSED, BADVERS),
    "rd-cleared-on-errors": lambda m: m.rcode == NOTIMP and not m.flags & RD,
    "copies-cd": lambda m: bool(m.flags & CD),
    "refused-without-question": lambda m: m.rcode == REFUSED and not m.question,
    "notify-and-update": lambda m: m.rcode in (NOERROR, REFUSED, NOTAUTH),
    "class-any": lambda m: m.rcode in (NOERROR, FORMERR),
    "transfer-refused-otherwise": lambda m: (
        m.rcode in (NOTIMP, NOTAUTH) or (m.aa and m.rcode in (NOERROR, REFUSED)) or (m.tc and is_empty(m))
    ),
    "chaos-zones": lambda m: m.rcode in (NOERROR, NOTIMP),
}

SILENT_ON_MALFORMED = "silent-on-malformed"
GLUE_AS_IT_FITS = "glue-as-it-fits"
IN_DOMAIN_GLUE_WITHOUT_TC = "in-domain-glue-without-tc"
SUFFIX_NOT_SHARED = "suffix-not-shared"
TRUNCATED_AS_IT_FITS = "truncated-as-it-fits"


def shows(reason: str, response: Message | None) -> bool:
    """Whether *response* has the sign of the class *reason*; KeyError if there is no such class."""
    if reason == SILENT_ON_MALFORMED:
        return response is None
    return response is not None and SIGNS[reason](response)
