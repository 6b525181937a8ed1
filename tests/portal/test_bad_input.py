"""What others try with the pages as they run: by the thousand, by force, from other sites, with what is no text."""

import json
import re
import socket
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rootsrv.config.checks import ConfigError
from rootsrv.config.portal import PortalConfig
from rootsrv.localroot.register import DIRECTORY, FILE, Register
from rootsrv.portal import serving
from rootsrv.portal.rates import RATES
from tests.needs import require_tool
from tests.portal.site import PASSWORD, Person, Site, running, wait_for

XSS = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("portal")) as made:
        yield made


@pytest.fixture(scope="module")
def known(site: Site) -> Person:
    person = site.person()
    person.sign_up("known@example.net")
    return person


def csrf_of(person: Person, path: str = "/sign-in") -> str:
    found = re.search(r'name="csrf" content="(\w+)"', person.open(path).text)
    assert found
    return found[1]


# ── many ──


def test_sign_ups_by_the_thousand_send_few_mails_and_make_no_account(site: Site) -> None:
    flood = site.person()
    token = csrf_of(flood, "/sign-up")
    before = len(site.mail.mails)
    answers = [
        flood.client.post("/sign-up", data={"csrf": token, "email": f"v{at}@example.net"}).status_code
        for at in range(60)
    ]
    assert answers.count(200) == RATES["mails_by_source"].burst
    assert set(answers) == {200, 429}
    victim = site.person()
    token = csrf_of(victim, "/sign-up")
    for at in range(10):  # from many networks, to one mailbox
        source = {"X-Forwarded-For": f"203.0.{at}.1"}
        victim.client.post("/sign-up", data={"csrf": token, "email": "victim@example.net"}, headers=source)
    wait_for(lambda: len(site.mail.mails) >= before + 9)
    assert len(site.mail.to("victim@example.net")) == RATES["mails_to_address"].burst
    register = Register(site.state / DIRECTORY)
    assert register.rows("SELECT 1 FROM users WHERE email LIKE 'v%@example.net'") == []
    register.close()


def test_guessing_a_password_ends_soon_and_its_owner_elsewhere_gets_in(site: Site, known: Person) -> None:
    thief = site.person()
    token = csrf_of(thief)
    guesses = [
        thief.client.post(
            "/sign-in", data={"csrf": token, "email": "known@example.net", "password": f"guess number {at}"}
        )
        for at in range(12)
    ]
    allowed = RATES["password_of_account_by_source"].burst
    assert [each.status_code for each in guesses] == [422] * allowed + [429] * (12 - allowed)
    assert int(guesses[-1].headers["retry-after"]) > 0
    assert site.person().send("/sign-in", email="known@example.net", password=PASSWORD).status_code == 303


def test_guessing_tokens_ends_soon(site: Site) -> None:
    thief = site.person()
    answers = [
        thief.client.get("/api/v1/servers", headers={"Authorization": f"Bearer lr_{at}"}).status_code
        for at in range(30)
    ]
    allowed = RATES["wrong_token_by_source"].burst
    assert answers == [401] * allowed + [429] * (30 - allowed)


def test_guessing_links_ends_soon(site: Site) -> None:
    thief = site.person()
    answers = [thief.open(f"/link/{at:043d}").status_code for at in range(40)]
    assert answers == [404] * RATES["link_by_source"].burst + [429] * (40 - RATES["link_by_source"].burst)


# ── from elsewhere ──


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"Origin": "https://evil.example"}, True),
        ({"Origin": "null"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({}, False),
    ],
)
def test_another_site_cannot_have_a_browser_change_anything(
    site: Site, known: Person, headers: dict[str, str], *, token: bool
) -> None:
    data = {"csrf": csrf_of(known, "/servers") if token else "0" * 64, "name": "forged"}
    assert known.client.post("/account/name", data=data, headers=headers).status_code == 403
    assert "forged" not in known.open("/account").text


def test_a_form_of_one_browser_is_no_form_of_another(site: Site, known: Person) -> None:
    token = csrf_of(site.person())
    assert known.client.post("/account/name", data={"csrf": token, "name": "forged"}).status_code == 403
    for odd in ("ä" * 64, "", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")):
        assert known.client.post("/account/name", data={"csrf": odd, "name": "forged"}).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "localhost", "localhost:1", "localhost:{port}.evil.example", ""])
