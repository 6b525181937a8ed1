"""What a zone file in the published layout says, read with dnspython and without rootsrv."""

from functools import cached_property
from pathlib import Path

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from tests.conformance.wire import SIGNATURE_OF, Key, RRset, name_from_text


class ZoneFile:
    """RRsets of a zone file with one record per line, parsed when asked for."""

    def __init__(self, path: Path) -> None:
        self._lines: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.apex = ""
        for line in path.read_text().splitlines():
            owner, ttl, _, rtype, rdata = line.split(None, 4)
            owner = owner.lower()
            self.apex = self.apex or owner
            covered = f"RRSIG({rdata.split(None, 1)[0]})" if rtype == "RRSIG" else rtype
            held = self._lines.setdefault((owner, covered), [])
            if (int(ttl), rdata) not in held:
                held.append((int(ttl), rdata))
        self._parsed: dict[tuple[str, str], RRset] = {}

    def __contains__(self, owner_and_type: tuple[str, str]) -> bool:
        return owner_and_type in self._lines

    def rrset(self, owner: str, rtype: str) -> RRset:
        """TTL and canonical RDATA; `RRSIG(DS)` for the signatures of a type.  KeyError if there is none."""
        wanted = (owner, rtype)
        if wanted not in self._parsed:
            lines = self._lines[wanted]
            (ttl,) = {ttl for ttl, _ in lines}
            text = "RRSIG" if rtype.startswith("RRSIG(") else rtype
            rdatas = frozenset(
                dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(text), rdata).to_digestable()
                for _, rdata in lines
            )
            self._parsed[wanted] = RRset(ttl, rdatas)
        return self._parsed[wanted]

    def texts(self, owner: str, rtype: str) -> list[str]:
        """RDATA as it stands in the file; empty if there is none."""
        return [rdata for _, rdata in self._lines.get((owner, rtype), [])]

    def types(self, owner: str) -> list[str]:
        """Types of *owner*, without signatures."""
        return [rtype for each, rtype in self._lines if each == owner and not rtype.startswith("RRSIG(")]

    @property
    def serial(self) -> int:
        """The SOA serial."""
        ((_, rdata),) = self._lines[self.apex, "SOA"]
        return int(rdata.split()[2])

    @property
    def owners(self) -> list[str]:
        """All owners, in the order of the file."""
        return list(dict.fromkeys(owner for owner, _ in self._lines))

    @cached_property
    def delegations(self) -> list[str]:
        """Owners of NS below the apex."""
        return [owner for owner, rtype in self._lines if rtype == "NS" and owner != self.apex]

    @cached_property
    def glue_owners(self) -> list[str]:
        """Owners of addresses: the names of name servers."""
        return list(dict.fromkeys(owner for owner, rtype in self._lines if rtype in ("A", "AAAA")))

    def name_servers(self, owner: str) -> list[str]:
        """The names in the NS RRset of *owner*."""
        return [rdata.lower() for _, rdata in self._lines[owner, "NS"]]

    def addresses(self, name_server: str) -> dict[Key, RRset]:
        """A and AAAA RRsets of a name server, as a response carries them."""
        return {
            key_of(name_server, rtype): self.rrset(name_server, rtype)
            for rtype in ("A", "AAAA")
            if (name_server, rtype) in self._lines
        }


def key_of(owner: str, rtype: str) -> Key:
    """The key of an RRset in a parsed message; `RRSIG(DS)` as in ZoneFile.rrset."""
    if rtype.startswith("RRSIG("):
        return name_from_text(owner), SIGNATURE_OF + dns.rdatatype.from_text(rtype[6:-1]), 1
    return name_from_text(owner), dns.rdatatype.from_text(rtype), 1
