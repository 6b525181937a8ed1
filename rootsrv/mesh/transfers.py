"""Who has zones from whom by the roster alone, and the TSIG key that both ends derive from their roster keys."""
# A secret for each pair of a host and a member would be two for each of two hundred members, made, sent and replaced by
# people.  Both ends have a key pair already, and each has the other's public half from the roster, which is signed.  So
# the secret is what they agree on by X25519 (RFC 7748) with these very keys: §4.1 there maps one form of a key to the
# other, and that one key may do both is shown in "On using the same key pair for Ed25519 and an X25519 based KEM" (E.
# Thormarker, IACR ePrint 2021/509).  HKDF (RFC 5869) binds it to the name of the TSIG key: service, giver and taker.
#
# Whoever the roster does not list any more, or lists with another key, has no transfers from that roster on.

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rootsrv.config.checks import ConfigError, endpoint, plain_address
from rootsrv.mesh.roster import Member, Roster, public_key

if TYPE_CHECKING:  # and imported by who signs or checks: it takes 7 MB, and most processes do neither
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SECRET_OCTETS = 32  # RFC 8945 §8: as long as the hash, SHA-256

_P = 2**255 - 19


@dataclass(frozen=True, slots=True)
class Partner:
    """Somebody to whom zones go, or from whom they come."""

    name: str
    """As in the roster."""

    address: str
    port: int
    key: str
    """Name of the TSIG key."""

    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Partners:
    """Those of one member."""

    givers: tuple[Partner, ...] = ()
    takers: tuple[Partner, ...] = ()

    @property
    def version(self) -> str:
        """Another one for other partners; empty where there are none."""
        if not (self.givers or self.takers):
            return ""
        return hashlib.sha256(repr(self._rows()).encode()).hexdigest()[:16]

    def _rows(self) -> dict[str, list[list[Any]]]:
        def row(each: Partner) -> list[Any]:
            return [each.name, each.address, each.port, each.key, base64.b64encode(each.secret).decode()]

        return {"givers": list(map(row, self.givers)), "takers": list(map(row, self.takers))}

    def to_document(self) -> dict[str, Any]:
        """For the role maintain, over its control socket."""
        return {"version": self.version, **self._rows()}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Partners":
        """ValueError, TypeError or KeyError if it is none."""

        def partner(row: Any) -> Partner:
            name, address, port, key, text = row
            return Partner(str(name), plain_address(str(address)), int(port), str(key), base64.b64decode(text))

        return cls(tuple(map(partner, document["givers"])), tuple(map(partner, document["takers"])))


def key_name(service: str, giver: str, taker: str) -> str:
    """The TSIG key of transfers from *giver* to *taker*: a domain name."""
    return f"{taker}.{giver}.{service}."


def partners(roster: Roster, me: Member, key: "Ed25519PrivateKey") -> Partners:
    """By *roster*; *key* is *me*'s own.  Members that it gives no address for are left to the configuration.

    A host takes from no other host: each has the zones from outside, so that none depends on the other.  Nor is it told
    of new ones by NOTIFY: one with a key that it does not have would be a security event, with every update.
    """
    if not me.transfers:
        return Partners()
    hosts = [each for each in roster.member if each.distribution_host and each.transfers and each.name != me.name]
    others = [each for each in roster.member if each.transfers and not each.distribution_host]
    return Partners(
        givers=() if me.distribution_host else tuple(_partner(roster, each, me, each, key) for each in hosts),
        takers=tuple(_partner(roster, me, each, each, key) for each in others) if me.distribution_host else (),
    )


def _partner(roster: Roster, giver: Member, taker: Member, other: Member, key: "Ed25519PrivateKey") -> Partner:
    name = key_name(roster.service, giver.name, taker.name)
    address, port = endpoint(f"member {other.name}: transfers", other.transfers)
    return Partner(other.name, address, port, name, secret(key, public_key(other.public_key, other.name), name))


def secret(own: "Ed25519PrivateKey", other: "Ed25519PublicKey", name: str) -> bytes:
    """Of the TSIG key *name*; the same at both ends.  ConfigError if *other* is no key that anybody can have."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    seed = own.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    y = int.from_bytes(other.public_bytes(Encoding.Raw, PublicFormat.Raw), "little") & (2**255 - 1)
    u = (1 + y) * pow(1 - y, _P - 2, _P) % _P  # RFC 7748 §4.1
    private = X25519PrivateKey.from_private_bytes(hashlib.sha512(seed).digest()[:32])
    try:
        agreed = private.exchange(X25519PublicKey.from_public_bytes(u.to_bytes(32, "little")))
    except ValueError as error:  # a point of small order
        raise ConfigError(f"{name}: there is no agreeing on a secret with that public key") from error
    return HKDF(SHA256(), SECRET_OCTETS, None, b"rootsrv transfers 1 " + name.encode()).derive(agreed)
