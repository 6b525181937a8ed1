"""Memory that is not needed any more, back to the system."""

import ctypes
import gc


def give_back() -> None:
    """Return what a large piece of work – a transfer, a zone that was parsed – has left unused (malloc_trim(3)).

    glibc keeps it for the next one, and there it would lie for half a day.  Elsewhere this is only a collection.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
