"""The operator's wishes and the hold-down survive a restart."""

import errno
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


DAMAGED = ["", "{", "[]", '{"4": 1}', '{"4": {"wish": "dance", "reason": "", "since": 0}}']
both_wishes = pytest.mark.parametrize("wish", [Wish.DRAIN, Wish.WITHDRAW])


@pytest.mark.parametrize("text", DAMAGED)
def test_wishes_that_an_older_version_wrote_and_cannot_be_read_keep_the_site_withdrawn(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "orders.json"
    path.write_text(text)

    orders = Orders(path)
    assert orders[4].wish is Wish.WITHDRAW
    assert "orders.json: cannot be read" in orders[4].reason


@both_wishes
@pytest.mark.parametrize("text", [*DAMAGED, None])
def test_a_damaged_or_lost_file_forgets_no_wish(tmp_path: Path, text: str | None, wish: Wish) -> None:
    path = tmp_path / "orders.json"
    Orders(path).give((4,), wish, "router maintenance", "anna")
    path.unlink()
    if text is not None:
        path.write_text(text)

    orders = Orders(path)
    assert (orders[4].wish, orders[4].reason, orders[6].wish) == (wish, "router maintenance", Wish.SERVE)
    assert "orders.json" in orders.alarms[0]


def spoil(path: Path, text: str) -> None:
    """As a version would that writes nonsense, into all it writes."""
    for each in (path, path.with_name("orders.json.twin")):
        each.write_text(text)


@pytest.mark.parametrize("text", DAMAGED)
def test_nonsense_in_both_copies_withdraws_no_site_that_served(tmp_path: Path, text: str) -> None:
    """Every instance that is restarted with such a version would be, one after the other."""
    path = tmp_path / "orders.json"
    orders = Orders(path)
    orders.give((4, 6), Wish.DRAIN, "restart", "anna")  # as `rootsrv restart` does
    orders.give((4, 6), Wish.SERVE, "", "anna")
    spoil(path, text)

    orders = Orders(path)
    assert (orders[4].wish, orders[6].wish) == (Wish.SERVE, Wish.SERVE)
    assert orders.alarms[0].startswith("orders cannot be read: ")
    orders.give((4,), Wish.DRAIN, "", "anna")
    assert orders.alarms == ()
    assert Orders(path)[4].wish is Wish.DRAIN


@both_wishes
@pytest.mark.parametrize("text", DAMAGED)
def test_nonsense_in_both_copies_forgets_no_withdrawal(tmp_path: Path, text: str, wish: Wish) -> None:
    path = tmp_path / "orders.json"
    Orders(path).give((4, 6), Wish.SERVE, "", "anna")
    Orders(path).give((6,), wish, "answers garbage", "anna")
    spoil(path, text)

    for _ in range(2):
        orders = Orders(path)
        assert (orders[4].wish, orders[6].wish) == (Wish.SERVE, Wish.WITHDRAW)
        assert "`rootsrv undrain` starts anew" in orders[6].reason
    orders.give((4, 6), Wish.SERVE, "", "anna")
    again = Orders(path)
    assert (again[6].wish, again.alarms) == (Wish.SERVE, ())


def test_a_withdrawal_of_an_older_version_is_marked_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "orders.json"
    path.write_text('{"6": {"wish": "withdraw", "reason": "flood", "since": 1.0}}')
    assert Orders(path)[6].wish is Wish.WITHDRAW
    spoil(path, "")
    orders = Orders(path)
    assert (orders[4].wish, orders[6].wish) == (Wish.SERVE, Wish.WITHDRAW)


@pytest.mark.parametrize("wish", [Wish.DRAIN, Wish.SERVE])
def test_an_order_that_could_not_be_written_leaves_the_marks_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: Wish
) -> None:
    path = tmp_path / "orders.json"
    orders = Orders(path)
    orders.give((6,), Wish.WITHDRAW, "", "anna")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(whole_file, "replace", full)
        with pytest.raises(WishNotKept, match="No space"):
            orders.give((4, 6), wish, "", "anna")
    spoil(path, "")
    again = Orders(path)
    assert (again[4].wish, again[6].wish) == (Wish.SERVE, Wish.WITHDRAW)


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
