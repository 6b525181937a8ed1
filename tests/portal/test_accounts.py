"""Accounts in the pages as they run, without JavaScript, with a mail server: signing up to deleting everything."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.localroot.register import DIRECTORY, Register
from rootsrv.localroot.subscribers import Subscribers
from rootsrv.portal.accounts import PROVED_SECONDS, Accounts, Passkey
from tests.control.asking import ask
from tests.portal.site import PASSWORD, Person, Site, running, wait_for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("portal")) as made:
        yield made


def and_a_thief(site: Site, email: str) -> tuple[Person, Person]:
    """Who has signed up, and who has signed in with the same password."""
    owner, thief = site.person(), site.person()
    owner.sign_up(email)
    thief.send("/sign-in", email=email, password=PASSWORD)
    return owner, thief


def test_from_signing_up_to_deleting_everything(site: Site) -> None:
    person = site.person()
    person.sign_up("all@example.net")
    number = person.add_server("Rechenzentrum 1", addresses="192.0.2.1, 2001:db8::1")
    made = person.send(f"/servers/{number}", f"/servers/{number}/keys")
    name = re.search(r"[a-z2-7]{16}\.rechenzentrum-1\.localroot\.example\.", made.text)
    secret = re.search(r'id="secret">([A-Za-z0-9+/=]{44})<', made.text)
    assert name
    assert secret
    assert f"secret &#34;{secret[1]}&#34;;" in made.text  # in the configuration to copy
    page = person.open(f"/servers/{number}").text
    assert name[0] in page
    assert secret[1] not in page  # shown once

    (key,) = Subscribers(site.state / DIRECTORY).load(0.0).keys
    assert key.name == name[0]
    exported = person.open("/account/export").json()
    assert exported["account"]["email"] == "all@example.net"
    assert exported["servers"][0]["keys"][0]["name"] == name[0]
    assert secret[1] not in json.dumps(exported)

    assert person.send("/account/delete").status_code == 422  # not sure
    assert "is deleted" in person.send("/account/delete", sure="yes").text
    assert person.open("/servers").headers["location"].startswith("/sign-in")
    assert Subscribers(site.state / DIRECTORY).load(0.0).subscribers == ()
    assert "do not belong together" in person.send("/sign-in", email="all@example.net", password=PASSWORD).text
    wait_for(lambda: any("was deleted" in str(each) for each in site.mail.to("all@example.net")))

    def register() -> bytes:
        return b"".join(each.read_bytes() for each in (site.state / DIRECTORY).glob("*.sqlite"))

    wait_for(lambda: b"all@example.net" not in register())  # when the last mail has gone


def test_whether_an_address_has_an_account_is_told_to_its_mailbox_alone(site: Site) -> None:
    known = site.person()
    known.sign_up("known@example.net")
    texts = {}
    for address in ("known@example.net", "unknown@example.net"):
        stranger = site.person()
        texts[address] = [
            re.sub(r"[0-9a-f]{64}", "", stranger.send(path, email=address).text) for path in ("/sign-up", "/recover")
        ]
    assert texts["known@example.net"] == texts["unknown@example.net"]
    site.mail.link_to("known@example.net")
    wait_for(lambda: [text for text in site.mail.to("known@example.net") if "You have an account already" in text])
    site.mail.link_to("unknown@example.net")
    assert len(site.mail.to("unknown@example.net")) == 1  # nothing to recover


def test_a_link_is_good_once_and_opening_it_uses_nothing_up(site: Site) -> None:
    person, other = site.person(), site.person()
    person.send("/sign-up", email="once@example.net")
    link = site.mail.link_to("once@example.net")
    assert [other.open(link).status_code for _ in range(3)] == [200, 200, 200]
    assert person.send(link, password=PASSWORD, again=PASSWORD).status_code == 303
    assert other.open(link).status_code == 404


def test_a_lost_password_is_set_anew_and_other_browsers_are_out(site: Site) -> None:
    _, thief = and_a_thief(site, "lost@example.net")
    assert thief.open("/account").status_code == 200
    again = site.person()
    again.send("/recover", email="LOST@example.net")
    new = "another lantern under the heron"
    assert again.send(site.mail.link_to("lost@example.net"), password=new, again=new).status_code == 303
    assert again.open("/account").status_code == 200
    assert thief.open("/account").status_code == 303
    assert site.person().send("/sign-in", email="lost@example.net", password=PASSWORD).status_code == 422
    assert site.person().send("/sign-in", email="lost@example.net", password=new).status_code == 303


WEAK = {
    "short": "at least 12",
    "password1234": "guessed",
    "weak@example.net": "guessed",
    "aaaaaaaaaaaaaaaa": "guessed",
    "123456789012345": "guessed",
    "x" * 257: "at most 256",
}


def test_a_password_that_is_guessed_soon_is_refused_and_the_link_stays_good(site: Site) -> None:
    person = site.person()
    person.send("/sign-up", email="weak@example.net")
    link = site.mail.link_to("weak@example.net")
    for password, why in WEAK.items():
        refused = person.send(link, password=password, again=password)
        assert refused.status_code == 422
        assert why in refused.text
        assert 'aria-invalid="true"' in refused.text
    assert "not the same" in person.send(link, password=PASSWORD, again="other").text
    assert person.send(link, password=PASSWORD, again=PASSWORD).status_code == 303


def test_a_cookie_of_before_signing_in_is_nothing_after_it(site: Site) -> None:
    person = site.person()
    person.open("/sign-in")
    before = person.client.cookies["visit"]
    person.sign_up("fixation@example.net")
    assert person.client.cookies["visit"] != before
    fixed = site.person()
    fixed.client.cookies.set("visit", before)
    assert fixed.open("/account").status_code == 303
    signed_in = person.open("/account").request.headers["cookie"]
    person.send("/account", "/sign-out")
    back = site.person()
    assert back.client.get("/account", headers={"Cookie": signed_in}).status_code == 303


def test_what_is_hard_to_undo_wants_the_password_again(site: Site) -> None:
    person = site.person()
    person.sign_up("proof@example.net")
    register = Register(site.state / DIRECTORY)
    with register.writing() as database:
        database.execute("UPDATE sessions SET proved = proved - ?", (PROVED_SECONDS + 1,))
    register.close()
    assert person.open("/account").status_code == 200
    for path, action, fields in (
        ("/account", "/account/email", {"email": "thief@example.net"}),
        ("/account", "/account/password", {"password": "thieves know this one"}),
        ("/account", "/account/tokens", {"name": "t", "days": "9", "scopes": "read"}),
    ):
        assert person.send(path, action, **fields).headers["location"] == "/prove"
    asked = person.open("/account/delete")
    assert asked.headers["location"] == "/prove?next=/account/delete"
    assert person.send(asked.headers["location"], "/prove", password="wrong").status_code == 422
    proved = person.send(asked.headers["location"], "/prove", password=PASSWORD)
    assert proved.headers["location"] == "/account/delete"
    assert person.open("/account/delete").status_code == 200


def test_another_address_is_ones_own_once_its_link_was_opened(site: Site) -> None:
    person = site.person()
    person.sign_up("old@example.net")
    person.send("/account", "/account/email", email="new@example.net")
    link = site.mail.link_to("new@example.net")
    assert "old@example.net" in person.open("/account").text
    assert "is the address of your account now" in person.send(link).text
    assert 'value="new@example.net"' in person.open("/account").text
    assert wait_for(
        lambda: [text for text in site.mail.to("old@example.net") if "has another e-mail address now" in text]
    )


def test_looking_at_the_link_with_head_changes_nothing(site: Site) -> None:
    person, stranger = site.person(), site.person()
    person.sign_up("head@example.net")
    person.send("/account", "/account/email", email="looked-at@example.net")
    link = site.mail.link_to("looked-at@example.net")
    for path in (link, "/sign-in", "/sign-up", "/recover"):
        shown, looked = stranger.client.get(path), stranger.client.head(path)
        assert (looked.status_code, looked.text) == (shown.status_code, "") == (200, "")
    number = person.add_server()
    for path in (f"/servers/{number}/delete", f"/servers/{number}/edit", "/servers/new", "/account/delete", "/prove"):
        assert person.client.head(path).status_code == 200
    assert person.open(f"/servers/{number}").status_code == 200
    assert 'value="head@example.net"' in person.open("/account").text
    assert person.send(link).status_code == 200


def test_who_recovers_an_account_voids_the_links_of_whoever_had_it(site: Site) -> None:
    owner, thief = and_a_thief(site, "robbed@example.net")
    thief.send("/account", "/account/email", email="thief@example.net")
    link = site.mail.link_to("thief@example.net")
    owner.send("/recover", email="robbed@example.net")
    new = "another lantern under the heron"
    assert owner.send(site.mail.link_to("robbed@example.net"), password=new, again=new).status_code == 303
    assert thief.open(link).status_code == 404
    assert 'value="robbed@example.net"' in owner.open("/account").text


def test_who_recovers_an_account_ends_every_other_way_into_it(site: Site) -> None:
    """A passkey and a token that a thief has made; the password, where it is a passkey that is set."""
    owner, thief = and_a_thief(site, "alone@example.net")
    page = thief.send("/account", "/account/tokens", name="t", days="300", scopes=["read", "keys"]).text
    found = re.search(r'id="token">(lr_[\w-]{43})<', page)
    assert found
    token = {"Authorization": f"Bearer {found[1]}"}
    register = Register(site.state / DIRECTORY)
    accounts = Accounts(register)
    user = accounts.by_email("alone@example.net")
    assert user
    accounts.add_passkey(Passkey(b"theirs", user.id, b"key", 0, "thief's", 0.0, None))
    assert site.person().client.get("/api/v1/servers", headers=token).status_code == 200

    owner.send("/recover", email="alone@example.net")
    link = site.mail.link_to("alone@example.net")
    accounts.use_link(link.rpartition("/")[2], time.time())

    assert accounts.passkeys(user.id) == []
    assert accounts.password_of(user.id) == ""
    register.close()
    assert site.person().client.get("/api/v1/servers", headers=token).status_code == 401


def test_who_recovers_an_account_ends_the_keys_that_a_thief_saw_after_a_grace(site: Site) -> None:
    owner, thief = and_a_thief(site, "keys@example.net")
    number = owner.add_server("one", addresses="192.0.2.7")
    owner.send(f"/servers/{number}", f"/servers/{number}/keys")
    thief.send(f"/servers/{number}", f"/servers/{number}/keys")
    subscribers = Subscribers(site.state / DIRECTORY)

    def keys() -> dict[str, float | None]:
        return {each.name: each.ends for each in subscribers.load(0.0).keys}

    old = keys()
    assert [*old.values()] == [None, None]
    owner.send("/recover", email="keys@example.net")
    new = "another lantern under the heron"
    before = time.time()
    assert owner.send(site.mail.link_to("keys@example.net"), password=new, again=new).status_code == 303

    grace = 72 * 3600
    assert {*keys()} == {*old}
    for ends in keys().values():
        assert ends is not None
        assert before + grace <= ends <= time.time() + grace
    page = owner.open(f"/servers/{number}").text
    assert page.count(": its successor is in use, or the account was taken back") == 2

    def told() -> bool:
        mails = [str(each) for each in site.mail.to("keys@example.net")]
        return any(all(name in each for name in old) and "end by themselves" in each for each in mails)

    wait_for(told)

    # They work until then, and no longer; a new one takes their place at once, and none but one.
    assert {each.name for each in subscribers.load(before + grace - 60).keys} == {*old}
    assert subscribers.load(time.time() + grace + 60).keys == ()
    assert owner.send(f"/servers/{number}", f"/servers/{number}/keys").status_code == 200
    assert len(keys()) == 3
    assert [*keys().values()].count(None) == 1
    assert "two live keys at most" in owner.send(f"/servers/{number}", f"/servers/{number}/keys").text


def test_whoever_had_the_account_is_told_that_it_was_deleted(site: Site) -> None:
    """Also if a thief has given it another address first."""
    _, thief = and_a_thief(site, "had-it@example.net")
    thief.send("/account", "/account/email", email="has-it@example.net")
    thief.send(site.mail.link_to("has-it@example.net"))
    assert "is deleted" in thief.send("/account/delete", sure="yes").text
    for address in ("had-it@example.net", "has-it@example.net"):
        wait_for(lambda address=address: any("was deleted" in str(each) for each in site.mail.to(address)))


def test_a_changed_password_signs_all_other_browsers_out_and_voids_links(site: Site) -> None:
    owner, thief = and_a_thief(site, "changed@example.net")
    thief.send("/account", "/account/email", email="other-thief@example.net")
    link = site.mail.link_to("other-thief@example.net")
    owner.send("/account", "/account/password", password="another lantern under the heron")
    assert owner.open("/account").status_code == 200
    assert thief.open("/account").status_code == 303
    assert thief.open(link).status_code == 404


def test_a_deleted_passkey_signs_all_other_browsers_out(site: Site) -> None:
    owner, thief = and_a_thief(site, "passkey@example.net")
    register = Register(site.state / DIRECTORY)
    accounts = Accounts(register)
    user = accounts.by_email("passkey@example.net")
    assert user
    accounts.add_passkey(Passkey(b"lost with the telephone", user.id, b"", 0, "telephone", 0.0, None))
    register.close()
    assert owner.send("/account", "/account/passkeys/delete").status_code == 303
    assert owner.open("/account").status_code == 200
    assert thief.open("/account").status_code == 303


def test_a_new_token_is_told_to_the_owner(site: Site) -> None:
    person = site.person()
    person.sign_up("tokens@example.net")
    assert "lr_" in person.send("/account", "/account/tokens", name="robot", days="9", scopes=["read"]).text
    assert wait_for(lambda: [text for text in site.mail.to("tokens@example.net") if "a token for programs" in text])


def test_which_mails_are_wanted_is_kept(site: Site) -> None:
    person = site.person()
    person.sign_up("mails@example.net")
    assert person.open("/account").text.count("checked") == 4  # three kinds of mail, and the scope of a new token
    person.send("/account", "/account/mails", mails=["key"])
    assert re.findall(r'value="(\w+)" checked', person.open("/account").text) == ["key", "read"]
    person.send("/account", "/account/mails")
    assert re.findall(r'value="(\w+)" checked', person.open("/account").text) == ["read"]


def test_another_browser_is_signed_out(site: Site) -> None:
    person, other = site.person(), site.person()
    person.sign_up("browsers@example.net")
    other.send("/sign-in", email="browsers@example.net", password=PASSWORD)
    assert "In 2 browsers" in person.open("/account").text
    person.send("/account", "/account/sessions/end")
    assert "In 1 browser." in person.open("/account").text
    assert other.open("/account").status_code == 303


def test_one_sees_ones_own_servers_and_nobody_elses(site: Site) -> None:
    mine, others = site.person(), site.person()
    mine.sign_up("mine@example.net")
    others.sign_up("others@example.net")
    number = mine.add_server("mine")
    token = others.client.cookies["visit"]
    csrf = re.search(r'name="csrf" content="(\w+)"', others.open("/servers").text)
    assert csrf
    assert token
    for path in ("", "/edit", "/delete", "/check"):
        assert others.open(f"/servers/{number}{path}").status_code == 404
    for path in ("/edit", "/delete", "/keys", "/keys/delete", "/notify"):
        sent = others.client.post(f"/servers/{number}{path}", data={"csrf": csrf[1], "zone": ".", "name": "x"})
        assert sent.status_code == 404, path
    assert "mine" in mine.open("/servers").text


def test_rotation_of_keys(site: Site) -> None:
    person = site.person()
    person.sign_up("rotation@example.net")
    number = person.add_server()
    first, second = (person.send(f"/servers/{number}", f"/servers/{number}/keys").status_code for _ in range(2))
    assert (first, second) == (200, 200)
    third = person.send(f"/servers/{number}", f"/servers/{number}/keys")
    assert third.status_code == 422
    assert "two live keys" in third.text
    deleted = person.send(f"/servers/{number}", f"/servers/{number}/keys/delete")
    assert deleted.status_code == 303
    assert person.send(f"/servers/{number}", f"/servers/{number}/keys").status_code == 200


def test_the_configuration_is_what_was_chosen(site: Site) -> None:
    person = site.person()
    person.sign_up("choice@example.net")
    for software, known in (
        ("unbound", "auth-zone:"),
        ("bind", "type mirror"),
        ("kresd", "prefill"),
        ("pdns", "zoneToCache"),
    ):
        number = person.add_server(software, software)
        assert known in person.open(f"/servers/{number}").text
        made = person.send(f"/servers/{number}", f"/servers/{number}/keys")
        assert ("dig +tcp -b 192.0.2.1 -p 53 @192.0.2.53 -y hmac-sha256:" in made.text) is (software != "bind")
    unbound = person.add_server("u", "unbound")
    page = person.open(f"/servers/{unbound}?tls=yes&storage=/srv/root&private_zones=10.in-addr.arpa&whole=yes").text
    for each in ("192.0.2.53@853#localroot.example", "/srv/root", "10.in-addr.arpa"):
        assert each in page
    evil = person.open(f"/servers/{unbound}?storage=%22;evil").text
    assert "must be an absolute path" in evil


def test_the_pages_say_where_they_may_load_from_and_that_nothing_is_kept(site: Site) -> None:
    headers = site.person().open("/sign-in").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "server" not in headers
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_no_page_has_script_or_style_in_it(site: Site) -> None:
    person = site.person()
    person.sign_up("inline@example.net")
    number = person.add_server()
    for path in ("/", "/statistics", "/privacy", "/account", "/servers", "/servers/new", f"/servers/{number}"):
        text = person.open(path).text
        assert not re.search(r"<script(?! src=\"/static/)|\son\w+=|style=|<style", text), path
        assert not re.search(r"(src|href|action)=\"(https?:)?//(?!www\.rfc-editor\.org/rfc/)", text), path


def test_what_happens_is_counted_and_told_over_the_control_socket(tmp_path: Path) -> None:
    with running(tmp_path) as made:
        person, thief = made.person(), made.person()
        person.sign_up("counted@example.net")
        person.add_server("one", "unbound", contributes="yes")
        thief.send("/sign-in", email="counted@example.net", password="not this one at all")
        thief.client.get("/api/v1/servers", headers={"Authorization": "Bearer lr_wrong"})
        assert thief.open("/no-such-page").status_code == 404
        # What stands in a request makes no label.
        thief.client.request("BREW", "/sign-in")

        said = ask(tmp_path / "run" / "portal.sock", "status")
        counted = said["counters"]
        assert counted["sign-ups asked"] == counted["sign-ups begun"] == 1
        assert counted["sign-ins password refused"] == counted["sign-ins token refused"] == 1
        assert counted["mails queued"] == counted["mails sent"] == 1
        assert counted["requests 404"] == 1
        assert counted["requests 401"] == 1
        assert (said["accounts"], said["sessions"], said["contributing_servers"], said["mails_waiting"]) == (1, 1, 1, 0)
        assert said["register_octets"] > 4096
        assert said["register_error"] == said["observations_error"] == said["mails_error"] == ""
        words = {"requests", "sign-ups", "sign-ins", "mails", "counts"}
        assert {each.split(" ")[0] for each in counted} <= words

        register = Register(made.state / DIRECTORY)
        with register.writing():  # somebody holds the lock: reading goes on
            assert ask(tmp_path / "run" / "portal.sock", "status")["accounts"] == 1
        register.close()
    assert not (tmp_path / "run" / "portal.sock").exists()


def test_the_role_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with running(tmp_path) as made:
        made.process.terminate()
        assert made.process.wait(20) == 0, made.log()
