"""Does the resolver answer for the root from our copy?"""
# Names that cannot be in any cache are asked for: random TLDs.  Their NXDOMAIN carries the root's SOA, so it says which
# version the resolver has; and how long it took, beside what it has in its cache, says whether anybody was asked.
# The names begin with any letter: most hexadecimal ones lie in the one gap before the first TLD, which a resolver
# knows from one answer (RFC 8198).

import secrets
import statistics
import string
import time
from collections.abc import Callable
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from rootsrv.wire.serial import serial_is_newer

NAMES = 15
LOCAL_MILLISECONDS, LOCAL_TIMES = 3.0, 3.0
"""What a name may take beyond so many times what the cache takes (a busy host delays both), if nobody is asked."""

_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One line of the check."""

    good: bool
    text: str


Exchange = Callable[[dns.message.Message], dns.message.Message]


def over_udp(address: str, port: int) -> Exchange:
    """Asks the resolver at *address*."""
    return lambda query: dns.query.udp_with_fallback(query, address, port=port, timeout=_TIMEOUT_SECONDS)[0]


def serial_of(exchange: Exchange) -> int:
    """The root's serial that is answered.  Raises OSError, DNSException or ValueError if there is none."""
    answer = exchange(dns.message.make_query(".", "SOA")).answer
    for rrset in answer:
        if rrset.rdtype == dns.rdatatype.SOA:
            return int(rrset[0].serial)
    raise ValueError("no SOA in the answer")


def examine(exchange: Exchange, ours: int, now: Callable[[], float] = time.perf_counter) -> list[CheckLine]:
    """Ask the resolver behind *exchange*, whose copy should have the serial *ours*."""
    findings = []
    took: list[float] = []
    cached: list[float] = []
    serials: set[int] = set()
    authentic = 0
    for _ in range(NAMES):
        query = dns.message.make_query(f"{_unheard_of()}.", "A", want_dnssec=True)
        query.flags |= dns.flags.AD
        began = now()
        try:
            response = exchange(query)
            took.append(1000 * (now() - began))
            began = now()
            exchange(dns.message.make_query(".", "SOA"))
            cached.append(1000 * (now() - began))
        except (OSError, dns.exception.DNSException) as error:
            return [CheckLine(False, f"the resolver does not answer: {str(error) or type(error).__name__}")]
        if response.rcode() != dns.rcode.NXDOMAIN:
            text = f"a name that does not exist: {dns.rcode.to_text(response.rcode())}, expected NXDOMAIN"
            return [CheckLine(False, text)]
        authentic += bool(response.flags & dns.flags.AD)
        serials |= {int(each[0].serial) for each in response.authority if each.rdtype == dns.rdatatype.SOA}
    findings.append(_about_serials(serials, ours))
    median, known = statistics.median(took), statistics.median(cached)
    local = median <= LOCAL_MILLISECONDS + LOCAL_TIMES * known
    text = f"{NAMES} names that do not exist: {median:.1f} ms each, and {known:.1f} ms for what it knows (medians)"
    findings.append(CheckLine(local, text if local else f"{text}: it asks somebody"))
    findings.append(CheckLine(authentic == NAMES, f"validated (AD): {authentic} of {NAMES}"))
    return findings


def _unheard_of() -> str:
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))


def _about_serials(serials: set[int], ours: int) -> CheckLine:
    shown = ", ".join(map(str, sorted(serials))) or "none"
    if serials == {ours}:
        return CheckLine(True, f"the resolver answers from serial {ours}, which is that of the copy")
    older = any(serial_is_newer(ours, each) for each in serials)
    return CheckLine(
        False, f"the resolver answers from serial {shown}, {'older than' if older else 'not'} the copy's {ours}"
    )
