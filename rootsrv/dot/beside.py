"""DNS over TLS as the parent of the workers keeps it beside them: its port, its limits, its certificate."""
# A certificate that cannot be used is no reason to be silent.  At the start one is made in its place, since who does
# not authenticate is still served encrypted (RFC 9539), and who does is turned away either way.  At a reload the one in
# use stays.  Both are alarms, and told in the status.  Either way the files are read again every minute: a clock that
# was wrong at boot has been set, a certificate has come, half of a pair has become one.

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootsrv.config.dot import DotConfig
from rootsrv.dot import certificate
from rootsrv.dot.certificate import CertificateUnusable, Shown
from rootsrv.dot.trial import tried
from rootsrv.page.layout import TLS_SLOT
from rootsrv.process import log
from rootsrv.server.sockets import ServiceSocket, listen_at
from rootsrv.zone import instant

EXPIRES_SOON_SECONDS = 14 * 86_400
_AGAIN_SECONDS = 86_400
_READ_AGAIN_SECONDS = 60


class DnsOverTls:
    """What the process in TLS_SLOT is started with."""

    name = "dot"
    slot = TLS_SLOT
    module = "rootsrv.dot.worker"

    def __init__(
        self,
        config: DotConfig,
        *,
        addresses: Sequence[str],
        identity: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        """*addresses*: of the service; *identity*: the NSID, for which a certificate of our own is made."""
        self._config = config
        self._addresses = addresses
        self._identity = identity
        self._now = now
        self._sockets: list[ServiceSocket] = []
        self._warned_at = float("-inf")
        self._read_at = now()
        self.problem = ""
        """Why the configured certificate is not the one that is shown; empty if it is, or none is configured."""

        self.show: Callable[[dict[str, Any]], None] = lambda document: None
        """Called with `WorkerOrders.tls` when that has changed."""

        self._file = config.certificate
        """Of what is shown."""

        try:
            self._shown = self._read(config)
        except CertificateUnusable as error:
            self.problem = str(error)
            self._shown = self._made()
            log.alarm("certificate unusable", reason=error, shown="one made here, which nobody can authenticate")

    def _read(self, config: DotConfig) -> Shown:
        if not config.certificate:
            return self._made()
        shown = certificate.read(Path(config.certificate), Path(config.key), self._now())
        tried(shown, config.certificate)  # OpenSSL has the last word: a key may be too short for it
        return shown

    def _made(self) -> Shown:
        return certificate.make(self._identity, self._addresses, self._now())

    def sockets(self) -> Sequence[ServiceSocket]:
        """One that listens per service address; CannotBind."""
        if not self._sockets:
            self._sockets = listen_at(self._addresses, self._config.port, self.slot)
        return self._sockets

    def orders(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """WorkerOrders, where the workers have *common*."""
        config = self._config
        return {
            **common,
            "responder": {**common["responder"], "tcp_idle_seconds": config.idle_seconds},
            "tcp": {
                "connections": config.connections,
                "connections_per_client": config.connections_per_client,
                "idle_seconds": config.idle_seconds,
            },
            "tls": self._shown.to_document(),
        }

    def reload(self, config: DotConfig) -> str:
        """Show the certificate that *config* names, read anew; why the old one stays, else empty.

        Port and limits are changed by a restart only.
        """
        self._config = replace(self._config, certificate=config.certificate, key=config.key)
        self._read_at = self._now()
        try:
            is_ours_still = not config.certificate and self._shown.is_self_signed
            shown = self._shown if is_ours_still else self._read(config)
        except CertificateUnusable as error:
            self.problem = str(error)
            log.alarm("certificate not reloaded", reason=error, shown=f"the old one, until {self._until()}")
            return self.problem
        self._go_on_with(shown)
        return ""

    def _go_on_with(self, shown: Shown) -> None:
        self.problem = ""
        self._file = self._config.certificate
        if shown != self._shown:
            self._take(shown)
            log.event("certificate reloaded", file=self._file or "made here", until=self._until())

    def _read_again(self) -> None:
        self._read_at = self._now()
        try:
            shown = self._read(self._config)
        except CertificateUnusable as error:
            self.problem = str(error)  # it is an alarm already that there is one
        else:
            self._go_on_with(shown)

    def _take(self, shown: Shown) -> None:
        self._shown = shown
        self.show(shown.to_document())

    def tick(self) -> None:
        """From time to time: make another one of our own in time; say when another's ends soon."""
        now = self._now()
        if self.problem and _is_past(self._read_at, _READ_AGAIN_SECONDS, now):
            self._read_again()
        if self._shown.is_to_be_renewed(now):
            self._take(self._made())
            log.event("certificate made", until=self._until())
        elif self._shown.not_after - now < EXPIRES_SOON_SECONDS and _is_past(self._warned_at, _AGAIN_SECONDS, now):
            self._warned_at = now
            log.alarm("certificate expires soon", file=self._file, until=self._until())

    def _until(self) -> str:
        return instant.to_text(self._shown.not_after)

    def status(self) -> dict[str, Any]:
        """Port, and what is shown."""
        return {
            "port": self._config.port,
            "listening": bool(self._sockets),
            "certificate": "self-signed" if self._shown.is_self_signed else self._file,
            "certificate_until": self._until(),
            "certificate_expires_seconds": round(self._shown.not_after - self._now()),
            "certificate_problem": self.problem,
        }

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets:
            each.socket.close()


def _is_past(since: float, seconds: float, now: float) -> bool:
    """Whether it is longer than so many *seconds* ago, or the clock was set back since."""
    return not 0 <= now - since <= seconds
