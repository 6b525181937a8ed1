"""A client of etcd: every request with a deadline, several nodes, and one kind of failure."""
# Theory of operation
# -------------------
# Whatever goes wrong – no node, no quorum, no space, an unknown error, an answer that makes no sense – is `EngineGone`,
# because what follows is the same: this instance goes on alone (Patroni 3572: an error that nobody recognised demoted a
# primary).  The node that failed is left alone and the next one is asked from then on.
#
# What was met (etcd 3.4.23) and is provided for here:
#   * a watch from a compacted revision is cancelled, and the stream stays open and silent: `Compacted`, read again;
#   * a killed node ends the stream; one without a quorum ends it when `hasleader` is asked for; a frozen one is noticed
#     by nothing but a progress request with a deadline of our own;
#   * a put without a quorum comes back after seven seconds: hence our own deadline on each request;
#   * a stream that is left without being ended or cancelled is a ProtocolError.

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grpclib.client import Channel, StreamStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol

from rootsrv.distribution.tls import client_context, show_certificate
from rootsrv.engine.messages import MESSAGES, make

PROGRESS_SECONDS = 3.0
"""After so long without an event the engine is asked whether it is still there."""

MOST_KEYS = 20_000
"""That are read at once: a mesh of a thousand members has some five thousand."""

_CREATE = 1  # Compare.CompareTarget
_EQUAL = 0  # Compare.CompareResult
_DELETE = 1  # Event.EventType


class EngineGone(Exception):
    """The engine does not do what it should, whatever the reason: everybody goes on alone."""


class Compacted(Exception):
    """What is asked for is no longer kept: read the keys again, and watch from there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of the board and what stands there."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class KeyEvent:
    """A key was written, or (*entry* is None) deleted."""

    key: str
    entry: Entry | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself."""

    endpoint: str
    version: str
    size_octets: int
    has_leader: bool
    errors: tuple[str, ...]
    """Alarms such as NOSPACE."""

    uncompacted: int = 0
    """Revisions that it keeps, if it keeps the very first; 0 = it was compacted, or does not say."""


