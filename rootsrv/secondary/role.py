"""The role *maintain*, put together: store, maintainer, administrative interface, control socket."""

import asyncio
from pathlib import Path

from rootsrv import log
from rootsrv.config import Config, ConfigError, load
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
        reloading = asyncio.create_task(_reload_forever(maintainer, path, reload), name="reload")
        try:
            await maintainer.run(stop)
        except* LoadingFailed as group:
            raise group.exceptions[0] from None
        finally:
            reloading.cancel()
            await asyncio.gather(reloading, return_exceptions=True)
    finally:
        store.close()


async def _reload_forever(maintainer: Maintainer, path: Path, reload: asyncio.Event) -> None:
    while True:
        await reload.wait()
        reload.clear()
        reload_now(maintainer, path)


def reload_now(maintainer: Maintainer, path: Path) -> tuple[bool, str]:
    """Read the configuration again: (whether it is in force, what to know).  What is served stays served."""
    try:
        later = maintainer.reload(load(path))
    except ConfigError as error:
        log.alarm("reload refused", reason=error)
        return False, str(error)
    told = f"only after a restart: {', '.join(later)}" if later else ""
    log.event("configuration reloaded", file=path, only_after_restart=",".join(later))
    return True, told
