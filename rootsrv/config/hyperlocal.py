"""`[hyperlocal]`: the root beside one resolver (docs/hyperlocal.md)."""

from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import check_range


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperlocalConfig:
    """`[hyperlocal]`: how the resolver on this host has the root from `rootsrv hyperlocal`."""

    notify: tuple[str, ...] = ("127.0.0.1",)
    """Resolvers on this host that are told of a new zone (RFC 1996): ADDRESS or ADDRESS@PORT."""

    answer: bool = False
    """Whether queries are answered too, on service.addresses, which must be on loopback then."""

    on_stale: Literal["relay", "servfail"] = "relay"
    """What a query gets while there is no copy that may be answered from: the root servers' answer, or SERVFAIL."""

    https_port: int = 0
    """Where on admin.addresses /root.zone is given by https, to resolvers that take a zone in no other way; 0 = not."""

    follow_key_rolls: bool = False
    """Whether keys that the root announces become trust anchors, and revoked ones none (RFC 5011)."""

    def __post_init__(self) -> None:
        check_range("hyperlocal.https_port", self.https_port, 0, 65535)
