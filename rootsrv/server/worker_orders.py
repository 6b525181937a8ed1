"""What the parent tells a worker: WorkerOrders a line on its standard input, other settings in further lines.

A further line is a new value of `responder`, or an object with the key `admission` or `tls` and a new value of that.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rootsrv.process.host_name import host_name

if TYPE_CHECKING:  # the parent has read it; a worker starts sooner without
    from rootsrv.config.file import Config


LONGEST_LINE_OCTETS = 1 << 24
"""Of an order: a thousand exempt prefixes are 50 kB, the largest chain of certificates 1.4 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOrders:
    """All that a worker needs to know."""

    slot: int
    parent: int
    """Process id; the worker ends when it does."""

    page: tuple[int, int, int]
    """Descriptors: the head of the shared page and the parent's part for reading, the worker's own slot for writing."""

    tables: int
    """Descriptor: the directory of tables."""

    sockets: tuple[int, ...]
    """Descriptors: UDP sockets and listening TCP sockets."""

    account: tuple[int, int] | None
    """User and group id to run as."""

    responder: dict[str, Any]
    """ResponderSettings: octets as hexadecimal digits, `cookie_secrets` (the newest first) in place of `cookies`."""

    tcp: dict[str, Any]
    """TcpLimits."""

    real_time_priority: int = 0
    """With which the worker goes before ordinary processes; 0 = it is as it was started."""

    admission: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Policy.to_document (admission/policy.py): limits, shed rules, who is exempt."""

    cells: int | None = None
    """Descriptor: the cells of the limits; None where there are none."""

    notes: int | None = None
    """Descriptor: the ring for notes of queries; None where there is none."""

    sources_key: str
    """What unique sources are hashed with, hexadecimal digits (page/unique_sources.py)."""

    capture: int | None = None
    """Descriptor: memory for what a capture is told (rootsrv/capture/rings.py)."""

    changes: int | None = None
    """Descriptor: tells of changes of the page (page/changes.py); None: the worker finds them at its next turn."""

    anchor_tags: tuple[int, ...] = ()
    """Key tags of the root's trust anchors."""

    tls: dict[str, Any] | None = None
    """For DNS over TLS: certificate and key (`Shown.to_document`, rootsrv/dot/certificate.py)."""

    batched: bool = True
    """Use recvmmsg and sendmmsg where they are to be had."""

    def to_json(self) -> str:
        """As it goes over the pipe: one line without its end."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "WorkerOrders":
        """Inverse of `to_json`."""
        document = json.loads(text)
        for key in ("page", "sockets", "anchor_tags"):
            document[key] = tuple(document[key])
        document["account"] = document["account"] and tuple(document["account"])
        return cls(**document)


def responder_orders(config: "Config", own_secret: str) -> dict[str, Any]:
    """`WorkerOrders.responder`; *own_secret* for cookies if none is configured (hexadecimal digits)."""
    return {
        "max_udp_response_octets": config.service.max_udp_response_octets,
        "nsid": (config.identity.nsid or host_name()).encode().hex(),
        "version": config.identity.version.encode().hex(),
        "cookie_secrets": [config.cookies.secret or own_secret, *config.cookies.previous_secrets],
        "require_server_cookie": config.cookies.require_server_cookie,
        "tcp_idle_seconds": config.service.tcp_idle_seconds,
    }
