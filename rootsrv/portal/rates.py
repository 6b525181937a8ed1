"""How often something may be tried: per source, per account, and by all together."""
# Generic cell rate algorithm: per subject one number, the time at which all that was tried is paid for.  Kept in
# memory, for so many subjects: the one that tried longest ago is forgotten first, which whoever has that many addresses
# can bring about; the limits of all together stand against that.

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

MAX_REMEMBERED = 65_536


class TooOften(Exception):
    """Not now; the text says so to people."""

    def __init__(self, seconds: float) -> None:
        super().__init__("that was too often: please wait a while")
        self.seconds = max(1, round(seconds))
        """Until it may be tried again."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many at once, and then one after another."""

    burst: int
    seconds: float
    """In which *burst* may be tried again."""


RATES = {
    # An account costs a mail to somebody who may not want it.
    "mails_to_address": Rate(3, 3600),
    "mails_by_source": Rate(6, 3600),
    "mails": Rate(300, 3600),
    # A password has to stand against this many guesses.
    "password_of_account": Rate(30, 3600),
    "password_of_account_by_source": Rate(8, 1800),
    "password_by_source": Rate(30, 1800),
    # Each costs some 100 ms of a core; those that wait their turn leave threads for other pages.
    "password": Rate(20, 4),
    "passkey_by_source": Rate(60, 600),
    "link_by_source": Rate(30, 600),
    "wrong_token_by_source": Rate(20, 600),
    "request_by_source": Rate(200, 20),
    "change_of_account": Rate(300, 3600),
}


class Tries:
    """Counts what is tried."""

    def __init__(self, now: Callable[[], float]) -> None:
        """*now*: seconds of a clock that never steps."""
        self._now = now
        self._paid_at: OrderedDict[tuple[str, Hashable], float] = OrderedDict()

    def take(self, rate: str, subject: Hashable = None) -> None:
        """Count one try; TooOften if it is one too many, which does not count."""
        self.check(rate, subject)
        limit, now, key = RATES[rate], self._now(), (rate, subject)
        self._paid_at[key] = max(self._paid_at.get(key, now), now) + limit.seconds / limit.burst
        self._paid_at.move_to_end(key)
        if len(self._paid_at) > MAX_REMEMBERED:
            self._paid_at.popitem(last=False)

    def check(self, rate: str, subject: Hashable = None) -> None:
        """TooOften if one more would be too many; counts nothing."""
        limit, now = RATES[rate], self._now()
        ahead = self._paid_at.get((rate, subject), now) - now
        if ahead > limit.seconds * (1 - 1 / limit.burst) + 1e-6:
            raise TooOften(ahead - limit.seconds * (1 - 1 / limit.burst))
