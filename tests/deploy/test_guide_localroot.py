"""docs/install.md for a LocalRoot service, command by command: from the package to a subscriber's transfer by key.

manager (primary, somebody with a browser) ── eth0 ── box ── eth1 ── resolver
"""

import contextlib
import html
import re
import shutil
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pyroute2 import netns

from tests.deploy.machine import Machine, booted, debian
from tests.deploy.packaged import package
from tests.deploy.racks import in_chroot, primary
from tests.deploy.test_guide import block
from tests.dot.client import write_certificate
from tests.network import Host, network
from tests.portal.site import PASSWORD, Page
from tests.server.live import SERIALS, wait_until, zone_files

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1500)]

SERVICE, PAGES = ("203.0.113.20", "2001:db8:a::20"), ("203.0.113.21", "2001:db8:a::21")
MANAGER = ("203.0.113.53", "2001:db8:a::53")
RESOLVER = "11.53.53.53"
SITE = "portal.localroot.example"


@dataclass
class Lab:
    """The box; where its zones come from, and whoever sees its pages; a subscriber's resolver."""

    box: Machine
    manager: Host
    resolver: Host
    certificate: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    built = package("bookworm")
    directory = tmp_path_factory.mktemp("localroot")
    root = debian(directory)
    in_chroot(root, "apt-get update")
    # Archives are reached before the machine boots.
    (name,) = re.findall(r"\./(\S+\.deb)", block("localroot: install"))
    shutil.copy(built, root / "root" / name)
    in_chroot(root, block("localroot: install"))
    with network() as net, contextlib.ExitStack() as stack:
        box, manager, resolver = (net.host(name) for name in ("box", "mgr", "res"))
        net.link(
            box, manager, "eth0", ((f"{SERVICE[0]}/24", f"{MANAGER[0]}/24"), (f"{SERVICE[1]}/64", f"{MANAGER[1]}/64"))
        )
        # Nobody signs up with an address that is for documentation.
        net.link(box, resolver, "eth1", (("11.53.53.1/24", f"{RESOLVER}/24"),))
        resolver.ip("route", "add", "default", "via", "11.53.53.1")
        for each, length in zip(PAGES, (24, 64), strict=True):
            box.ip("address", "add", f"{each}/{length}", "dev", "eth0", *(["nodad"] if ":" in each else []))
        stack.enter_context(primary(manager, directory / "primary", (SERVICE[0],)))
        certificate, _ = write_certificate(directory, "localroot.example", hosts=("localroot.example", SITE))
        yield Lab(stack.enter_context(booted(root, box)), manager, resolver, certificate)


class _ToTheBox(httpx.BaseTransport):
    """Takes every name for the box's address, as the DNS would say it."""

    def __init__(self, authority: Path) -> None:
        self._inner = httpx.HTTPTransport(verify=ssl.create_default_context(cafile=str(authority)))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        extensions = {**request.extensions, "sni_hostname": request.url.host}
        sent = httpx.Request(
            request.method, request.url.copy_with(host=PAGES[0]), headers=request.headers, stream=request.stream,
            extensions=extensions,
        )  # fmt: skip
        return self._inner.handle_request(sent)

    def close(self) -> None:
        self._inner.close()


class Browser:
    """Somebody at the manager's host, with a browser that runs no scripts."""

    def __init__(self, lab: Lab) -> None:
        self._there = ThreadPoolExecutor(1, initializer=netns.setns, initargs=(lab.manager.name,))
        self._client = httpx.Client(base_url=f"https://{SITE}", transport=_ToTheBox(lab.certificate), timeout=30)

    def open(self, path: str) -> httpx.Response:
        return self._there.submit(self._client.get, path).result(60)

    def send(self, path: str, action: str = "", **fields: object) -> httpx.Response:
        """Fill in the form of the page at *path* that goes to *action* (the page itself)."""
        page = self.open(path)
        forms = [values for where, values in Page(page.text).forms if (where or path) == (action or path)]
        assert forms, f"{path} ({page.status_code}) has no form for {action or path}\n{page.text}"
        return self._there.submit(self._client.post, action or path, data={**forms[0], **fields}).result(60)

    def close(self) -> None:
        self._client.close()
        self._there.shutdown()


def test_the_guide_leads_from_the_package_to_a_subscribers_transfer_by_key(lab: Lab) -> None:
    box = lab.box
    box.path("/etc/rootsrv/root-anchors.xml").write_bytes(zone_files().anchor)
    for name, each in (("localroot.pem", lab.certificate), ("localroot.key", lab.certificate.with_suffix(".key"))):
        box.path(f"/{name}").write_bytes(each.read_bytes())
    box.run(block("localroot: certificate"))
    told = box.run(block("localroot: setup"))
    assert "still missing" not in told
    assert f"ok    address {SERVICE[0]}" in told
    box.run(block("localroot: pages"))
    fit = box.run(block("localroot: doctor"), check=False)
    # The clock of the machine that runs the test is not ours to set.
    assert [line for line in fit.splitlines() if line.startswith("FAIL") and "clock" not in line] == [], fit
    box.run(block("localroot: start"))
    ready = lambda: str(SERIALS[0]) in box.run(block("localroot: start"))  # noqa: E731
    wait_until(ready, f"the root is given out\n{box.journal()}", 90)

    (link,) = re.findall(rf"https://{SITE}(/link/\S+)", box.run(block("localroot: account")))
    with contextlib.closing(Browser(lab)) as browser:
        begun = browser.send(link, password=PASSWORD, again=PASSWORD)
        assert begun.status_code == 303, begun.text
        fields = {"name": "rz", "software": "bind", "addresses": RESOLVER, "zones": ["."]}
        added = browser.send("/servers/new", **fields)
        assert added.status_code == 303, added.text
        server = added.headers["location"]
        page = browser.send(server, f"{server}/keys", algorithm="hmac-sha256").text
    (key,) = re.findall(r'<code id="secret">([^<]+)</code>', html.unescape(page))
    (name,) = set(re.findall(r"\b[a-z2-7]{16}\.[a-z0-9-]+\.localroot\.example\b", page))

    typed = block("localroot: transfer").replace("NAME", name).replace("SECRET", key)
    transfer = lambda: lab.resolver.run("sh", "-ec", typed)  # noqa: E731
    # The service looks for new keys each second, sooner than somebody types.
    wait_until(lambda: "XFR size" in transfer(), f"the key is known\n{box.journal()}", 30)
    zone = transfer()
    assert str(SERIALS[0]) in zone
    assert "ZONEMD" in zone
    proved = lambda: "(proved)" in box.run("rootsrv localroot servers")  # noqa: E731
    wait_until(proved, f"its address is proved\n{box.run('rootsrv localroot servers')}\n{box.journal()}", 30)
    # Who says a wrong secret is told so, and gets nothing.
    assert "ZONEMD" not in lab.resolver.run("sh", "-c", typed.replace(key, "AAAA" + key[4:]), check=False)
    files = box.run("stat -c '%U %n' /var/lib/rootsrv-localroot/register/*")
    assert {line.split()[0] for line in files.splitlines()} == {"rootsrv"}
