"""Reading from many sockets, and writing to many, without a line of Python between two system calls."""
# What a system call costs is not only its own time: the kernel's code and data take the place of ours in the caches,
# and the interpreter's have to come back.  `map` in `extend` is a loop in C.  A list that is extended keeps what came
# before an exception, so where one descriptor fails that is noted in its place, and the loop goes on behind it.

import os
from collections.abc import Sequence
from itertools import repeat


def read_all(descriptors: Sequence[int], octets: int) -> list[bytes | OSError]:
    """Of each descriptor what os.read(descriptor, *octets*) returned, or raised."""
    read: list[bytes | OSError] = []
    while len(read) < len(descriptors):
        try:
            read.extend(map(os.read, descriptors[len(read) :], repeat(octets)))
        except OSError as error:
            read.append(error)
    return read


def write_all(descriptors: Sequence[int], octets: Sequence[bytes]) -> list[int | OSError]:
    """Of each descriptor what os.write(descriptor, its *octets*) returned, or raised."""
    written: list[int | OSError] = []
    while len(written) < len(descriptors):
        try:
            written.extend(map(os.write, descriptors[len(written) :], octets[len(written) :]))
        except OSError as error:
            written.append(error)
    return written
