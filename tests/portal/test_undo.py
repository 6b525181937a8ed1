"""An address that whoever has the password has changed, put back by whoever reads the one before."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import NotAccepted, NotFound
from rootsrv.portal.accounts import SESSION_SECONDS, Accounts, Passkey
from rootsrv.portal.links import LINK_SECONDS, MAX_LINKS, MAX_UNDO
from rootsrv.portal.rates import RATES
from rootsrv.portal.tokens import Tokens
from tests.portal.site import PASSWORD, Person, Site, running, wait_for

NEW = "another lantern under the heron"
DAY, WEEK = 86_400.0, LINK_SECONDS["undo"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("portal")) as made:
        yield made


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    register = Register(tmp_path)
    yield Accounts(register)
    register.close()


def moved(site: Site, person: Person, address: str) -> None:
    """To *address*, whose mail they read."""
    person.send("/account", "/account/email", email=address)
    done = person.send(site.mail.link_to(address))
    assert "is the address of your account now" in done.text, done.text


def sign_in(person: Person, email: str, password: str = PASSWORD) -> int:
    return person.send("/sign-in", email=email, password=password).status_code


def test_the_owner_has_the_account_back_whatever_a_thief_did_with_it(site: Site) -> None:
    owner, thief = site.person(), site.person()
    owner.sign_up("owner@example.net")
    owner.add_server()
    assert sign_in(thief, "owner@example.net") == 303
    moved(site, thief, "thief-1@example.org")
    link = site.mail.link_to("owner@example.net")
    moved(site, thief, "thief-2@example.org")
    assert thief.send("/account", "/account/password", password="thieves know this one").status_code == 303
    page = thief.send("/account", "/account/tokens", name="t", days="300", scopes=["read"]).text
    token = re.search(r'id="token">(lr_[\w-]{43})<', page)
    assert token
    number = re.search(r'href="/servers/(\d+)"', thief.open("/servers").text)
    assert number
    assert thief.send(f"/servers/{number[1]}/delete", name="rz", sure="yes").status_code in (200, 303)
    thief.send("/recover", email="thief-2@example.org")
    theirs = site.mail.link_to("thief-2@example.org")

    back = site.person()
    page = back.open(link).text
    assert "Take your account back" in page
    assert "owner@example.net" in page
    assert "example.org" not in page
    assert back.send(link, password=NEW, again=NEW).status_code == 303

    assert 'value="owner@example.net"' in back.open("/account").text
    assert thief.open("/account").status_code == 303
    for email, password in (("owner@example.net", "thieves know this one"), ("thief-2@example.org", NEW)):
        assert sign_in(site.person(), email, password) == 422
    assert sign_in(site.person(), "owner@example.net", NEW) == 303
    bearer = {"Authorization": f"Bearer {token[1]}"}
    assert site.person().client.get("/api/v1/servers", headers=bearer).status_code == 401
    first = site.mail.link_to("thief-1@example.org")
    for each in (link, theirs, first):
        assert back.open(each).status_code == 404
    assert wait_for(
        lambda: [text for text in site.mail.to("owner@example.net") if "new way to sign in was set" in text]
    )
    assert wait_for(lambda: [text for text in site.mail.to("thief-2@example.org") if "only who runs" in text])


def test_the_mails_say_that_and_for_how_long_it_can_be_undone(site: Site) -> None:
    person = site.person()
    person.sign_up("told@example.net")
    person.send("/account", "/account/email", email="told-new@example.net")
    assert "can undo it" in person.open(site.mail.link_to("told-new@example.net")).text
    (asked,) = site.mail.to("told-new@example.net")
    assert "whoever reads mail to the address that the account had can undo it" in asked
    person.send(re.findall(r"(/link/\S+)", asked)[0])
    site.mail.link_to("told@example.net")
    text = site.mail.to("told@example.net")[-1]
    assert re.search(r"open this before \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", text)
    assert "for whoever reads this mailbox" in text


def test_who_asks_for_a_lost_password_by_the_address_before_is_mailed_the_link_again(site: Site) -> None:
    owner, stranger = site.person(), site.person()
    owner.sign_up("lost-mail@example.net")
    moved(site, owner, "lost-mail@example.org")
    first = site.mail.link_to("lost-mail@example.net")
    said = stranger.send("/recover", email="LOST-mail@example.net").text
    unknown = stranger.send("/recover", email="nobody-at-all@example.net").text
    assert [re.sub(r"[0-9a-f]{64}", "", each) for each in (said,)] == [re.sub(r"[0-9a-f]{64}", "", unknown)]
    wait_for(lambda: len(texts(site, "lost-mail@example.net")) == 2)
    found = re.search(r"(/link/\S+)", texts(site, "lost-mail@example.net")[-1])
    assert found
    assert owner.open(first).status_code == 404
    assert stranger.send(found[1], password=NEW, again=NEW).status_code == 303
    assert 'value="lost-mail@example.net"' in stranger.open("/account").text


def texts(site: Site, address: str) -> list[str]:
    """Mails that tell of another address, to *address* in whatever letters."""
    both = (address, address.replace("lost", "LOST"))
    return [text for each in both for text in site.mail.to(each) if "has another e-mail address now" in text]


def test_an_address_is_not_taken_from_who_has_signed_up_with_it_since(site: Site) -> None:
    owner, thief = site.person(), site.person()
    owner.sign_up("again@example.net")
    assert sign_in(thief, "again@example.net") == 303
    moved(site, thief, "again-thief@example.org")
    link = site.mail.link_to("again@example.net")
    anew = site.person()
    anew.sign_up("again@example.net", NEW)
    refused = site.person().send(link, password=PASSWORD, again=PASSWORD)
    assert refused.status_code == 422
    assert "there is another account with this address" in refused.text
    assert thief.open("/account").status_code == 200  # nothing is half done
    assert sign_in(site.person(), "again@example.net", NEW) == 303
    # Who reads its mail may give up the new one for the old one.
    assert "is deleted" in anew.send("/account/delete", sure="yes").text
    assert site.person().send(link, password=PASSWORD, again=PASSWORD).status_code == 303
    assert thief.open("/account").status_code == 303


def test_no_address_is_changed_when_the_one_before_cannot_be_told(site: Site) -> None:
    """Neither too often for its mailbox nor too often in a week: thieves cannot have the notice dropped."""
    owner, thief = site.person(), site.person()
    owner.sign_up("flooded@example.net")
    assert sign_in(thief, "flooded@example.net") == 303
    thief.send("/account", "/account/email", email="flooded-thief@example.org")
    link = site.mail.link_to("flooded-thief@example.org")
    flood = [site.person().send("/recover", email="flooded@example.net").status_code for _ in range(3)]
    assert flood == [200, 200, 429]  # the first of three was for signing up
    assert thief.send(link).status_code == 429
    assert 'value="flooded@example.net"' in owner.open("/account").text
    assert thief.open(link).status_code == 200  # later


def test_mails_to_other_addresses_are_counted_as_those_for_signing_up_are(site: Site) -> None:
    person = site.person()
    person.sign_up("spammer@example.net")
    sent = [
        person.send("/account", "/account/email", email=f"victim-{number}@example.org").status_code
        for number in range(RATES["mails_by_source"].burst)
    ]
    assert sent == [200] * (RATES["mails_by_source"].burst - 1) + [429]  # one was for signing up


def test_the_link_is_good_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        person = site.person()
        person.sign_up("restart@example.net")
        moved(site, person, "restart@example.org")
        link = site.mail.link_to("restart@example.net")
    with running(tmp_path) as site:
        assert site.person().send(link, password=NEW, again=NEW).status_code == 303
        assert sign_in(site.person(), "restart@example.net", NEW) == 303


# ── which link wins ──


def begun(accounts: Accounts, email: str, now: float = 0.0) -> int:
    return accounts.use_link(accounts.links.new("begin", email, None, now), now)[1].id


def changed(accounts: Accounts, user: int, email: str, now: float) -> str:
    """What undoes it."""
    before = accounts.user(user).email
    accounts.use_link(accounts.links.new("email", email, user, now), now)
    return accounts.links.new("undo", before, user, now)


def test_who_had_the_account_earlier_wins_whatever_the_clock_did(accounts: Accounts) -> None:
    user = begun(accounts, "a@example.net")
    to_a = changed(accounts, user, "b@example.net", 1000.0)
    to_b = changed(accounts, user, "c@example.net", 900.0)  # the clock was set back
    accounts.use_link(to_b, 1001.0)
    assert accounts.user(user).email == "b@example.net"
    accounts.use_link(to_a, 1002.0)
    assert accounts.user(user).email == "a@example.net"
    assert accounts.links.to_undo(user, 1003.0) == []

    to_a = changed(accounts, user, "b@example.net", 2000.0)
    to_b = changed(accounts, user, "c@example.net", 1900.0)
    accounts.use_link(to_a, 2001.0)
    with pytest.raises(NotFound):
        accounts.use_link(to_b, 2002.0)


def test_nothing_that_a_thief_can_do_ends_the_link_and_its_week_does(accounts: Accounts) -> None:
    user = begun(accounts, "a@example.net")
    accounts.set_password(user, "kept")
    link = changed(accounts, user, "t@example.net", 0.0)
    accounts.sign_in(user, 1.0, "cookie")
    session = accounts.session("cookie", 1.0)
    assert session
    for deed in (
        lambda: accounts.sign_out_others(session),
        lambda: accounts.use_link(accounts.links.new("recover", "t@example.net", user, 2.0), 2.0),
        lambda: accounts.use_link(accounts.links.new("email", "T@example.net", user, 3.0), 3.0),
        lambda: [accounts.links.new("email", f"{at}@example.net", user, 4.0) for at in range(50)],
        lambda: accounts.suspend(user, "abuse"),
    ):
        deed()
        assert accounts.links.find(link, 5.0).email == "a@example.net"
    assert accounts.links.find(link, WEEK - 1).purpose == "undo"
    with pytest.raises(NotFound):
        accounts.links.find(link, WEEK + 1)
    accounts.suspend(user, "")
    accounts.set_password(user, "theirs")
    accounts.add_passkey(Passkey(b"theirs", user, b"key", 0, "thief's", 0.0, None))
    token = Tokens(accounts).add(user, "t", ["read"], 300, 5.0)
    accounts.sign_in(user, 5.0, "cookie")
    accounts.use_link(link, WEEK - 1)
    assert accounts.session("cookie", 5.0) is None
    assert (accounts.passkeys(user), accounts.password_of(user)) == ([], "")
    assert Tokens(accounts).owner(token, 5.0) is None


def test_a_link_of_one_account_says_nothing_about_another(accounts: Accounts) -> None:
    one = begun(accounts, "a@example.net")
    to_one = changed(accounts, one, "b@example.net", 0.0)
    two = begun(accounts, "a@example.net", 1.0)
    to_two = changed(accounts, two, "c@example.net", 2.0)
    assert (accounts.links.find(to_one, 3.0).user, accounts.links.find(to_two, 3.0).user) == (one, two)
    assert accounts.links.again("nobody@example.net", 3.0) is None
    again = accounts.links.again("A@example.net", 3.0)
    assert again
    assert accounts.links.find(again[0], 3.0).user == two
    accounts.use_link(again[0], 3.0)
    with pytest.raises(NotAccepted, match="another account"):
        accounts.use_link(to_one, 4.0)
    assert accounts.user(one).email == "b@example.net"
    assert accounts.delete(two, 4.0) == ["a@example.net"]
    accounts.use_link(to_one, 5.0)
    assert accounts.user(one).email == "a@example.net"


def test_of_whom_is_suspended_nothing_is_mailed_again(accounts: Accounts) -> None:
    user = begun(accounts, "a@example.net")
    changed(accounts, user, "b@example.net", 0.0)
    accounts.suspend(user, "abuse")
    assert accounts.links.again("a@example.net", 1.0) is None


def test_an_account_has_another_address_so_often_in_a_week_and_keeps_nobody_from_signing_up(accounts: Accounts) -> None:
    user = begun(accounts, "0@example.net")
    for at in range(MAX_UNDO):
        changed(accounts, user, f"{at + 1}@example.net", float(at))
    with pytest.raises(NotAccepted, match=f"{MAX_UNDO} times in a week"):
        changed(accounts, user, "more@example.net", 9.0)
    assert [each.email for each in accounts.links.to_undo(user, 9.0)] == [f"{at}@example.net" for at in range(MAX_UNDO)]
    exported = accounts.export(user, 9.0)["emails before"]
    assert [each["email"] for each in exported] == [f"{at}@example.net" for at in range(MAX_UNDO)]
    changed(accounts, user, "more@example.net", WEEK + 9.0)
    with accounts.register.writing() as database:
        rows = [(b"%d" % at, user, "undo", "x@example.net", 2 * WEEK) for at in range(MAX_LINKS)]
        database.executemany("INSERT INTO links VALUES (?, ?, ?, ?, ?)", rows)
    begun(accounts, "new@example.net", WEEK + 10.0)


def test_an_address_that_comes_back_by_itself_leaves_nothing_to_undo(accounts: Accounts) -> None:
    user = begun(accounts, "a@example.net")
    link = changed(accounts, user, "b@example.net", 0.0)
    accounts.use_link(accounts.links.new("email", "a@example.net", user, 1.0), 1.0)
    with pytest.raises(NotFound):
        accounts.links.find(link, 2.0)


def test_a_deleted_account_leaves_no_link(accounts: Accounts) -> None:
    user = begun(accounts, "a@example.net")
    link = changed(accounts, user, "b@example.net", 0.0)
    assert accounts.delete(user, 0.5) == ["a@example.net", "b@example.net"]
    with pytest.raises(NotFound):
        accounts.links.find(link, 1.0)


def test_what_has_ended_is_forgotten_though_nobody_comes(accounts: Accounts) -> None:
    user = begun(accounts, "a@example.net")
    changed(accounts, user, "b@example.net", 0.0)
    accounts.links.new("begin", "nobody@example.net", None, 0.0)
    accounts.sign_in(user, 0.0, "cookie")
    Tokens(accounts).add(user, "t", ["read"], 1, 0.0)

    def kept() -> dict[str, int]:
        return {
            table: accounts.register.rows(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("links", "sessions", "tokens")
        }

    accounts.forget(DAY - 1)
    assert kept() == {"links": 2, "sessions": 1, "tokens": 1}
    accounts.forget(DAY)
    assert kept() == {"links": 1, "sessions": 1, "tokens": 0}
    accounts.forget(WEEK + 1)
    assert kept() == {"links": 0, "sessions": 1, "tokens": 0}
    accounts.forget(SESSION_SECONDS)
    assert kept() == {"links": 0, "sessions": 0, "tokens": 0}
    assert accounts.user(user).email == "b@example.net"
