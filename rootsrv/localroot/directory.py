"""Who may have which zone from the service: servers that were signed up, by key or proved address, and strangers."""
# Theory of operation
# -------------------
# Trust is by ZONEMD, not by secret: what somebody gets he can check, so that a key says who it is and no more.
#
#                       signed                    no key, address proved     no key, not known
#   ZONEMD verified     the server of the key     that server                 a stranger: by prefix, few
#   no ZONEMD           the server of the key     over TLS only               over TLS only
#
# (root-servers.net is not signed: only TLS or a key tell the resolver who gave it.)
#
# An address is proved by a signed request that came over TCP from it, and NOTIFY goes to proved addresses only: to any
# other the service would be a reflector, and UDP proves nothing, whoever signed it.  So a signed request over UDP from
# an address that was signed up and is not proved yet gets TC: whoever asked comes again over TCP, and it is proved.
#
# What is known of servers is replaced as a whole (`know`), whenever the register changes.  Strangers are told apart by
# prefix, the less of them at a time the more others want.

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import dns.exception

from rootsrv.distribution.requests import Asker, Given
from rootsrv.localroot.observations import Asked, KeyFailed, Observations, Proved, TransferSeen
from rootsrv.localroot.statistics import SubscriberStatistics
from rootsrv.localroot.subscribers import LiveKey, Subscriber, Subscriptions
from rootsrv.process import log
from rootsrv.process.places import prefix_of
from rootsrv.process.troubles import Troubles
from rootsrv.wire import name as names
from rootsrv.wire.tsig import Key, TsigRefused, error_text

PROVED_AGAIN_SECONDS = 86_400.0
"""How often it is noted again that an address is proved."""

SIGNS_SECONDS = 14 * 86_400.0
"""A server whose transfers were signed within this gets signed NOTIFYs."""


@dataclass(frozen=True, slots=True)
class ZoneRule:
    """How one zone is given out."""

    name: str
    verified_as_a_whole: bool
    """Whether ZONEMD covers all of it."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A server, its zones in the form of names on the wire."""

    subscriber: Subscriber
    addresses: frozenset[str]
    zones: frozenset[str]

    @property
    def id(self) -> int:
        return self.subscriber.server


@dataclass(frozen=True, slots=True)
class SubscriberServer:
    """A server that was signed up, asking for a zone; the Recipient of its transfer."""

    id: int
    name: str
    asker: Asker
    key: str
    over_tcp_only: bool
    servers: "RegisteredServers" = field(repr=False)
    proved: bool = True

    def given(self, what: Given) -> None:
        """See Recipient."""
        self.servers.given(self, what)

    def told(self, zone: str, serial: int) -> None:
        """See Recipient."""
        now = self.servers.now()
        self.servers.observations.note(Asked(self.id, zone, now, self.asker.address, serial))


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody who did not sign up, known by prefix; the Recipient of its transfer."""

    name: str
    asker: Asker
    statistics: SubscriberStatistics = field(repr=False)
    proved: bool = False
    over_tcp_only: bool = False

    def given(self, what: Given) -> None:
        """See Recipient."""
        self.statistics.transferred(what, self.asker, key="", server=None)

    def told(self, zone: str, serial: int) -> None:
        """See Recipient."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What follows from who has signed up."""

    keys: dict[bytes, tuple[Key, LiveKey]]
    """By name in wire format."""

    key_names: dict[str, bytes]
    servers: dict[int, _Known]
    by_address: dict[str, list[int]]


