"""What the kernel answers never reaches the packet filter: who is to get no answer is named to rootsrv, not to nft."""

import subprocess
from pathlib import Path

from tests.fastpath.conftest import require_program
from tests.fastpath.site import SERVICE, Site, site
from tests.needs import require_tool

_DROPS_ALL_DNS = """
table inet drops {
    chain input {
        type filter hook input priority raw; policy accept;
        meta l4proto { udp, tcp } th dport 53 counter drop
    }
    chain output {
        type filter hook output priority raw; policy accept;
        meta l4proto { udp, tcp } th sport 53 counter drop
    }
}
"""


def dropped(made: Site) -> list[str]:
    """Packets that the two rules have dropped."""
    listed = made.server.run("nft", "list", "table", "inet", "drops")
    return [line.split("packets ")[1].split()[0] for line in listed.splitlines() if "packets " in line]


def test_a_rule_that_drops_all_dns_drops_no_query_that_the_kernel_answers(tmp_path: Path) -> None:
    require_program()
    nft = require_tool("nft")
    # On tc, which comes after XDP and before netfilter: what does not get from there to nft does not from XDP.
    with site(tmp_path, mode="tc") as made:
        subprocess.run([*made.server.prefix, nft, "-f", "-"], input=_DROPS_ALL_DNS, text=True, check=True)
        for family in (4, 6):
            before = made.kernel_replies(family)
            assert "status: NXDOMAIN" in made.dig(f"@{SERVICE[family]}", "no-such-tld", "A")
            assert made.kernel_replies(family) == before + 1
        assert dropped(made) == ["0", "0"]

        # The rule is in force: what a worker would have to answer gets nowhere.
        assert "status:" not in made.dig(f"@{SERVICE[4]}", "+tcp", ".", "SOA")
        assert dropped(made) != ["0", "0"]

        # What does hold for both: an order to rootsrv.
        made.server.run("nft", "flush", "ruleset")
        made.ask_serve("block", prefix="192.0.2.0/28", seconds=60, reason="test")
        assert "status:" not in made.dig(f"@{SERVICE[4]}", "no-such-tld", "A")
        assert "status: NXDOMAIN" in made.dig(f"@{SERVICE[6]}", "no-such-tld", "A")
