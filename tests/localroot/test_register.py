"""The register of servers and keys: what the pages write there the zone service reads, and nothing else gets in."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.localroot import sealing, servers
from rootsrv.localroot.register import FILE, SEALING_KEY, Register, RegisterUnusable
from rootsrv.localroot.servers import NotAccepted, NotFound, Servers, ServerWish
from rootsrv.localroot.subscribers import LiveKey, Subscriber, Subscribers
from tests.localroot.accounts import add_user

NOW = 1_000_000.0
ZONES = (".", "arpa.", "root-servers.net.")


class Signed:
    """A register with one user."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.register = Register(directory)
        self.servers = Servers(self.register, "localroot.example", ZONES, private=True)
        self.user = add_user(self.register, "a@example.net", NOW)
        self.reader = Subscribers(directory)

    def wish(self, name: str = "rz", addresses: tuple[str, ...] = ("192.0.2.1", "2001:db8::1")) -> ServerWish:
        return ServerWish(name, "bind", addresses, (".",))


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[Signed]:
    made = Signed(tmp_path / "register")
    yield made
    made.register.close()


def test_where_nobody_signed_up_there_is_nothing_and_no_error(tmp_path: Path) -> None:
    reader = Subscribers(tmp_path)
    assert reader.changes() == 0
    assert reader.load(NOW).keys == reader.load(NOW).subscribers == ()
    assert reader.nudges(0) == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_added_is_read_with_its_secret(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    key = signed.servers.new_key(signed.user, server, NOW)
    seen = signed.reader.load(NOW)
    assert seen.subscribers == (Subscriber(server, "rz", "bind", ("192.0.2.1", "2001:db8::1"), (".",), False),)
    assert seen.keys == (key,)
    assert seen.changes == signed.reader.changes()
    assert key.name.endswith(".rz.localroot.example.")
    assert len(key.secret) == 32


def test_a_change_counts_and_signing_in_does_not(signed: Signed) -> None:
    def counted() -> int:
        before = counted.last  # type: ignore[attr-defined]
        counted.last = signed.reader.changes()  # type: ignore[attr-defined]
        return counted.last - before  # type: ignore[attr-defined, no-any-return]

    counted.last = signed.reader.changes()  # type: ignore[attr-defined]
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    assert counted() > 0
    key = signed.servers.new_key(signed.user, server, NOW)
    assert counted() > 0
    signed.servers.change(signed.user, server, signed.wish(addresses=("192.0.2.7",)), NOW)
    assert counted() > 0
    signed.servers.delete_key(signed.user, server, key.name)
    assert counted() > 0
    with signed.register.writing() as database:
        database.execute("INSERT INTO sessions VALUES (x'00', ?, 0, 0, 0)", (signed.user,))
        database.execute("UPDATE users SET name = 'other'")
    assert counted() == 0
    with signed.register.writing() as database:
        database.execute("UPDATE users SET suspended = 'abuse'")
    assert counted() > 0
    assert signed.reader.load(NOW).subscribers == ()
    with signed.register.writing() as database:
        database.execute("DELETE FROM users")
    assert counted() > 0


@pytest.mark.parametrize("column", ["email_verified = NULL", "suspended = 'why'"])
def test_who_is_not_verified_or_suspended_is_no_subscriber(signed: Signed, column: str) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    signed.servers.new_key(signed.user, server, NOW)
    with signed.register.writing() as database:
        database.execute(f"UPDATE users SET {column}")
    seen = signed.reader.load(NOW)
    assert (seen.keys, seen.subscribers) == ((), ())


def test_two_keys_are_live_and_the_old_one_ends_a_grace_after_its_successors_first_use(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    old = signed.servers.new_key(signed.user, server, NOW)
    new = signed.servers.new_key(signed.user, server, NOW + 10)
    with pytest.raises(NotAccepted, match="two live keys"):
        signed.servers.new_key(signed.user, server, NOW + 20)
    assert signed.servers.successor_used(old.name, NOW + 30, 60) == []
    assert signed.servers.successor_used(new.name, NOW + 30, 60) == [old.name]
    assert signed.servers.successor_used(new.name, NOW + 40, 60) == []  # the first use is what counts
    assert {each.name: each.ends for each in signed.reader.load(NOW + 50).keys} == {old.name: NOW + 90, new.name: None}
    assert [each.name for each in signed.reader.load(NOW + 90).keys] == [new.name]
    assert signed.servers.forget_ended_keys(NOW + 89) == 0
    assert signed.servers.forget_ended_keys(NOW + 90) == 1
    signed.servers.new_key(signed.user, server, NOW + 100)


def test_names_of_keys_never_come_twice_and_say_nothing_but_the_server(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish("Zürich – RZ 2"), NOW)
    names = set()
    for _ in range(100):
        key = signed.servers.new_key(signed.user, server, NOW)
        names.add(key.name)
        signed.servers.delete_key(signed.user, server, key.name)
    assert len(names) == 100
    assert {name.partition(".")[2] for name in names} == {"z-rich-rz-2.localroot.example."}


def test_another_users_server_is_not_there(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    key = signed.servers.new_key(signed.user, server, NOW)
    other = add_user(signed.register, "b@example.net", NOW)
    for attempt in (
        lambda: signed.servers.get(other, server),
        lambda: signed.servers.change(other, server, signed.wish(), NOW),
        lambda: signed.servers.delete(other, server),
        lambda: signed.servers.new_key(other, server, NOW),
        lambda: signed.servers.delete_key(other, server, key.name),
        lambda: signed.servers.nudge(other, server, ".", NOW),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert signed.servers.of_user(other) == []
    assert [each.name for each in signed.reader.load(NOW).keys] == [key.name]


BAD = [
    ("name", {"name": ""}),
    ("name", {"name": " \t "}),
    ("name", {"name": "x" * 65}),
    ("name", {"name": "a\x00b"}),
    ("name", {"name": "a\x1b[2J"}),
    ("software", {"software": "dnsmasq"}),
    ("addresses", {"addresses": ["192.0.2.256"]}),
    ("addresses", {"addresses": ["fe80::1%eth0"]}),
    ("addresses", {"addresses": ["224.0.0.1"]}),
    ("addresses", {"addresses": ["0.0.0.0"]}),
    ("addresses", {"addresses": ["255.255.255.255"]}),
    ("addresses", {"addresses": ["resolver.example.net"]}),
    ("addresses", {"addresses": [f"192.0.2.{at}" for at in range(9)]}),
    ("zones", {"zones": []}),
    ("zones", {"zones": ["com."]}),
    ("zones", {"zones": ["'; DROP TABLE servers; --"]}),
]


@pytest.mark.parametrize(("field", "values"), BAD)
def test_what_is_wrong_is_named_and_nothing_is_half_done(signed: Signed, field: str, values: dict[str, object]) -> None:
    wish = ServerWish(**({"name": "rz", "software": "bind", "addresses": ["192.0.2.1"], "zones": ["."]} | values))  # type: ignore[arg-type]
    before = signed.reader.changes()
    with pytest.raises(NotAccepted) as refused:
        signed.servers.add(signed.user, wish, NOW)
    assert refused.value.field == field
    assert signed.servers.of_user(signed.user) == []
    assert signed.reader.changes() == before


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.1.1", "::1", "fc00::1", "::ffff:10.0.0.1"]
)
def test_an_address_that_nobody_else_reaches_is_refused_outside_a_lab(signed: Signed, address: str) -> None:
    public = Servers(signed.register, "localroot.example", ZONES)
    with pytest.raises(NotAccepted, match="public address"):
        public.add(signed.user, ServerWish("rz", "bind", [address], ["."]), NOW)
    assert public.add(signed.user, ServerWish("rz", "bind", ["9.9.9.9", "2620:fe::fe"], ["."]), NOW)


def test_sql_in_every_field_is_text(signed: Signed) -> None:
    name = "x'); DROP TABLE users; --"
    server = signed.servers.add(signed.user, signed.wish(name), NOW)
    assert signed.servers.get(signed.user, server).name == name
    with pytest.raises(NotFound):
        signed.servers.delete_key(signed.user, server, "' OR 1=1; --")


def test_deletion_takes_all_that_hangs_on_it(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    signed.servers.new_key(signed.user, server, NOW)
    signed.servers.nudge(signed.user, server, ".", NOW)
    again = signed.servers.add(signed.user, signed.wish("other"), NOW)
    signed.servers.delete(signed.user, server)
    assert [each.server for each in signed.reader.load(NOW).subscribers] == [again]
    assert signed.reader.load(NOW).keys == ()
    assert signed.reader.nudges(0) == []
    signed.servers.delete(signed.user, again)
    assert signed.servers.add(signed.user, signed.wish("third"), NOW) > again  # a number is never used again


def test_notifies_asked_for_are_read_once_and_are_few(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    for _ in range(servers.NUDGES_PER_HOUR):
        signed.servers.nudge(signed.user, server, ".", NOW)
    with pytest.raises(NotAccepted, match="later"):
        signed.servers.nudge(signed.user, server, ".", NOW)
    found = signed.reader.nudges(0)
    assert [(each.server, each.zone) for each in found] == [(server, ".")] * servers.NUDGES_PER_HOUR
    assert signed.reader.nudges(found[-1].id) == []
    with pytest.raises(NotFound):
        signed.servers.nudge(signed.user, server, "arpa.", NOW)
    signed.servers.nudge(signed.user, server, ".", NOW + 3601)
    signed.servers.nudge(signed.user, server, ".", NOW)  # the clock was ahead, and is right again
    assert [each.at for each in signed.reader.nudges(0)] == [NOW]


# ── at rest ──


def test_a_secret_is_nowhere_on_disk(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    key = signed.servers.new_key(signed.user, server, NOW)
    for file in signed.directory.iterdir():
        assert key.secret not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0, file


def test_one_key_that_was_tampered_with_takes_no_other_with_it(
    signed: Signed, capfd: pytest.CaptureFixture[str]
) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    bad, good = (signed.servers.new_key(signed.user, server, NOW) for _ in range(2))
    with signed.register.writing() as database:
        database.execute("UPDATE keys SET secret = (SELECT secret FROM keys WHERE name = ?)", (good.name,))
    assert [each.name for each in signed.reader.load(NOW).keys] == [good.name]
    assert bad.name != good.name


def with_a_key(signed: Signed) -> LiveKey:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    return signed.servers.new_key(signed.user, server, NOW)


def test_without_its_key_the_register_says_so(signed: Signed) -> None:
    with_a_key(signed)
    for name in (SEALING_KEY, f"{SEALING_KEY}.twin"):
        (signed.directory / name).write_bytes(b"short")
    with pytest.raises(RegisterUnusable, match="32 octets"):
        signed.reader.load(NOW)
    with pytest.raises(RegisterUnusable, match="32 octets"):
        Register(signed.directory)


@pytest.mark.parametrize("damage", [None, b"", b"short", bytes(32)], ids=["gone", "empty", "cut", "another"])
def test_a_key_that_is_damaged_or_gone_is_read_from_its_twin(signed: Signed, damage: bytes | None) -> None:
    """Another one of the right size, too: it opens nothing."""
    key, path = with_a_key(signed), signed.directory / SEALING_KEY
    whole = path.read_bytes()
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    assert [each.secret for each in signed.reader.load(NOW).keys] == [key.secret]
    assert not path.exists() or path.read_bytes() == damage  # who only reads writes nothing
    again = Register(signed.directory)
    assert (path.read_bytes(), "its twin was read" in again.key_file.trouble) == (whole, True)
    assert again.seal.derived("x") == signed.register.seal.derived("x")
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in (path, again.key_file.twin))
    again.close()


def test_with_another_key_there_are_accounts_but_no_keys_of_before(
    signed: Signed, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator who has lost it begins with a new one."""
    lost = with_a_key(signed)
    for each in signed.directory.glob(f"{SEALING_KEY}*"):
        each.unlink()
    again = Register(signed.directory)
    assert "key of the register opens nothing" in caplog.text
    assert signed.reader.load(NOW).keys == ()
    assert len(signed.reader.load(NOW).subscribers) == 1
    Servers(again, "localroot.example", ZONES).delete_key(signed.user, lost.server, lost.name)
    again.close()


def test_a_file_that_is_no_register_is_told_of(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"hello" * 1000)
    with pytest.raises(RegisterUnusable, match=FILE):
        Subscribers(tmp_path).changes()
    with pytest.raises(RegisterUnusable, match=FILE):
        Register(tmp_path)


def test_another_schema_is_refused_by_both(signed: Signed) -> None:
    with sqlite3.connect(signed.directory / FILE) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RegisterUnusable, match="another version"):
        Register(signed.directory)
    with pytest.raises(RegisterUnusable, match="another version"):
        signed.reader.changes()


def test_a_full_disk_is_told_of_and_loses_nothing(signed: Signed) -> None:
    server = signed.servers.add(signed.user, signed.wish(), NOW)
    (pages,) = signed.register.row("PRAGMA page_count") or (0,)
    signed.register.rows(f"PRAGMA max_page_count = {pages}")
    eight = tuple(f"192.0.2.{n}" for n in range(8))

    def fill() -> None:
        for at in range(servers.MAX_SERVERS - 1):
            signed.servers.add(signed.user, signed.wish(f"{at} " + "y" * 60, eight), NOW)

    with pytest.raises(RegisterUnusable, match="full"):
        fill()
    seen = signed.reader.load(NOW).subscribers
    assert seen[0].server == server
    assert all(len(each.addresses) in (2, 8) for each in seen)
    signed.register.rows("PRAGMA max_page_count = 1000000")
    signed.servers.add(signed.user, signed.wish("again"), NOW)


def test_a_lock_of_another_process_is_told_of(signed: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    signed.register.rows("PRAGMA busy_timeout = 10")
    with sqlite3.connect(signed.directory / FILE, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegisterUnusable, match="locked"):
            signed.servers.add(signed.user, signed.wish(), NOW)
        assert signed.reader.load(NOW).subscribers == ()  # whoever reads does not wait
        other.execute("ROLLBACK")
    other.close()
    signed.servers.add(signed.user, signed.wish(), NOW)


def test_many_threads_and_two_writers_lose_nothing(signed: Signed) -> None:
    second = Register(signed.directory)
    both = [signed.servers, Servers(second, "localroot.example", ZONES, private=True)]
    threads = [
        threading.Thread(target=both[at % 2].add, args=(signed.user, signed.wish(f"server {at}"), NOW))
        for at in range(12)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    second.close()
    assert len(signed.reader.load(NOW).subscribers) == 12


def test_the_sealing_key_is_made_once(tmp_path: Path) -> None:
    file = sealing.twin_of_key(tmp_path / "key")
    sealed = sealing.read_or_make(file).close(b"secret", "a.")
    assert sealing.read_or_make(file).open(sealed, "a.") == b"secret"
    for name, octets in (("b.", sealed), ("a.", sealed[:-1]), ("a.", b"")):
        with pytest.raises(sealing.SealBroken):
            sealing.read(tmp_path / "key").open(octets, name)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key", "key.twin"]
