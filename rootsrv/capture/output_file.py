"""One file of a capture: written as `.part`, under its final name only when it is whole and on the disk."""
# Theory of operation
# -------------------
#
#   NAME.part ──▶ members of MEMBER_OCTETS ──▶ end, fsync, rename ──▶ NAME, NAME.json, NAME.md5
#       │                    │ the disk is full
#       │                    └──▶ cut back to the last whole member, ended, finished as above; what was behind is lost
#       │ we are killed
#       └──▶ cut back to the last whole member and finished as above, when the role starts again (left_behind.py);
#            where that cannot be NAME.incomplete: whoever wants what is in it may look
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
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rootsrv.capture.compression import Compressor
from rootsrv.capture.file_names import CHECKSUM, INCOMPLETE, METADATA, PART, packed_from
from rootsrv.capture.hand import Hand
from rootsrv.capture.open_files import Area, OpenFiles, Whole
from rootsrv.capture.rings import Counts
from rootsrv.process import log

MEMBER_OCTETS = 8 << 20
"""Octets before compression that a disk which gets full can cost, and then the next member begins."""

MEMBER_SECONDS = 10.0
"""And for how long at most: where little is asked 8 MiB are hours, and all of them a role's that is killed.

A block of C-DNS ends with its member: at 100 queries a second a query takes 50 octets with gzip in place of 41, from
1,000 on it makes no difference; of pcap none at all.
"""

_PIECE_OCTETS = 64 << 10
"""That are given to write(2) at once.

Where the kernel is not preempted (PREEMPT_NONE) it gives the core to nobody before it has copied a whole folio, as
large as the write lets it be: with pieces of 8 MiB a thread before all others waited for more than 5 ms in one of a
thousand wake-ups, with these for 0.3 (ext4, Linux 6.18).
"""

_RESERVED_OCTETS = 64 << 10
"""Kept for the end of a file and what is beside it: a disk that others fill to the last block takes them, too."""

_RESERVED_NAME = ".reserved"
"""For the instant in which that has one, where no file is to be had without."""

_MODE = 0o640
"""For the account and its group, whatever the umask is: who collects is in the group, and nobody else reads it."""


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
        self, path: Path, begin_member: Callable[[], Compressor], end: bytes, whole: Whole | None = None
    ) -> None:
        """*path*: its final name; *whole*: what of it is there already.  `begin` or `found_again` make it."""
        self.path = path
        self.has_its_name = False
        self._descriptor = -1
        self._begin_member = begin_member
        self._end = end
        self._area: Area | None = None
        self._reserved: int | None = None
        self.contents = Contents()
        self.octets = 0
        """On the disk, as far as it has been written."""

        if whole is not None:
            self.octets = whole.octets
            self.contents = Contents(whole.items, whole.lost, whole.passed_over, whole.late, whole.first, whole.last)
        self.counted_octets = self._whole = self.octets
        """Of these, what the totals have already."""

        self._whole_counts = self.contents.counts
        self._whole_at = time.monotonic()
        self._raw = 0
        self._member = begin_member()

    @classmethod
    def begin(
        cls,
        path: Path,
        begin_member: Callable[[], Compressor],
        begin: bytes,
        end: bytes,
        *,
        open_files: OpenFiles | None = None,
        about: dict[str, Any] | None = None,
    ) -> Self:
        """A new one.  *path*: its final name; *begin*, *end*: what it begins and ends with.

        *open_files*: where the next role finds what is whole, with *about*, what the metadata say besides.  Raises
        OSError where it cannot be made.
        """
        file = cls(path, begin_member, end)
        file._descriptor = new_file(path.with_name(path.name + PART))
        file._reserved = _reserve(path.parent)
        try:
            file._put(file._member.compress(begin))
            file.end_member()
            if open_files is not None:
                file._area = open_files.begin(path.name, end, about or {}, file._told(is_ended=False))
        except Exception:
            file.abandon()
            raise
        return file

    @classmethod
    def found_again(cls, path: Path, begin_member: Callable[[], Compressor], end: bytes, whole: Whole) -> Self:
        """The one that a role which was killed had not finished: what was *whole* of it.

        Raises OSError where it is not there, or not so long.
        """
        part = path.with_name(path.name + PART)
        file = cls(path, begin_member, end, whole)
        file.contents.notes.append("the role was killed: what was whole is here")
        file._descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            state = os.fstat(file._descriptor)
            if not stat.S_ISREG(state.st_mode) or not 0 < whole.octets <= state.st_size:
                raise OSError(errno.EINVAL, "is not what it was", str(part))
            file.cut_back()
            if not whole.is_ended:
                file.end()
        except Exception:
            os.close(file._descriptor)
            raise
        return file

    def write(self, octets: bytes) -> None:
        """Append *octets*, which `contents` has already; OSError when the disk takes no more."""
        self._put(self._member.compress(octets))
        self._raw += len(octets)

    @property
    def ends_member(self) -> bool:
        """Whether the member is long enough: `end_member`, when all that was counted has been written."""
        if self._raw >= MEMBER_OCTETS:
            return True
        return self.contents.counts != self._whole_counts and time.monotonic() - self._whole_at >= MEMBER_SECONDS

    def end_member(self) -> None:
        """What has been written is safe from now on; raises OSError."""
        self._put(self._member.flush())
        self._whole, self._whole_counts, self._raw = self.octets, self.contents.counts, 0
        self._whole_at = time.monotonic()
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
        digest = md5_of(part)
        document = {**about, **vars(self.contents), "octets": self.octets, "md5": digest}
        write_file(self.path.with_name(self.path.name + METADATA), json.dumps(document, indent=1).encode() + b"\n")
        write_file(self.path.with_name(self.path.name + CHECKSUM), f"{digest}  {self.path.name}\n".encode())
        with hand.settling(self.path.name, self.contents.counts):
            os.rename(part, self.path)
        self.has_its_name = True
        self._let_go()
        sync_names(self.path.parent)

    def abandon(self) -> None:
        """Nothing can be done with it; what there is stays, as `.incomplete`, or as `.part` where that cannot be."""
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            if descriptor >= 0:
                os.close(descriptor)
            self._use_reserved()
        set_aside(self.path.with_name(self.path.name + PART))
        self._let_go()

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
            written = os.write(self._descriptor, view[:_PIECE_OCTETS])
            self.octets += written
            view = view[written:]