class RegisteredServers:
    """The AccessList of a LocalRoot service."""

    def __init__(
        self,
        observations: Observations,
        statistics: SubscriberStatistics,
        rule: Callable[[bytes], ZoneRule | None],
        *,
        is_open: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        """*rule*: how the zone of this apex is given out; *is_open*: whether strangers may have zones.

        *now*: seconds since 1970.
        """
        self.observations = observations
        self.statistics = statistics
        self.now = now
        self._rule = rule
        self._is_open = is_open
        self._unusable = Troubles("key cannot be used")
        self._keys: dict[bytes, tuple[Key, LiveKey]] = {}
        self._key_names: dict[str, bytes] = {}
        """In wire format."""

        self._servers: dict[int, _Known] = {}
        self._by_address: dict[str, list[int]] = {}
        self._proved: dict[tuple[int, str], float] = {}
        """By server and address: when it was noted last."""

        self._signs: dict[int, tuple[str, float]] = {}
        """By server: the key of its latest signed transfer, and when that was."""

        self._notified: dict[tuple[int, str], tuple[int, float]] = {}
        """By server and zone: the serial of the latest NOTIFY, and when that was sent first."""

    # What is known.

    def recall(self, proved: Iterable[Proved], transferred: Iterable[TransferSeen]) -> None:
        """What was observed before a restart."""
        for each in proved:
            self._proved[each.server, each.address] = each.at
        for had in transferred:
            if had.key:
                self._signs[had.server] = (had.key, had.at)
            self.statistics.recall(had.server, had.zone, had.serial, had.at)

    def know(self, subscriptions: Subscriptions) -> None:
        """From now on these; what was observed of others is forgotten."""
        self.take(self.learned(subscriptions))

    def learned(self, subscriptions: Subscriptions) -> "Learned":
        """What `take` takes, in whichever thread: of ten thousand keys that are new it takes 200 ms."""
        keys: dict[bytes, tuple[Key, LiveKey]] = {}
        key_names: dict[str, bytes] = {}
        for each in subscriptions.keys:
            key = self._known_key(each) or self._made_key(each)
            if key is not None:
                key_names[each.name] = key.name
                keys[key.name] = (key, each)
        servers = {each.server: self._known_server(each) for each in subscriptions.subscribers}
        by_address: dict[str, list[int]] = {}
        for known in servers.values():
            for address in known.addresses:
                by_address.setdefault(address, []).append(known.id)
        return Learned(keys, key_names, servers, by_address)

    def take(self, learned: "Learned") -> None:
        """From now on what was *learned* last."""
        servers = learned.servers
        gone = self._servers.keys() - servers.keys()
        self._keys, self._key_names = learned.keys, learned.key_names
        self._servers, self._by_address = servers, learned.by_address
        self._proved = {
            (server, address): at
            for (server, address), at in self._proved.items()
            if server in servers and address in servers[server].addresses
        }
        self._signs = {server: at for server, at in self._signs.items() if server in servers}
        self._notified = {at: what for at, what in self._notified.items() if at[0] in servers}
        if gone:
            self.statistics.forget(gone)
        self.observations.keep_only(servers)

    # Of ten thousand servers nearly all are as they were when something changes: what was made of them is kept.

    def _known_key(self, live: LiveKey) -> Key | None:
        """What is known for *live* already, if name, algorithm and secret are the same."""
        found = self._keys.get(self._key_names.get(live.name, b""))
        if found is None:
            return None
        key, before = found
        same = (before.name, before.algorithm, before.secret) == (live.name, live.algorithm, live.secret)
        return key if same else None

    def _made_key(self, live: LiveKey) -> Key | None:
        try:
            return Key.make(names.from_text(live.name), live.algorithm, live.secret)
        except (dns.exception.DNSException, KeyError) as error:
            self._unusable.met(f"{type(error).__name__}: {error}", key=live.name, tsig_key=live.name)
            return None

    def _known_server(self, subscriber: Subscriber) -> _Known:
        before = self._servers.get(subscriber.server)
        if before is not None and before.subscriber == subscriber:
            return before
        return _Known(subscriber, frozenset(subscriber.addresses), frozenset(subscriber.zones))

    @property
    def counts(self) -> Counter[str]:
        """How many servers, live keys and proved addresses there are."""
        return Counter(servers=len(self._servers), keys=len(self._keys), proved_addresses=len(self._proved))

    # Requests (see AccessList).

    def key(self, name: bytes) -> Key | None:
        """See AccessList; one whose time has ended is none."""
        found = self._keys.get(name)
        if found is None:
            return None
        key, live = found
        return key if live.ends is None or self.now() < live.ends else None

    def recipient(self, asker: Asker, key: Key | None, apex: bytes) -> SubscriberServer | Stranger | None:
        """See AccessList."""
        rule = self._rule(apex)
        if rule is None:
            return None
        if key is not None:
            return self._signed(asker, key)
        known = self._proved_server(asker.address)
        if not rule.verified_as_a_whole and not asker.over_tls:
            return None
        if known is not None:
            return self._server(known, asker, "", over_tcp_only=False)
        if not self._is_open and not asker.over_tls:
            return None
        prefix = prefix_of(asker.address)
        return Stranger(f"prefix {prefix.hex()}", asker, self.statistics)

    def _signed(self, asker: Asker, key: Key) -> SubscriberServer | None:
        found = self._keys.get(key.name)
        known = self._servers.get(found[1].server) if found is not None else None
        if found is None or known is None:
            return None
        registered = asker.address in known.addresses
        proved_at = self._proved.get((known.id, asker.address))
        if registered and asker.over_tcp:
            now = self.now()
            if proved_at is None or now >= proved_at + PROVED_AGAIN_SECONDS:
                self._proved[known.id, asker.address] = now
                self.observations.note(Proved(known.id, asker.address, now, found[1].name))
                if proved_at is None:
                    log.event("address proved", server=known.id, address=asker.address)
        return self._server(known, asker, found[1].name, over_tcp_only=registered and proved_at is None)

    def _server(self, known: _Known, asker: Asker, key: str, *, over_tcp_only: bool) -> SubscriberServer:
        return SubscriberServer(known.id, f"server {known.id}", asker, key, over_tcp_only, self)

    def _proved_server(self, address: str) -> _Known | None:
        """The server at *address*, if that is proved; the first of several."""
        ids = [each for each in self._by_address.get(address, ()) if (each, address) in self._proved]
        return self._servers[min(ids)] if ids else None

    def tsig_failed(self, asker: Asker, owner: bytes, refused: TsigRefused) -> None:
        """See AccessList; kept for a key that is known, and for whoever asks from a proved address."""
        error = error_text(refused.error) if refused.error else "FORMERR"
        self.statistics.tsig_failed(error)
        found = self._keys.get(owner)
        if found is not None:
            server: int | None = found[1].server
        else:
            known = self._proved_server(asker.address)
            server = known.id if known is not None else None
        if server is not None:
            name = found[1].name if found is not None else names.to_text(owner)
            self.observations.note(KeyFailed(server, name, self.now(), error, asker.address, str(refused)))

    def given(self, server: SubscriberServer, what: Given) -> None:
        """All of a transfer was handed to the transport."""
        now = self.now()
        if server.key:
            self._signs[server.id] = (server.key, now)
        serial, sent_at = self._notified.get((server.id, what.zone), (None, 0.0))
        after = now - sent_at if serial == what.serial else None
        transport = "tls" if server.asker.over_tls else "tcp"
        self.observations.note(
            TransferSeen(
                server.id,
                what.zone,
                what.serial,
                now,
                what.how,
                what.octets,
                server.asker.address,
                transport,
                server.key,
                after,
            )
        )
        self.statistics.transferred(what, server.asker, key=server.key, server=server.id)

    # NOTIFY.

    def to_notify(self, zone: str, only: int | None = None) -> Iterator[tuple[int, str, Key | None]]:
        """(server, address, key to sign with) for every proved address of who wants *zone*; of *only*, if given.

        As they are when this is called; others may have gone, or come, before the last one is taken.
        """
        for server, address in list(self._proved):
            known = self._servers.get(server)
            if known is not None and zone in known.zones and only in (None, server):
                yield server, address, self._signing_key(server)

    def _signing_key(self, server: int) -> Key | None:
        """What a NOTIFY to it is signed with: the key that it uses itself, if it uses one (Unbound knows none)."""
        name, at = self._signs.get(server, ("", 0.0))
        if not name or self.now() > at + SIGNS_SECONDS:
            return None
        return self.key(self._key_names.get(name, b""))

    def notified(self, server: int, zone: str, serial: int, at: float) -> None:
        """A NOTIFY of *serial* was sent first at *at*."""
        known = self._notified.get((server, zone))
        if known is None or known[0] != serial or at < known[1]:
            self._notified[server, zone] = (serial, at)
