"""The operator's wishes and the hold-down survive a restart."""

import threading
from pathlib import Path
from typing import Any

import pytest

from rootsrv.anycast.flaps import keep_flaps, load_flaps
from rootsrv.anycast.wishes import Orders, WishNotKept
from rootsrv.health.state import Flaps, Wish
from rootsrv.process import whole_file


def test_a_wish_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    Orders(path).give((4,), Wish.DRAIN, "router maintenance", "anna (uid 1000, pid 7)")

    again = Orders(path)
    assert (again[4].wish, again[4].reason, again[6].wish) == (Wish.DRAIN, "router maintenance", Wish.SERVE)
    assert again[4].by == "anna (uid 1000, pid 7)"


def test_without_a_wish_the_site_serves(tmp_path: Path) -> None:
    assert Orders(tmp_path / "orders.json")[4].wish is Wish.SERVE


@pytest.mark.parametrize("text", ["", "{", "[]", '{"4": 1}', '{"4": {"wish": "dance", "reason": "", "since": 0}}'])
def test_wishes_that_cannot_be_read_keep_the_site_withdrawn(tmp_path: Path, text: str) -> None:
    path = tmp_path / "orders.json"
    path.write_text(text)

    orders = Orders(path)
    assert orders[4].wish is Wish.WITHDRAW
    assert "orders.json: cannot be read" in orders[4].reason


def test_of_two_wishes_at_once_both_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "orders.json"
    orders = Orders(path)
    second = threading.Thread(target=lambda: orders.give((6,), Wish.WITHDRAW, "", "ben"))
    write = whole_file.replace

    def slowly(*what: Any) -> None:
        if second.ident is None:
            second.start()
            second.join(0.2)  # which does not end before the first one has
        write(*what)

    monkeypatch.setattr(whole_file, "replace", slowly)
    orders.give((4,), Wish.DRAIN, "", "anna")
    second.join()
    for each in (orders, Orders(path)):
        assert (each[4].wish, each[6].wish) == (Wish.DRAIN, Wish.WITHDRAW)


def test_a_wish_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    orders = Orders(tmp_path / "gone" / "orders.json")

    with pytest.raises(WishNotKept, match="No such file or directory"):
        orders.give((4, 6), Wish.DRAIN, "", "anna (uid 1000, pid 7)")
    assert orders[4].wish is Wish.SERVE


def test_the_hold_down_survives_a_restart_on_the_same_boot(tmp_path: Path) -> None:
    path = tmp_path / "flaps.json"
    flaps = {4: Flaps(3, 77.0, None), 6: Flaps()}
    keep_flaps(path, "boot-1", flaps)

    assert load_flaps(path, "boot-1", 100.0) == flaps
    assert load_flaps(path, "boot-2", 100.0) == {}
    assert load_flaps(tmp_path / "none.json", "boot-1", 100.0) == {}


def test_a_controller_that_ended_while_announced_counts_as_a_withdrawal(tmp_path: Path) -> None:
    path = tmp_path / "flaps.json"
    keep_flaps(path, "boot-1", {4: Flaps(1, 77.0, 80.0)})

    assert load_flaps(path, "boot-1", 100.0) == {4: Flaps(2, 100.0)}
