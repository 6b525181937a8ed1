"""Passwords: argon2id (RFC 9106), and few at a time, since each takes 64 MiB for as long as it is computed."""

import threading
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from rootsrv.localroot.servers import NotAccepted

MIN_CHARACTERS, MAX_CHARACTERS = 12, 256
AT_A_TIME = 2
WAIT_SECONDS = 5.0

# RFC 9106 §4, second recommended option (64 MiB, three passes, four lanes), with one lane per core that we have.
_HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=2)

_COMMON = (
    "password",
    "passwort",
    "letmein",
    "qwerty",
    "asdfgh",
    "iloveyou",
    "administrator",
    "rootserver",
    "localroot",
)
"""What guessing begins with; repeated or with digits added it is no better."""


T = TypeVar("T")


class Busy(Exception):
    """Too many passwords are being looked at: please try again in a moment."""


class Passwords:
    """Hashes and verifies, `AT_A_TIME` at a time."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(AT_A_TIME)
        self._nobodys = ""

    def hash(self, password: str) -> str:
        """What is kept.  Busy."""
        return self._in_turn(lambda: _HASHER.hash(password))

    def verify(self, kept: str, password: str) -> bool:
        """Whether *password* is the one that was hashed; with *kept* empty nobody's, which takes as long.  Busy."""
        return self._in_turn(lambda: self._verify(kept, password)) and bool(kept)

    def _verify(self, kept: str, password: str) -> bool:
        if not kept:
            kept = self._nobodys = self._nobodys or _HASHER.hash("nobody's")
        try:
            return _HASHER.verify(kept, password[:MAX_CHARACTERS])
        except (VerificationError, InvalidHashError):
            return False

    def _in_turn(self, work: Callable[[], T]) -> T:
        if not self._places.acquire(timeout=WAIT_SECONDS):
            raise Busy(Busy.__doc__)
        try:
            return work()
        finally:
            self._places.release()


def check(password: str, email: str) -> None:
    """NotAccepted if *password* is one that is guessed soon."""
    if len(password) < MIN_CHARACTERS:
        raise NotAccepted("password", f"a password of at least {MIN_CHARACTERS} characters is needed")
    if len(password) > MAX_CHARACTERS:
        raise NotAccepted("password", f"at most {MAX_CHARACTERS} characters")
    plain = password.lower()
    own = {each for each in (email.lower(), email.lower().partition("@")[0]) if len(each) > 3}
    left = plain
    for known in sorted({*own, *_COMMON}, key=len, reverse=True):
        left = left.replace(known, "")
    if len(set(plain)) < 5 or len(left.strip("0123456789!.-_ ")) < 5:
        raise NotAccepted("password", "that is guessed soon: take some words that do not belong together")
