"""The host itself: account, directories, files, memory, clock."""

import os
import pwd
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rootsrv.config import text as config_text
from rootsrv.config.file import Config
from rootsrv.config.localroot import LocalRootConfig
from rootsrv.distribution import listener
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.process.clocks import kernel_says_synchronised
from rootsrv.process.descriptors import left_beside, raise_limit
from rootsrv.server.tcp import TcpLimits

ACCOUNT = "rootsrv"

STATE_OCTETS = 500_000_000
"""Eight versions of the root zone and three answer tables are 60 MB; a year of statistics 200 MB."""

_MEMORY_OCTETS = 1_000_000_000
"""Maintain has two zones in memory while it verifies (300 MB); a worker 50 MB, the fast path 50 MB."""

_TMPFS = {"tmpfs", "ramfs"}


def checks(config: Config, path: Path) -> Iterator[Finding]:
    """All of them; *path*: the configuration file."""
    yield from _account(config)
    yield from _directories(config)
    yield from _files(config)
    yield from _secrets(config, path)
    yield from _for_the_account(config, path)
    yield _memory()
    yield from _descriptors(config)
    yield _clock(config)


def _account(config: Config) -> Iterator[Finding]:
    for name, why in ((ACCOUNT, "the units run as it"), (config.service.user, "service.user")):
        if not name:
            continue
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            yield bad(
                f"account {name}", f"does not exist ({why})",
                f"adduser --system --group --home /var/lib/rootsrv --no-create-home {name}",
            )  # fmt: skip
        else:
            yield good(f"account {name}", f"user id {entry.pw_uid}")
    wanted = ("CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON")
    missing = [each for each in wanted[: 1 if config.localroot else None] if not _may(each)]
    if missing:
        yield bad(
            "capabilities", f"nobody on this host can have {', '.join(missing)}",
            "start the container with them (podman run --cap-add=…), or leave the container",
        )  # fmt: skip
    else:
        yield good("capabilities", "all that the roles need can be given to them")


_NUMBERS = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}


def _may(capability: str) -> bool:
    """Whether it is in our bounding set, beyond which no process that we start can get."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> _NUMBERS[capability] & 1)
    return True


def _directories(config: Config) -> Iterator[Finding]:
    state = Path(config.state.directory)
    about = f"state directory {state}"
    there = _nearest(state)
    flags = os.statvfs(there)
    free = flags.f_bavail * flags.f_frsize
    if flags.f_flag & os.ST_RDONLY:
        yield bad(about, f"{there} is on a read-only file system", f"mount -o remount,rw {_mount_point(there)}")
    elif free < STATE_OCTETS:
        yield bad(
            about, f"{free / 1e6:,.0f} MB free, {STATE_OCTETS / 1e6:,.0f} are needed",
            "free some space, or set state.directory to another file system",
        )  # fmt: skip
    elif there != state:
        yield remark(
            about, "does not exist yet",
            f"install -d -o {ACCOUNT} -g {ACCOUNT} -m 750 {state} ({_unit(config)} does it, too)",
        )  # fmt: skip
    else:
        yield good(about, f"{free / 1e9:,.1f} GB free")
    runtime = Path(config.state.runtime_directory)
    kind = _file_system(_nearest(runtime))
    about = f"runtime directory {runtime}"
    if kind in _TMPFS:
        yield good(about, f"in memory ({kind})")
    else:
        yield remark(
            about, f"is on {kind or 'an unknown file system'}, which may have to write to a disk",
            "set state.runtime_directory to a directory on a tmpfs, such as /run/rootsrv",
        )  # fmt: skip


def _unit(config: Config) -> str:
    """Of the role that keeps the zones."""
    return "rootsrv-localroot.service" if config.localroot else "rootsrv-maintain.service"


def _nearest(path: Path) -> Path:
    """*path*, or its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    return path


