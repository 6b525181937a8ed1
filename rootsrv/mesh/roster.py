"""The roster: who is in the mesh, and what must be the same everywhere.  Signed by the operator, off line."""
# Over 400 lines: one class is the roster, and every bound that it has to keep stands beside it.
#
# Theory of operation
# -------------------
# An operator writes it as TOML and signs it with a key that no machine of the mesh has; what is signed is the same
# document in CBOR.  It is checked by the one class below whenever it is read: when it is signed, and by every member.
#
# Its version only rises.  `RosterBook` holds the one in force and takes a new one only if that is newer and signed by a
# key that *the one in force* lists: so a key that was lost is replaced by the second one, and a stolen key that was
# taken off the list is worth nothing.  The first roster is signed by a key that the configuration names.
#
# The bounds that it has to keep (`_check_timing`) are those with which no order, void or loss of the engine can make a
# member late enough to count as stale.

import math
import re
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rootsrv.config.checks import ConfigError, check_range, endpoint
from rootsrv.config.typed import build
from rootsrv.mesh.envelope import (
    LONGEST_ROSTER_OCTETS,
    Envelope,
    EnvelopeMalformed,
    EnvelopeRefused,
    Replayed,
    open_envelope,
    seal,
)

if TYPE_CHECKING:  # and imported by who signs or checks: it takes 7 MB, and most processes do neither
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY = "roster"

