"""The https server of the service: versions are made ready, certificates come and go, zones are given."""

import asyncio
import functools
from collections.abc import Callable, Mapping

from rootsrv.config.localroot import LocalRootConfig
from rootsrv.distribution.tls import HttpsCertificate
from rootsrv.localroot.publication import Publication, make_version, publication_list
from rootsrv.process import log
from rootsrv.process.child import ChildFailed, Inherited, in_child
from rootsrv.process.troubles import Troubles
from rootsrv.zone.contents import ZoneContents

AGAIN_SECONDS = 5.0
"""How soon a version is tried again that could not be made ready."""


class ZonesByHttps:
    """Gives by https what is given out."""

    def __init__(
        self,
        settings: LocalRootConfig,
        inherited: Inherited,
        given: Mapping[str, int | None],
        fetched: Callable[[str, int, int, str], None],
    ) -> None:
        """*given*: by zone, the serial that is given out now; *fetched*: see Publication."""
        self._settings = settings
        self._inherited = inherited
        self._given = given
        self._publication = Publication(lambda: publication_list(settings, given), fetched)
        self._shown: HttpsCertificate | None = None
        self._unpublished = Troubles("zone is not published by https", "zone is published by https")

    async def publish(self, zone: str, contents: ZoneContents, since: float) -> None:
        """Make *contents*, given out *since* then (seconds since 1970), ready; a failure is tried again."""
        work = functools.partial(make_version, contents, since)
        while self._given.get(zone) == contents.serial:
            try:
                self._publication.publish(zone, await in_child(work, self._inherited))
            except (ChildFailed, TimeoutError) as error:
                self._unpublished.met(error, key=zone, zone=zone, serial=contents.serial)
                await asyncio.sleep(AGAIN_SECONDS)
            else:
                self._unpublished.over(zone, zone=zone, serial=contents.serial)
                return

    async def run(self) -> None:
        """Listen until cancelled.  CannotListen or ConfigError if that cannot be."""
        files = self._settings.tls_certificate, self._settings.tls_key
        self._shown = HttpsCertificate("localroot.tls_certificate", *files)
        is_given = lambda zone: self._given.get(zone) is not None  # noqa: E731
        server = self._publication.server(self._settings.https_connections, is_given)
        addresses, port = self._settings.addresses, self._settings.https_port
        try:
            await server.listen(addresses, port, context=self._shown.context, key="localroot.https_port")
            log.event("zones by https", addresses=",".join(addresses), port=port)
            await asyncio.Event().wait()
        finally:
            server.close()

    def reload_certificate(self) -> None:
        """Show new clients what the files hold now.  ConfigError when they cannot be read; nothing has changed then."""
        if self._shown is not None:
            self._shown.reload()
