"""The status page of a running instance that has DNS over TLS, limits, shed rules and a capture, in a browser too."""

import contextlib
import os
import re
import signal
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from tests.control.asking import ask
from tests.dot.client import client_context
from tests.portal.chromium import chromium
from tests.server.live import wait_until
from tests.telemetry.watched import REPORT_ADDRESS, Watched, query, watched

DOT_PORT = free_port()
SECONDS = 20.0

EVERYTHING = f"""
contact = "NOC, +1 555 0100"

[dot]
port = {DOT_PORT}

[limits]
mode = "dry-run"
sample_every = 1

[capture]
begin = "at-once"
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched(tmp_path_factory.mktemp("sections"), more=EVERYTHING) as each:
        capture = each.instance.directory / "run" / "capture.sock"
        wait_until(capture.exists, "the role capture listens", SECONDS)
        wait_until(lambda: ask(capture, "status")["why"] == "", "it has the rings", SECONDS)
        each.load(1200)  # of fewer nothing stands out
        yield each


def part(page: str, title: str) -> str:
    """The text of the section whose heading begins with *title*; empty = there is none."""
    for section in re.findall(r"<section.*?</section>", page, re.DOTALL):
        if f"<h2>{title}" in section:
            return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section))
    return ""


def wait_for(running: Watched, title: str, *texts: str) -> str:
    """The section, once all *texts* stand in it."""

    def found() -> bool:
        return all(text in part(running.get("/"), title) for text in texts)

    with contextlib.suppress(AssertionError):
        wait_until(found, title, SECONDS)
    shown = part(running.get("/"), title)
    assert [text for text in texts if text not in shown] == [], shown
    return shown


def over_tls(amount: int) -> None:
    """So many queries on one connection, each of them answered; then one that speaks no TLS."""
    with client_context("dot").wrap_socket(socket.create_connection(("127.0.0.1", DOT_PORT), timeout=10)) as client:
        stream = client.makefile("rb")
        for number in range(amount):
            message = query(number)
            client.sendall(struct.pack("!H", len(message)) + message)
            (size,) = struct.unpack("!H", stream.read(2))
            assert len(stream.read(size)) == size
    with socket.create_connection(("127.0.0.1", DOT_PORT), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert len(client.recv(100)) < 100


def test_dns_over_tls_is_shown_with_its_connections_and_handshakes(running: Watched) -> None:
    over_tls(7)
    wait_for(running, f"DNS over TLS, port {DOT_PORT}", "✓ answered", "queries 7", "handshakes 1,", "2 since",
             "failed 1", "self-signed")  # fmt: skip


def test_a_capture_is_shown_with_its_rate_its_losses_its_disk_and_what_it_waits_for(running: Watched) -> None:
    capture = running.instance.directory / "run" / "capture.sock"
    wait_until(  # the role may still be writing what was asked a moment ago
        lambda: f"captured {ask(capture, 'status')['items']:,} queries" in part(running.get("/"), "Capture"),
        "as many as the role says", SECONDS,
    )  # fmt: skip
    wait_for(running, "Capture", "✓ capturing as cdns", "lost ✓ none", "GB free",
             str(running.instance.directory / "state" / "capture"))  # fmt: skip
    ask(capture, "capture-stop")
    wait_for(running, "Capture", "idle", "rootsrv capture start")
    ask(capture, "capture-start", until=4_000_000_000.0)
    wait_for(running, "Capture", "capturing", "until 2096-10-02T07:06:40Z")
    ask(capture, "capture-stop")
    ask(capture, "capture-start", at=4_000_000_000.0)
    wait_for(running, "Capture", "waits for 2096-10-02T07:06:40Z")
    ask(capture, "capture-stop")


def test_limits_what_stands_out_and_shed_rules_are_shown(running: Watched) -> None:
    serve = running.instance.directory / "run" / "serve.sock"
    wait_for(running, "Limits and floods", "limits dry-run", "would have been", "qname-suffix", "no-such.tld.")
    told = ask(serve, "top")["flood"]["suggestions"]
    assert any("prefix=127.0.0." in each for each in told), told
    shown = wait_for(running, "Limits and floods", next(each for each in told if "prefix=" not in each))
    assert "127.0.0." not in shown  # limits.publish_prefixes
    match = ["qtype=TXT", "prefix=127.0.0.77"]
    made = ask(serve, "shed", match=match, do="drop", seconds=600, reason="too much <text>", dry_run=False)
    shown = wait_for(running, "Limits and floods", "qtype=TXT prefix=…", "drop, 0 hits", "too much &lt;text&gt;")
    assert "127.0.0." not in shown
    assert "A shed rule is in force" in running.get("/")
    ask(serve, "unshed", rule=made["made"])
    wait_until(lambda: "A shed rule is in force" not in running.get("/"), "it is over", SECONDS)


def test_a_role_that_is_gone_is_named_with_the_way_to_what_can_be_done(running: Watched) -> None:
    pid = ask(running.instance.directory / "run" / "capture.sock", "status")["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: "The role capture does not answer." in running.get("/"), "it is missed", SECONDS)
        page = running.get("/")
        assert 'The role capture does not answer. <a href="/docs/runbook#on-rootsrvcapturedown"' in page
        assert "✗ the role capture does not answer" in part(page, "Capture")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert 'id="on-rootsrvcapturedown"' in running.get("/docs/runbook")


def test_what_is_not_configured_is_not_shown(tmp_path: Path) -> None:
    with watched(tmp_path, more="[limits]\nsample_every = 0") as plain:
        wait_until(lambda: "serve" in part(plain.get("/"), "Processes"), "serve is heard", SECONDS)
        page = plain.get("/")
    headings = re.findall(r"<h2>([^<]*)</h2>", page)
    assert headings == [
        "Is it announced?", "Is it fresh? Zone .", "Queries per second", "Responses per second by rcode",
        "Is it fresh? Zone root-servers.net.", headings[5], "Processes", "Last events",
    ]  # fmt: skip
    assert headings[5].startswith("RSSAC002, ")
    assert "tls" not in page
    assert "/mesh" not in page


def test_neither_axe_nor_the_browser_complains_on_a_desk_and_on_a_phone_by_day_and_by_night(
    running: Watched, tmp_path: Path
) -> None:
    base = f"http://{REPORT_ADDRESS}:{running.port}"
    wait_for(running, "Queries per second", "last 5 minutes", "4 h ago", " tls ")  # the first ten seconds are over
    with chromium(tmp_path) as browser:
        for path in ("/", "/docs/runbook", "/docs/operations"):
            browser.look(base + path)
        assert browser.faults == []
        browser.open(base + "/")
        browser.run("document.querySelector('footer a[href=\"/docs/runbook\"]').click()")
        browser.wait("document.querySelector('h1')?.innerText.startsWith('Runbook')")
