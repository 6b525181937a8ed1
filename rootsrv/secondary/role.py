"""The role *maintain*, put together: store, maintainer, administrative interface, control socket."""

import asyncio
from pathlib import Path

from rootsrv.config import Config
from rootsrv.page import Page
from rootsrv.secondary.clocks import clocks
from rootsrv.secondary.loading import LoadingFailed
from rootsrv.secondary.maintainer import Maintainer
from rootsrv.secondary.store import Store


async def maintain(config: Config, path: Path, stop: asyncio.Event, reload: asyncio.Event) -> None:
    """Keep the zones current until *stop* is set; read *path* again when *reload* is.

    Raises StoreFailed, LoadingFailed or ConfigError when it cannot start.  A primary that fails is not an error here.
    """
    store = Store(Path(config.state.directory))
    try:
        page = Page.open_or_create(Path(config.state.runtime_directory) / "page")
        maintainer = Maintainer(config, store, page, clocks(config.clock.source))
        try:
            await maintainer.run(stop)
        except* LoadingFailed as group:
            raise group.exceptions[0] from None
    finally:
        store.close()
