"""What other letters serve, seen from the admin interface: a fact for people, never a reason to withdraw."""
# C-root fell behind in May 2024 and outsiders noticed first.  So a few addresses of other letters are asked for the
# root's SOA every ASK_SECONDS.  What comes back is not signed by anybody we could check in time and may be forged: it
# raises an alarm when several of them agree, and changes nothing.

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message

from rootsrv.process import log
from rootsrv.wire.rdata import SOA
from rootsrv.wire.serial import serial_is_newer

ASK_SECONDS = 60.0
LATE_SECONDS = 1800.0
"""For so long most of them may serve a newer serial than we do: letters load a zone within 15 to 240 s, a mesh within
`max_delay`."""

_TIMEOUT_SECONDS = 4.0


@dataclass
class OutsideView:
    """One address outside."""

    address: str
    serial: int | None = None
    at: float = float("-inf")
    """CLOCK_BOOTTIME, seconds, when it said so."""

    fault: str = "not asked yet"


class OutsideLook:
    """Asks, and remembers."""

    def __init__(self, addresses: Sequence[str], sources: Sequence[str], port: int = 53) -> None:
        """*sources*: our admin addresses."""
        self._port = port
        self._sources = {("6" if ":" in each else "4"): each for each in reversed(sources)}
        self.seen = {address: OutsideView(address) for address in addresses}
        self.ahead_since: float | None = None
        """CLOCK_BOOTTIME since when most of those that answer serve a newer serial than we do; None = they do not."""

        self._alarmed = False

    async def look(self, ours: int | None, now: float) -> None:
        """Ask all once; *ours* is the root's serial that most of our members serve, *now* CLOCK_BOOTTIME."""
        await asyncio.gather(*(self._ask(each, now) for each in self.seen.values()))
        self.judge(ours, now)

    async def _ask(self, seen: OutsideView, now: float) -> None:
        query = dns.message.make_query(".", "SOA")
        query.flags = dns.flags.Flag(0)
        source = self._sources.get("6" if ":" in seen.address else "4")
        try:
            answer = await dns.asyncquery.udp(
                query, seen.address, timeout=_TIMEOUT_SECONDS, port=self._port, source=source
            )
        except dns.exception.Timeout:
            seen.fault = f"no answer in {_TIMEOUT_SECONDS:g} s"
            return
        except (OSError, dns.exception.DNSException, ValueError) as error:
            seen.fault = str(error) or type(error).__name__
            return
        serial = next((int(each[0].serial) for each in answer.answer if int(each.rdtype) == SOA), None)
        if serial is None:
            seen.fault = "no SOA in the answer"
            return
        seen.serial, seen.at, seen.fault = serial, now, ""

    def judge(self, ours: int | None, now: float) -> None:
        """Whether we are behind: most of those that answer, and two at least, have something newer."""
        answering = [each.serial for each in self.seen.values() if not each.fault and each.serial is not None]
        newer = [serial for serial in answering if ours is None or serial_is_newer(serial, ours)]
        behind = len(newer) >= 2 and 2 * len(newer) > len(answering)
        if not behind:
            if self._alarmed:
                log.event("outside look", serial=ours, state="no longer behind")
            self.ahead_since, self._alarmed = None, False
            return
        if self.ahead_since is None:
            self.ahead_since = now
        if now - self.ahead_since >= LATE_SECONDS and not self._alarmed:
            self._alarmed = True
            log.alarm("outside look", ours=ours, theirs=max(newer), of=f"{len(newer)} of {len(answering)}",
                      for_seconds=round(now - self.ahead_since))  # fmt: skip

    def to_document(self, now: float) -> Mapping[str, Any]:
        """For status, page and metrics."""
        return {
            "ahead_seconds": None if self.ahead_since is None else round(now - self.ahead_since, 1),
            "seen": [
                {
                    "name": each.address,
                    "serial": each.serial,
                    "age_seconds": None if each.serial is None else round(now - each.at, 1),
                    "fault": each.fault,
                }
                for each in self.seen.values()
            ],
        }
