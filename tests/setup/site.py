"""A site as the examples in deploy/ have it."""

import functools
from typing import Any

from rootsrv.setup import remembered
from rootsrv.setup.site import SiteAnswers

check = functools.partial(remembered.check, SiteAnswers)
load = functools.partial(remembered.load, SiteAnswers)


def answers(**changed: Any) -> dict[str, Any]:
    """Answers that are right, but for *changed*; None takes one away."""
    made: dict[str, Any] = {
        "name": "lax1a.example",
        "admin_interface": "eth0",
        "admin_addresses": ["203.0.113.10", "2001:db8:a::10"],
        "management": ["203.0.113.0/24", "2001:db8:a::/64"],
        "service_interface": "eth1",
        "link_addresses": ["198.51.100.1", "2001:db8:ffff::1"],
        "routers": ["198.51.100.2", "2001:db8:ffff::2"],
        "service_addresses": ["192.0.2.53", "2001:db8::53"],
        "prefixes": ["192.0.2.0/24", "2001:db8::/48"],
        "local_as": 65001,
        "router_as": 65000,
        "session_password": "change-me",
        "primaries": ["203.0.113.53"],
        "peers": ["2001:db8:a::53"],
        "cookie_secret": "00112233445566778899aabbccddeeff",
        "sources_key": "ffeeddccbbaa99887766554433221100",
        **changed,
    }
    return {key: value for key, value in made.items() if value is not None}
