"""RDATA of any type, through dnspython: what `wire/rdata.py` does not treat itself."""
# Apart, and imported where such a type is met: a worker never meets one, and starts without dnspython.

import struct

import dns.exception
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from rootsrv.wire.record import ZoneMalformed

DNSPYTHON_STUMBLES = (dns.exception.DNSException, ValueError, LookupError, ArithmeticError, struct.error)
"""What dnspython raises at input that is wrong: mostly its own exceptions, but not only."""


def type_text(rtype: int) -> str:
    """Mnemonic of a type; TYPE12345 where it has none (RFC 3597 §5)."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rtype))


def parse(rtype: int, rdata: bytes) -> dns.rdata.Rdata:
    """RDATA of *rtype*, which has no compressed names; ZoneMalformed when it is not that."""
    try:
        return dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.RdataType.make(rtype), rdata, 0, len(rdata))
    except DNSPYTHON_STUMBLES as error:
        raise ZoneMalformed(f"{len(rdata)} octets are not {type_text(rtype)} RDATA: {error}") from error


def canonical_octets(rdata: dns.rdata.Rdata) -> bytes:
    """Canonical form of what dnspython has parsed; ZoneMalformed where it parsed a number that does not fit."""
    try:
        return rdata.to_digestable()
    except DNSPYTHON_STUMBLES as error:
        raise ZoneMalformed(f"{type_text(rdata.rdtype)} RDATA cannot be encoded: {error}") from error