OPERATOR = "operator"
"""Who signs it."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long everybody waits for whom; seconds.  The same on all members."""

    align: int = 60
    """Zones go into service at multiples of this in UTC."""

    lead: float = 60.0
    """By the local rule at least so long after readiness, besides `wait`."""

    wait: float = 600.0
    """How long a member that hears of no order leaves it to the distribution hosts before it goes by itself."""

    offer: float = 60.0
    """A set time is at least so long after the offer; as long a leader waits for members to be ready."""

    notice: float = 5.0
    """Between an order and its T, so that everybody has heard of it: 0.7 s at the most with 200 members."""

    soak: float = 120.0
    """How long the canaries answer from a zone before anybody else does."""

    max_delay: float = 600.0
    """The latest set time, counted from readiness, that a member obeys."""

    void: float = 3000.0
    """How long, counted from the first readiness, a leader can keep a serial out of service."""

    hold: float = 86_400.0
    """How long an operator's hold lasts."""

    stale_soft: float = 3900.0
    """When a zone that is known and not served degrades the route (`anycast.stale_soft_seconds`)."""

    token: float = 30.0
    """Lifetime of a token of the floor."""

    def __post_init__(self) -> None:
        for name in ("lead", "wait", "offer", "notice", "soak", "max_delay", "void"):
            check_range(f"timing.{name}", getattr(self, name), 0, 86_400)
        for key, low, high in (("align", 1, 3600), ("hold", 60, 86_400), ("stale_soft", 1, 604_800), ("token", 2, 600)):
            check_range(f"timing.{key}", getattr(self, key), low, high)
        if self.slack < 0:
            sum_ = f"offer + 2·align + soak + notice = {self.max_delay - self.slack:g}"
            raise ConfigError(f"timing.max_delay: must be at least {sum_}, got {self.max_delay:g}")
        if self.wait < self.max_delay:
            raise ConfigError(f"timing.wait: must be at least max_delay = {self.max_delay:g}, got {self.wait:g}")
        # Who counts from the canaries' T (member.py) does so from so long after its readiness at the latest.
        latest = max(self.void, self.slack + self.max_delay) + self.lead + self.wait + self.align
        if latest >= self.stale_soft:
            sum_ = f"max(void, slack + max_delay) + lead + wait + align = {latest:g}"
            raise ConfigError(f"timing.stale_soft: must be more than {sum_}, got {self.stale_soft:g}")

    @property
    def slack(self) -> float:
        """What `max_delay` leaves besides what an order needs: so far apart members may become ready."""
        return self.max_delay - (self.offer + 2 * self.align + self.soak + self.notice)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where members are."""

    name: str
    city: str = ""
    country: str = ""
    latitude: float = 0.0
    longitude: float = 0.0

    def __post_init__(self) -> None:
        _check_name("site.name", self.name)
        check_range("site.latitude", self.latitude, -90, 90)
        check_range("site.longitude", self.longitude, -180, 180)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Members of which at most `k` may be withdrawn for a cause that can wait."""

    name: str
    k: int = 1

    def __post_init__(self) -> None:
        _check_name("group.name", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One instance."""

    name: str
    public_key: str
    """Ed25519, 64 hexadecimal digits."""

    site: str
    group: str
    canary: bool = False
    """It goes first."""

    distribution_host: bool = False
    """It may lead: offer zones and order set times."""

    cluster: str = ""
    """Boxes of one site behind one router have the same."""

    metrics: str = ""
    """Address and port of its report role, for Prometheus; empty = not given."""

    transfers: str = ""
    """Address and port of its administrative interface: from there it has zones transferred, there it gets NOTIFY.

    Where it and a distribution host have one, they need no key and no section of each other's (transfers.py).
    """

    def __post_init__(self) -> None:
        _check_name("member.name", self.name)
        if self.transfers:
            endpoint(f"member {self.name}: transfers", self.transfers)
        public_key(self.public_key, f"member {self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Somebody who may hold, approve, reject and order in an emergency."""

    name: str
    public_key: str

    def __post_init__(self) -> None:
        _check_name("operator.name", self.name)
        public_key(self.public_key, f"operator {self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """All of it; ConfigError names the key that is wrong."""

    service: str
    """Name of the service: the prefix of its keys in the engine."""

    version: int
    signing_keys: tuple[str, ...]
    """Public keys, one of which signs the next roster: at least one that is not in use, for when the other is lost."""

    timing: Timing = field(default_factory=Timing)
    site: tuple[Site, ...] = ()
    group: tuple[Group, ...] = ()
    member: tuple[Member, ...] = ()
    operator: tuple[Operator, ...] = ()

    def __post_init__(self) -> None:
        _check_name("service", self.service)
        check_range("version", self.version, 1, 2**53)
        check_range("signing_keys", len(self.signing_keys), 1, 8)
        for each in self.signing_keys:
            public_key(each, "signing_keys")
        for kind, names in (
            ("site", [each.name for each in self.site]),
            ("group", [each.name for each in self.group]),
            ("member", [each.name for each in self.member]),
            ("operator", [each.name for each in self.operator]),
        ):
            _check_unique(f"{kind}.name", names)
        keys = [each.public_key for each in self.member] + [each.public_key for each in self.operator]
        _check_unique("public_key", [each.lower() for each in (*keys, *self.signing_keys)])
        _check_unique("member.transfers", [each.transfers for each in self.member if each.transfers])
        self._check_members()

    def _check_members(self) -> None:
        if not self.member:
            raise ConfigError("member: at least one is needed")
        sites, groups = {each.name for each in self.site}, {each.name for each in self.group}
        for each in self.member:
            if each.site not in sites:
                raise ConfigError(f"member {each.name}: site {each.site!r} is not listed")
            if each.group not in groups:
                raise ConfigError(f"member {each.name}: group {each.group!r} is not listed")
        for group in self.group:
            n = len(self.members_of(group.name))
            if not n:
                raise ConfigError(f"group {group.name}: has no members")
            if not 1 <= group.k <= max(1, n // 4):
                raise ConfigError(f"group {group.name}: k must be 1..max(1, n/4) = {max(1, n // 4)}, got {group.k}")
        canaries = len(self.canaries)
        if canaries < 2 or canaries == len(self.member):
            raise ConfigError(f"member: two or more canaries and somebody else are needed, got {canaries} canaries")
        if not self.distribution_hosts:
            raise ConfigError("member: at least one distribution host is needed")

    def find(self, name: str) -> Member | None:
        """The member called *name*."""
        return next((each for each in self.member if each.name == name), None)

    def members_of(self, group: str) -> tuple[Member, ...]:
        """Those of a group, in the order of the roster."""
        return tuple(each for each in self.member if each.group == group)

    def k_of(self, group: str) -> int:
        """How many of a group may be withdrawn at a time for a cause that can wait; 0 = there is no such group."""
        return next((each.k for each in self.group if each.name == group), 0)

    def wave_of(self, name: str) -> int:
        """Which wave of k of its group a member belongs to, the first being 0."""
        member = self.find(name)
        if member is None:
            return 0
        names = [each.name for each in self.members_of(member.group)]
        return names.index(name) // self.k_of(member.group)

    @property
    def canaries(self) -> frozenset[str]:
        """Those that go first."""
        return frozenset(each.name for each in self.member if each.canary)

    @property
    def distribution_hosts(self) -> tuple[str, ...]:
        """Those that may lead."""
        return tuple(each.name for each in self.member if each.distribution_host)

    def keys_of(self, names: typing.Iterable[str]) -> "dict[str, Ed25519PublicKey]":
        """The public keys of members, by name."""
        wanted = frozenset(names)
        return {each.name: public_key(each.public_key, each.name) for each in self.member if each.name in wanted}

    def operator_keys(self) -> "dict[str, Ed25519PublicKey]":
        """The public keys of those who may give an operator's order; the roster's own are the operator's as well."""
        named = {each.name: public_key(each.public_key, each.name) for each in self.operator}
        return named | {signer_name(each): public_key(each, "signing_keys") for each in self.signing_keys}


def signer_name(key: str) -> str:
    """What an operator who uses a key of the roster itself is called."""
    return f"{OPERATOR}-{key[:8].lower()}"


def public_key(text: str, whose: str) -> "Ed25519PublicKey":
    """From 64 hexadecimal digits; ConfigError."""
    if len(text) != 64 or not all(c in "0123456789abcdefABCDEF" for c in text):
        raise ConfigError(f"{whose}: a public key has 64 hexadecimal digits, got {text!r:.80}")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def public_text(key: "Ed25519PrivateKey | Ed25519PublicKey") -> str:
    """The 64 hexadecimal digits that stand in a roster."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def from_document(document: Mapping[str, Any]) -> Roster:
    """A roster that somebody wrote as TOML; ConfigError for anything unknown or wrong."""
    return build(Roster, dict(document), "")


def sign(roster: Roster, key: "Ed25519PrivateKey", now: float) -> bytes:
    """The octets for members; ConfigError if *key* is not one of its signing keys."""
    if public_text(key) not in {each.lower() for each in roster.signing_keys}:
        raise ConfigError("signing_keys: does not list the key that is to sign; nobody could sign the next one")
    envelope = Envelope(KEY, OPERATOR, float(roster.version), 0, now, math.inf, document_of(roster))
    return seal(envelope, roster.service, key)


def document_of(roster: Roster) -> dict[str, Any]:
    """As it would be written."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(roster).items()}


def read(octets: bytes, service: str, signing_keys: typing.Iterable[str]) -> Roster:
    """The roster that one of *signing_keys* signed; EnvelopeRefused, whatever is wrong with it."""
    opened: Envelope | None = None
    refused: EnvelopeRefused = EnvelopeMalformed("no key to check a roster with")
    for text in signing_keys:
        try:
            opened = open_envelope(
                octets,
                service=service,
                key=KEY,
                writers={OPERATOR: public_key(text, "signing key")},
                now=None,
                longest_octets=LONGEST_ROSTER_OCTETS,
            )
            break
        except EnvelopeRefused as error:
            refused = error
    if opened is None:
        raise refused
    try:
        roster = build(Roster, dict(opened.content), "", unknown="ignored")
    except (ConfigError, TypeError, ValueError) as error:
        raise EnvelopeMalformed(f"the roster is signed, and wrong: {error}") from error
    if roster.service != service or float(roster.version) != opened.epoch:
        raise EnvelopeMalformed(f"the roster is signed as version {opened.epoch:.0f} of {service!r}, says otherwise")
    return roster


class RosterBook:
    """The roster in force, and what may replace it."""

    def __init__(self, service: str, first_keys: tuple[str, ...]) -> None:
        """*first_keys*: who may sign the first one (`[mesh] roster_keys`)."""
        self.service = service
        self._first_keys = first_keys
        self.roster: Roster | None = None
        self.octets = b""
        self.since = -math.inf
        self.previous: Roster | None = None
        """The one before."""

    @property
    def signers(self) -> tuple[str, ...]:
        """Public keys, one of which has to sign what replaces the roster in force."""
        return self._first_keys if self.roster is None else self.roster.signing_keys

    def trust(self, keys: typing.Iterable[str]) -> None:
        """The first roster may be signed by one of these as well: those that were in force when it was taken."""
        self._first_keys = (*self._first_keys, *(each for each in keys if each not in self._first_keys))

    def offer(self, octets: bytes, now: float) -> bool:
        """Take the roster if it is newer than the one in force: whether it was; EnvelopeRefused if it may not be.

        *now*: seconds on a clock that never steps.
        """
        if octets == self.octets:
            return False
        roster = read(octets, self.service, self.signers)
        if self.roster is not None:
            if roster.version < self.roster.version:
                raise Replayed(f"the roster's version {roster.version}, {self.roster.version} is in force")
            if roster.version == self.roster.version:
                if roster == self.roster:
                    return False
                raise Replayed(f"there are two rosters of version {roster.version}; the first one stays in force")
        self.previous, self.roster, self.octets, self.since = self.roster, roster, octets, now
        return True

    def floors(self, member: str, now: float) -> tuple[tuple[str, int], ...]:
        """Groups of whose tokens *member* needs one, with their k: for a token's lifetime also as it was before."""
        found: list[tuple[str, int]] = []
        for roster in (self.roster, self.previous if self._is_fresh(now) else None):
            if roster is not None and (one := roster.find(member)) is not None:
                found.append((one.group, roster.k_of(one.group)))
        # One group with two sizes: the smaller counts, in both.
        return tuple({name: min(k for other, k in found if other == name) for name, _ in found}.items())

    def _is_fresh(self, now: float) -> bool:
        assert self.roster is not None
        return self.previous is not None and now - self.since < self.roster.timing.token


def _check_name(key: str, value: str) -> None:
    if len(value) > 63 or not _NAME.match(value):
        raise ConfigError(f"{key}: must be of a-z, 0-9, hyphens and dots, at most 63, got {value!r:.80}")


def _check_unique(key: str, values: list[str]) -> None:
    twice = {each for each in values if values.count(each) > 1}
    if twice:
        raise ConfigError(f"{key}: twice: {', '.join(sorted(twice))}")
