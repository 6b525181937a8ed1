"""Pages and zone service together: what is done on a page the zone service follows, and what it sees the page says."""

import base64
import contextlib
import dataclasses
import html
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from rootsrv.localroot.subscribers import LiveKey
from rootsrv.wire.codes import NOTAUTH
from tests.localroot.service import ARPA, FIRST, ROOT, contents_of, localroot
from tests.localroot.test_service import Resolver
from tests.needs import require_tool
from tests.portal.site import Person, beside, wait_for

ADDRESS = "127.23.9.1"


def says(person: Person, server: int, text: str) -> str:
    """The check, once it says *text*."""
    path = f"/servers/{server}/check"

    def page() -> str:
        return html.unescape(person.open(path).text)

    try:
        wait_for(lambda: text in page())
    except AssertionError:
        raise AssertionError(f"{text!r} is not in {page()}") from None
    return page()


@contextlib.contextmanager
def answering(resolver: Resolver) -> Iterator[None]:
    """Every NOTIFY is answered, until the end of the block."""
    ended = threading.Event()
    resolver.socket.settimeout(0.5)

    def answer() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                resolver.notified()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)
        resolver.socket.close()


def test_from_the_page_to_the_zone_and_back(tmp_path: Path) -> None:
    require_tool("dig")
    with localroot(tmp_path) as service, beside(service) as site:
        person = site.person()
        person.sign_up("whole@example.net")
        server = person.add_server("resolver", "unbound", addresses=ADDRESS, zones=[ROOT, ARPA])
        says(person, server, f"{ADDRESS}: not proved yet")

        made = html.unescape(person.send(f"/servers/{server}", f"/servers/{server}/keys").text)
        assert f"primary: {service.address}@{service.port}" in made  # as [localroot] says
        (command,) = re.findall(r"<code>(dig [^<]+)</code>", made)
        signed = shlex.split(command)[shlex.split(command).index("-y") + 1]
        algorithm, name, secret = signed.split(":")
        key = LiveKey(name, server, algorithm, base64.b64decode(secret), None)
        service.knows(key, "127.23.8.8")

        # The command that the page shows proves the address.
        asked = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30, check=True)
        assert "status: NOERROR" in asked.stdout
        says(person, server, f'✓</span><span><span class="hidden">good: </span>{ADDRESS}: proved')

        # A transfer makes it good.
        assert not isinstance(service.axfr(ROOT, key, address=ADDRESS), int)
        says(person, server, f"has the newest version, {FIRST}")

        # Asked for, and when there is another version, a NOTIFY comes, and what became of it is said.
        with answering(Resolver(ADDRESS, service.notify_port, key)):
            sent = person.send(f"/servers/{server}", f"/servers/{server}/notify", zone=ROOT)
            assert sent.status_code == 303
            says(person, server, f"NOTIFY of {FIRST} to {ADDRESS}: NOERROR")
            service.publish(ROOT, contents_of(ROOT, FIRST + 1))
            says(person, server, f"NOTIFY of {FIRST + 1} to {ADDRESS}: NOERROR")
        assert not isinstance(service.axfr(ROOT, key, address=ADDRESS), int)
        says(person, server, f"has the newest version, {FIRST + 1}")

        # A wrong secret is told of, with what to do.
        service.soa(ROOT, dataclasses.replace(key, secret=b"wrong" * 8), address=ADDRESS)
        assert "copy it again" in says(person, server, "BADSIG")
        service.soa(ROOT, key, address=ADDRESS)
        service.axfr(ROOT, key, address=ADDRESS)
        wait_for(lambda: "BADSIG" not in person.open(f"/servers/{server}/check").text)

        # What is deleted on the page is refused by the zone service.
        person.send(f"/servers/{server}", f"/servers/{server}/keys/delete")
        wait_for(lambda: service.soa(ROOT, key, address=ADDRESS) == NOTAUTH)
        assert service.soa(ARPA) == 0