def tls_context(ca: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """For mutual TLS; ConfigError if a file cannot be used."""
    context = client_context("mesh.tls_ca", ca=str(ca))
    show_certificate(context, "mesh.tls_certificate", str(certificate), str(key))
    context.set_alpn_protocols(["h2"])
    return context


class Etcd:
    """A client of the nodes of one cluster; one node is asked at a time."""

    def __init__(self, endpoints: Sequence[str], tls: ssl.SSLContext | None, request_seconds: float = 2.0) -> None:
        self.endpoints = tuple(endpoints)
        self.request_seconds = request_seconds
        self._tls = tls
        self._current = 0
        self._left = 0
        """How often a node was left for the next one."""

        self._channel: _Connection | None = None

    @property
    def endpoint(self) -> str:
        """The node that is asked."""
        return self.endpoints[self._current]

    def close(self) -> None:
        """Let go of the connection."""
        if self._channel is not None:
            _abort(self._channel)
            self._channel = None

    def next_node(self) -> None:
        """From now on ask another node."""
        self.close()
        self._current = (self._current + 1) % len(self.endpoints)
        self._left += 1

    def _connection(self) -> Channel:
        if self._channel is None:
            self._channel = self._open(self.endpoint)
        return self._channel

    def _open(self, endpoint: str) -> "_Connection":
        url = urlsplit(endpoint)
        return _Connection(url.hostname, url.port, ssl=self._tls if url.scheme == "https" else None)

    @contextlib.asynccontextmanager
    async def _failing_as_one(self, what: str, seconds: float | None) -> AsyncIterator[None]:
        endpoint, left = self.endpoint, self._left
        try:
            async with asyncio.timeout(seconds):
                yield
        except Compacted:
            raise
        except TimeoutError as error:
            self._leave(left)
            raise EngineGone(f"{endpoint}: {what}: no answer in {seconds:g} s") from error
        except Exception as error:
            self._leave(left)
            reason = getattr(error, "message", None) or str(error) or type(error).__name__
            raise EngineGone(f"{endpoint}: {what}: {reason}") from error

    def _leave(self, left: int) -> None:
        # Several requests may fail with one connection; only the first of them moves on, to another node or, where
        # there is but one, to another connection.
        if left == self._left:
            self.next_node()

    async def _call(self, path: str, request: Any, response: str) -> Any:
        async with self._failing_as_one(path, self.request_seconds):
            method = UnaryUnaryMethod(self._connection(), f"/etcdserverpb.{path}", type(request), MESSAGES[response])
            return await method(request)
        raise AssertionError("unreachable")

    async def read(self, prefix: str) -> tuple[int, list[Entry]]:
        """The revision, and all entries whose keys begin with *prefix*; EngineGone."""
        octets = prefix.encode()
        request = make("RangeRequest", key=octets, range_end=_after(octets), limit=MOST_KEYS)
        answer = await self._call("KV/Range", request, "RangeResponse")
        if answer.more:
            raise EngineGone(f"{self.endpoint}: more than {MOST_KEYS} keys begin with {prefix}")
        return answer.header.revision, [_entry(each) for each in answer.kvs]

    async def read_without_quorum(self, prefix: str) -> list[Entry]:
        """What the node that knows most has of *prefix*, without asking the others; empty if none answers.

        It may be old: good for what is signed, and for nothing else.
        """
        found = await asyncio.gather(*(self._read_from(each, prefix) for each in self.endpoints))
        return max(found, key=lambda each: each[0])[1]

    async def _read_from(self, endpoint: str, prefix: str) -> tuple[int, list[Entry]]:
        channel = self._open(endpoint)
        octets = prefix.encode()
        try:
            async with asyncio.timeout(self.request_seconds):
                method = UnaryUnaryMethod(
                    channel, "/etcdserverpb.KV/Range", MESSAGES["RangeRequest"], MESSAGES["RangeResponse"]
                )
                answer = await method(
                    make("RangeRequest", key=octets, range_end=_after(octets), limit=MOST_KEYS, serializable=True)
                )
        except Exception:  # as `EngineGone`: whatever it is
            return 0, []
        finally:
            _abort(channel)
        return answer.header.revision, [_entry(each) for each in answer.kvs]

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Write; the revision that it has.  EngineGone."""
        request = make("PutRequest", key=key.encode(), value=value, lease=lease)
        return int((await self._call("KV/Put", request, "PutResponse")).header.revision)

    async def create(self, key: str, value: bytes, lease: int) -> int | None:
        """Write if the key does not exist: its create revision, None if it does.  EngineGone."""
        request = make(
            "TxnRequest",
            compare=[make("Compare", result=_EQUAL, target=_CREATE, key=key.encode(), create_revision=0)],
            success=[make("RequestOp", request_put=make("PutRequest", key=key.encode(), value=value, lease=lease))],
        )
        answer = await self._call("KV/Txn", request, "TxnResponse")
        return int(answer.header.revision) if answer.succeeded else None

    async def delete(self, key: str, create_revision: int) -> bool:
        """Delete the key if it still is the one of *create_revision*: whether it was.  EngineGone."""
        octets = key.encode()
        request = make(
            "TxnRequest",
            compare=[make("Compare", result=_EQUAL, target=_CREATE, key=octets, create_revision=create_revision)],
            success=[make("RequestOp", request_delete_range=make("DeleteRangeRequest", key=octets))],
        )
        return bool((await self._call("KV/Txn", request, "TxnResponse")).succeeded)

    async def get(self, key: str) -> Entry | None:
        """What stands under *key*; EngineGone."""
        answer = await self._call("KV/Range", make("RangeRequest", key=key.encode()), "RangeResponse")
        return _entry(answer.kvs[0]) if answer.kvs else None

    async def grant(self, seconds: int) -> int:
        """A lease; EngineGone."""
        answer = await self._call("Lease/LeaseGrant", make("LeaseGrantRequest", TTL=seconds), "LeaseGrantResponse")
        if answer.error or not answer.ID:
            raise EngineGone(f"{self.endpoint}: no lease: {answer.error}")
        return int(answer.ID)

    async def revoke(self, lease: int) -> None:
        """End a lease and the keys that hang on it; EngineGone, also if there is no such lease."""
        await self._call("Lease/LeaseRevoke", make("LeaseRevokeRequest", ID=lease), "LeaseRevokeResponse")

    async def keep_alive(self, lease: int) -> float:
        """Renew a lease: the seconds that it has now, 0 if there is none.  EngineGone."""
        async with self._failing_as_one("Lease/LeaseKeepAlive", self.request_seconds):
            method = StreamStreamMethod(
                self._connection(),
                "/etcdserverpb.Lease/LeaseKeepAlive",
                MESSAGES["LeaseKeepAliveRequest"],
                MESSAGES["LeaseKeepAliveResponse"],
            )
            async with method.open() as stream:
                await stream.send_message(make("LeaseKeepAliveRequest", ID=lease))
                answer = await stream.recv_message()
                await stream.cancel()
            if answer is None:
                raise EngineGone("the stream ended")
            return float(answer.TTL)
        raise AssertionError("unreachable")

    async def watch(self, prefix: str, start_revision: int, tell: Callable[[list[KeyEvent]], None]) -> None:
        """Have *tell* called with what changes, in order.  Ends only with EngineGone or Compacted."""
        async with self._failing_as_one("Watch/Watch", None):
            method = StreamStreamMethod(
                self._connection(), "/etcdserverpb.Watch/Watch", MESSAGES["WatchRequest"], MESSAGES["WatchResponse"]
            )
            octets = prefix.encode()
            create = make("WatchCreateRequest", key=octets, range_end=_after(octets), start_revision=start_revision)
            async with method.open(metadata={"hasleader": "true"}) as stream:
                received: asyncio.Queue[Any] = asyncio.Queue()
                reading = asyncio.create_task(_read_all(stream, received))
                try:
                    await self._follow(stream, received, create, tell)
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                    with contextlib.suppress(Exception):
                        await stream.cancel()

    async def _follow(
        self, stream: Any, received: "asyncio.Queue[Any]", create: Any, tell: Callable[[list[KeyEvent]], None]
    ) -> None:
        async with asyncio.timeout(self.request_seconds):
            await stream.send_message(make("WatchRequest", create_request=create))
        asked = True
        while True:
            try:
                async with asyncio.timeout(self.request_seconds if asked else PROGRESS_SECONDS):
                    response = await received.get()
            except TimeoutError:
                if asked:
                    raise EngineGone(f"silent for {self.request_seconds:g} s when asked for a sign of life") from None
                async with asyncio.timeout(self.request_seconds):
                    await stream.send_message(make("WatchRequest", progress_request=make("WatchProgressRequest")))
                asked = True
                continue
            if isinstance(response, BaseException):
                raise response
            asked = False
            if response is None:
                raise EngineGone("the stream ended")
            if response.compact_revision:
                raise Compacted(f"revision {create.start_revision}, kept from {response.compact_revision}")
            if response.canceled:
                raise EngineGone(f"watch cancelled: {response.cancel_reason}")
            if response.events:
                tell([_event(each) for each in response.events])

    async def compact(self, revision: int) -> None:
        """Have the engine forget what was before *revision*; EngineGone."""
        await self._call("KV/Compact", make("CompactionRequest", revision=revision), "CompactionResponse")

    async def status(self, prefix: str) -> list[NodeStatus | EngineGone]:
        """What each node says of itself, or why it says nothing; *prefix*: keys that may be read."""
        return list(await asyncio.gather(*(self._status_of(each, prefix) for each in self.endpoints)))

    async def _status_of(self, endpoint: str, prefix: str) -> NodeStatus | EngineGone:
        channel = self._open(endpoint)
        try:
            async with asyncio.timeout(self.request_seconds):
                path = "/etcdserverpb.Maintenance/Status"
                method = UnaryUnaryMethod(channel, path, MESSAGES["StatusRequest"], MESSAGES["StatusResponse"])
                answer = await method(make("StatusRequest"))
                uncompacted = await _uncompacted(channel, prefix)
        except Exception as error:
            return EngineGone(f"{endpoint}: {getattr(error, 'message', None) or error or type(error).__name__}")
        finally:
            _abort(channel)
        return NodeStatus(
            endpoint, answer.version, answer.dbSize, answer.leader != 0, tuple(answer.errors), uncompacted
        )


async def _uncompacted(channel: Channel, prefix: str) -> int:
    """How many revisions the node at the end of *channel* keeps, if it keeps the first one; else 0."""
    method = UnaryUnaryMethod(channel, "/etcdserverpb.KV/Range", MESSAGES["RangeRequest"], MESSAGES["RangeResponse"])
    first = make("RangeRequest", key=prefix.encode(), revision=1, serializable=True)
    try:
        return int((await method(first)).header.revision)
    except GRPCError:  # "required revision has been compacted"; or it has no leader, or may not be read
        return 0


class _Connection(Channel):
    """To a node.  One that was left while it was being made ends when it is."""

    ended = False

    async def __connect__(self) -> H2Protocol:
        protocol = await super().__connect__()
        if self.ended:
            _abort(self)
            raise ConnectionAbortedError("the node was left for another one")
        return protocol


def _abort(channel: _Connection) -> None:
    """Close a connection without TLS's farewell, to which a frozen node would not answer for half a minute."""
    channel.ended = True
    connection = getattr(channel._protocol, "connection", None)
    transport = getattr(connection, "_transport", None)
    channel.close()
    if transport is not None:
        transport.abort()


async def _read_all(stream: Any, received: "asyncio.Queue[Any]") -> None:
    """Put all that arrives into *received*; last None, or the error that ended it."""
    try:
        while (response := await stream.recv_message()) is not None:
            await received.put(response)
        await received.put(None)
    except Exception as error:  # told to whoever follows the stream
        await received.put(error)


def _after(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with *prefix* (which ends in a character below 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _entry(kv: Any) -> Entry:
    return Entry(_text(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def _event(event: Any) -> KeyEvent:
    return KeyEvent(_text(event.kv.key), None if event.type == _DELETE else _entry(event.kv))


def _text(key: bytes) -> str:
    return key.decode(errors="backslashreplace")
