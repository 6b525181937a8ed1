"""The pages in a browser: signing up by passkey and by password to deleting everything, on desktop and phone."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootsrv.localroot.observations import Fresh, KeyFailed, Notified, Proved, TransferSeen
from rootsrv.localroot.register import DIRECTORY
from rootsrv.localroot.subscribers import Subscribers
from tests.portal.chromium import DESKTOP, PHONE, Chromium, chromium
from tests.portal.site import PASSWORD, Site, running


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("portal")) as made:
        yield made


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    with chromium(tmp_path) as made:
        yield made
        assert made.faults == []


def begin(browser: Chromium, site: Site, address: str) -> None:
    """Up to the page behind the link of the mail."""
    browser.open(f"{site.url}/")
    browser.press("Sign up")
    browser.wait_for_page("Sign up")
    browser.put("#email", address)
    browser.press("Send me the link")
    browser.wait_for_page("Look at your mail")
    browser.open(site.url + site.mail.link_to(address))


def add_server(browser: Chromium, name: str) -> int:
    browser.press("Add a server")
    browser.wait_for_page("Add a server")
    browser.put("#name", name)
    browser.run("document.querySelector('#software').value = 'bind'")
    browser.put("#addresses", "192.0.2.1\n2001:db8::1")
    browser.press("Add")
    browser.wait_for_page(name)
    return int(browser.run("location.pathname").rpartition("/")[2])


def transferred(site: Site, server: int) -> None:
    """What the zone service observes when all goes well."""
    (key,) = (each for each in Subscribers(site.state / DIRECTORY).load(0.0).keys if each.server == server)
    now = time.time()
    seen = site.observations()
    for each in (
        Proved(server, "192.0.2.1", now, key.name),
        Fresh(".", 2026112801, now, 12, None, None, None),
        Notified(server, "192.0.2.1", ".", 2026112801, now, "confirmed", 0, 1, 0.013, ""),
        TransferSeen(server, ".", 2026112801, now, "axfr", 1_336_821, "192.0.2.1", "tcp", key.name, 0.4),
    ):
        seen.note(each)
    assert seen.write()
    seen.close()


def test_by_passkey_from_signing_up_to_deleting_everything(browser: Chromium, site: Site) -> None:
    browser.device()
    browser.size(DESKTOP)
    begin(browser, site, "passkey@example.net")
    browser.wait_for_page("Begin your account")
    browser.press("Make a passkey")
    browser.wait_for_page("Your servers")

    server = add_server(browser, "Rechenzentrum")
    browser.press("Make a key")
    browser.wait("document.querySelector('#secret')")
    secret = browser.run("document.querySelector('#secret').innerText")
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=", secret)
    browser.command(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"], origin=site.url
    )
    browser.press("Copy")
    browser.wait("document.querySelector('[data-copy=configuration]').innerText === 'Copied'")
    copied = browser.run("navigator.clipboard.readText()")
    assert f'secret "{secret}";' in copied
    assert "type mirror;" in copied

    assert "Waiting" in browser.run("document.querySelector('#check').innerText")
    transferred(site, server)
    browser.wait("document.querySelector('#check .state.good')?.innerText.includes('All is well')")  # by itself
    assert "0.4 s after the NOTIFY" in browser.run("document.querySelector('#check').innerText")

    browser.press("Sign out")
    browser.wait_for_page("The root zone, next to your resolver")
    browser.open(f"{site.url}/servers/{server}", f"{site.url}/sign-in?next=/servers/{server}")
    browser.wait_for_page("Sign in")
    browser.press("Use a passkey")
    browser.wait_for_page("Rechenzentrum")  # where one was going

    browser.open(f"{site.url}/account")
    browser.press("Delete the account")
    browser.wait_for_page("Delete the account")
    browser.run("document.querySelector('#sure').click()")
    browser.press("Delete everything")
    browser.wait_for_page("Done")
    assert server not in {each.server for each in Subscribers(site.state / DIRECTORY).load(0.0).subscribers}
    browser.open(f"{site.url}/sign-in")
    browser.press("Use a passkey")
    browser.wait("document.querySelector('[data-error]').innerText.includes('not known here')")


def test_by_password_and_a_passkey_later(browser: Chromium, site: Site) -> None:
    browser.device()
    browser.size(PHONE)
    begin(browser, site, "password@example.net")
    browser.put("#password", PASSWORD)
    browser.put("#again", PASSWORD)
    browser.press("Set this password")
    browser.wait_for_page("Your servers")
    add_server(browser, "phone")
    browser.open(f"{site.url}/account")
    browser.put("#passkey-name", "my phone")
    browser.press("Make a passkey")
    browser.wait("document.querySelector('main').innerText.includes('my phone')")
    browser.press("Have no password any more")
    browser.wait("!document.body.innerText.includes('Have no password any more')")
    browser.press("Sign out")
    browser.wait_for_page("The root zone, next to your resolver")
    browser.open(f"{site.url}/sign-in")
    browser.put("#email", "password@example.net")
    browser.put("#password", PASSWORD)
    browser.press("Sign in")
    browser.wait("document.querySelector('[role=alert]')?.innerText.includes('do not belong together')")
    browser.press("Use a passkey")
    browser.wait_for_page("Your servers")


def test_axe_finds_nothing_serious_and_no_page_is_wider_than_the_screen(browser: Chromium, site: Site) -> None:
    person = site.person()
    person.sign_up("axe@example.net")
    number = person.add_server("axe", addresses="192.0.2.1 2001:db8::1", zones=[".", "canary.example."])
    person.send(f"/servers/{number}", f"/servers/{number}/keys")
    transferred(site, number)
    seen = site.observations()
    seen.note(Notified(number, "2001:db8::1", ".", 2026112801, time.time(), "refused", 5, 1, 0.02, ""))
    seen.note(KeyFailed(number, "k.example.", time.time(), "BADTIME", "192.0.2.1", "signed at 1, our clock says 999"))
    seen.note(Fresh(".", 2026112800, time.time() - 9e4, 1200, 900, 1190, 1200))
    seen.write()
    seen.close()
    cookie = person.client.cookies["visit"]
    browser.command("Network.setCookie", name="visit", value=cookie, url=site.url, httpOnly=True)
    person.send("/account", "/account/tokens", name="monitoring", days="9", scopes=["read"])
    paths = ["/account", "/account/delete", "/servers", "/servers/new", f"/servers/{number}", f"/servers/{number}/edit",
             f"/servers/{number}/delete", "/prove", "/statistics", "/privacy", "/servers/999"]  # fmt: skip
    looks(browser, site, paths)
    # On a phone nobody has to find out that the figures are to the right of what is seen.
    browser.size(PHONE)
    browser.open(f"{site.url}/statistics")
    assert browser.run("[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)") == [0]
    browser.command("Network.clearBrowserCookies")
    other = site.person()
    other.send("/sign-up", email="link@example.net")
    looks(browser, site, ["/", "/sign-up", "/sign-in", "/recover", site.mail.link_to("link@example.net")])


def looks(browser: Chromium, site: Site, paths: list[str]) -> None:
    """Every page, on both screens; its colours in the dark as well."""
    for path in paths:
        browser.look(site.url + path)
