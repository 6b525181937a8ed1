"""The files of a capture: how much they may take, and how each gets its name."""
# fsync takes as long as the disk does, so files are finished by a thread of their own, and meanwhile the next one is
# written.  output_file.py has what a file is, left_behind.py what becomes of one whose role was killed.

import contextlib
import errno
import json
import os
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rootsrv.capture import left_behind
from rootsrv.capture.file_names import (
    CHECKSUM,
    INCOMPLETE,
    INCOMPLETE_NAME,
    METADATA,
    NAME,
    PART,
    XZ,
    is_named,
    packed,
)
from rootsrv.capture.hand import Hand
from rootsrv.capture.output_file import (
    OutputFile,
    md5_of,
    new_file,
    remove_beside,
    set_aside,
    sync_names,
    unlink,
    write_file,
)
from rootsrv.capture.retention import Retention, age
from rootsrv.capture.room import Room
from rootsrv.process import json_text, log
from rootsrv.process.children import describe_error
from rootsrv.process.troubles import Troubles, place_of

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))

_DIRECTORY_MODE = 0o750
"""For the account and its group (output_file.py)."""


class CaptureDirectory:
    """All files of a capture, and how much they may take."""

    def __init__(
        self,
        path: Path,
        *,
        quota_octets: int,
        keep_free_octets: int,
        retention_seconds: float,
        removes_oldest: bool,
        hand: Hand | None = None,
    ) -> None:
        """*path*: made if it is not there; OSError where it cannot be.  *hand*: of a role before this one."""
        self.path = path
        self.room = Room(path, quota_octets, keep_free_octets, removes_oldest=removes_oldest)
        self._retention = Retention(retention_seconds)
        self.removed = 0
        """Files that went to make room, or for their age."""

        self._staying: dict[Path, None] = {}
        self._unmoved = Troubles("capture file cannot be set aside", "capture file is set aside after all")
        make_directory(path)
        left_behind.find_again(self, hand)

    def files(self) -> list[Path]:
        """What there is and was made here, the oldest first, without metadata and checksums.

        What others have put here is none of it, whatever it is called: our files have their metadata beside them.
        """
        found = []
        for each in self.path.iterdir():
            whole = is_named(each, NAME) and each.with_name(each.name + METADATA).is_file()
            if whole or is_named(each, INCOMPLETE_NAME):
                found.append(each)
        return sorted(found, key=age)

    def has(self, name: str) -> bool:
        """Whether the file of that name is there, or what it has been compressed to."""
        return any(os.path.lexists(each) for each in (self.path / name, packed(self.path / name)))

    def abandoned(self, path: Path) -> None:
        """The file of the final name *path* will not be finished; where it is still `.part`, it is tried again."""
        part = path.with_name(path.name + PART)
        if os.path.lexists(part):
            self._staying[part] = None
            self.set_aside_again()

    def set_aside_again(self) -> None:
        """Give those another name that could not have one before."""
        for part in list(self._staying):
            if (error := set_aside(part)) is None:
                del self._staying[part]
                self._unmoved.over(part, file=part.name)
            else:
                self._unmoved.met(error.strerror or str(error), key=part, file=part.name)

    @property
    def staying(self) -> list[str]:
        """What looks as if it were still being written, and is not: names of files that could not be set aside."""
        return [each.name for each in list(self._staying)]

    def remove_aged(self) -> None:
        """Let files go that are older than they may become; OSError if nobody can look."""
        self._retention.apply(self.files, self._remove)

    def has_room(self) -> bool:
        """Whether more may be written; the oldest files go for it, where that is wanted and all together are enough.

        The directory is made if it is not there: another disk may be in the place of one that failed.
        """
        make_directory(self.path)
        return self.room.make(self.files, self._remove)

    def try_out(self) -> None:
        """Have something written to the disk here, and gone again; raises OSError where that cannot be."""
        with tempfile.TemporaryFile(dir=self.path) as file:
            file.write(bytes(512))
            file.flush()
            os.fsync(file.fileno())

    def _remove(self, path: Path, reason: str) -> bool:
        """Whether it could be removed."""
        if not unlink(path):
            return False
        log.event("capture file removed", file=path.name, reason=reason)
        self.removed += 1
        with contextlib.suppress(OSError):
            remove_beside(path)
        return True


