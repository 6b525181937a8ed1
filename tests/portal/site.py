"""The role portal as it runs, a mail server beside it, and people who use the pages without JavaScript."""

import contextlib
import email
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, TypeVar

import httpx
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from bench.peers.daemon import free_port
from rootsrv.config.portal import PortalConfig
from rootsrv.localroot import observations, register
from rootsrv.localroot.observations import Observations, Observed
from rootsrv.localroot.register import Register
from rootsrv.portal.visits import Portal
from tests.localroot.service import Service
from tests.needs import REPOSITORY

T = TypeVar("T")
PASSWORD = "heron quarry lantern seven"
SECONDS = 30.0


class MailServer:
    """aiosmtpd's SMTP server, in a thread; it can be down, and say no."""

    def __init__(self) -> None:
        self.port = free_port("127.0.0.1")
        self.mails: list[Message] = []
        self.refusal = ""
        """What it says instead of taking a mail."""

        self._asked: dict[str, list[str]] = {}
        self._controller: Controller | None = None

    def start(self) -> None:
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    def stop(self) -> None:
        if self._controller is not None:
            self._controller.stop()
        self._controller = None

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refusal:
            return self.refusal
        self.mails.append(email.message_from_bytes(envelope.original_content or b""))
        return "250 taken"

    def to(self, address: str) -> list[str]:
        """The texts of the mails to *address*, as they came."""
        return [text_of(each) for each in self.mails if each["To"] == address]

    def link_to(self, address: str) -> str:
        """The path of the next link that was mailed to *address*, which may be on its way."""
        asked = self._asked.setdefault(address, [])

        def new() -> list[str]:
            links = [link for text in self.to(address) for link in re.findall(r"https?://[^/\s]+(/link/\S+)", text)]
            return links[len(asked) :]

        asked.append(wait_for(new)[0])
        return asked[-1]


def text_of(message: Message) -> str:
    """Its text."""
    payload = message.get_payload(decode=True)
    assert isinstance(payload, bytes)
    return payload.decode()


def wait_for(found: Callable[[], T]) -> T:
    """What *found* returns once it is something."""
    ends = time.monotonic() + SECONDS
    while not (value := found()):
        assert time.monotonic() < ends, "that did not come"
        time.sleep(0.1)  # a page may be asked for ten times a second (portal/rates.py)
    return value


