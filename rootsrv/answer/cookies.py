"""DNS cookies: interoperable server cookies (RFC 7873, RFC 9018)."""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from siphash24 import siphash24

CLIENT_COOKIE_OCTETS = 8
FULL_COOKIE_OCTETS = 24
"""Client cookie and an RFC 9018 server cookie."""

SECRET_OCTETS = 16

_VERSION = b"\1\0\0\0"  # version 1 and three reserved octets (RFC 9018 §4.1, §4.2)
_RENEW_AFTER_SECONDS = 1800  # RFC 9018 §4.3: a new one when half of the lifetime is over
_LIFETIME_SECONDS = 3600  # RFC 9018 §4.3
_FUTURE_SECONDS = 300  # RFC 9018 §4.3: clocks of an anycast set may differ

_U32 = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class ServerCookies:
    """Makes and checks server cookies with a secret that all instances of the service address share."""

    secret: bytes
    previous_secrets: tuple[bytes, ...] = ()
    """Still accepted while a roll-over is under way (RFC 9018 §5); what they made is replaced at once."""

    def __post_init__(self) -> None:
        for secret in (self.secret, *self.previous_secrets):
            if len(secret) != SECRET_OCTETS:
                raise ValueError(f"a cookie secret has {SECRET_OCTETS} octets, got {len(secret)}")

    def make(self, client_cookie: bytes, source: bytes, now: float) -> bytes:
        """The full cookie (24 octets) for *client_cookie* (8) from *source* (4 or 16 octets of IP address) at *now*."""
        stamped = client_cookie + _VERSION + _U32.pack(int(now) & 0xFFFFFFFF)
        digest: bytes = siphash24(stamped + source, key=self.secret).digest()
        return stamped + digest

    def maker(self) -> Callable[[bytes, bytes, float], bytes]:
        """`make`, for many calls with the same *now*."""
        secret, pack = self.secret, _U32.pack
        stamped_for, stamp = -1.0, b""

        def make(client_cookie: bytes, source: bytes, now: float) -> bytes:
            nonlocal stamped_for, stamp
            if now != stamped_for:
                stamped_for, stamp = now, _VERSION + pack(int(now) & 0xFFFFFFFF)
            stamped = client_cookie + stamp
            digest: bytes = siphash24(stamped + source, key=secret).digest()
            return stamped + digest

        return make

    def answer(self, cookie: bytes, source: bytes, now: float) -> tuple[bytes, bool]:
        """The full cookie to send back for the COOKIE option's data, and whether its server cookie was good.

        *cookie* has 8 or 16 … 40 octets.  A good one younger than half an hour is sent back as it is (RFC 9018 §4.3).
        """
        if len(cookie) == FULL_COOKIE_OCTETS and cookie[8] == 1:
            signed = cookie[:16] + source
            # RFC 9018 §4.3 with serial number arithmetic (RFC 1982), as its 32-bit timestamps ask for.
            age = (int(now) - _U32.unpack_from(cookie, 12)[0] + 0x80000000 & 0xFFFFFFFF) - 0x80000000
            if -_FUTURE_SECONDS <= age <= _LIFETIME_SECONDS:
                if siphash24(signed, key=self.secret).digest() == cookie[16:]:
                    return (cookie if age < _RENEW_AFTER_SECONDS else self.make(cookie[:8], source, now)), True
                for previous in self.previous_secrets:
                    if siphash24(signed, key=previous).digest() == cookie[16:]:
                        return self.make(cookie[:8], source, now), True
        return self.make(cookie[:CLIENT_COOKIE_OCTETS], source, now), False
