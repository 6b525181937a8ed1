"""The part of the resolver on this host: its configuration for the copy that is given out here, and where it is put."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rootsrv.process import whole_file
from rootsrv.resolvers.software import SOFTWARE, Software
from rootsrv.resolvers.wanted import Publisher, ResolverSetup

HERE: Mapping[str, Software] = {
    name: each for name, each in SOFTWARE.items() if name in {"unbound", "bind", "kresd", "kresd6", "pdns", "pdns5"}
}
"""What may run beside rootsrv, by the name that `--configure` takes."""


class CannotInstall(Exception):
    """The resolver's part cannot be written; the text names file and cause."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Where the root is to be had on this host."""

    address: str
    port: int
    https_port: int
    """0: not by https."""

    certificate: str
    """File with the certificate of the zone by https."""

    def wanted(self, kind: str, storage: str = "") -> ResolverSetup:
        """What the resolver *kind* is told; *storage*: where it may keep what it has, if not where its package does."""
        by_https = kind.startswith("kresd") and self.https_port
        host = f"[{self.address}]" if ":" in self.address else self.address
        return ResolverSetup(
            publishers=(Publisher(self.address, self.port),),
            url=f"https://{host}:{self.https_port}/root.zone" if by_https else "",
            ca_file=self.certificate if by_https else "",
            storage=storage,
        )


def install(path: Path, text: str) -> Path | None:
    """Write *text* to *path*; where the file that was there before is kept, if it was another.  CannotInstall.

    The old file stands beside it with `.before-rootsrv`, which Unbound's `*.conf` does not take in.  The very first
    one is kept, whatever comes later.
    """
    if path.is_symlink():
        # Somebody keeps it elsewhere, and has it put there again: a file in the link's place would be lost, or be two.
        raise CannotInstall(f"{path}: is a link to {os.readlink(path)}; name the file itself (--write FILE)")
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = None
    except OSError as error:
        raise CannotInstall(f"{path}: {error.strerror}") from error
    kept = path.with_name(path.name + ".before-rootsrv")
    try:
        if before == text.encode():
            return None
        if before is not None and not kept.exists():
            os.link(path, kept)
        whole_file.replace(path, text.encode(), 0o644)
    except OSError as error:
        raise CannotInstall(f"{path}: {error.strerror}") from error
    return kept if before is not None else None
