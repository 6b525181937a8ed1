"""How many files a process may have open (RLIMIT_NOFILE)."""

import resource

_UNLIMITED = 1 << 30


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
