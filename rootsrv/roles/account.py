"""The account that a role runs as which looks, writes files or shows pages, and needs no right for it."""

import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from rootsrv.config.file import Config
from rootsrv.process import log, privileges
from rootsrv.roles import supervisor

_LOADED_BEFORE = ("encodings.idna", "dns.name", "dns.rcode", "rootsrv.wire.any_rdata")
"""What these roles load where they meet text: the account may be one to which an installation below /root is closed."""


def keep_what_is_needed(
    config: Config,
    writes: Path,
    reads: Iterable[Path] = (),
    *,
    capability: int | None = None,
    own: Callable[[str], bool] | None = None,
) -> str:
    """Take the role's privileges from it, before anybody can talk to it; why it goes on as root, else empty.

    Started by root it becomes `service.user`, as the workers do, but stays in the group that it was started in: to that
    the page and the other roles' sockets are open.  *writes* becomes that account's, with all that is in it, or with
    its files of names that are *own*; *reads*: what else has to be open to it; *capability*: the one that it keeps.
    """
    for each in _LOADED_BEFORE:
        importlib.import_module(each)
    closed = ""
    account = privileges.account(config.service.user)
    if account is not None and os.geteuid() == 0:
        try:
            privileges.hand_over(writes, account[0], own)
        except OSError as error:  # a disk that cannot be written: the role says so where it writes
            log.alarm("files are not handed over", directory=writes, to=config.service.user, reason=error.strerror)
        if found := privileges.unreachable((writes, *reads), account[0]):
            closed = f"{found[0]} is closed to {config.service.user}"
        else:
            privileges.keep_group_only(account[0], capability)
    else:
        privileges.give_up_capabilities(capability)
    if parent := os.environ.get(supervisor.SUPERVISOR):
        privileges.die_with_parent(int(parent))
    return closed
