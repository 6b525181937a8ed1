"""Counts from `rootsrv hyperlocal --contribute` and from programs to the pages: what is sent, said and shown."""

import datetime
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.peers.daemon import free_port
from bench.peers.daemon import running as running_process
from bench.peers.primaries import hidden_primary
from rootsrv.hyperlocal import contributing
from rootsrv.hyperlocal.contributing import DayCounter
from rootsrv.localroot.contributions import FEWEST_OPERATORS, OPEN_DAYS, Contributions
from rootsrv.localroot.register import DIRECTORY, Register
from rootsrv.resolvers.day_counts import TRAFFIC_KEYS, DayCounts
from rootsrv.telemetry.portal_metrics import portal as portal_metrics
from rootsrv.telemetry.view import Said, View
from tests.control.asking import ask
from tests.needs import REPOSITORY, require_tool
from tests.portal.site import Person, Site, running, wait_for
from tests.secondary import versions


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("portal")) as made:
        yield made


def ago(days: int) -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days)


def document(days: int = 2, queries: int = 1000) -> dict[str, Any]:
    return DayCounts(ago(days), {TRAFFIC_KEYS[0]: queries}, {0: queries // 4, 3: queries // 2}).to_document()


def token_of(person: Person, *scopes: str) -> str:
    made = person.send("/account", "/account/tokens", name=" ".join(scopes), days="9", scopes=list(scopes)).text
    found = re.search(r"lr_[\w-]+", made)
    assert found
    return found[0]


def call(person: Person, path: str, token: str, sent: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"}
    method = "GET" if sent is None else "POST"
    return person.client.request(method, f"/api/v1{path}", headers=headers, json=sent)


def test_a_token_for_counts_sends_counts_and_does_nothing_else(site: Site) -> None:
    person = site.person()
    person.sign_up("counts@example.net")
    server, mute = person.add_server("one", "unbound", contributes="yes"), person.add_server("mute", "unbound")
    token, reading = token_of(person, "counts"), token_of(person, "read")
    path = f"/servers/{server}/counts"
    assert call(person, path, token, document()).status_code == 200
    assert call(person, path, token, document(queries=2000)).json() == {"day": str(ago(2)), "queries": 2000}
    assert [
        call(person, path, reading, document()).status_code,
        call(person, path, token).status_code,
        call(person, "/servers", token).status_code,
        call(person, f"/servers/{mute}/counts", token, document()).status_code,
        call(person, "/servers/999/counts", token, document()).status_code,
        call(person, path, "lr_wrong", document()).status_code,
    ] == [403, 403, 403, 422, 404, 401]
    for wrong, field in (
        (document(0), "day"), (document(-1), "day"), (document(OPEN_DAYS + 1), "day"),
        ({**document(), "names": ["example.com"]}, "names"), ([], ""), ("x" * 60_000, ""),
    ):  # fmt: skip
        refused = call(person, path, token, wrong)
        assert (refused.status_code, refused.json()["field"]) == (422, field)
    assert call(person, path, token, {**document(), "x": "y" * 70_000}).status_code == 413
    other = site.person()
    other.sign_up("other-counts@example.net")
    assert call(other, path, token_of(other, "counts"), document()).status_code == 404  # not its server

    (kept,) = call(person, path, reading).json()["counts"]
    assert {key: value for key, value in kept.items() if key != "received"} == document(queries=2000)
    page = person.open(f"/servers/{server}").text
    assert f'<th scope="row">{ago(2)}</th><td>2,000</td>' in page
    exported = {each["id"]: each for each in person.open("/account/export").json()["servers"]}
    assert (exported[server]["counts"], exported[mute]["counts"]) == ([kept], [])

    # Nobody but the owner sees it.
    public = site.person()
    assert "2,000" not in public.open("/statistics").text
    assert public.open("/api/v1/contributed").json() == {"days": []}

    person.send(f"/servers/{server}/edit", name="one", software="unbound", zones=["."])
    assert call(person, path, reading).json()["counts"] == []


def test_the_sum_of_enough_operators_is_public(site: Site) -> None:
    for number in range(FEWEST_OPERATORS):
        person = site.person()
        person.sign_up(f"sum{number}@example.net")
        server = person.add_server(f"s{number}", "unbound", contributes="yes")
        sent = call(person, f"/servers/{server}/counts", token_of(person, "counts"), document(4, 1000 * (number + 1)))
        assert sent.status_code == 200
    register = Register(site.state / DIRECTORY)
    try:
        assert Contributions(register).settle(time.time() + OPEN_DAYS * 86_400.0)
    finally:
        register.close()
    public = site.person()
    (day,) = public.open("/api/v1/contributed").json()["days"]
    total = sum(1000 * (number + 1) for number in range(FEWEST_OPERATORS))
    expected = document(4, total)
    assert day == {"operators": FEWEST_OPERATORS, "servers": FEWEST_OPERATORS, **expected}
    assert f'<th scope="row">{ago(4)}</th><td>{FEWEST_OPERATORS}</td>' in public.open("/statistics").text


def test_every_metric_of_the_table_comes_from_running_pages(site: Site) -> None:
    """docs/operations.md, rows of rootsrv_portal_…"""
    lines = (REPOSITORY / "docs" / "operations.md").read_text().splitlines()
    documented = {line.split("`")[1] for line in lines if line.startswith("| `rootsrv_portal_")}
    person = site.person()
    person.sign_up("metrics@example.net")
    server = person.add_server("m", "unbound", contributes="yes")
    assert call(person, f"/servers/{server}/counts", token_of(person, "counts"), document()).status_code == 200

    view = View(now=time.time(), roles={"portal": Said(ask(site.directory / "run" / "portal.sock", "status"))})

    found = {
        f"{family.name}_total" if family.type == "counter" else family.name: [each.value for each in family.samples]
        for family in portal_metrics(view)
    }
    assert found.keys() == documented
    assert {name for name, values in found.items() if not any(values)} <= {"rootsrv_portal_waiting_mails"}


def test_hyperlocal_counts_says_what_it_sends_and_sends_it(site: Site, tmp_path: Path) -> None:
    require_tool("dig")
    person = site.person()
    person.sign_up("hyperlocal@example.net")
    server = person.add_server("home", "unbound", contributes="yes")
    reading = token_of(person, "read")
    path = f"/servers/{server}/counts"
    state, port, served = tmp_path / "state", free_port(), free_port()
    state.mkdir()
    waiting = DayCounter(state / contributing.FILE, lambda: time.time() - 3 * 86_400)
    for number in range(9):
        response = bytes((0, 0, 0x84, 3 if number % 3 else 0))
        waiting.count("127.0.0.1" if number else "::1", over_tcp=number == 5, response=response)
    waiting.save()
    (tmp_path / "token").write_text("lr_not-yet\n")
    (tmp_path / "anchors").write_text(versions.anchor())
    options = [
        f"--state={state}", f"--runtime={tmp_path}/run", f"--port={port}", "--https-port=0",
        f"--publishers={tmp_path}/publishers.toml", f"--trust-anchors={tmp_path}/anchors", "--address=127.0.0.1",
        "--notify=127.0.0.1@1", f"--serve=127.23.40.53@{served}", f"--contribute={site.url}/api/v1{path}",
        f"--token-file={tmp_path}/token",
    ]  # fmt: skip
    command = [sys.executable, "-m", "rootsrv", "hyperlocal", *options]

    def log() -> str:
        return (tmp_path / "log").read_text()

    zone = {".": versions.text(versions.version(versions.FIRST))}
    with hidden_primary("Knot", zone, tmp_path / "primary", tsig=False) as primary:
        listed = f'[[publisher]]\nname = "p"\naddresses = ["127.0.0.1"]\nport = {primary.port}\n'
        (tmp_path / "publishers.toml").write_text(listed)
        with running_process("rootsrv", command, tmp_path / "log", lambda: "copy answers" in log()):
            # A token that is not known is told of, and may be mended.
            wait_for(lambda: "counts are not taken" in log())
            assert "status 401: a token is needed" in log()
        assert call(person, path, reading).json()["counts"] == []
        (tmp_path / "token").write_text(token_of(person, "counts") + "\n")
        with running_process("rootsrv", command, tmp_path / "log", lambda: "copy answers" in log()):
            wait_for(lambda: call(person, path, reading).json()["counts"])
            for _ in range(3):
                asked(served)
    (kept,) = call(person, path, reading).json()["counts"]
    expected = {
        "format": "localroot-counts-1",
        "day": str(ago(3)),
        "traffic-volume": {
            "dns-udp-queries-received-ipv4": 7,
            "dns-udp-queries-received-ipv6": 1,
            "dns-tcp-queries-received-ipv4": 1,
        },
        "rcode-volume": {"0": 3, "3": 6},
    }
    assert {key: value for key, value in kept.items() if key != "received"} == expected
    # It was said before it went, octet for octet, and what is counted today is shown.
    said, taken = log().index("counts are sent"), log().index("counts are taken")
    assert log().index("contributes counts") < said < taken
    assert json.dumps(expected) in log().replace('\\"', '"')
    shown = printed([*command, "--contribution"])
    assert "waits" not in shown
    today = json.loads(shown[shown.index("{") :])
    assert today["traffic-volume"] == {"dns-udp-queries-received-ipv4": 3}
    assert today["rcode-volume"] == {"0": 3}
    assert "Traceback" not in log()


def asked(port: int) -> None:
    assert "status: NOERROR" in printed(["dig", "@127.23.40.53", "-p", str(port), "+tries=1", ".", "SOA"])


def printed(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_clock_that_is_behind_at_boot_loses_no_day_and_one_that_is_ahead_fills_nothing(tmp_path: Path) -> None:
    right = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.UTC).timestamp()
    now = right
    ok = bytes((0, 0, 0x84, 0))

    def counted() -> dict[str, int]:
        return {f"{each.day}": each.queries for each in (*counter.waiting, counter.today) if each.queries}

    def begin() -> DayCounter:
        return DayCounter(tmp_path / "counts", lambda: now)

    counter = begin()
    counter.count("127.0.0.1", over_tcp=False, response=ok)
    now += 86_400
    counter.tick()
    counter.count("127.0.0.1", over_tcp=False, response=ok)
    counter.save()
    before = counted()
    assert before == {"2026-11-27": 1, "2026-11-28": 1}

    now = 0.0  # no battery
    counter = begin()
    for _ in range(3):
        now += contributing.SAVE_SECONDS
        counter.tick()
    assert counter.over_for(0) == []
    counter = begin()
    now = right + 86_400
    counter.tick()
    assert counted() == before
    counter.count("127.0.0.1", over_tcp=True, response=ok)
    assert counter.today.queries == 2  # of the same day, before and after

    for ahead in range(1, 40):  # and a time server that is wild
        now = right + ahead * 400 * 86_400
        counter.tick()
        counter.count("127.0.0.1", over_tcp=False, response=ok)
    now = right + 86_400
    counter.tick()
    assert len(counter.waiting) <= contributing.MAX_WAITING


def test_what_is_refused_for_good_is_forgotten_and_days_are_kept_over_a_restart(tmp_path: Path) -> None:
    now = time.time()
    counter = DayCounter(tmp_path / "counts", lambda: now)
    ok = bytes((0, 0, 0x84, 0))
    counter.count("127.0.0.1", over_tcp=False, response=ok)
    counter.save()
    later = DayCounter(tmp_path / "counts", lambda: now)
    later.count("127.0.0.1", over_tcp=False, response=ok)
    assert later.today.queries == 2
    now += 86_400
    later.tick()
    assert [each.queries for each in later.waiting] == [2]
    assert later.over_for(2 * 86_400) == []
    assert later.over_for(0) == later.waiting
    now += contributing.FORGOTTEN_DAYS * 86_400  # nobody would take it any more
    later.tick()
    assert later.waiting == []
    (tmp_path / "counts").write_text('{"format": 1, "today": [], "waiting": {}}')
    assert DayCounter(tmp_path / "counts", lambda: now).today.queries == 0