class Page(HTMLParser):
    """The forms of a page, with what their fields say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self.headings: list[str] = []
        self._in_heading = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        if tag == "form" and "data-passkey" in found:  # which only a script sends
            self.forms.append(("by script", {}))
        elif tag == "form":
            self.forms.append((found.get("action", ""), {}))
        elif tag == "input" and self.forms and "name" in found and found.get("type") != "checkbox":
            self.forms[-1][1][found["name"]] = found.get("value", "")
        self._in_heading = tag == "h1"

    def handle_data(self, data: str) -> None:
        if self._in_heading:
            self.headings.append(data)


@dataclass
class Person:
    """Somebody with a browser that runs no scripts."""

    site: "Site"
    client: httpx.Client
    last: httpx.Response | None = None

    def open(self, path: str) -> httpx.Response:
        """A page."""
        self.last = self.client.get(path)
        return self.last

    def send(self, path: str, action: str = "", **fields: Any) -> httpx.Response:
        """Open the page at *path*, fill in the form that goes to *action* (the page itself), and send it."""
        page = self.open(path)
        wanted = action or path
        forms = [values for where, values in Page(page.text).forms if (where or path) == wanted]
        assert forms, f"{path} ({page.status_code}) has no form that goes to {wanted}"
        given = forms[0] | {key: value for key, value in fields.items() if value is not None}
        self.last = self.client.post(wanted, data=given)
        return self.last

    def sign_up(self, address: str, password: str = PASSWORD) -> None:
        """Until signed in."""
        assert "Look at your mail" in self.send("/sign-up", email=address).text
        done = self.send(self.site.mail.link_to(address), password=password, again=password)
        assert done.status_code == 303, done.text

    def add_server(self, name: str = "rz", software: str = "bind", **more: Any) -> int:
        """Its number."""
        fields = {"name": name, "software": software, "addresses": "192.0.2.1", "zones": ["."]} | more
        done = self.send("/servers/new", **fields)
        assert done.status_code == 303, done.text
        return int(done.headers["location"].rpartition("/")[2])


@dataclass
class Site:
    """A portal that runs."""

    directory: Path
    port: int
    mail: MailServer
    process: "subprocess.Popen[bytes]"
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def person(self) -> Person:
        """Somebody whom nobody knows yet."""
        # From a network of their own, so that nobody's tries are counted as another's.
        at = len(self.clients)
        source = {"X-Forwarded-For": f"198.18.{at}.7"}
        client = httpx.Client(base_url=self.url, timeout=SECONDS, follow_redirects=False, headers=source)
        self.clients.append(client)
        return Person(self, client)

    def observations(self) -> Observations:
        """As the zone service writes them."""
        return Observations(self.state / observations.FILE)

    def log(self) -> str:
        return (self.directory / "log").read_text()


def configuration(directory: Path, port: int, smtp_port: int, **more: Any) -> str:
    """TOML."""
    portal = {
        "url": f"http://localhost:{port}",
        "addresses": ["127.0.0.1"],
        "port": port,
        "contact": "hostmaster@localroot.example",
        "key_domain": "localroot.example",
        "zones": [".", "root-servers.net.", "arpa.", "canary.example."],
        "canary_zone": "canary.example.",
        "publishers": ["192.0.2.53", "192.0.2.53@853#localroot.example"],
        "zone_url": "https://localroot.example/root.zone",
        "private_addresses": True,
        "mail_from": "localroot@localroot.example",
        "smtp_port": smtp_port,
        "trusted_proxies": ["127.0.0.1"],
    } | more
    lines = [f"{key} = {_toml(value)}" for key, value in portal.items()]
    state = f'[state]\ndirectory = "{directory}/state"\nruntime_directory = "{directory}/run"\n'
    return state + "[portal]\n" + "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


@contextlib.contextmanager
def running(directory: Path, **more: Any) -> Iterator[Site]:
    """A portal with a mail server, both ended at the end of the block."""
    directory.mkdir(parents=True, exist_ok=True)
    port, mail = free_port(), MailServer()
    path = directory / "rootsrv.toml"
    path.write_text(configuration(directory, port, mail.port, **more))
    with _running(directory, path, port, mail) as site:
        yield site


@contextlib.contextmanager
def beside(service: Service) -> Iterator[Site]:
    """The portal of a zone service that runs."""
    port, mail = free_port(), MailServer()
    path = service.directory / "rootsrv.toml"
    section = f"""
[portal]
url = "http://localhost:{port}"
addresses = ["127.0.0.1"]
port = {port}
private_addresses = true
trusted_proxies = ["127.0.0.1"]
mail_from = "localroot@localroot.example"
smtp_port = {mail.port}
"""
    path.write_text(path.read_text() + section)
    (service.directory / "portal").mkdir()
    with _running(service.directory / "portal", path, port, mail) as site:
        yield site


@contextlib.contextmanager
def _running(directory: Path, path: Path, port: int, mail: MailServer) -> Iterator[Site]:
    mail.start()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rootsrv", "run", "--config", path, "--role", "portal"],
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    site = Site(directory, port, mail, process)
    try:
        wait_for(lambda: process.poll() is not None or "pages url" in site.log())
        assert process.poll() is None, site.log()
        yield site
    finally:
        for each in site.clients:
            each.close()
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait(10)
            mail.stop()


def portal_in(directory: Path, **more: Any) -> Portal:
    """All that views work with, without a server around it."""
    config = PortalConfig(
        url="https://localroot.example", mail_from="localroot@localroot.example", private_addresses=True,
        publishers=("192.0.2.53",), zones=(".",), **more,
    )  # fmt: skip
    return Portal(config, Register(directory / register.DIRECTORY), Observed(directory / observations.FILE))
