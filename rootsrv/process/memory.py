"""Memory that is not needed any more: back to the system, or kept."""

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


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_KEPT_OCTETS = 32 << 20


def keep_freed() -> None:
    """Have malloc keep up to 32 MiB of what is freed, in pieces of any size.

    For who makes arrays of megabytes many times a second: each is otherwise mapped anew, and the kernel clears its
    pages, which takes longer than what is done with them.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_MMAP_THRESHOLD, _KEPT_OCTETS)
        option(_M_TRIM_THRESHOLD, _KEPT_OCTETS)


def is_loaded() -> None:
    """What is there now stays: from now on garbage is collected, and this much is not walked for it any more.

    A collection holds the event loop, whoever sets it off: 30 ms for what maintain is loaded with, 100 ms with ten
    thousand subscribers of a LocalRoot service.
    """
    gc.enable()
    gc.freeze()
