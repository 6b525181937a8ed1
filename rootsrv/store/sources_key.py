"""The key under which unique sources are counted: the operator's for all instances, or one of this instance alone."""
# It protects a statistic, and nothing more: whatever is wrong with it, service goes on, under a key of our own.

import os
import tempfile
from pathlib import Path

from rootsrv.page.unique_sources import KEY_OCTETS, SourcesKey, key_name
from rootsrv.process import log

_DIGITS = 2 * KEY_OCTETS


class SourcesKeyUnusable(Exception):
    """This file has no key for unique sources."""


def read(path: Path) -> SourcesKey:
    """The key in the file at *path*, 32 hexadecimal digits; KeyUnusable names the file and what is wrong."""
    try:
        with path.open("rb") as file:
            text = file.read(_DIGITS + 16).strip()
    except OSError as error:
        raise SourcesKeyUnusable(f"{path}: {error.strerror}") from error
    if len(text) != _DIGITS or text.translate(None, b"0123456789abcdefABCDEF"):
        raise SourcesKeyUnusable(
            f"{path}: must be {_DIGITS} hexadecimal digits and nothing else (openssl rand -hex 16)"
        )
    return SourcesKey.of(bytes.fromhex(text.decode()))


def find(configured: str, state: Path) -> SourcesKey:
    """The key in the file *configured*; without that, or where it cannot be used, the one kept in *state*."""
    if configured:
        try:
            return read(Path(configured))
        except SourcesKeyUnusable as error:
            log.alarm("unique sources are counted under a key of this instance alone", reason=error,
                      effect="not to be merged with other instances")  # fmt: skip
    return own(state)


def own(state: Path) -> SourcesKey:
    """The key of this instance, kept in *state*; made, with an alarm, if there is none."""
    path = state / "sources.key"
    try:
        return read(path)
    except SourcesKeyUnusable as error:
        if path.exists():
            log.alarm("key of unique sources is made anew", reason=error)
    made = SourcesKey.random()
    try:
        made = _keep(path, made)
    except OSError as error:
        log.alarm("key of unique sources cannot be kept", file=path, reason=error.strerror,
                  effect="the next start counts under another one")  # fmt: skip
    else:
        log.alarm("key of unique sources made", id=key_name(made.id), file=path,
                  effect="not to be merged with other instances", do="report.sources_key_file")  # fmt: skip
    return made


def _keep(path: Path, key: SourcesKey) -> SourcesKey:
    """Put *key* at *path*, unless another role was faster: then that one's."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:  # mode 600
            file.write(key.octets.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(beside, path)
        except FileExistsError:
            try:
                return read(path)
            except SourcesKeyUnusable:
                beside.replace(path)
        except OSError:  # a file system without links
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return key
