"""One question to a target, over UDP or TCP, and the sample that comes of it."""

import time
from collections.abc import Sequence

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode

from rootsrv.vantage.correctness import CorrectnessQuestion, fault
from rootsrv.vantage.measurement import TIMEOUT_SECONDS, Sample, Target, Transport
from rootsrv.wire.rdata import SOA
from rootsrv.zone.contents import ZoneContents


async def ask(
    target: Target,
    transport: Transport,
    question: CorrectnessQuestion,
    zones: Sequence[ZoneContents],
    source: str | None = None,
) -> Sample:
    """Ask and judge: *zones*, newest first, are what may be answered; without any the response is not judged."""
    query = question.to_message()
    at, began = time.time(), time.perf_counter()
    response: dns.message.Message | None = None
    trouble = ""
    try:
        send = dns.asyncquery.udp if transport == "udp" else dns.asyncquery.tcp
        response = await send(query, target.address, timeout=TIMEOUT_SECONDS, port=target.port, source=source)
    except dns.exception.Timeout:
        trouble = f"no response in {TIMEOUT_SECONDS:g} s"
    except OSError as error:
        trouble = error.strerror or str(error)
    except (dns.exception.DNSException, EOFError, ValueError) as error:
        trouble = f"not a response: {error or type(error).__name__}"
    took = time.perf_counter() - began
    about = (at, target.name, target.address, target.family, transport, question.text)
    if response is None:
        return Sample(*about, fault=trouble)
    serial = next((int(rrset[0].serial) for rrset in response.answer if int(rrset.rdtype) == SOA), None)
    wrong = fault(question, response, zones) if zones else ""
    return Sample(*about, took, dns.rcode.to_text(response.rcode()), serial, wrong, bool(zones))
