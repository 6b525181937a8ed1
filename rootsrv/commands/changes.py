"""Files that a setup would change: shown, written, all or none, and the host looked at afterwards."""

import argparse
import contextlib
import difflib
import grp
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rootsrv.commands import doctor
from rootsrv.commands.printing import complain, reason_of, say
from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.process import whole_file

_KEPT = ".before-setup"


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file, and what it is to say."""

    path: Path
    text: str
    group: str = "rootsrv"
    """That may read it; "" = everybody."""

    def is_new(self) -> bool:
        """Whether the file says something else now."""
        return present(self.path) != self.text

    def show(self, hidden: Iterable[str]) -> None:
        """The difference, without *hidden*: terminals are recorded, and looked at over shoulders."""
        old = present(self.path)
        lines = difflib.unified_diff(
            old.splitlines(),
            self.text.splitlines(),
            str(self.path) if old else "/dev/null",
            str(self.path),
            lineterm="",
        )
        hidden = list(hidden)
        for line in lines:
            for each in hidden:
                line = line.replace(each, "…")
            if line.startswith("-") and any(word in line for word in ("secret", "password", "sources_key = ")):
                line = line.partition("=")[0] + " …" if "=" in line else line.partition('"')[0] + "…"
            # What stood in a file of its own.
            say(re.sub(r"\b[0-9a-fA-F]{32}\b", "…", line))


def present(path: Path) -> str:
    """What *path* says; empty when it is not there.  ConfigError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {reason_of(error)}") from error


def write_when_agreed(
    arguments: argparse.Namespace, changes: list[FileChange], edited: list[Path], troubles: Callable[[], Iterable[str]]
) -> int:
    """Write *changes* unless the operator or a check says no; the exit status.

    *edited*: files in which somebody's work would be lost; *troubles* says why the files are wrong.
    """
    if edited and not arguments.overwrite:
        for each in edited:
            complain(f"{each}: is not as setup wrote it: edited by hand, or by another version")
        complain("nothing was written; --overwrite keeps the old files beside the new ones")
        return 1
    if found := list(troubles()):
        for trouble in found:
            complain(trouble)
        complain("nothing was written")
        return 1
    if not arguments.yes and not _agreed():
        complain("nothing was written")
        return 1
    _write(changes)
    return 0


def _agreed() -> bool:
    try:
        return input("write this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _write(changes: list[FileChange]) -> None:
    """All of *changes*, the old files beside them; when one cannot be written, those before it are as they were."""
    undo: list[Callable[[], None]] = []
    path = Path()
    try:
        for each in changes:
            path = each.path
            path.parent.mkdir(parents=True, exist_ok=True)
            old = path.read_bytes() if path.exists() else None
            if old is not None:
                whole_file.replace(path.with_name(path.name + _KEPT), old, mode=0o600)
            if old is None:
                undo.append(partial(path.unlink, missing_ok=True))
            else:
                undo.append(partial(whole_file.replace, path, old, mode=0o640))
            whole_file.replace(path, each.text.encode(), mode=0o640 if each.group else 0o644)
            if each.group:
                _give_to_group(path, each.group)
    except OSError as error:
        for restore in reversed(undo):
            with contextlib.suppress(OSError):
                restore()
        raise ConfigError(f"{error.filename or path}: {error.strerror}; everything is as it was") from error


def _give_to_group(path: Path, group: str) -> None:
    """So that the role may read it; without the account (before the package is there) it stays root's."""
    with contextlib.suppress(KeyError):
        os.chown(path, -1, grp.getgrnam(group).gr_gid)


def look_at_the_host(arguments: argparse.Namespace, configuration: Path) -> None:
    """Say what is still missing, and what doctor finds; what it finds, or how it fails, undoes nothing."""
    for missing in _still_missing(configuration):
        say(f"still missing: {missing}")
    if arguments.no_doctor:
        return
    say("what `rootsrv doctor` says of this host now, before the steps that follow:")
    try:
        doctor.run(argparse.Namespace(config=configuration, network=None, json=False))
    except KeyboardInterrupt:
        complain("doctor was interrupted; what is written stays")
    except Exception as error:
        complain(f"doctor could not look at this host ({type(error).__name__}: {error}); what is written stays")


def _still_missing(configuration: Path) -> Iterator[Path]:
    """Files that the configuration names and that are not there yet: zones, trust anchors, secrets, certificates."""
    loaded = config_file.load(configuration)
    named = [text for zone in loaded.zone for text in (zone.file, zone.trust_anchors)]
    named += [key.secret_file for key in loaded.key]
    if loaded.localroot is not None:
        named += [loaded.localroot.tls_certificate, loaded.localroot.tls_key]
    for each in dict.fromkeys(filter(None, named)):
        if not Path(each).exists():
            yield Path(each)