def make_directory(path: Path) -> None:
    """The directory *path*, if it is not there, for the account and its group; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(_DIRECTORY_MODE)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


class Finisher:
    """Finishes files in a thread of its own, and compresses them again where that is wanted."""

    def __init__(self, recompress: str, hand: Hand | None = None) -> None:
        """*recompress*: "xz", or "none"; *hand*: in which is what is in no file yet."""
        self._recompress = recompress
        self.hand = hand or Hand.in_memory()
        self._thread = ThreadPoolExecutor(1, "capture-finisher")
        self._slow = ThreadPoolExecutor(1, "capture-xz")
        self._under_way: list[Future[None]] = []
        self._packing: list[Future[None]] = []
        self._put_off: deque[Path] = deque()
        """Files that could not be compressed again: one is tried anew with each that is finished."""

        self._children: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False
        self._lock = threading.Lock()
        """Of what the thread that packs shares with who closes."""

        self._unfinished: deque[tuple[OutputFile, Exception]] = deque()
        self.finished = 0
        self.failed = 0
        self.error = ""

    def finish(self, file: OutputFile, about: dict[str, Any]) -> None:
        """Have *file*, to which nothing more comes, finished."""
        self._under_way = [each for each in self._under_way if not each.done()]
        try:
            self._under_way.append(self._thread.submit(self._finish, file, about))
        except RuntimeError:  # no thread is to be had
            self._finish(file, about)

    def unfinished(self) -> list[tuple[OutputFile, Exception]]:
        """The files that could not be finished since the last call, abandoned by now, and why they could not."""
        return [self._unfinished.popleft() for _ in range(len(self._unfinished))]

    def _finish(self, file: OutputFile, about: dict[str, Any]) -> None:
        try:
            file.finish(about, self.hand)
        except Exception as error:  # whatever it is, it costs this file and nothing else
            self.failed += 1
            self.error = f"{file.path.name}: {getattr(error, 'strerror', None) or describe_error(error)}"
            log.alarm("capture file not finished", file=file.path.name, reason=self.error, at=place_of(error))
            if not file.has_its_name:
                file.abandon()
                self._unfinished.append((file, error))
            return
        self.finished += 1
        log.event("capture file", file=file.path.name, items=file.contents.items, octets=file.octets)
        self.recompress([file.path])
        if self._put_off:
            self.recompress([self._put_off.popleft()])

    def recompress(self, paths: Iterable[Path]) -> None:
        """Have whole files compressed again, where that is wanted and they are not."""
        if self._recompress != "xz":
            return
        for path in paths:
            if path.suffix not in (XZ, INCOMPLETE):
                with contextlib.suppress(RuntimeError):  # no thread is to be had, or it is closed: at the next start
                    self._packing = [each for each in self._packing if not each.done()]
                    self._packing.append(self._slow.submit(self._to_xz, path))

    def _to_xz(self, path: Path) -> None:
        """As `.xz`, by a child at the lowest priority; the file itself goes when that is whole."""
        target = packed(path)
        unpack = {".gz": ["gzip", "-dc"], ".zst": ["zstd", "-dcq"]}.get(path.suffix, ["cat"])
        part = target.with_name(target.name + PART)
        try:
            part.unlink(missing_ok=True)  # of a try before, where it could not be removed
            with os.fdopen(new_file(part), "wb") as stream:
                self._pack(["nice", "-n", "19", *unpack, str(path)], ["nice", "-n", "19", "xz", "-6"], stream.fileno())
                age = path.stat()  # by which it is removed, one day
                os.utime(stream.fileno(), ns=(age.st_atime_ns, age.st_mtime_ns))
                os.fsync(stream.fileno())
            digest = md5_of(part)
            about = json_text.parse(path.with_name(path.name + METADATA).read_bytes())
            about |= {"octets": part.stat().st_size, "md5": digest}
            write_file(target.with_name(target.name + METADATA), json.dumps(about, indent=1).encode() + b"\n")
            write_file(target.with_name(target.name + CHECKSUM), f"{digest}  {target.name}\n".encode())
            part.rename(target)
            sync_names(target.parent)
            path.unlink(missing_ok=True)
            remove_beside(path)
        except Exception as error:  # whatever it is, the file stays as it is
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
                if not target.exists():
                    remove_beside(target)
            if not path.exists():
                return  # it went meanwhile, for its age or for others
            log.alarm("capture file not made xz", file=path.name, reason=describe_error(error), at=place_of(error))
            self._put_off.append(path)

    def _pack(self, reads: list[str], packs: list[str], descriptor: int) -> None:
        """What the command *reads* prints through *packs* into *descriptor*; OSError if either fails."""
        with (
            self._child(reads, stdout=subprocess.PIPE) as reading,
            self._child(packs, stdin=reading.stdout, stdout=descriptor) as packing,
        ):
            assert reading.stdout is not None
            reading.stdout.close()
            statuses = packing.wait(), reading.wait()
        if any(statuses):
            reason = "the role ends" if self._is_closed else f"{packs[-2]}, or what reads the file, failed"
            raise OSError(errno.EIO, reason)

    @contextlib.contextmanager
    def _child(self, command: list[str], **streams: Any) -> Iterator["subprocess.Popen[bytes]"]:
        """A child that is gone behind the context, and that `close` ends."""
        with self._lock:
            if self._is_closed:
                raise OSError(errno.ECANCELED, "the role ends")
            child = subprocess.Popen(command, **streams)
            self._children.add(child)
        try:
            yield child
        finally:
            with self._lock:
                self._children.discard(child)
            child.kill()
            child.wait()

    @property
    def packing(self) -> int:
        """How many files wait to be compressed again, or are."""
        return sum(not each.done() for each in self._packing)

    def wait(self, *, until_packed: bool = False) -> None:
        """Until the files that were given by now have their names, or cannot have them.

        *until_packed*: also until they are compressed again, which takes as long as it takes.
        """
        for each in list(self._under_way):
            each.exception()
        for each in list(self._packing) if until_packed else ():
            each.exception()

    def close(self) -> None:
        """Wait until the files that were given have their names; compressing again goes on at the next start."""
        self._thread.shutdown()
        self._slow.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._is_closed = True
            for each in self._children:
                each.terminate()
        self._slow.shutdown()


def is_full(error: OSError) -> bool:
    """Whether *error* says that there is no room, which may pass."""
    return error.errno in _FULL
