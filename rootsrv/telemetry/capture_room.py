"""For how many octets more there is room in a capture's directory, by the status of its role."""

from collections.abc import Callable


def room_octets(said: Callable[[str], float | None]) -> float:
    """*said*: a number of the status by its key, None where it has none.  What is to stay free is left alone.

    An older role does not say it; then it is reckoned from what it says, and what is to stay free is not known.
    """
    room = said("room_octets")
    if room is None:
        room = min(said("free_octets") or 0.0, (said("quota_octets") or 0.0) - (said("directory_octets") or 0.0))
    return max(0.0, float(room))