def test_another_host_is_refused(site: Site, host: str) -> None:
    answer = site.person().client.get("/", headers={"Host": host.format(port=site.port)})
    assert answer.status_code == 421
    assert "evil" not in answer.text


def test_two_hosts_are_refused_and_no_page_has_a_host_of_a_request(site: Site) -> None:
    request = f"GET / HTTP/1.1\r\nHost: localhost:{site.port}\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert b"200 OK" not in exchange(site, request.encode())
    sent = {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example", "X-Original-URL": "/account"}
    assert "evil" not in site.person().client.get("/sign-up", headers=sent).text


def test_going_on_leads_nowhere_else(site: Site) -> None:
    for path in (
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "/%0d%0aX: 1",
        "javascript:alert(1)",
        "/.",
    ):
        person = site.person()
        answer = person.send(f"/sign-in?next={path}", "/sign-in", email="known@example.net", password=PASSWORD)
        assert answer.headers["location"] == "/servers", path


def test_a_stranger_behind_no_proxy_of_ours_cannot_say_who_he_is(tmp_path: Path) -> None:
    with running(tmp_path, trusted_proxies=[]) as direct:
        codes = set()
        for at in range(RATES["link_by_source"].burst + 1):
            source = {"X-Forwarded-For": f"203.0.{at}.1"}
            codes.add(direct.person().client.get("/link/nothing", headers=source).status_code)
        assert codes == {404, 429}


# ── what is no text, or too much of it ──


def test_script_in_every_field_is_shown_as_text(site: Site) -> None:
    person = site.person()
    person.sign_up("xss@example.net")
    number = person.add_server("{{7*7}}<b>" + "\"'><svg onload=alert(1)>")
    pages = [
        person.send("/servers/new", name=XSS, software=XSS, addresses=XSS, zones=[XSS]),
        person.send("/account", "/account/name", name=XSS[:90]),
        person.send("/account", "/account/email", email=XSS),
        person.send("/account", "/account/tokens", name=XSS[:60], days="9", scopes=["read"]),
        person.send("/account", "/account/tokens", name="x", days=XSS, scopes=[XSS]),
        person.send(f"/servers/{number}", f"/servers/{number}/keys", algorithm=XSS),
        person.send(f"/servers/{number}", f"/servers/{number}/notify", zone=XSS),
        person.open(f"/servers/{number}?storage={XSS}&private_zones={XSS}"),
        person.open(f"/sign-in?next={XSS}"),
        site.person().send("/sign-in", email=XSS, password=XSS),
        site.person().send("/sign-up", email=XSS),
        *(person.open(path) for path in ("/account", "/servers", f"/servers/{number}", f"/servers/{number}/delete")),
    ]
    for page in pages:
        assert page.status_code < 500
        assert not re.search(r"<script>|<svg|<img|<b>", page.text), page.url
        assert "{{7*7}}" in page.text or "49" not in re.sub(r"[0-9a-f]{64}|\d{3,}", "", page.text)


def test_sql_in_every_field_is_text(site: Site) -> None:
    evil = "x'; DROP TABLE users; --"
    person = site.person()
    assert person.send("/sign-in", email=evil, password="' OR '1'='1").status_code == 422
    assert person.send("/sign-in", email="' OR 1=1 --@example.net", password="x").status_code == 422
    person.sign_up("sql@example.net")
    number = person.add_server(evil)
    assert "DROP TABLE" in person.open(f"/servers/{number}").text
    assert person.open("/servers/1%20OR%201=1").status_code == 404
    token = csrf_of(person, "/servers")
    deleted = person.client.post(f"/servers/{number}/keys/delete", data={"csrf": token, "key": evil})
    assert deleted.status_code == 404
    assert person.open("/servers").status_code == 200


@pytest.mark.parametrize(
    "email",
    ["a@@b.example", "a\r\nBcc: x@evil.example@b.example", "a b@c.example", f"{'a' * 250}@b.example", "@b.example",
     "a@-b.example", "<a@b.example>", "a@b.example, c@d.example", "ä@b.example", "",
     # Encoded words: a line break, and somebody else, to whoever decodes them.
     "=?utf-8?q?=0A?=@b.example", "=?utf-8?q?c=40d?=.=?utf-8?q?example=2C?=@b.example"],
)  # fmt: skip
def test_what_is_no_address_gets_no_mail(site: Site, email: str) -> None:
    assert site.person().send("/sign-up", email=email).status_code == 422


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b"csrf=%ff%fe"),
        ("application/x-www-form-urlencoded", b"&".join(b"a=1" for _ in range(200))),
        ("application/json", b"{"),
        ("application/json", b"[" * 20_000),
        ("application/json", b"\xff"),
        ("application/json", b"null"),
        ("multipart/form-data; boundary=x", b"--x\r\n"),
        ("text/plain", b"hello"),
        ("", b"hello"),
    ],
)
def test_a_body_that_is_no_form_is_an_error_of_whoever_sent_it(
    site: Site, known: Person, kind: str, body: bytes
) -> None:
    for path in ("/sign-in", "/account/name", "/sign-in/passkey"):
        answer = known.client.post(path, content=body, headers={"Content-Type": kind})
        assert 400 <= answer.status_code < 500, (path, answer.text)


