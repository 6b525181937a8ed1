"""The rings that the role serve has handed over, and those of a role serve that is gone."""

from pathlib import Path

from rootsrv.capture import offer, rings
from rootsrv.capture.hand import Hand
from rootsrv.process import log

STOPPING_SECONDS = 5.0
"""How long workers whose parent is gone may still be answering."""

AGAIN_SECONDS = 1.0
"""How long after the role serve handed out no rings it is asked again."""

_TRIES = 10  # serve may start last, and its sockets and tables take a moment: what stays so is worth an alarm


class HandedOver:
    """What there is to read from."""

    def __init__(self, source: Path, hand: Hand) -> None:
        """*source*: where the role serve hands out the rings (offer.NAME); *hand*: what was taken from them."""
        self._source = source
        self._hand = hand
        self._taken: offer.Taken | None = None
        self._old: list[tuple[offer.Taken, float]] = []
        """Rings that a role serve wrote which is gone, and until when its workers may still be at it."""

        self._again_at = 0.0
        self._tries, self._alarmed = 0, ""
        """In a row in which there were no rings; the reason that was told of them."""

        self.why = ""
        """Why there are none."""

    def adopt(self, taken: offer.Taken) -> None:
        """Read these rings, which are handed over and not taken."""
        self._taken = taken

    @property
    def is_connected(self) -> bool:
        """Whether there are those of a role serve that is there."""
        return self._taken is not None

    def connect(self, now: float) -> bool:
        """Have the rings; the role serve may come later, and again.  Whether there are others now."""
        if self._taken is not None and not self._taken.is_current:
            # The next ones are taken at once; these are emptied until nobody can be writing into them any more.
            self._old.append((self._taken, now + STOPPING_SECONDS))
            self._taken = None
            self._again_at = now
        for each in [each for each in self._old if each[1] < now]:
            each[0].close()
            self._old.remove(each)
        if self._taken is not None or now < self._again_at:
            return False
        self._again_at = now + AGAIN_SECONDS
        try:
            self._taken = offer.take(self._source)
        except offer.NoRings as error:
            self._tries += 1
            if self._tries >= _TRIES and str(error) != self._alarmed:
                log.alarm("capture has no rings", reason=error)
                self._alarmed = str(error)
            self.why = str(error)
            return False
        self.why, self._tries, self._alarmed = "", 0, ""
        self._hand.resume(self._taken.rings)
        return True

    def hurry(self) -> None:
        """Ask at once when `connect` is called next, however lately that was in vain."""
        self._again_at = 0.0

    def rings(self) -> list[rings.Ring]:
        """All of them, the new ones first."""
        found = [] if self._taken is None else list(self._taken.rings)
        for old, _ in self._old:
            found += old.rings
        return found

    def close(self) -> None:
        """Let go of them; they stay as they are."""
        for each in [self._taken, *(old for old, _ in self._old)]:
            if each is not None:
                each.close()
        self._taken = None
        self._old.clear()
