"""What this host calls itself."""

import os
import socket


def host_name() -> str:
    """It as text, whatever octets the kernel was given and whatever the locale is: what is no UTF-8 is told as \\x…."""
    return os.fsencode(socket.gethostname()).decode("utf-8", "backslashreplace")
