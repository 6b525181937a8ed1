"""What the operator wished, kept where a restart finds it."""
# Theory of operation
# -------------------
# Two laws that pull apart: a withdrawal that was ordered is not forgotten, and nothing that reaches all instances alike
# (a version that writes nonsense, say, put on each of them) withdraws them all at their next start.
#
#   orders.json, orders.json.twin   the wishes, kept twice (process/twice.py): one that is damaged costs nothing
#   orders.withheld-4, -6           whether that family is wished to be anything but served.  Nothing is in it that
#                                   could be written wrongly: that it is there is all it says
#
# A marker is there before the wish counts, and goes after the wish that ends it is on the disk.  Are both copies
# damaged, a family with a marker is withdrawn and one without goes on being served, with an alarm.  Without a twin
# nobody kept markers (an older version did not): all are withdrawn.

import contextlib
import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rootsrv.control.protocol import Refused
from rootsrv.health.state import Wish
from rootsrv.process import json_text, log
from rootsrv.process.twice import BothDamaged, Twice
from rootsrv.zone import instant

_VERSIONS = (4, 6)


class WishNotKept(Refused):
    """The wish could not be written, so it would not survive a restart; nothing was changed."""


@dataclass(frozen=True, slots=True)
class FamilyWish:
    """A wish for one IP version."""

    wish: Wish = Wish.SERVE
    reason: str = ""
    since: float = 0.0
    """Epoch seconds."""

    force: bool = False
    """In a mesh: without a token, whoever else is withdrawn."""

    by: str = ""
    """Who gave the order, as the kernel said; empty where nobody did, or an earlier version wrote it."""


class Orders:
    """The wishes for all IP versions, in the state directory."""

    def __init__(self, path: Path) -> None:
        self._file = Twice(path)
        self._giving = threading.Lock()
        """Orders come in threads: of two at once neither may take the other back."""

        self._orders: dict[int, FamilyWish] = {}
        self._unreadable = ""
        """Why neither copy could be read, as long as nobody has given an order since."""

        has_twin = _is_there(self._file.twin)
        try:
            self._orders = self._file.read(_parse) or {}
        except BothDamaged as error:
            self._unreadable = f"orders cannot be read: {error}"
            reason = f"{path}: cannot be read ({error}); `rootsrv undrain` starts anew"
            withheld = [each for each in _VERSIONS if _is_there(self._marker(each)) or not has_twin]
            self._orders = dict.fromkeys(withheld, FamilyWish(Wish.WITHDRAW, reason, time.time()))
            log.alarm("orders cannot be read", reason=error, withdrawn=",".join(f"ipv{each}" for each in withheld))
        else:
            self._mark(self._orders)

    def __getitem__(self, version: int) -> FamilyWish:
        return self._orders.get(version, FamilyWish())

    @property
    def file(self) -> Twice:
        """Where they are kept."""
        return self._file

    @property
    def alarms(self) -> tuple[str, ...]:
        """What a person should know of the files."""
        return tuple(each for each in (self._unreadable, self._file.trouble) if each)

    def give(self, versions: tuple[int, ...], wish: Wish, reason: str, by: str, *, force: bool = False) -> None:
        """Wish *wish* from now on, by the order of *by*; WishNotKept if that could not be written."""
        order = FamilyWish(wish, reason or f"operator: {wish.value}", time.time(), force, by)
        with self._giving:
            orders = self._orders | dict.fromkeys(versions, order)
            document = {str(each): asdict(order) | {"wish": order.wish.value} for each, order in orders.items()}
            before = {each for each in _VERSIONS if _is_there(self._marker(each))}
            try:
                for version in _withheld(orders):
                    self._marker(version).touch()
                self._file.write(json.dumps(document).encode())
            except OSError as error:
                self._unmark({*_VERSIONS} - before)
                raise WishNotKept(f"{self._file.path}: {error.strerror}") from error
            self._orders, self._unreadable = orders, ""
            self._unmark({*_VERSIONS} - _withheld(orders))

    def _marker(self, version: int) -> Path:
        return self._file.path.with_name(f"{self._file.path.stem}.withheld-{version}")

    def _mark(self, orders: dict[int, FamilyWish]) -> None:
        """Have the markers that *orders*, which was read, should have: an older version may have written it."""
        for version in _withheld(orders):
            with contextlib.suppress(OSError):
                self._marker(version).touch()
        self._unmark({*_VERSIONS} - _withheld(orders))

    def _unmark(self, versions: set[int]) -> None:
        for version in versions:
            with contextlib.suppress(OSError):  # it stays, and what cannot be read is withdrawn
                self._marker(version).unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    """Also if nobody may look."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _withheld(orders: dict[int, FamilyWish]) -> set[int]:
    return {version for version, order in orders.items() if order.wish is not Wish.SERVE}


def _parse(octets: bytes) -> dict[int, FamilyWish]:
    """ValueError if they are no wishes."""
    document = json_text.parse(octets)
    try:
        if not isinstance(document, dict):
            raise TypeError("not an object")
        return {version: _order(document[str(version)]) for version in _VERSIONS if str(version) in document}
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _order(document: dict[str, Any]) -> FamilyWish:
    wish, reason, since = Wish(document["wish"]), str(document["reason"]), float(document["since"])
    if not 0 <= since <= instant.LAST:
        raise ValueError(f"since {since:g}")
    return FamilyWish(wish, reason, since, document.get("force") is True, str(document.get("by", "")))
