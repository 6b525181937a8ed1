"""The role *portal*: the pages of the LocalRoot service, its mails, and the register that they write."""
# A process of its own: it may be flooded or fail, and zones go out all the same.  It reads what the zone service
# observed, and writes nothing but the register.

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

from rootsrv.config.checks import ConfigError
from rootsrv.config.file import Config
from rootsrv.config.portal import PortalConfig
from rootsrv.control.protocol import Command, Commands, Nothing, Order
from rootsrv.control.server import ControlServer
from rootsrv.distribution.tls import HttpsCertificate
from rootsrv.localroot import observations, register
from rootsrv.localroot.observations import ObservationsUnusable, Observed
from rootsrv.localroot.register import Register, RegisterUnusable
from rootsrv.portal.application import application
from rootsrv.portal.serving import PortalServer
from rootsrv.portal.settings import settings_of
from rootsrv.portal.visits import Portal
from rootsrv.portal.watch import LOOK_SECONDS, Watch
from rootsrv.process import log, service_manager
from rootsrv.process.persistence import failing, persistently
from rootsrv.roles.account import keep_what_is_needed

_BEAT_SECONDS = 1.0
_MAIL_SECONDS = 5.0
_FORGET_SECONDS = 3600.0
_CERTIFICATE = "portal.tls_certificate"
_CERTIFICATE_SECONDS = 10.0


__all__ = ["PortalCertificateUnusable", "RegisterUnusable", "portal"]


class PortalCertificateUnusable(Exception):
    """portal.tls_certificate or its key cannot be read."""


async def portal(config: Config, stop: asyncio.Event) -> None:
    """Pages and mails until *stop* is set.

    Raises ConfigError, RegisterUnusable, CertificateUnusable or CannotListen when it cannot start.
    """
    settings = settings_of(config)
    state = Path(config.state.directory)
    kept = Register(state / register.DIRECTORY)
    try:
        made = Portal(settings, kept, Observed(state / observations.FILE))
        certificate = _certificate(settings)
        server = PortalServer(application(made), certificate.context if certificate is not None else None)
        server.bind(settings.addresses, settings.port)
        if closed := keep_what_is_needed(config, state / register.DIRECTORY):
            log.alarm("portal keeps running as root", reason=closed)
        control = ControlServer(_commands(made))
        control.start(Path(config.state.runtime_directory) / "portal.sock")
        log.event("pages", url=settings.url, addresses=",".join(settings.addresses), port=settings.port)
        tasks = [
            asyncio.create_task(persistently("mails", lambda: _send_mails(made)), name="mails"),
            asyncio.create_task(persistently("troubles", lambda: _look(Watch(made))), name="troubles"),
            asyncio.create_task(persistently("what has ended", lambda: _forget(made)), name="ended"),
            asyncio.create_task(_beat(), name="beat"),
        ]
        if certificate is not None:
            tasks.append(asyncio.create_task(_follow_certificate(certificate, settings), name="certificate"))
        try:
            await server.run(stop)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            control.close()
    finally:
        kept.close()


def _commands(made: Portal) -> Commands:
    """Of its control socket."""

    async def status(order: Order[Nothing]) -> dict[str, Any]:
        return await asyncio.to_thread(_status, made)

    return {"status": Command(status, Nothing, changes=False)}


def _status(made: Portal) -> dict[str, Any]:
    """Everything as it is now."""
    said: dict[str, Any] = {
        "role": "portal",
        "pid": os.getpid(),
        "counters": made.happened.all(),
        "register_error": "",
        "observations_error": "",
        "mails_error": made.mails.error,
        "failing": dict(failing),
        "files": [made.accounts.register.key_file.as_document()],
    }
    try:
        said |= made.accounts.register.numbers(made.now())
    except RegisterUnusable as error:
        said["register_error"] = str(error)
    try:
        made.observed.fresh(".", 1)
    except ObservationsUnusable as error:
        said["observations_error"] = str(error)
    return said


async def _send_mails(made: Portal) -> None:
    """As they come, and those of before when they are due."""
    loop, put = asyncio.get_running_loop(), asyncio.Event()
    made.mails.on_put = lambda: loop.call_soon_threadsafe(put.set)
    while True:
        put.clear()
        if made.mails.can_send:
            await asyncio.to_thread(made.mails.send, time.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MAIL_SECONDS):
                await put.wait()


async def _look(watch: Watch) -> None:
    while True:
        await asyncio.to_thread(watch.look, time.time())
        await asyncio.sleep(LOOK_SECONDS)


async def _forget(made: Portal) -> None:
    """What has ended is not kept until somebody signs up or in."""
    while True:
        await asyncio.sleep(_FORGET_SECONDS)  # first: a clock that is ahead at boot is set right by then
        await asyncio.to_thread(made.accounts.forget, time.time())


async def _beat() -> None:
    while True:
        service_manager.alive()
        service_manager.ready("pages are served")
        await asyncio.sleep(_BEAT_SECONDS)


def _certificate(config: PortalConfig) -> HttpsCertificate | None:
    """None where a proxy does TLS."""
    if not config.tls_certificate:
        return None
    try:
        return HttpsCertificate(_CERTIFICATE, config.tls_certificate, config.tls_key)
    except ConfigError as error:
        raise PortalCertificateUnusable(str(error)) from error


async def _follow_certificate(certificate: HttpsCertificate, config: PortalConfig) -> None:
    """A new certificate is shown to whoever comes next, without a restart."""
    shown = _stamp(config)
    while True:
        await asyncio.sleep(_CERTIFICATE_SECONDS)
        if (stamp := _stamp(config)) == shown:
            continue
        try:
            certificate.reload()
        except ConfigError as error:
            log.alarm("certificate not taken", reason=error)
        else:
            log.event("certificate taken", file=config.tls_certificate)
        shown = stamp


def _stamp(config: PortalConfig) -> tuple[int, ...]:
    found = []
    for each in (config.tls_certificate, config.tls_key):
        try:
            status = Path(each).stat()
        except OSError:
            found.append(0)
        else:
            found += [status.st_mtime_ns, status.st_ino]
    return tuple(found)