def _reserve(directory: Path) -> int | None:
    """The descriptor of a file without a name that takes _RESERVED_OCTETS; None where that is not to be had."""
    descriptor = None
    try:
        try:
            descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except OSError:  # a file system that cannot: over a network, of FUSE
            named = directory / _RESERVED_NAME
            descriptor = os.open(named, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            named.unlink()
        os.posix_fallocate(descriptor, 0, _RESERVED_OCTETS)
    except OSError:
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def new_file(path: Path) -> int:
    """The descriptor of a file that was not there before, and is where *path* says: no link is followed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, _MODE)
    return descriptor


def write_file(path: Path, octets: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(new_file(path), "wb") as stream:
        stream.write(octets)
        stream.flush()
        os.fsync(stream.fileno())


def md5_of(path: Path) -> str:
    """Of all that is in the file; raises OSError.

    The core is offered to who wants it with each piece: 100 MB are a fifth of a second, and he would have to wait for
    the kernel's next tick (process/time_slice.py).  Of one in a thousand wake-ups beside it: 4 ms without, 0.2 with.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_PIECE_OCTETS):
            digest.update(piece)
            os.sched_yield()
    return digest.hexdigest()


def sync_names(directory: Path) -> None:
    """Have the names in *directory* on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(part: Path) -> OSError | None:
    """*part* will not be finished: give it a name that says so; one without anything in it goes.

    What tells of the file that it should have become goes, too: nobody shall look for that.  Returns why it stays as it
    is; None: it does not.
    """
    whole = part.with_name(part.name.removesuffix(PART))
    try:
        if not whole.exists():
            remove_beside(whole)
        if part.stat().st_size and not packed_from(whole):
            target, number = part.with_name(whole.name + INCOMPLETE), 1
            while os.path.lexists(target):  # of another file that would have had this name
                number += 1
                target = part.with_name(f"{whole.name}.{number}{INCOMPLETE}")
            part.rename(target)
        else:
            part.unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def remove_beside(path: Path) -> None:
    for suffix in (METADATA, CHECKSUM):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def unlink(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.alarm("capture file cannot be removed", file=path.name, reason=error.strerror)
        return False
    return True