CREDENTIALS = [
    None,
    7,
    {},
    {"rawId": 7},
    {"rawId": "!"},
    {"rawId": "AAAA", "id": "AAAA", "type": "public-key", "response": {}},
]


@pytest.mark.parametrize("credential", CREDENTIALS, ids=str)
def test_what_is_no_passkey_is_refused(site: Site, known: Person, credential: object) -> None:
    token = csrf_of(known, "/account")
    for options, done in (
        ("/sign-in/passkey-options", "/sign-in/passkey"),
        ("/account/passkey-options", "/account/passkey"),
    ):
        headers = {"X-CSRF": token}
        assert known.client.post(options, json={}, headers=headers).status_code == 200
        answer = known.client.post(done, json={"credential": credential, "name": 7}, headers=headers)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]


def test_a_huge_body_is_refused_before_it_is_read(site: Site) -> None:
    head = f"POST /sign-in HTTP/1.1\r\nHost: localhost:{site.port}\r\n"
    declared = exchange(site, f"{head}Content-Length: 99999999999\r\n\r\n".encode())
    assert b" 413 " in declared.splitlines()[0]
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    chunked = exchange(site, f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + 8 * chunk)
    assert chunked == b"" or b" 413 " in chunked.splitlines()[0]
    heads = exchange(site, f"{head}X: {'y' * serving.MAX_HEAD_OCTETS}\r\n".encode() * 4)
    assert heads == b"" or b" 400 " in heads.splitlines()[0]


def exchange(site: Site, octets: bytes, seconds: float = 30.0) -> bytes:
    """What comes back for *octets*, until the other side closes or has answered."""
    with socket.create_connection(("127.0.0.1", site.port), seconds) as connection:
        received = b""
        try:
            connection.sendall(octets)
            while octets_in := connection.recv(65536):
                received += octets_in
        except (ConnectionResetError, BrokenPipeError):
            pass
        return received


