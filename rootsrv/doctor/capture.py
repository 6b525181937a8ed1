"""Capture: is there room for its files, does the disk take them fast enough, are its libraries there?"""

import importlib.util
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rootsrv.capture.room import Room
from rootsrv.config.capture import CaptureConfig
from rootsrv.config.file import Config
from rootsrv.doctor.finding import Finding, bad, good, remark

RATE = 270_000
"""Queries a second of the busiest letter: what a disk should take."""

QUERY_OCTETS = {("cdns", "none"): 65, ("cdns", "gzip"): 40, ("cdns", "zstd"): 39} | {
    ("pcap", "none"): 96,
    ("pcap", "gzip"): 51,
    ("pcap", "zstd"): 46,
}
"""That a query of the mix takes in a file (bench/results/capture.md)."""

_PACKAGES = {"xz": "xz-utils", "gzip": "gzip", "zstd": "zstd"}
_UNIT = "rootsrv-capture.service"
_PATIENCE_SECONDS = 10.0
_TRIED_OCTETS = 32 << 20
_PIECE_OCTETS = 1 << 20
_LONGEST_SECONDS = 5.0
_GIGABYTE = 10**9
_HOUR = 3600


def checks(config: Config) -> Iterator[Finding]:
    """All of them; nothing where there is no `[capture]`."""
    settings = config.capture
    if settings is None:
        return
    yield from _libraries(settings)
    yield from _programs(settings)
    directory = Path(settings.directory)
    yield from _unit(directory)
    there = next(each for each in (directory, *directory.parents) if each.is_dir())
    yield _room(settings, there)
    yield _speed(settings, there)


def _libraries(settings: CaptureConfig) -> Iterator[Finding]:
    wanted = ["numpy", *{"gzip": ["isal"], "zstd": ["zstandard"]}.get(settings.compression, [])]
    missing = [each for each in wanted if importlib.util.find_spec(each) is None]
    if not missing:
        yield good("capture libraries", ", ".join(wanted))
        return
    found = f"{', '.join(missing)} not installed: plain Python takes a fraction of the rate"
    remedy = "pip install 'rootsrv[capture]' into the environment of rootsrv"
    if "zstandard" in missing:
        yield bad("capture libraries", f'{found}, and compression = "zstd" is not to be had', remedy)
    else:
        yield remark("capture libraries", found, remedy)


def _programs(settings: CaptureConfig) -> Iterator[Finding]:
    """What compresses finished files again."""
    if settings.recompress == "none":
        return
    wanted = ["xz", *{"gzip": ["gzip"], "zstd": ["zstd"]}.get(settings.compression, [])]
    missing = [each for each in wanted if shutil.which(each) is None]
    if missing:
        found = f"{', '.join(missing)} not installed: files stay as they were written"
        yield bad("capture programs", found, f"apt-get install {' '.join(_PACKAGES[each] for each in missing)}")
    else:
        yield good("capture programs", ", ".join(wanted))


def _unit(directory: Path) -> Iterator[Finding]:
    """Whether the role's unit lets it write there; nothing where there is no such unit."""
    if shutil.which("systemctl") is None:
        return
    command = ["systemctl", "show", _UNIT, "--property=LoadState,ProtectSystem,StateDirectory,ReadWritePaths"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # no systemd runs here
        return
    said = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    if said.get("LoadState") != "loaded" or said.get("ProtectSystem") != "strict":
        return
    states = [f"/var/lib/{each}" for each in said.get("StateDirectory", "").split()]
    # A path may have a prefix: "-" where it need not be there, "+" where it is below RootDirectory.
    paths = [each.lstrip("-+") for each in said.get("ReadWritePaths", "").split()]
    if any(Path(os.path.realpath(directory)).is_relative_to(os.path.realpath(each)) for each in (*states, *paths)):
        yield good("capture unit", f"{_UNIT} may write to {directory}")
    else:
        remedy = f"systemctl edit {_UNIT}, with [Service] and ReadWritePaths={directory}; then restart it"
        yield bad("capture unit", f"{_UNIT} may not write to {directory}", remedy)


def _octets_a_second(settings: CaptureConfig) -> float:
    return RATE * QUERY_OCTETS[settings.format, settings.compression] / settings.every


def _room(settings: CaptureConfig, directory: Path) -> Finding:
    """Whether the quota is to be had: what the files have of it already is theirs."""
    quota = settings.quota_octets
    room = Room(directory, quota, settings.keep_free_octets, removes_oldest=False)
    free = room.free_octets() - settings.keep_free_octets
    free += room.octets() if directory == Path(settings.directory) else 0
    hours = min(free, quota) / _octets_a_second(settings) / _HOUR
    about = f"capture space in {directory}"
    if free < quota:
        return bad(
            about, f"{max(0.0, free) / _GIGABYTE:.0f} GB are to be had for a quota of {quota / _GIGABYTE:.0f}",
            "make room, or lower capture.quota_gigabytes",
        )  # fmt: skip
    found = f"{quota / _GIGABYTE:.0f} GB hold {hours:.1f} h at {RATE} queries a second ({settings.format})"
    if hours < 1 and settings.when_full == "stop":
        return remark(about, found, "raise capture.quota_gigabytes, sample (every), or remove the oldest (when_full)")
    return good(about, found)


def _speed(settings: CaptureConfig, directory: Path) -> Finding:
    """How fast the disk takes octets, fsync included."""
    about = f"capture disk of {directory}"
    path = directory / f".rootsrv-doctor-{secrets.token_hex(8)}"
    piece = os.urandom(_PIECE_OCTETS)
    written = 0
    began = time.monotonic()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        while written < _TRIED_OCTETS and time.monotonic() - began < _LONGEST_SECONDS:
            written += os.write(descriptor, piece)
            os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink()
    rate = written / (time.monotonic() - began)
    needed = _octets_a_second(settings)
    found = f"takes {rate / 1e6:.0f} MB/s, {RATE} queries a second are {needed / 1e6:.1f}"
    if rate < 2 * needed:
        return remark(about, found, "another disk for capture.directory, a better compression, or a sample (every)")
    return good(about, found)
