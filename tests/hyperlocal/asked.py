"""Resolvers on one host, asked as a client would, and how often they went on to the root servers."""

import re
import secrets

from tests.network import Host


class AskedResolvers:
    """Of a test, by name; a table of nftables counts what goes from each to the root servers."""

    host: Host

    def ends(self, name: str) -> tuple[str, str]:
        """Where it listens, and from where it asks."""
        raise NotImplementedError

    def dig(self, name: str, qname: str, rtype: str = "A") -> str:
        """What dig prints of its answer."""
        address, _ = self.ends(name)
        return self.host.run(
            "dig", f"@{address}", "+tries=1", "+time=5", "+adflag", "+dnssec", qname, rtype, check=False
        )

    def serial(self, name: str) -> int | None:
        """The serial in its nxdomain: what it has, not what it has in its cache."""
        found = re.search(r"^\.\s+\d+\s+IN\s+SOA\s+\S+ \S+ (\d+)", self.dig(name, f"{secrets.token_hex(8)}."), re.M)
        return int(found.group(1)) if found else None

    def root_queries(self, name: str) -> int:
        """How many came from it to the root servers so far."""
        _, own = self.ends(name)
        listed = self.host.run("nft", "list", "table", "inet", "count")
        counted = re.findall(rf"saddr {re.escape(own)} .*packets (\d+)", listed)
        assert counted, listed
        return sum(map(int, counted))

    def asks_the_roots(self, name: str) -> bool:
        """Whether a name that does not exist takes a query to a root server; it is answered rightly in any case."""
        before = self.root_queries(name)
        printed = self.dig(name, f"{secrets.token_hex(8)}.")
        return "status: NXDOMAIN" in printed and self.root_queries(name) > before

    def answers_alone(self, name: str, names: int = 20) -> bool:
        """Whether *names* that do not exist are answered without any root server."""
        before = self.root_queries(name)
        printed = [self.dig(name, f"{secrets.token_hex(8)}.") for _ in range(names)]
        return all("status: NXDOMAIN" in each for each in printed) and self.root_queries(name) == before
