"""The files of a capture: written as `.part`, under their final name only when they are whole and on the disk."""
# Over 400 lines: what becomes of a file, from its first octet to its name, is one order of steps and their faults.
#
# Theory of operation
# -------------------
#
#   NAME.part ──▶ members of MEMBER_OCTETS ──▶ end, fsync, rename ──▶ NAME, NAME.json, NAME.md5
#       │                    │ the disk is full
#       │                    └──▶ cut back to the last whole member, ended, finished as above; what was behind is lost
#       │ we are killed
#       └──▶ cut back to the last whole member and finished as above, when the role starts again (open_files.py says
#            what is whole); where that cannot be NAME.incomplete: whoever wants what is in it may look
#
# A member is a compressed file of its own (RFC 1952 §2.2; zstd frames, RFC 8878 §3.1), so a file that is cut back to
# whole members is a file.  fsync takes as long as the disk does, so files are finished by a thread of their own, and
# meanwhile the next one is written.  A disk that is too slow lets `write` wait; then the rings fill, and what does not
# fit is counted as lost by those who write them.

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rootsrv.capture.compression import SUFFIXES, Compressor, compressors
from rootsrv.capture.hand import Hand
from rootsrv.capture.open_files import Area, OpenFiles, Whole
from rootsrv.capture.retention import Retention, age
from rootsrv.capture.rings import Counts
from rootsrv.capture.room import Room
from rootsrv.process import json_text, log
from rootsrv.process.children import describe_error
from rootsrv.process.troubles import place_of

PART, INCOMPLETE = ".part", ".incomplete"
METADATA, CHECKSUM = ".json", ".md5"
_XZ = ".xz"
_COMPRESSED = (*filter(None, SUFFIXES.values()), _XZ)

ORDER = "order.json"
"""What the role was told, beside its files."""

MEMBER_OCTETS = 8 << 20
"""Octets before compression that a disk which gets full can cost, and then the next member begins."""

_RESERVED_OCTETS = 64 << 10
"""Kept for the end of a file and what is beside it: a disk that others fill to the last block takes them, too."""

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))

_MODE, _DIRECTORY_MODE = 0o640, 0o750
"""For the account and its group, whatever the umask is: who collects is in the group, and nobody else reads it."""

_NAME = re.compile(
    r"([A-Za-z0-9_-]{1,80}\.\d{8}\.\d{6}\.\d{6}\.pcap|\d{8}-\d{6}\.\d{6}_[A-Za-z0-9_-]{1,80}\.cdns)(\.gz|\.zst|\.xz)?"
)
"""What a file is called when it is whole (formats.py)."""

_INCOMPLETE_NAME = re.compile(rf"{_NAME.pattern}(\.\d+)?\{INCOMPLETE}")
_LEFT_BY_A_CRASH = re.compile(r"order\.json\.[0-9a-f]{16}\.writing")  # whole_file.py
_MADE_HERE = re.compile(
    rf"{_NAME.pattern}(\{PART}|(\{METADATA}|\{CHECKSUM})?)|{_INCOMPLETE_NAME.pattern}"
    rf"|{re.escape(ORDER)}|{_LEFT_BY_A_CRASH.pattern}"
)


@dataclass
class Contents:
    """What a file says about itself, in the file of metadata beside it."""

    items: int = 0
    lost: int = 0
    passed_over: int = 0
    late: int = 0
    first: int | None = None
    """Wall time of the first and of the last query, nanoseconds since 1970."""

    last: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counts:
        """What stands in the file, and what it says is not there."""
        return Counts(self.items, self.lost, self.passed_over)

    @counts.setter
    def counts(self, counts: Counts) -> None:
        self.items, self.lost, self.passed_over = counts.items, counts.lost, counts.passed_over


