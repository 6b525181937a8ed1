"""RCODEs, and what a TSIG record says beyond them: one register of numbers (RFC 6895 §2.3)."""

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
"""RFC 1035 §4.1.1."""

NOTAUTH = 9
"""RFC 2136 §2.2, RFC 8945 §5.2."""

BADVERS, BADCOOKIE = 16, 23
"""More than four bits: the upper eight stand in the OPT record (RFC 6891 §9, RFC 7873 §8)."""

RCODES = {
    NOERROR: "NOERROR",
    FORMERR: "FORMERR",
    SERVFAIL: "SERVFAIL",
    NXDOMAIN: "NXDOMAIN",
    NOTIMP: "NOTIMP",
    REFUSED: "REFUSED",
    6: "YXDOMAIN",
    7: "YXRRSET",
    8: "NXRRSET",
    NOTAUTH: "NOTAUTH",
    10: "NOTZONE",
    11: "DSOTYPENI",
    BADVERS: "BADVERS",
    BADCOOKIE: "BADCOOKIE",
}
"""Mnemonics of those that a response can have."""

BADSIG, BADKEY, BADTIME, BADTRUNC = 16, 17, 18, 22
"""The error field of a TSIG record (RFC 8945 §3)."""


def rcode_text(rcode: int) -> str:
    """Mnemonic of an RCODE; RCODE12 where it has none."""
    return RCODES.get(rcode) or f"RCODE{rcode}"
