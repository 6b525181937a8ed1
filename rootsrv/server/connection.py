"""One TCP connection of a client: what it sends in, answered message by message, and what it has not read yet."""
# A connection is reading, unless it is one of these:
#
#   paused    it has not read what it asked for: more than HIGH_WATER_OCTETS are unsent; read again below a quarter
#   ended     it sends no more (half-closed): closed as soon as all it asked has been answered and sent
#   closing   we take no more from it: closed as soon as what is unsent has been sent
#
# Data is read and written by os.read and os.write: through cffi's ABI mode each of the two costs 0.6 us more.  Most is
# read and written for many connections in step (in_step.py); `receive` and `_send` are for one.

import os
import select
import socket
import struct
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from rootsrv.answer.responder import Transport
from rootsrv.capture.messages import MessageWriter
from rootsrv.server.udp import own_end

if TYPE_CHECKING:
    from rootsrv.server.tcp import Connections

_IN, _OUT, _FAILED = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR | select.EPOLLHUP
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger

READ_OCTETS = 16_384
"""Octets read at once from a client that sends much: some 300 pipelined queries."""

FEW_OCTETS = 448
"""Octets read at once from one that does not: a query, or some.  With its head such a bytes object is a small one to
Python's allocator; and so much of 32 connections is not more than what one may send."""

MAX_MESSAGE_OCTETS = 0xFFFF
"""What two octets of length can say (RFC 1035 §4.2.2): a query may be as long, padded say, and is answered."""

LONG_OCTETS = 4096
"""An incomplete message of which more than this is held is a long one."""


class _Lengths(dict[int, bytes]):
    """The two octets that go before a message of so many (RFC 1035 §4.2.2)."""

    def __missing__(self, size: int) -> bytes:
        self[size] = octets = size.to_bytes(2, "big")
        return octets


LENGTHS = _Lengths()

STEP_QUERIES = 32
"""Queries answered before it is looked at what could be sent: bounds one step's responses to some 40 kB."""

HIGH_WATER_OCTETS = 16_384
"""Unsent octets, beyond what the kernel holds for us, at which we stop reading from a client."""