class OutputFile:
    """One file, while it is written."""

    def __init__(
        self,
        path: Path,
        begin_member: Callable[[], Compressor],
        begin: bytes,
        end: bytes,
        *,
        open_files: OpenFiles | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        """*path*: its final name; *begin*, *end*: what it begins and ends with.  OSError where it cannot be made.

        *open_files*: where the next role finds what is whole, with *about*, what the metadata say besides.
        """
        self.path = path
        self.has_its_name = False
        self.contents = Contents()
        self._begin_member = begin_member
        self._end = end
        self._area: Area | None = None
        self._descriptor = _new(path.with_name(path.name + PART))
        self._reserved = _reserve(path.parent)
        self.octets = 0
        """On the disk, as far as it has been written."""

        self.counted_octets = 0
        """Of these, what the totals have already."""

        self._whole = 0
        self._whole_counts = Counts()
        self._raw = 0
        try:
            self._member = begin_member()
            self._put(self._member.compress(begin))
            self.end_member()
            if open_files is not None:
                self._area = open_files.begin(path.name, end, about or {}, self._told(is_ended=False))
        except Exception:
            self.abandon()
            raise

    def write(self, octets: bytes) -> None:
        """Append *octets*, which `contents` has already; OSError when the disk takes no more."""
        self._put(self._member.compress(octets))
        self._raw += len(octets)

    @property
    def ends_member(self) -> bool:
        """Whether the member is long enough: `end_member`, when all that was counted has been written."""
        return self._raw >= MEMBER_OCTETS

    def end_member(self) -> None:
        """What has been written is safe from now on; raises OSError."""
        self._put(self._member.flush())
        self._whole, self._whole_counts, self._raw = self.octets, self.contents.counts, 0
        self._member = self._begin_member()
        if self._area is not None:
            self._area.put(self._told(is_ended=False))

    def _told(self, *, is_ended: bool) -> Whole:
        """What there is, all of it whole."""
        told = self.contents
        return Whole(
            self.octets, told.items, told.lost, told.passed_over, told.late, told.first, told.last, is_ended=is_ended
        )

    def end(self) -> None:
        """No more comes: what it ends with.  Raises OSError; `cut_back` then makes it whole."""
        self._put(self._member.compress(self._end) + self._member.flush())
        if self._area is not None:
            self._area.put(self._told(is_ended=True))

    def cut_back(self) -> Counts:
        """Let go of all behind the last whole member; what of the contents that costs.  More may follow, and `end`.

        Raises OSError if even that cannot be.
        """
        self._use_reserved()
        os.ftruncate(self._descriptor, self._whole)
        os.lseek(self._descriptor, self._whole, os.SEEK_SET)
        self.octets = self._whole
        self._member = self._begin_member()
        cut = self.contents.counts - self._whole_counts
        self.contents.counts = self._whole_counts
        return cut

    def finish(self, about: dict[str, Any], hand: Hand) -> None:
        """Bring it to the disk and under its name, with its metadata and checksum beside it; raises OSError.

        *hand*: what is in it is settled with its name.
        """
        part = self.path.with_name(self.path.name + PART)
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        self._use_reserved()
        with part.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        document = {**about, **vars(self.contents), "octets": self.octets, "md5": digest}
        _write(self.path.with_name(self.path.name + METADATA), json.dumps(document, indent=1).encode() + b"\n")
        _write(self.path.with_name(self.path.name + CHECKSUM), f"{digest}  {self.path.name}\n".encode())
        with hand.settling(self.path.name, self.contents.counts):
            os.rename(part, self.path)
        self.has_its_name = True
        self._let_go()
        _sync(self.path.parent)

    def abandon(self) -> None:
        """Nothing can be done with it; what there is stays, as `.incomplete`."""
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            if descriptor >= 0:
                os.close(descriptor)
            self._use_reserved()
        set_aside(self.path.with_name(self.path.name + PART))
        self._let_go()

    @classmethod
    def found_again(cls, path: Path, begin_member: Callable[[], Compressor], end: bytes, whole: Whole) -> "OutputFile":
        """The file of the final name *path* that a role which was killed had not finished: what was *whole* of it.

        Raises OSError where it is not there, or not so long.
        """
        file = cls.__new__(cls)
        file.path, file.has_its_name = path, False
        file.contents = Contents(whole.items, whole.lost, whole.passed_over, whole.late, whole.first, whole.last)
        file.contents.notes.append("the role was killed: what was whole is here")
        file._begin_member, file._end, file._area, file._reserved = begin_member, end, None, None
        file.octets = file.counted_octets = file._whole = whole.octets
        file._whole_counts, file._raw = file.contents.counts, 0
        part = path.with_name(path.name + PART)
        file._descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        state = os.fstat(file._descriptor)
        if not stat.S_ISREG(state.st_mode) or not 0 < whole.octets <= state.st_size:
            os.close(file._descriptor)
            raise OSError(errno.EINVAL, "is not what it was", str(part))
        file.cut_back()
        if not whole.is_ended:
            file.end()
        return file

    def _let_go(self) -> None:
        area, self._area = self._area, None
        if area is not None:
            area.free()

    def _use_reserved(self) -> None:
        reserved, self._reserved = self._reserved, None
        if reserved is not None:
            os.close(reserved)

    def _put(self, octets: bytes) -> None:
        view = memoryview(octets)
        while view:
            written = os.write(self._descriptor, view)
            self.octets += written
            view = view[written:]


def _reserve(directory: Path) -> int | None:
    """The descriptor of a file without a name that takes _RESERVED_OCTETS; None where that is not to be had."""
    descriptor = None
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.posix_fallocate(descriptor, 0, _RESERVED_OCTETS)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _new(path: Path) -> int:
    """The descriptor of a file that was not there before, and is where *path* says: no link is followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, _MODE)
    return descriptor


def _write(path: Path, octets: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(_new(path), "wb") as stream:
        stream.write(octets)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(directory: Path) -> None:
    """Have the names in *directory* on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(part: Path) -> None:
    """*part* will not be finished: give it a name that says so; one without anything in it goes.

    What tells of the file that it should have become goes, too: nobody shall look for that.
    """
    whole = part.with_name(part.name.removesuffix(PART))
    with contextlib.suppress(OSError):
        if not whole.exists():
            _remove_beside(whole)
        if part.stat().st_size and not _packed_from(whole):
            target, number = part.with_name(whole.name + INCOMPLETE), 1
            while os.path.lexists(target):  # of another file that would have had this name
                number += 1
                target = part.with_name(f"{whole.name}.{number}{INCOMPLETE}")
            part.rename(target)
        else:
            part.unlink()


def _remove_beside(path: Path) -> None:
    for suffix in (METADATA, CHECKSUM):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def is_taken(path: Path) -> bool:
    """Whether a file of that name is there, or being written, or was and has been compressed again.

    However it is compressed: of two that differ in nothing else one would become the other, compressed again.
    """
    plain = path.name.removesuffix(path.suffix) if path.suffix in _COMPRESSED else path.name
    names = [plain + suffix for suffix in ("", *_COMPRESSED)]
    return any(os.path.lexists(path.with_name(name + ending)) for name in names for ending in ("", PART))


def _packed(path: Path) -> Path:
    """What *path* is called when it has been compressed again."""
    return path.with_suffix(_XZ) if path.suffix in (".gz", ".zst") else path.with_name(path.name + _XZ)


def _packed_from(target: Path) -> list[Path]:
    """The files that are there and of which *target* is made, or was."""
    if target.suffix != _XZ:
        return []
    return [each for suffix in SUFFIXES.values() if (each := target.with_suffix(suffix)).exists()]


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

        make_directory(path)
        if hand is not None:
            hand.end_settling(self.has)
            for name, end, about, area in hand.files.left():
                self._finish_what_is_whole(name, end, about, area.whole, hand)
        for part in sorted(each for each in path.glob(f"*{PART}") if _is_named(each, _NAME, PART)):
            log.alarm("capture file incomplete", file=part.name, reason="the role was ended while it was written")
            set_aside(part)
        for each in self.files():  # those that had just been compressed again
            if each.suffix == _XZ and is_whole(each):
                for source in _packed_from(each):
                    _unlink(source)
        for each in path.iterdir():
            beside = each.suffix in (METADATA, CHECKSUM) and _is_named(each, _NAME, each.suffix)
            if (beside and not each.with_suffix("").exists()) or _is_named(each, _LEFT_BY_A_CRASH):
                _unlink(each)

    def files(self) -> list[Path]:
        """What there is and was made here, the oldest first, without metadata and checksums.

        What others have put here is none of it, whatever it is called: our files have their metadata beside them.
        """
        found = []
        for each in self.path.iterdir():
            whole = _is_named(each, _NAME) and each.with_name(each.name + METADATA).is_file()
            if whole or _is_named(each, _INCOMPLETE_NAME):
                found.append(each)
        return sorted(found, key=age)

    def has(self, name: str) -> bool:
        """Whether the file of that name is there, or what it has been compressed to."""
        return any(os.path.lexists(each) for each in (self.path / name, _packed(self.path / name)))

    def _finish_what_is_whole(self, name: str, end: bytes, about: dict[str, Any], whole: Whole, hand: Hand) -> None:
        """The file of that *name*, which a role that was killed was writing."""
        path = self.path / name
        part = path.with_name(name + PART)
        if not _is_named(part, _NAME, PART) or os.path.lexists(path) or not (whole.items or whole.lost):
            return  # it has its name, or is set aside
        file: OutputFile | None = None
        try:
            method = next((each for each, suffix in SUFFIXES.items() if suffix == path.suffix), "none")
            file = OutputFile.found_again(path, compressors(method), end, whole)
            file.finish(about, hand)
        except Exception as error:  # whatever it is, it costs this file, and not every start of the role
            log.alarm("capture file not recovered", file=name, reason=describe_error(error), at=place_of(error))
            if file is not None and not file.has_its_name:
                file.abandon()
            return
        log.alarm(
            "capture file recovered", file=name, items=whole.items, reason="the role was killed while it was written"
        )

    def remove_aged(self) -> None:
        """Let files go that are older than they may become; OSError if nobody can look."""
        self._retention.apply(self.files, self._remove)

    def has_room(self) -> bool:
        """Whether more may be written; the oldest files go for it, where that is wanted and all together are enough."""
        return self.room.make(self.files, self._remove)

    def _remove(self, path: Path, reason: str) -> bool:
        """Whether it could be removed."""
        if not _unlink(path):
            return False
        log.event("capture file removed", file=path.name, reason=reason)
        self.removed += 1
        with contextlib.suppress(OSError):
            _remove_beside(path)
        return True


def make_directory(path: Path) -> None:
    """The directory *path*, if it is not there, for the account and its group; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(_DIRECTORY_MODE)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def is_made_here(name: str) -> bool:
    """Whether files of that name are a capture's: what the role makes, and nothing else."""
    return bool(_MADE_HERE.fullmatch(name))


def _is_named(path: Path, pattern: re.Pattern[str], suffix: str = "") -> bool:
    """Whether *path* is a file, no link to one, whose name is as ours are, with *suffix* behind it."""
    if not path.name.endswith(suffix) or not pattern.fullmatch(path.name.removesuffix(suffix)):
        return False
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_whole(path: Path) -> bool:
    """Whether *path* is as long as its metadata says."""
    try:
        about = json_text.parse(path.with_name(path.name + METADATA).read_bytes())
        return isinstance(about, dict) and about.get("octets") == path.stat().st_size
    except (OSError, ValueError):
        return False


def _unlink(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.alarm("capture file cannot be removed", file=path.name, reason=error.strerror)
        return False
    return True


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

        self._unfinished: deque[tuple[Contents, Exception]] = deque()
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

    def unfinished(self) -> list[tuple[Contents, Exception]]:
        """What was in the files that could not be finished since the last call, and why they could not."""
        return [self._unfinished.popleft() for _ in range(len(self._unfinished))]

    def _finish(self, file: OutputFile, about: dict[str, Any]) -> None:
        try:
            file.finish(about, self.hand)
        except Exception as error:  # whatever it is, it costs this file and nothing else
            self.failed += 1
            self.error = f"{file.path.name}: {getattr(error, 'strerror', None) or describe_error(error)}"
            log.alarm("capture file not finished", file=file.path.name, reason=self.error, at=place_of(error))
            if not file.has_its_name:
                self._unfinished.append((file.contents, error))
                file.abandon()
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
            if path.suffix not in (_XZ, INCOMPLETE):
                with contextlib.suppress(RuntimeError):  # no thread is to be had, or it is closed: at the next start
                    self._packing = [each for each in self._packing if not each.done()]
                    self._packing.append(self._slow.submit(self._to_xz, path))

    def _to_xz(self, path: Path) -> None:
        """As `.xz`, by a child at the lowest priority; the file itself goes when that is whole."""
        target = _packed(path)
        unpack = {".gz": ["gzip", "-dc"], ".zst": ["zstd", "-dcq"]}.get(path.suffix, ["cat"])
        part = target.with_name(target.name + PART)
        try:
            with os.fdopen(_new(part), "wb") as stream:
                self._pack(["nice", "-n", "19", *unpack, str(path)], ["nice", "-n", "19", "xz", "-6"], stream.fileno())
                age = path.stat()  # by which it is removed, one day
                os.utime(stream.fileno(), ns=(age.st_atime_ns, age.st_mtime_ns))
                os.fsync(stream.fileno())
            with part.open("rb") as packed:
                digest = hashlib.file_digest(packed, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            about = json_text.parse(path.with_name(path.name + METADATA).read_bytes())
            about |= {"octets": part.stat().st_size, "md5": digest}
            _write(target.with_name(target.name + METADATA), json.dumps(about, indent=1).encode() + b"\n")
            _write(target.with_name(target.name + CHECKSUM), f"{digest}  {target.name}\n".encode())
            part.rename(target)
            _sync(target.parent)
            path.unlink(missing_ok=True)
            _remove_beside(path)
        except Exception as error:  # whatever it is, the file stays as it is
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
                if not target.exists():
                    _remove_beside(target)
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
