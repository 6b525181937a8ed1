"""A LocalRoot service: its addresses and ports, its certificate, what the pages need."""

import importlib.util
import ipaddress
import smtplib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rootsrv.config.file import Config
from rootsrv.config.localroot import LocalRootConfig
from rootsrv.config.portal import PortalConfig
from rootsrv.doctor import network
from rootsrv.doctor.dot import validity
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.dot import certificate
from rootsrv.dot.certificate import CertificateUnusable

_RENEW = "renew it; the service takes new files by itself"
_PATIENCE_SECONDS = 5.0

_OF_THE_PAGES = ("starlette", "uvicorn", "jinja2", "argon2", "webauthn")


def checks(config: Config) -> Iterator[Finding]:
    """All of them; nothing where there is no `[localroot]`."""
    settings = config.localroot
    if settings is None:
        return
    runtime = Path(config.state.runtime_directory)
    there = set().union(*network.addresses_by_interface().values())
    for text in settings.addresses:
        if str(ipaddress.ip_address(text)) not in there:
            yield bad(
                f"address {text}", "is on no interface",
                "put it on one (/etc/network/interfaces), or mend localroot.addresses",
            )  # fmt: skip
            continue
        yield good(f"address {text}", "is on this host")
        # One that runs has them.
        if not (runtime / "localroot.sock").exists():
            yield from _ports(text, settings)
    yield from _certificate(settings)
    if config.portal is None:
        yield remark(
            "pages", "there are none: nobody can sign up, and keys are of whoever has proved nothing",
            "add [portal] (docs/portal.md), or give the root to everybody alike",
        )  # fmt: skip
        return
    yield from _pages(config.portal)
    if not (runtime / "portal.sock").exists():
        for text in config.portal.addresses:
            yield from network.taken(text, config.portal.port, (socket.SOCK_STREAM,), "mend portal.port or end it")


def _ports(text: str, settings: LocalRootConfig) -> Iterator[Finding]:
    mend = "end it: what answers queries goes to other addresses than zones for resolvers"
    yield from network.taken(text, settings.port, (socket.SOCK_DGRAM, socket.SOCK_STREAM), mend)
    for port in (settings.tls_port if settings.tls_certificate else 0, settings.https_port):
        if port:
            yield from network.taken(text, port, (socket.SOCK_STREAM,), mend)


def _certificate(settings: LocalRootConfig) -> Iterator[Finding]:
    if not settings.tls_certificate:
        yield remark(
            "certificate", "there is none: no transfers over TLS (RFC 9103), no https",
            "localroot.tls_certificate and localroot.tls_key",
        )  # fmt: skip
        return
    about = f"certificate {settings.tls_certificate}"
    now = time.time()
    try:
        shown = certificate.read(Path(settings.tls_certificate), Path(settings.tls_key), now)
    except CertificateUnusable as error:
        yield bad(about, str(error), _RENEW)
        return
    yield validity(about, shown, now, _RENEW)


def _pages(settings: PortalConfig) -> Iterator[Finding]:
    missing = [name for name in _OF_THE_PAGES if importlib.util.find_spec(name) is None]
    if missing:
        yield bad("pages", f"{', '.join(missing)} not installed", "pip install 'rootsrv[portal]'; the package has it")
    elif not settings.contact:
        yield remark("pages", f"{settings.url}; nobody is named on the privacy page", "portal.contact")
    else:
        yield good("pages", settings.url)
    if not settings.mail_from:
        yield remark(
            "mails", "there are none: accounts begin with `rootsrv localroot invite` alone",
            "portal.mail_from, and a mail server (portal.smtp_host)",
        )  # fmt: skip
        return
    where = f"{settings.smtp_host} port {settings.smtp_port}"
    kind = smtplib.SMTP_SSL if settings.smtp_tls == "tls" else smtplib.SMTP
    try:
        with kind(settings.smtp_host, settings.smtp_port, timeout=_PATIENCE_SECONDS) as server:
            server.ehlo()
    except (OSError, smtplib.SMTPException) as error:
        yield bad("mails", f"{where}: {error}", "start the mail server, or mend portal.smtp_host")
    else:
        yield good("mails", f"{where} answers")