class Connection:
    """One client's TCP connection."""

    __slots__ = (
        "_all", "_closing", "_counted", "_ended", "_ends", "_paused", "_rest", "_unsent", "_wanted", "asked_at",
        "descriptor", "path", "sends_much", "source", "watched",
    )  # fmt: skip

    def __init__(self, connections: "Connections", descriptor: int, source: bytes) -> None:
        self._all = connections
        self.descriptor = descriptor
        """-1 once it is closed."""

        self.source = source
        """Packed address, 4 or 16 octets; the first eight are what the limit per client counts."""

        self.path = 2 + (len(source) == 16)
        """Where its messages are counted (page/counts.py)."""

        self.asked_at = 0.0
        """When a query was completed last, on the clock of `Connections.now`; 0: none was, or none got an answer."""

        self.sends_much = False
        """Whether more came lately than is read in step."""

        self._closing = self._ended = self._paused = self._counted = False
        self._ends: tuple[tuple[bytes, int], int] | None = None
        self.watched = 0
        """What we are woken for, EPOLLIN and EPOLLOUT; 0: it is not in the set yet."""

        self._rest: bytearray | None = None
        self._wanted = 0  # octets of `_rest` at which its first message is complete, as far as is known
        self._unsent: bytearray | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has not been closed or lost; what is unsent may be on its way still."""
        return self.descriptor >= 0

    @property
    def only_reads(self) -> bool:
        """Whether all that can be done next is to read."""
        return not (self._unsent or self._paused or self._ended or self._closing)

    def on_event(self, mask: int) -> None:
        """It can be written to, read from, or is broken."""
        if self.descriptor < 0:  # it went for another one, meanwhile
            return
        if self._unsent:
            self._flush()
            if mask & _FAILED and self._unsent:
                self._over("closed-by-client")
        if mask & (_IN | _FAILED) and not (self._paused or self._ended or self._closing):
            self.receive()

    def read(self) -> bytes:
        """What there is to be read, b"" at its end.  BlockingIOError: nothing now; OSError: it is over."""
        return os.read(self.descriptor, self._all.much_octets)

    def write(self, octets: bytes | bytearray) -> int:
        """Write what there is room for; how much that was.  BlockingIOError: no room; OSError: it is over."""
        return os.write(self.descriptor, octets)

    def take(self, octets: bytes) -> bytes | None:
        """Go on with *octets*, which were read; b"": it is at its end.

        Where they are one whole message and nothing else, as from a client that waits for each response, that message:
        the caller has it answered, and sends the response.  All else is answered here.
        """
        size = len(octets)
        if size > 2 and (octets[0] << 8 | octets[1]) == size - 2 and self._rest is None and not self._unsent:
            return octets[2:]
        self.sends_much = size >= self._all.few_octets
        if size:
            self._append(octets)
        else:
            self._receive_eof()
        return None

    def receive(self) -> None:
        """Read, and answer the messages that are complete now."""
        try:
            octets = self.read()
        except OSError as error:
            self.cannot_read(error)
            return
        request = self.take(octets)
        if request is not None:
            self.sends_much = len(octets) >= self._all.few_octets
            self._respond_to_one(request)

    def cannot_read(self, error: OSError) -> None:
        """Reading failed: there is nothing, or it is over."""
        # Reset, timed out; or closed by us while its event waited for the next turn.
        if not isinstance(error, (BlockingIOError, InterruptedError)):
            self._over("closed-by-client")

    def _receive_eof(self) -> None:
        """It sends no more (RFC 7766 §6.2.1.1 allows to close one half); what it asked is still answered."""
        self._ended = True
        if self._paused:
            return
        if self._unsent:
            self.close("closed-by-client")
        else:
            self._over("closed-by-client")

    def _append(self, octets: bytes) -> None:
        """Go on with what we hold and *octets*; a message that comes in many pieces is put together only once."""
        rest = self._rest
        if rest is None:
            self._answer(octets)
            return
        rest += octets
        if len(rest) >= self._wanted:
            self._answer(self._let_go())
        elif len(rest) > LONG_OCTETS:
            self._all.set_long(self, True)

    def _let_go(self) -> bytes:
        """What we held."""
        rest, self._rest = self._rest, None
        if rest is None:
            return b""
        if len(rest) > LONG_OCTETS:
            self._all.set_long(self, False)
        return bytes(rest)

    def _answer(self, octets: bytes) -> None:
        """Answer all complete messages in *octets*, in steps between which it is looked at what could be sent."""
        at, size = 0, len(octets)
        while not self._paused and not self._closing:
            requests: list[bytes] = []
            fault = ""
            while size - at >= 2 and len(requests) < STEP_QUERIES:
                length = octets[at] << 8 | octets[at + 1]
                if not length:
                    fault = "closed-empty"
                    break
                end = at + 2 + length
                if end > size:
                    break
                requests.append(octets[at + 2 : end])
                at = end
            if requests:
                self._respond(requests)
            if fault:
                self.close(fault)
            if len(requests) < STEP_QUERIES:
                break
        if self._closing:
            return
        left = size - at
        if left:
            self._rest = bytearray(octets[at:] if at else octets)
            self._wanted = 2 + (octets[at] << 8 | octets[at + 1]) if left >= 2 else 2
            if left > LONG_OCTETS and not self._paused:
                self._all.set_long(self, True)
        # While we do not read, the rest may hold complete messages: then the client is slow, and `stalled` judges it.
        self._all.set_incomplete(self, left > 0 and not self._paused, anew=at > 0)
        if self._ended and not self._paused:
            self.close("closed-by-client")

    def _respond(self, requests: list[bytes]) -> None:
        everybody = self._all
        everybody.answered += len(requests)
        responses = everybody.turns.respond_to_all(self.path, requests, [self.source] * len(requests), Transport.TCP)
        if everybody.told is not None and everybody.told.is_on:
            self.tell(everybody.told, requests, responses)
        sent = [each for each in responses if each is not None]
        if sent:
            everybody.completed(self)
            lengths = map(LENGTHS.__getitem__, map(len, sent))
            self._send(b"".join(chain.from_iterable(zip(lengths, sent, strict=True))))
        elif self.asked_at:
            everybody.completed(self)

    def _respond_to_one(self, request: bytes) -> None:
        """`_respond`, without what only many are worth."""
        everybody = self._all
        everybody.answered += 1
        response = everybody.turns.respond(self.path, request, self.source, Transport.TCP)
        if everybody.told is not None and everybody.told.is_on:
            self.tell(everybody.told, [request], [response])
        if response is not None:
            everybody.completed(self)
            self._send(LENGTHS[len(response)] + response)
        elif self.asked_at:
            everybody.completed(self)

    def tell(self, told: MessageWriter, requests: list[bytes], responses: Sequence[bytes | None]) -> None:
        """Tell a capture of *requests*."""
        own, port = self._ends or self._find_ends()
        amount = len(requests)
        everybody = self._all
        at = everybody.turns.woken_at
        told.write(at, everybody.told_as, own, requests, [self.source] * amount, [port] * amount, responses)

    def _find_ends(self) -> tuple[tuple[bytes, int], int]:
        """Our address and port, and the client's port: 0 where it is gone already."""
        own, port = (bytes(len(self.source)), 0), 0
        ends = socket.socket(fileno=self.descriptor)
        try:
            own = own_end(ends)
            port = ends.getpeername()[1]
        except OSError:
            pass
        finally:
            ends.detach()
        self._ends = own, port
        return self._ends

    def _send(self, octets: bytes) -> None:
        if self._unsent:
            self._unsent += octets
            self._has_unsent()
            return
        try:
            sent = self.write(octets)
        except OSError as error:
            self.cannot_write(octets, error)
            return
        if sent != len(octets):
            self.keep(octets[sent:])

    def cannot_write(self, octets: bytes, error: OSError) -> None:
        """Writing *octets* failed: there is no room, or it is over."""
        if isinstance(error, (BlockingIOError, InterruptedError)):
            self.keep(octets)
        else:
            self._over("closed-by-client")

    def keep(self, octets: bytes) -> None:
        """Send *octets*, for which there was no room, when there is; nothing else is unsent."""
        self._unsent = bytearray(octets)
        self._has_unsent()

    def _has_unsent(self) -> None:
        if len(self._unsent or b"") > HIGH_WATER_OCTETS and not self._paused:
            # It does not read: read no more from it.
            self._paused = True
            self._all.set_stalled(self, True)
        if self.watched:
            self.watch()

    def _flush(self) -> None:
        """Send what is unsent; if it has read most of that, go on with what we hold of it."""
        assert self._unsent is not None
        try:
            del self._unsent[: self.write(self._unsent)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._over("closed-by-client")
            return
        if self._closing:
            if not self._unsent:
                self._over("closed-by-client")
            return
        if self._paused and len(self._unsent) <= HIGH_WATER_OCTETS // 4:
            self._paused = False
            self._all.set_stalled(self, False)
            self._answer(self._let_go())
        if self.is_open:
            self.watch()

    def watch(self) -> None:
        """Be woken for what can be done next."""
        reads = not (self._paused or self._ended or self._closing)
        mask = (_IN if reads else 0) | (_OUT if self._unsent else 0)
        if mask != self.watched:
            anew, self.watched = not self.watched, mask
            if not self._all.watch(self.descriptor, mask, anew):
                self.abort("closed-for-another")

    def close(self, reason: str) -> None:
        """Close when what has been written is sent; *reason* is one of TCP_COUNTERS."""
        if self._closing:
            return
        if not self._unsent:
            self._over(reason)
            return
        self._closing = True
        self._count(reason)
        self._let_go()
        self._all.closing(self)
        if self.watched and self.is_open:
            self.watch()

    def abort(self, reason: str) -> None:
        """Close now; what is unsent is lost.  Who never asked gets a reset: the kernel has nothing more to do."""
        self._over(reason, reset=not self.asked_at)

    def _over(self, reason: str, *, reset: bool = False) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        self._closing = True
        if descriptor < 0:
            return
        self._count(reason)
        self._rest = self._unsent = None
        self._all.gone(self, descriptor)
        self._close(descriptor, reset=reset)

    def _close(self, descriptor: int, *, reset: bool) -> None:
        if reset:
            close_with_reset(descriptor)
        else:
            self._all.close_soon(descriptor)

    def _count(self, reason: str) -> None:
        if not self._counted:
            self._counted = True
            if reason == "closed-by-client":
                self._all.closed_by_client += 1
            else:
                self._all.counters.count_tcp(reason)


def close_with_reset(descriptor: int) -> None:
    """Close a TCP socket with a reset: nothing of it stays in the kernel."""
    with socket.socket(fileno=descriptor) as closing:
        closing.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
