"""How many files a process may have open (RLIMIT_NOFILE), and what a listening socket says when there is no other."""

import errno
import resource

_UNLIMITED = 1 << 30

NOBODY_CAME = frozenset(
    (
        errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR, errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN,
        errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EOPNOTSUPP, errno.ENOPROTOOPT, errno.ETIMEDOUT,
    )
)  # fmt: skip
"""Of accept: nothing waits, or what waited is gone, or a firewall refused it (accept(2), "Error handling").

Any other error means that somebody waits who cannot be taken: no descriptors, no memory.
"""


def left_beside(allowed: int, reserved: int) -> int:
    """How many of *allowed* files may be connections, at least 1, where *reserved* are kept for all else.

    Half of them where that would be most: few connections are better than one, and what cannot be opened then is tried
    again.
    """
    return max(1, allowed - min(reserved, allowed // 2))


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, which needs no privilege; returns what is allowed then.

    A limit that cannot be raised stays as it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = hard
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            allowed = soft
    return _UNLIMITED if allowed == resource.RLIM_INFINITY else allowed
