"""Tables that are answered from, held in memory: a disk that fails takes no answer away."""
# Workers map the table's file, and so do those who compare with it.  What the kernel has let go of, it reads again from
# the disk when it is wanted: a disk that fails then is a SIGBUS for whoever wanted it, and a worker that starts anew
# finds nothing either.  So this process maps the same files, locked (mmap(2), MAP_LOCKED): what stands in memory for
# one stands there for all.

import asyncio
import mmap
import os
from pathlib import Path

from rootsrv.page.layout import Page
from rootsrv.process import log
from rootsrv.store.table_file import table_path

LOOK_SECONDS = 1.0

_MAP_LOCKED = 0x2000  # <asm-generic/mman.h>; no constant of Python's


class HeldTables:
    """Those in force and staged."""

    def __init__(self, page: Page, tables: Path) -> None:
        self._page = page
        self._tables = tables
        self._held: dict[int, mmap.mmap | None] = {}
        """By generation; None where it cannot be held."""

    async def run(self) -> None:
        """Hold what the page names, until cancelled."""
        try:
            while True:
                await self.follow()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._let_go(set())

    async def follow(self) -> None:
        """Hold what the page names, and nothing else."""
        wanted = {self._page.active, self._page.staged} - {0}
        self._let_go(wanted)
        for generation in sorted(wanted - self._held.keys()):
            try:
                # It is read from the disk, which may take its time.
                self._held[generation] = await asyncio.to_thread(_locked, table_path(self._tables, generation))
            except FileNotFoundError:  # it is on its way, or gone: whoever maps it says so
                continue
            except (OSError, ValueError) as error:
                self._held[generation] = None
                log.event("table not held in memory", generation=generation, reason=error, limit="RLIMIT_MEMLOCK")

    def _let_go(self, wanted: set[int]) -> None:
        for generation in self._held.keys() - wanted:
            if (mapping := self._held.pop(generation)) is not None:
                mapping.close()


def _locked(path: Path) -> mmap.mmap:
    """The file at *path*, in memory as long as this is mapped; OSError where it cannot be, ValueError: empty."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | _MAP_LOCKED, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)
