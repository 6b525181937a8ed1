"""DNS over TLS: is there OpenSSL, is the certificate good and for how long, who may read its key, is the port ours?"""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rootsrv.config.dot import DotConfig
from rootsrv.config.file import Config
from rootsrv.config.text import is_for_everybody
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.dot import certificate
from rootsrv.dot.beside import EXPIRES_SOON_SECONDS
from rootsrv.dot.certificate import CertificateUnusable, Shown
from rootsrv.dot.libssl import Context, TlsUnavailable
from rootsrv.dot.trial import tried
from rootsrv.zone import instant

_DAY = 86_400
_RENEW = "renew it, then: rootsrv reload"


def checks(config: Config) -> Iterator[Finding]:
    """All of them; nothing where there is no `[dot]`."""
    settings = config.dot
    if settings is None:
        return
    yield from _certificate(settings)
    for address in config.service.addresses:
        yield from _port(address, settings.port)


def _certificate(settings: DotConfig) -> Iterator[Finding]:
    now = time.time()
    about = f"certificate {settings.certificate or 'of DNS over TLS'}"
    try:
        if settings.certificate:
            shown = certificate.read(Path(settings.certificate), Path(settings.key), now)
            tried(shown, settings.certificate)
        else:
            shown = certificate.make("doctor", (), now)
            Context(shown.chain, shown.key)
    except CertificateUnusable as error:
        yield bad(about, str(error), _RENEW)
        return
    except TlsUnavailable as error:
        yield bad(about, str(error.strerror), "apt-get install libssl3, or a key that OpenSSL takes")
        return
    if not settings.certificate:
        yield remark(about, "none is configured: one is made at start, which nobody can authenticate (RFC 9539)",
                     "dot.certificate and dot.key, where clients shall know whom they ask")  # fmt: skip
        return
    yield validity(about, shown, now, _RENEW)
    if is_for_everybody(Path(settings.key)):
        yield bad(f"key {settings.key}", "can be read by everybody", f"chmod 640 {settings.key}")


def validity(about: str, shown: Shown, now: float, mend: str) -> Finding:
    """How long a certificate is good for yet; *mend*: what is to be done when that is not long."""
    left = shown.not_after - now
    until = f"until {instant.to_text(shown.not_after)}, {left / _DAY:.0f} days"
    return bad(about, until, mend) if left < EXPIRES_SOON_SECONDS else good(about, until)


def _port(address: str, port: int) -> Iterator[Finding]:
    """Whether something listens there already; if rootsrv runs, that is what it should."""
    about = f"TCP port {port} of {address}"
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.settimeout(1)
        try:
            probe.bind((address, 0))
        except OSError:
            return  # the network's part says that the address is missing
        taken = probe.connect_ex((address, port)) == 0
    yield good(about, "something listens: rootsrv, if it runs" if taken else "is free")