def _mounts() -> list[tuple[Path, str]]:
    fields = [line.split() for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    return [(Path(each[4].replace("\\040", " ")), each[each.index("-") + 1]) for each in fields]


def _mount_point(path: Path) -> Path:
    points = [point for point, _ in _mounts() if path.resolve().is_relative_to(point)]
    return max(points, key=lambda point: len(point.parts), default=Path("/"))


def _file_system(path: Path) -> str:
    point = _mount_point(path)
    return next((kind for each, kind in reversed(_mounts()) if each == point), "")


def _files(config: Config) -> Iterator[Finding]:
    if not config.zone:
        yield bad("zones", "none is configured", 'add [[zone]] name = "." (deploy/rootsrv.toml)')
    for zone in config.zone:
        has_primary = any(zone.name in each.zones for each in config.primary)
        for key, text in (("file", zone.file), ("trust_anchors", zone.trust_anchors)):
            if not text:
                continue
            about = f"zone {zone.name} {key}"
            path = Path(text)
            try:
                size = len(path.read_bytes())
            except OSError as error:
                if key == "file" and has_primary:
                    yield remark(
                        about, f"{path}: {error.strerror}; the zone comes from primaries alone",
                        "put a current zone file there: the first start then needs no network",
                    )  # fmt: skip
                else:
                    yield bad(about, f"{path}: {error.strerror}", f"put it there, readable by {ACCOUNT}")
            else:
                yield good(about, f"{path}, {size:,} octets")
        if not zone.file and not has_primary:
            yield bad(f"zone {zone.name}", "neither file nor primary", "name one: zone.file or [[primary]] zones")


def _secrets(config: Config, path: Path) -> Iterator[Finding]:
    """What only this instance is to know is in files that only it can read."""
    files: dict[Path, list[str]] = {}
    seen = []
    if keys := list(config_text.secrets(config)):
        files[path] = keys
    for key, file in config_text.secret_files(config):
        files.setdefault(file, []).append(key)
    open_ = 0
    for file, keys in files.items():
        try:
            is_open = config_text.is_for_everybody(file)
        except OSError as error:
            yield bad(f"secrets in {file}", str(error.strerror), f"put it there, readable by {ACCOUNT} alone")
            continue
        seen.append(str(file))
        if is_open:
            open_ += 1
            yield bad(
                f"secrets in {file}", f"everybody on this host can read {', '.join(keys)}",
                f"chgrp {ACCOUNT} {file}; chmod 640 {file}; then new secrets: these may be known",
            )  # fmt: skip
    if seen and not open_:
        yield good("secrets", f"{', '.join(seen)}: not for everybody")


def _for_the_account(config: Config, path: Path) -> Iterator[Finding]:
    """What root has put there, the account that the units run as can read."""
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return  # said already
    groups = os.getgrouplist(ACCOUNT, entry.pw_gid)
    closed = absent = 0
    for key, file in dict.fromkeys((("configuration", path), *config_text.files(config))):
        try:
            may = may_read(entry.pw_uid, groups, file)
        except OSError:
            absent += 1  # which others say
            continue
        if not may:
            closed += 1
            yield bad(
                f"{key} {file}", f"cannot be read by {ACCOUNT}, as which the units run",
                f"sudo -u {ACCOUNT} cat {file} says why; a key of its own: chown {ACCOUNT}: {file}, "
                f"the rest: chgrp {ACCOUNT} {file}; chmod 640 {file}",
            )  # fmt: skip
    if not closed:
        what = "what is there of that which" if absent else "all that"
        yield good("files", f"{what} the configuration names can be read by {ACCOUNT}")


def may_read(user: int, groups: Sequence[int], path: Path) -> bool:
    """Whether an account reaches the file at *path* and may read it, by modes (path_resolution(7)); OSError."""
    path = path.resolve(strict=True)

    def allowed(status: os.stat_result, bit: int) -> bool:
        shift = 6 if status.st_uid == user else 3 if status.st_gid in groups else 0
        return bool(status.st_mode >> shift & bit)

    return allowed(path.stat(), os.R_OK) and all(allowed(each.stat(), os.X_OK) for each in path.parents)


def _memory() -> Finding:
    values = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    free = int(values["MemAvailable"].split()[0]) * 1024
    cores = len(os.sched_getaffinity(0))
    found = f"{free / 1e9:.1f} GB available, {cores} cores"
    if free < _MEMORY_OCTETS:
        return bad("memory", found, f"at least {_MEMORY_OCTETS / 1e9:.0f} GB must be free")
    return good("memory", found)


def _descriptors(config: Config) -> Iterator[Finding]:
    """Of this process; the unit of serve asks for what it needs, and gets it unless fs.nr_open is lower."""
    allowed = raise_limit()
    if config.localroot is not None:
        yield _descriptors_of_transfers(allowed, config.localroot)
        return
    connections = config.admin.max_connections
    if left_beside(allowed, listener.RESERVED_DESCRIPTORS) < connections:
        yield remark(
            "open files",
            f"{allowed:,} are allowed, {listener.RESERVED_DESCRIPTORS} of them kept for tables and control:"
            f" not enough for {connections:,} administrative connections",
            "raise LimitNOFILE in rootsrv-maintain.service (or ulimit -Hn), or lower admin.max_connections",
        )
    wanted = config.service.tcp_max_connections
    possible = TcpLimits(connections=wanted).possible(allowed)
    if possible < wanted:
        yield remark(
            "open files", f"{allowed:,} are allowed: {possible:,} TCP connections per worker of {wanted:,} configured",
            "raise LimitNOFILE in rootsrv-serve.service (or ulimit -Hn), or lower service.tcp_max_connections",
        )  # fmt: skip
        return
    yield good("open files", f"{allowed:,} are allowed, enough for {wanted:,} TCP connections per worker")


def _descriptors_of_transfers(allowed: int, settings: LocalRootConfig) -> Finding:
    """Those of a LocalRoot service."""
    wanted = settings.max_connections + (settings.https_connections if settings.https_port else 0)
    if left_beside(allowed, listener.RESERVED_DESCRIPTORS) < wanted:
        return remark(
            "open files", f"{allowed:,} are allowed, not enough for {wanted:,} connections",
            "raise LimitNOFILE in rootsrv-localroot.service (or ulimit -Hn), or lower localroot.max_connections",
        )  # fmt: skip
    return good("open files", f"{allowed:,} are allowed, enough for {wanted:,} connections")


def _clock(config: Config) -> Finding:
    if config.clock.source == "trusted":
        return remark(
            "clock", "is believed whatever the kernel says (clock.source = trusted)",
            'leave clock.source = "kernel" where the machine keeps its own time',
        )  # fmt: skip
    if kernel_says_synchronised():
        return good("clock", "synchronised")
    if shutil.which("chronyd", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        return bad("clock", "not synchronised, and there is no chronyd", "apt install chrony (deploy/chrony)")
    return bad("clock", "the kernel says that it is not synchronised", "systemctl start chrony; chronyc waitsync")
