"""What the operator wished, kept where a restart finds it."""

import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rootsrv.control.protocol import Refused
from rootsrv.health.state import Wish
from rootsrv.process import json_text, whole_file


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
    """The wishes for all IP versions, in one file of the state directory.

    A file that cannot be read counts as a wish to be withdrawn: a site that was drained for good reason must not come
    back because a disk was full.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._giving = threading.Lock()
        """Orders come in threads: of two at once neither may take the other back."""

        self._orders: dict[int, FamilyWish] = {}
        try:
            document = json_text.parse(path.read_text())
            if not isinstance(document, dict):
                raise TypeError("not an object")
            for version in (4, 6):
                if str(version) in document:
                    self._orders[version] = _order(document[str(version)])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = f"{path}: cannot be read ({type(error).__name__}: {error}); `rootsrv undrain` starts anew"
            self._orders = dict.fromkeys((4, 6), FamilyWish(Wish.WITHDRAW, reason, time.time()))

    def __getitem__(self, version: int) -> FamilyWish:
        return self._orders.get(version, FamilyWish())

    def give(self, versions: tuple[int, ...], wish: Wish, reason: str, by: str, *, force: bool = False) -> None:
        """Wish *wish* from now on, by the order of *by*; WishNotKept if that could not be written."""
        order = FamilyWish(wish, reason or f"operator: {wish.value}", time.time(), force, by)
        with self._giving:
            orders = self._orders | dict.fromkeys(versions, order)
            document = {str(each): asdict(order) | {"wish": order.wish.value} for each, order in orders.items()}
            try:
                whole_file.replace(self._path, json.dumps(document).encode())
            except OSError as error:
                raise WishNotKept(f"{self._path}: {error.strerror}") from error
            self._orders = orders


def _order(document: dict[str, Any]) -> FamilyWish:
    wish, reason, since = Wish(document["wish"]), str(document["reason"]), float(document["since"])
    return FamilyWish(wish, reason, since, document.get("force") is True, str(document.get("by", "")))
