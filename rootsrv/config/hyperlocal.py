"""`[hyperlocal]`: the root beside one resolver (docs/hyperlocal.md)."""

import re
from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError, check_range, split_url


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

    contribute_to: str = ""
    """URL of this server's counts at a LocalRoot service: with `answer`, it is sent how many queries of which transport
    and address family came in a day, and how many responses of which rcode went; empty = nothing is counted or sent."""

    token_file: str = ""
    """File with a token of the service's for counts."""

    def __post_init__(self) -> None:
        check_range("hyperlocal.https_port", self.https_port, 0, 65535)
        if bool(self.contribute_to) != bool(self.token_file):
            raise ConfigError("hyperlocal.token_file: goes with hyperlocal.contribute_to")
        if self.contribute_to:
            _check_url(self.contribute_to)
        if self.contribute_to and not self.answer:
            raise ConfigError(
                "hyperlocal.contribute_to: goes with hyperlocal.answer (--serve): of a resolver that has the zone"
                " itself nobody else sees the queries"
            )


def _check_url(url: str) -> None:
    parts, port = split_url("hyperlocal.contribute_to", url)
    # A token is not sent to whoever listens on the way.
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname == "localhost"):
        raise ConfigError(f"hyperlocal.contribute_to: must be https (http for localhost only), got {url!r}")
    plain = re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+/[A-Za-z0-9._~/-]*", url)
    if not plain or not parts.hostname or port == 0:
        raise ConfigError(f"hyperlocal.contribute_to: must be https://HOST/PATH and no more, got {url!r}")
