"""How the rings reach their reader: the role serve has their descriptors, and hands them to whoever connects."""
# A connection gets one message: a line of JSON that says which rings there are, with their descriptors (SCM_RIGHTS,
# unix(7)).  Who may open the socket is in the group of the process (mode 0660), as with the control socket.  The
# connection says nothing more; it ends when the rings are not these any more, and then the reader, which has them still
# mapped, takes what is left in them and comes again.
#
# Rings are off when they are made, and the reader switches them on.  What is asked between a start of the role serve
# and the reader's coming would be in no file and counted by nobody: so the reader leaves beside the socket what it
# wants, and new rings are made so.

import contextlib
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from rootsrv.capture.rings import EVERYTHING, FACTS, PACKETS, Ring, open_map, open_memory
from rootsrv.control.protocol import Caller
from rootsrv.control.server import reachable, socket_for_the_group
from rootsrv.process import json_text, log, whole_file
from rootsrv.process.accepting import Accepting
from rootsrv.process.troubles import Troubles

NAME = "capture-rings.sock"
WANTED = "capture-wanted.json"
"""What the role capture has written while it captures: beside the socket."""

ROWS = 3
"""Which order of fields rows have (facts.py, units.py): who knows another one must not read them."""

_LONGEST_OCTETS = 65_536
_MOST_DESCRIPTORS = 65  # a map, and a ring for each of 64 workers


class NoRings(Exception):
    """The role serve does not hand out rings; the text says why."""


@dataclass(frozen=True, slots=True)
class CaptureWish:
    """What rings shall hold: the arguments of `Ring.want`."""

    shape: int
    every: int
    bits: int

    def leave(self, runtime: Path) -> None:
        """Let rings be made so from now on; what hinders is logged: a capture goes on without."""
        document = {"shape": self.shape, "every": self.every, "bits": self.bits}
        try:
            whole_file.replace(runtime / WANTED, json.dumps(document).encode(), 0o640)
        except OSError as error:
            log.alarm("capture's wish not left", reason=error, costs="what is asked while serve starts is not captured")

    @classmethod
    def left(cls, runtime: Path) -> "CaptureWish | None":
        """What is wanted; None if nothing is, or nobody can tell."""
        try:
            document = json_text.parse((runtime / WANTED).read_bytes())
            found = cls(*(int(document[key]) for key in ("shape", "every", "bits")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.alarm("capture's wish cannot be read", reason=error)
            return None
        is_one = found.shape in (FACTS, PACKETS) and 1 <= found.every < 1 << 31 and 0 <= found.bits <= EVERYTHING
        return found if is_one else None

    @staticmethod
    def withdraw(runtime: Path) -> None:
        """Nothing is wanted any more."""
        with contextlib.suppress(OSError):
            (runtime / WANTED).unlink(missing_ok=True)


class BufferOffer:
    """Hands out what there is: the role serve's end."""

    def __init__(self, path: Path) -> None:
        """*path*: of the socket."""
        self._path = path
        self._workers: dict[int, int] = {}
        self._kernel: tuple[int, int, int] | None = None
        self._accepting: Accepting | None = None
        self._readers: list[socket.socket] = []
        self._unaccepted = Troubles("capture's reader is not accepted", "capture's reader is accepted again")

    def set_workers(self, rings: dict[int, int]) -> None:
        """By worker: the descriptor of its new ring, which stays the caller's."""
        self._workers = dict(rings)
        self._changed()  # before it is looked for a wish: who leaves one later sees that it has to come again
        if wish := CaptureWish.left(self._path.parent):
            for each in rings.values():
                open_memory(each).want(wish.shape, wish.every, wish.bits)

    def set_kernel(self, rings: tuple[int, int, int] | None) -> None:
        """A new program's map of rings (its descriptor), how many CPUs and chunks it has; None: no program."""
        self._kernel = rings
        self._changed()
        if rings is not None and (wish := CaptureWish.left(self._path.parent)):
            for ring in open_map(*rings):
                ring.want(wish.shape, wish.every, wish.bits)

    def listen(self) -> None:
        """Hand out from now on; OSError where the socket cannot be made."""
        self._accepting = Accepting(socket_for_the_group(self._path), self._hand_out, self._unaccepted)

    def close(self) -> None:
        """Hand out no more."""
        if self._accepting is not None:
            self._accepting.close()
            self._accepting = None
            self._path.unlink(missing_ok=True)
        self._changed()

    def _changed(self) -> None:
        for each in self._readers:
            each.close()
        self._readers.clear()

    def _hand_out(self, connection: socket.socket, _: object) -> None:
        descriptors = list(self._workers.values())
        document: dict[str, object] = {"rows": ROWS, "workers": list(self._workers)}
        if self._kernel is not None:
            descriptor, cpus, chunks = self._kernel
            descriptors.append(descriptor)
            document |= {"cpus": cpus, "chunks": chunks}
        try:
            socket.send_fds(connection, [json.dumps(document).encode() + b"\n"], descriptors)
        except OSError as error:
            log.alarm("capture rings not handed out", reason=error.strerror)
            connection.close()
            return
        log.event("capture rings handed out", to=Caller.of(connection))
        # The one before it is gone, or a second reader: that cannot be.
        self._changed()
        self._readers.append(connection)


@dataclass
class Taken:
    """The rings, and the connection that says whether they are still those: the role capture's end."""

    rings: list[Ring]
    connection: socket.socket

    @property
    def is_current(self) -> bool:
        """Whether they are written to, as far as the role serve says."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Let go of them."""
        self.connection.close()
        self.rings.clear()


def take(path: Path, timeout: float = 5.0) -> Taken:
    """Ask the role serve, whose socket is at *path*, for the rings; NoRings, soon, if there are none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptors: list[int] = []
    try:
        connection.settimeout(timeout)
        with reachable(path) as name:
            connection.connect(name)
        line, descriptors, _, _ = socket.recv_fds(connection, _LONGEST_OCTETS, _MOST_DESCRIPTORS)
        document = json_text.parse(line)
        if not isinstance(document, dict) or document.get("rows") != ROWS:
            raise ValueError("the role serve is of another version: restart serve and capture")
        workers = len(document["workers"])
        found = [open_memory(each) for each in descriptors[:workers]]
        if "cpus" in document:
            (descriptor,) = descriptors[workers:]
            found += open_map(descriptor, int(document["cpus"]), int(document["chunks"]))
        connection.setblocking(False)
        return Taken(found, connection)
    except (OSError, ValueError, KeyError, TypeError) as error:
        connection.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise NoRings(f"{path}: {reason or 'no rings'}") from error
    finally:
        for each in descriptors:
            os.close(each)