def test_a_client_that_is_slow_is_let_go_and_nobody_waits_for_it(tmp_path: Path) -> None:
    """Heads and bodies that never end, and answers that nobody reads, many at a time."""
    with running(tmp_path) as alone:
        head = f"POST /sign-in HTTP/1.1\r\nHost: localhost:{alone.port}\r\n"
        held = [
            socket.create_connection(("127.0.0.1", alone.port), 30) for _ in range(serving.MAX_CONNECTIONS // 2 + 40)
        ]
        try:
            for at, each in enumerate(held):
                try:
                    each.sendall(head.encode() + (b"Content-Length: 9\r\n\r\nx" if at % 2 else b""))
                except OSError:
                    continue  # one of those that had to go for another
            assert alone.person().open("/sign-in").status_code == 200
            for each in held:
                each.settimeout(60)  # one that is not let go fails
                try:
                    while each.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
        finally:
            for each in held:
                each.close()
        assert alone.person().open("/sign-in").status_code == 200


# ── what fails beside it ──


def test_a_mail_server_that_is_down_delays_mails_and_no_page(tmp_path: Path) -> None:
    with running(tmp_path) as alone:
        alone.mail.stop()
        person = alone.person()
        assert "Look at your mail" in person.send("/sign-up", email="late@example.net").text
        wait_for(lambda: "mails cannot be sent" in alone.log())
        alone.mail.start()
        register = Register(alone.state / DIRECTORY)
        with register.writing() as database:  # as if the pause were over
            database.execute("UPDATE mails SET next = 0")
        register.close()
        assert person.send(alone.mail.link_to("late@example.net"), password=PASSWORD, again=PASSWORD).status_code == 303
        wait_for(lambda: "mails can be sent again" in alone.log())
        alone.mail.refusal = "550 no such mailbox"
        person.send("/recover", email="late@example.net")
        wait_for(lambda: "mail refused code=550" in alone.log())
        assert alone.person().open("/").status_code == 200


def test_what_the_zone_service_saw_cannot_be_read_and_the_pages_say_so(tmp_path: Path) -> None:
    with running(tmp_path) as alone:
        person = alone.person()
        person.sign_up("blind@example.net")
        number = person.add_server()
        (alone.state / "observations.sqlite").write_bytes(b"no database" * 1000)
        assert "cannot be read just now" in person.open(f"/servers/{number}").text
        assert "not known just now" in person.open("/servers").text
        assert "cannot be told just now" in person.open("/").text
        assert person.client.get("/api/v1/statistics").status_code == 503
        assert alone.log().count("alarm: what pages show cannot be read") == 1
        (alone.state / "observations.sqlite").unlink()
        assert person.client.get("/api/v1/statistics").status_code == 200
        assert alone.log().count("what pages show can be read again") == 1


def test_a_register_that_is_locked_gives_503_and_comes_back(site: Site, known: Person) -> None:
    with sqlite3.connect(site.state / DIRECTORY / FILE, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused = known.send("/servers/new", name="locked", software="bind", addresses="192.0.2.9", zones=["."])
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert known.open("/servers").status_code == 200  # whoever reads does not wait
        other.execute("ROLLBACK")
    other.close()
    known.add_server("locked")


def test_it_speaks_tls_and_shows_a_new_certificate(tmp_path: Path) -> None:
    for name in ("a", "b"):
        subprocess.run(
            [require_tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-subj", f"/CN={name}.example", "-days", "9", "-keyout", tmp_path / f"{name}.key", "-out",
             tmp_path / f"{name}.crt"],
            check=True, capture_output=True,
        )  # fmt: skip
    for each in ("crt", "key"):
        (tmp_path / f"now.{each}").write_bytes((tmp_path / f"a.{each}").read_bytes())
    more = {
        "tls_certificate": str(tmp_path / "now.crt"),
        "tls_key": str(tmp_path / "now.key"),
        "url": "https://lr.example",
    }
    with running(tmp_path / "site", **more) as made:
        assert b"CN=a.example" in subject(made)
        client = httpx.Client(base_url=f"https://127.0.0.1:{made.port}", verify=False, headers={"Host": "lr.example"})
        answer = client.get("/sign-in")
        assert answer.headers["strict-transport-security"].startswith("max-age=")
        assert answer.headers["set-cookie"].startswith("__Host-visit=")
        assert "secure" in answer.headers["set-cookie"].lower()
        client.close()
        # Half of a pair: what there was is shown, with its key.
        (tmp_path / "now.crt").write_bytes((tmp_path / "b.crt").read_bytes())
        wait_for(lambda: "certificate not taken" in made.log())
        assert b"CN=a.example" in subject(made)
        for each in ("crt", "key"):
            (tmp_path / f"now.{each}").write_bytes((tmp_path / f"b.{each}").read_bytes())
        wait_for(lambda: b"CN=b.example" in subject(made))


def subject(site: Site) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", site.port), 10) as plain, context.wrap_socket(plain) as connection:
        certificate = ssl.DER_cert_to_PEM_cert(connection.getpeercert(binary_form=True) or b"")
    shown = subprocess.run(
        [require_tool("openssl"), "x509", "-noout", "-subject", "-nameopt", "RFC2253"],
        input=certificate.encode(), capture_output=True, check=True,
    )  # fmt: skip
    return shown.stdout


# ── the section ──


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"url": "http://localroot.example"}, "portal.url"),
        ({"url": "https://localroot.example/"}, "portal.url"),
        ({"url": "https://user@localroot.example"}, "portal.url"),
        ({"url": "https://localroot.example:0"}, "portal.url"),
        ({"url": "https://LocalRoot.example"}, "portal.url"),
        ({"addresses": ("192.0.2.1",)}, "portal.tls_certificate"),
        ({"addresses": ()}, "portal.addresses"),
        ({"tls_key": "x"}, "portal.tls_key"),
        ({"zones": ("arpa.",)}, "portal.zones"),
        ({"zones": (".", "arpa")}, r"portal.zones\[1\]"),
        ({"publishers": ("nobody",)}, r"portal.publishers\[0\]"),
        ({"fallbacks": ("192.0.2.1@99999",)}, r"portal.fallbacks\[0\]"),
        ({"mail_from": "nobody"}, "portal.mail_from"),
        ({"smtp_user": "u"}, "portal.password_file"),
        ({"smtp_user": "u", "password_file": "p"}, "portal.smtp_tls"),
        ({"key_domain": "no domain"}, "portal.key_domain"),
        ({"key_grace_hours": -1.0}, "portal.key_grace_hours"),
        ({"missed_serials": 0}, "portal.missed_serials"),
    ],
)
def test_a_bad_section_is_refused_by_its_key(values: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: "):
        PortalConfig(**({"url": "https://localroot.example"} | values))  # type: ignore[arg-type]


# ── the API ──


def test_a_token_does_what_it_is_for_and_no_more(site: Site) -> None:
    person = site.person()
    person.sign_up("api@example.net")

    def token(*scopes: str) -> dict[str, str]:
        page = person.send("/account", "/account/tokens", name="t", days="9", scopes=list(scopes))
        found = re.search(r'id="token">(lr_[\w-]{43})<', page.text)
        assert found
        assert found[1] not in person.open("/account").text
        return {"Authorization": f"Bearer {found[1]}"}

    client = site.person().client
    reads, does, keys = token("read"), token("read", "servers"), token("keys")
    wish = {"name": "by api", "software": "bind", "addresses": ["192.0.2.5"], "zones": ["."]}
    assert client.post("/api/v1/servers", json=wish, headers=reads).status_code == 403
    made = client.post("/api/v1/servers", json=wish, headers=does)
    assert made.status_code == 201
    path = f"/api/v1/servers/{made.json()['id']}"
    assert client.get("/api/v1/servers", headers=reads).json()["servers"] == [made.json()]
    assert client.post(f"{path}/keys", json={}, headers=does).status_code == 403
    key = client.post(f"{path}/keys", json={"algorithm": "hmac-sha512"}, headers=keys).json()
    assert key["secret"] in key["configuration"]
    assert client.get(path, headers=reads).json()["keys"][0]["name"] == key["name"]
    assert client.get(f"{path}/check", headers=reads).json()["state"] == "waiting"
    assert key["secret"] not in client.get(f"{path}/configuration?whole=yes", headers=reads).text
    assert client.put(path, json=wish | {"name": "renamed"}, headers=does).json()["name"] == "renamed"
    assert client.post(f"{path}/notify", json={"zone": "."}, headers=does).status_code == 202
    assert client.delete(f"{path}/keys/{key['name']}", headers=keys).status_code == 204
    other = site.person()
    other.sign_up("api2@example.net")
    page = other.send("/account", "/account/tokens", name="t", days="9", scopes=["read", "servers", "keys"]).text
    strange = {"Authorization": f"Bearer {re.findall('lr_[A-Za-z0-9_-]{43}', page)[0]}"}
    assert client.get(path, headers=strange).status_code == 404
    assert client.delete(path, headers=strange).status_code == 404
    for document in (None, [], {"name": "x"}, wish | {"zones": "."}, wish | {"zones": [7]}, wish | {"admin": True},
                     wish | {"addresses": ["nowhere"]}, wish | {"contributes": "yes"}):  # fmt: skip
        refused = client.post("/api/v1/servers", json=document, headers=does)
        assert (refused.status_code, sorted(refused.json())) == (422, ["error", "field"]), document
    for body in (b"{", b"\xff", b"[" * 60_000):
        assert client.post("/api/v1/servers", content=body, headers=does).status_code == 400
    assert client.get(f"/api/v1/servers/{2**70}", headers=reads).status_code == 404
    assert client.delete(path, headers=does).status_code == 204
    assert client.get(path, headers=reads).status_code == 404
    assert client.get("/api/v1/servers").status_code == 401
    assert json.loads(client.get("/api/v1/statistics").text)["."] == []
