"""Why a zone must not be served.  The text of each says which RRset, which key, what was expected."""


class ZoneRejected(Exception):
    """The zone must not be served; keep the one we have."""

    passed: tuple[str, ...] = ()
    """One line for each check that was passed before this one."""


class NotARoot(ZoneRejected):
    """The zone does not have the shape of a root zone, which is the only one we know how to serve."""


class NotTheHosts(ZoneRejected):
    """The zone is not the flat zone of the root's name servers, or contradicts the root zone."""


class KeyUntrusted(ZoneRejected):
    """No key in the DNSKEY RRset is covered by a trust anchor that is valid now and signs the RRset."""


class SignatureMissing(ZoneRejected):
    """An authoritative RRset has no signature that can be verified."""


class SignatureInvalid(ZoneRejected):
    """A signature is not that of the RRset."""


class SignatureExpired(ZoneRejected):
    """A signature is not valid any more."""


class SignatureNotYetValid(ZoneRejected):
    """A signature is not valid yet."""


class SignatureMisplaced(ZoneRejected):
    """Something is signed that is not the zone's to sign: a delegation's NS, glue, or records that do not exist."""


class NsecChainBroken(ZoneRejected):
    """The NSEC records do not tell the truth about which names and types there are."""


class DigestMissing(ZoneRejected):
    """Policy requires a ZONEMD digest that can be verified, and there is none."""


class DigestMismatch(ZoneRejected):
    """A ZONEMD record does not match the zone's contents."""
