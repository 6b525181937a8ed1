"""One system call for each of many sockets, without a line of Python between two of them."""
# What a system call costs is not only its own time: the kernel's code and data take the place of ours in the caches,
# and the interpreter's have to come back.  `map` in `extend` is a loop in C.  A list that is extended keeps what came
# before an exception, so where one descriptor fails that is noted in its place, and the loop goes on behind it.

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def call_for_each(function: Callable[..., T], *arguments: Sequence[Any]) -> list[T | OSError]:
    """What *function* returned or raised for the first of each of *arguments*, for the second, …; all are as long.

    It is to be written in C: os.read, say.
    """
    results: list[T | OSError] = []
    while len(results) < len(arguments[0]):
        try:
            results.extend(map(function, *(each[len(results) :] for each in arguments)))
        except OSError as error:
            results.append(error.with_traceback(None))  # which holds this frame, and it this list: a circle
    return results
