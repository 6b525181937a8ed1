"""When what ended in a slot is started again."""
# Theory of operation
# -------------------
# What ends a worker that was up may be what it was sent: a query that kills whoever takes it, and again as soon as
# there is another.  A pause that grows with each death would do most of the harm then, and whoever sends chooses how
# long a worker lives.  So there is none: a slot has no worker for as long as a start takes, or for what is left of
# STARTS_APART_SECONDS, which keeps a core that has nothing else to do from doing nothing but that.
#
# What ends one before it was up (no memory, a table that cannot be mapped) is no sender's doing, and to try again at
# once helps nobody: a pause that doubles, until one is up.

STARTS_APART_SECONDS = 0.5
"""From the start of one that was up to the next one's, at least: a start is 0.12 s of a core, so a quarter of it."""

SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 5.0
"""First and longest pause after one that was never up."""

WHY = ("ended", "never-up", "hung", "behind", "page")
"""Why a process was replaced: it ended, or before it was up; it did not advance; it did not follow to another
generation; it was to take the head of the shared page that had been made anew."""


class Replacing:
    """How long to wait, in one slot; all times in seconds."""

    def __init__(self, longest: float = LONGEST_SECONDS) -> None:
        """*longest* pause after one that was never up."""
        self._longest = longest
        self._back_off = 0.0

    def was_up(self, lived: float) -> float:
        """The pause after one that was up, and ended *lived* seconds after its start."""
        self._back_off = 0.0
        return max(0.0, STARTS_APART_SECONDS - lived)

    def was_never_up(self) -> float:
        """The pause after one that ended before, or could not be started at all."""
        self._back_off = min(self._longest, self._back_off * 2 or SHORTEST_SECONDS)
        return self._back_off
