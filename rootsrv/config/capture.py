"""Configuration of capture: whether what is asked may be written to files, which, where, and for how long."""

import re
from dataclasses import dataclass
from typing import Literal

from rootsrv.config.checks import ConfigError, check_range

Format = Literal["cdns", "pcap"]
Compression = Literal["none", "gzip", "zstd"]

_DAY_SECONDS = 86_400
_GIGABYTE = 10**9
_ROW_OCTETS = 128
_CHUNK_ROWS = 512
_GREATEST_CPU = 8191  # of the kernels that distributions make (NR_CPUS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """`[capture]`: files of what is asked (docs/capture.md).  Without this section there is no way to capture.

    With it the kernel's program is one that can, and the role capture waits for `rootsrv capture start`.
    """

    begin: Literal["by-order", "at-once"] = "by-order"
    """"by-order": capture after `rootsrv capture start`; "at-once": whenever the role runs and nobody said stop."""

    format: Format = "cdns"
    """"cdns": C-DNS (RFC 8618), queries with what was answered; "pcap": queries as IP packets."""

    directory: str = ""
    """Where the files are made, and nothing else is; empty = `capture` in the state directory."""

    name: str = "rootsrv"
    """Begins the names of pcap files, ends those of C-DNS files."""

    rotation_seconds: int = 300
    """A file holds so much of the day, counted from midnight UTC."""

    compression: Compression = "gzip"
    """Of files while they are written; zstd needs the extra rootsrv[capture]."""

    recompress: Literal["none", "xz"] = "none"
    """What files become afterwards, at the lowest priority: xz takes 25 µs a query."""

    quota_gigabytes: float = 50.0
    """What all files of the directory may take (10⁹ octets)."""

    keep_free_gigabytes: float = 2.0
    """What is to stay free on the file system, whoever fills it."""

    when_full: Literal["stop", "remove-oldest"] = "stop"
    """"stop": nothing is captured until there is room again; "remove-oldest": files go, the oldest first."""

    retention_days: float = 0.0
    """Files go after so long; 0 = they stay."""

    every: int = 1
    """Capture one query of so many."""

    families: tuple[Literal["ipv4", "ipv6"], ...] = ("ipv4", "ipv6")
    transports: tuple[Literal["udp", "tcp"], ...] = ("udp", "tcp")

    anonymisation: Literal["none", "truncation", "cryptopan", "aes-128"] = "none"
    """What client addresses become (RSSAC040)."""

    secret: str = ""
    """Key of the anonymisation, hexadecimal digits: 64 for cryptopan, 32 for aes-128.

    Empty = made anew, and known to nobody.
    """

    key_of: Literal["capture", "file"] = "capture"
    """What a key that is made anew belongs to: "file" lets no address be followed from one file to the next."""

    buffer_megabytes: int = 16
    """Room for what has not been written yet, of each CPU and each worker: a power of two.

    16 hold 131,072 queries of a worker, and by what they hold some 237,000 of the kernel (pcap: 162,000).
    """

    cores: tuple[int, ...] = ()
    """CPUs that the role may use; empty = any."""

    @property
    def quota_octets(self) -> int:
        """What the files may take."""
        return int(self.quota_gigabytes * _GIGABYTE)

    @property
    def keep_free_octets(self) -> int:
        """What is left to others of the file system."""
        return int(self.keep_free_gigabytes * _GIGABYTE)

    @property
    def filter(self) -> str:
        """Families and transports as tcpdump would be told; empty if all are taken."""
        families = [{"ipv4": "ip", "ipv6": "ip6"}[each] for each in self.families]
        return " and ".join(each[0] for each in (families, self.transports) if len(each) == 1)

    def __post_init__(self) -> None:
        if _DAY_SECONDS % max(1, self.rotation_seconds) or self.rotation_seconds < 1:
            raise ConfigError(f"capture.rotation_seconds: must divide a day, got {self.rotation_seconds}")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise ConfigError(f"capture.name: must be 1..64 letters, digits, - and _, got {self.name!r}")
        check_range("capture.quota_gigabytes", self.quota_gigabytes, 0.01, 1e6)
        check_range("capture.keep_free_gigabytes", self.keep_free_gigabytes, 0, 1e6)
        check_range("capture.retention_days", self.retention_days, 0, 3660)
        check_range("capture.every", self.every, 1, 2**31 - 1)
        for key, chosen in (("families", self.families), ("transports", self.transports)):
            if not chosen or len(set(chosen)) != len(chosen):
                raise ConfigError(f"capture.{key}: each at most once, and at least one")
        if self.buffer_megabytes not in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            raise ConfigError(f"capture.buffer_megabytes: must be 1, 2, 4 … 256, got {self.buffer_megabytes}")
        if any(not 0 <= each <= _GREATEST_CPU for each in self.cores) or len(set(self.cores)) != len(self.cores):
            raise ConfigError(f"capture.cores: must be numbers of CPUs, 0..{_GREATEST_CPU}, each at most once")
        digits = {"cryptopan": 64, "aes-128": 32}.get(self.anonymisation, 0)
        if self.secret and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", self.secret):
            raise ConfigError(f"capture.secret: must be {digits} hexadecimal digits")
        if self.secret and self.key_of == "file":
            raise ConfigError('capture.key_of: "file" is for keys that are made anew, and there is a capture.secret')

    @property
    def ring_rows(self) -> int:
        """Rows of 128 octets that each ring has."""
        return self.buffer_megabytes * (1 << 20) // _ROW_OCTETS

    @property
    def ring_chunks(self) -> int:
        """The same in the kernel program's unit."""
        return self.ring_rows // _CHUNK_ROWS
