"""Memory that processes share by a descriptor, which those that write in it need not keep."""

import ctypes
import mmap
import os


def make_shared(name: str, octets: int) -> int:
    """A descriptor of so many zeros; OSError if they cannot be had."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, octets)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def map_shared(descriptor: int, octets: int) -> memoryview:
    """Map it for writing; the descriptor is not kept.  OSError.

    mmap.mmap keeps one, by which the memory could be cut short, and does not know of BPF maps.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    address = library.mmap(None, octets, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
    if address in {None, ctypes.c_void_p(-1).value}:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return memoryview((ctypes.c_char * octets).from_address(address)).cast("B")
