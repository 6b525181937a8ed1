"""A new table's answers, prepared a little at a time between the turns, so that nobody waits for them."""
# A responder is some 50,000 objects that live as long as its table, and no collection shall walk them: that would hold
# up whoever asks for 20 ms and more (bench/switchover.py).  So the collector is off from when a table is mapped until
# all is prepared, and what is there then is frozen.

import gc
import mmap
from collections.abc import Callable, Iterator

from rootsrv.answer.responder import Responder


class Preparing:
    """What is still to be prepared of the latest table that was mapped."""

    def __init__(self, note_fault: Callable[[Exception, bytes], None]) -> None:
        """*note_fault* is told why an answer could not be prepared."""
        self._note_fault = note_fault
        self._responder: Responder | None = None
        self._steps: Iterator[None] = iter(())

    @staticmethod
    def made(make: Callable[[], Responder]) -> Responder:
        """What *make* gives, in whatever thread; `begin` is to be told of it.  What it raises passes through."""
        gc.collect()  # what is frozen later is never collected; there is little to walk, the rest is frozen already
        gc.disable()
        try:
            return make()
        except BaseException:
            gc.enable()
            raise

    def begin(self, responder: Responder) -> None:
        """Prepare what *responder* has from now on, and no other's."""
        self._responder, self._steps = responder, responder.put_together()

    def step(self) -> bool:
        """Prepare some more, in a fraction of a millisecond; whether anything may be left."""
        if self._responder is None:
            return False
        try:
            next(self._steps)
            return True
        except StopIteration:
            if isinstance(mapping := self._responder.table.octets.obj, mmap.mmap):
                # What is sent was taken out of it; what is still read is paged in again from the cache.
                mapping.madvise(mmap.MADV_DONTNEED)
        except Exception as error:  # who asks for that answer gets SERVFAIL; the others are prepared when asked for
            self._note_fault(error, b"")
        self._end()
        return False

    def let_go(self, responder: Responder) -> None:
        """Nobody is or will be answered from *responder*."""
        if responder is self._responder:
            self._end()

    def _end(self) -> None:
        self._responder, self._steps = None, iter(())
        gc.freeze()
        gc.enable()
