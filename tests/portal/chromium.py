"""Chromium as a person uses it, over the DevTools protocol: keys, a passkey's device, the screen; and axe-core."""

import base64
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_core_python
from websockets.sync.client import ClientConnection, connect

from tests.needs import require_tool
from tests.telemetry.browser import FLAGS

AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text()
SECONDS = 40.0
PHONE, DESKTOP = (390, 844), (1280, 900)


class Chromium:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.faults: list[str] = []
        """What the page logged as an error, or the browser refused it (Content-Security-Policy)."""

        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(SECONDS))
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]  # type: ignore[no-any-return]
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(parameters["exceptionDetails"])[:500])
        entry = parameters.get("entry", {})
        # That a page answers 4xx is what the test looks at itself.
        if message.get("method") == "Log.entryAdded" and entry["level"] == "error" and entry["source"] != "network":
            self.faults.append(entry["text"])

    def run(self, script: str) -> Any:
        """The value of *script*, once it is there."""
        found = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until *script* is true."""
        ends = time.monotonic() + SECONDS
        done = False
        while not done:
            assert time.monotonic() < ends, f"that did not come: {script}\n{self.text()}"
            with contextlib.suppress(AssertionError):  # while a page goes and the next one comes
                done = self.run(f"!!({script})")
            time.sleep(0.02)

    def open(self, url: str, lands: str = "") -> None:
        """And wait until all of it is there, or of *lands*, where it leads."""
        assert url.startswith(("http://localhost:", "http://127."))
        self.command("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(lands or url)} && document.readyState === 'complete'")

    def text(self) -> str:
        """What stands on the page."""
        return str(self.run("document.body.innerText"))

    def wait_for_page(self, heading: str) -> None:
        """Until the page with this heading is there."""
        self.wait(
            f"document.readyState === 'complete' && document.querySelector('h1')?.innerText === {json.dumps(heading)}"
        )

    def put(self, selector: str, text: str) -> None:
        """Type *text* into a field, in place of what it says."""
        self.wait(f"(e => e && (e.focus(), e.select?.(), true))(document.querySelector({json.dumps(selector)}))")
        self.command("Input.insertText", text=text)

    def press(self, name: str) -> None:
        """The button or link with this text, found and pressed by keyboard."""
        among = "...document.querySelectorAll('main button'), ...document.querySelectorAll('button, a')"
        found = f"[{among}].find(e => e.innerText.trim() === {json.dumps(name)} && !e.closest('[hidden]'))"
        self.wait(f"(e => e && (e.focus(), document.activeElement === e))({found})")
        for kind in ("rawKeyDown", "keyUp"):
            more = {"text": "\r"} if kind == "rawKeyDown" else {}
            self.command("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, **more)
            if kind == "rawKeyDown":
                self.command("Input.dispatchKeyEvent", type="char", key="Enter", text="\r")

    def device(self) -> None:
        """A device that makes and shows passkeys, and knows its user."""
        self.command("WebAuthn.enable")
        self.command(
            "WebAuthn.addVirtualAuthenticator",
            options={
                "protocol": "ctap2", "transport": "internal", "hasResidentKey": True,
                "hasUserVerification": True, "isUserVerified": True, "automaticPresenceSimulation": True,
            },
        )  # fmt: skip

    def size(self, size: tuple[int, int]) -> None:
        """Of the screen."""
        width, height = size
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=size == PHONE,
        )  # fmt: skip

    def dark(self, dark: bool) -> None:
        """Whether its user likes it dark."""
        value = "dark" if dark else "light"
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def picture(self, path: Path) -> None:
        """All of the page, as it looks."""
        found = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def findings(self, *rules: str) -> list[str]:
        """What axe-core finds of serious or critical impact, by WCAG 2.1 AA and best practices, or *rules* alone."""
        self.run(f"if (!window.axe) {{ {AXE} }} 0")
        chosen = f", runOnly: {json.dumps(rules)}" if rules else ""
        found = self.run(f"axe.run(document, {{resultTypes: ['violations']{chosen}}})")
        return [
            f"{each['id']} ({each['impact']}): {each['help']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
        ]

    def look(self, url: str) -> None:
        """The page at *url* fits on both screens, and axe finds nothing; nor in the colours of the dark."""
        self.open(url)
        for size in (DESKTOP, PHONE):
            self.size(size)
            assert not self.is_too_wide(), (url, size)
        assert self.findings() == [], url
        self.dark(True)
        assert self.findings("color-contrast") == [], url
        self.dark(False)

    def is_too_wide(self) -> bool:
        """Whether one would have to move the page sideways."""
        return bool(self.run("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


@contextlib.contextmanager
def chromium(directory: Path) -> Iterator[Chromium]:
    """A browser with a fresh profile in *directory*."""
    profile = directory / "profile"
    # What it puts there it leaves when it is ended; and the path of a socket must be short.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as short, _process(profile, short) as process:
        told = profile / "DevToolsActivePort"
        ends = time.monotonic() + SECONDS
        while not told.exists() or not told.read_text().strip():
            assert process.poll() is None, "chromium has ended"
            assert time.monotonic() < ends, "chromium has not started"
            time.sleep(0.02)
        port = int(told.read_text().splitlines()[0])
        with connect(_tab(port), max_size=None, compression=None) as connection:
            yield Chromium(connection)


@contextlib.contextmanager
def _process(profile: Path, temporary: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [require_tool("chromium"), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env=os.environ | {"TMPDIR": temporary},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait(10)


def _tab(port: int) -> str:
    import httpx

    tabs = httpx.get(f"http://127.0.0.1:{port}/json", timeout=SECONDS).json()
    return next(str(each["webSocketDebuggerUrl"]) for each in tabs if each["type"] == "page")
