"""The fleet page: what it says of members that are well and ill, in a browser, and what Prometheus makes of it."""

import asyncio
import json
import re
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.peers.daemon import free_port
from rootsrv.http.server import HttpServer, Request, Response
from rootsrv.telemetry.fleet_page import PAGE_HEADERS, members, problems, render, targets
from rootsrv.telemetry.outlines import COUNTRIES, PER_DEGREE
from rootsrv.telemetry.view import Said, View
from tests.telemetry.browser import Checker, browse
from tests.test_runbook import listed

NOW = 1_795_262_400.0  # 2026-11-21T12:00:00Z
SERIAL = 2026112101

SITES = [
    ("zrh1", "Zürich", "CH", 47.4, 8.5),
    ("nbo1", "Nairobi", "KE", -1.3, 36.8),
    ("lax1", "Los Angeles", "US", 33.9, -118.4),
    ("akl1", "Auckland", "NZ", -36.8, 174.8),
    ("gru1", "São Paulo", "BR", -23.4, -46.5),
    ("nrt1", "Tokyo", "JP", 35.8, 140.4),
]


def member(name: str, site: str, *, cluster: str = "", present: bool = True, **changes: Any) -> dict[str, Any]:
    status = {
        "version": "0.2.0", "configuration": name, "clock": "synchronised", "clock_error_seconds": 0.001,
        "serials": {".": SERIAL, "root-servers.net.": 2026112000}, "routes": {"4": "up", "6": "up"}, "alarms": [],
        "anchors": "8b6f3a0112c4d5e6", "sep_covered": True, "wants": "",
    } | changes  # fmt: skip
    return {
        "name": name, "site": site, "group": "all", "cluster": cluster, "canary": name in {"zrh1-a", "lax1"},
        "distribution_host": name in {"zrh1-b", "nrt1"}, "metrics": f"{name}.example:9353", "present": present,
        "age_seconds": 12.0 if present else None, "status": status if present else {},
        "ready": {"zone": ".", "serial": SERIAL, "digest": "ab"},
        "done": {"zone": ".", "serial": SERIAL, "ok": True, "reason": ""}, "flipped_at": NOW - 3600 + 0.012,
    }  # fmt: skip


def withdrawn(name: str, site: str, **changes: Any) -> dict[str, Any]:
    return member(name, site, **changes, routes={"4": "withdrawn", "6": "withdrawn"})


def fleet() -> list[dict[str, Any]]:
    """Seven members at six sites; two of them are boxes of one cluster."""
    first = [member("zrh1-a", "zrh1", cluster="zrh1"), member("zrh1-b", "zrh1", cluster="zrh1")]
    return first + [member(name, name) for name, *_ in SITES[1:]]


def document(listed: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """What the role mesh says."""
    listed = fleet() if listed is None else listed
    return {
        "service": "x-root", "member": "zrh1-b", "now": "2026-11-21T12:00:00Z", "roster_version": 7,
        "engine": {"there": True, "reason": "", "since_seconds": 90_000.0}, "leads": True, "leader_elected": True,
        "members": listed, "groups": [{"name": "all", "k": 1, "n": len(listed)}],
        "sites": [dict(zip(("name", "city", "country", "latitude", "longitude"), site, strict=True)) for site in SITES],
        "tokens": [{"slot": "floor/all/0", "member": "akl1", "reason": "new disks"}],
        "distribution": [{"zone": ".", "state": "settled", "reason": "", "serial": SERIAL}],
        "orders": [
            {"zone": ".", "serial": SERIAL, "stage": stage, "at": NOW - 3600, "by": "zrh1-b", "reason": ""}
            for stage in ("canary", "all")
        ],
        "verdicts": [],
        "maintenance": [
            {"id": "disks", "members": ["akl1"], "start": NOW + 3600, "end": NOW + 7200, "reason": "new <disks>",
             "by": "alice", "sent": NOW, "cancelled": False}
        ],
    } | changes  # fmt: skip


def page(told: dict[str, Any]) -> str:
    return render(View(NOW, roles={"mesh": Said(told)}), "here")


def found(told: dict[str, Any]) -> list[str]:
    mesh = Said(told)
    all_of_them = list(problems(mesh, members(mesh)))
    assert {each.entry for each in all_of_them} <= listed() | {""}
    return [each.text for each in all_of_them]


def test_a_fleet_that_is_well_says_so_and_names_everybody() -> None:
    text = page(document())
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert "x-root: well" in text
    for each in fleet():
        assert each["name"] in text
    assert "zrh1 (Zürich, CH): 2 of 2 well" in text
    assert "2 boxes, 2 announced" in text
    assert "akl1: new disks" in text
    assert "new &lt;disks&gt;" in text
    assert "nbo1 +12 ms" in text
    assert "<script" not in text
    assert found(document()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"engine": {"there": False, "reason": "no quorum"}}, "The engine of the mesh is gone: no quorum"),
        ({"members": []}, "No roster is in force"),
        ({"members": [*fleet()[:6], member("nrt1", "nrt1", present=False)]}, "nrt1: missing."),
        (
            {"members": [*fleet()[:6], member("nrt1", "nrt1", serials={".": SERIAL - 1})]},
            f"nrt1: zone . {SERIAL - 1}, others {SERIAL}.",
        ),
        ({"members": [*fleet()[:6], member("nrt1", "nrt1", routes={"4": "up", "6": "degraded"})]}, "IPv6 degraded"),
        ({"members": [*fleet()[:6], member("nrt1", "nrt1", clock="free-running")]}, "clock free-running"),
        ({"members": [*fleet()[:6], member("nrt1", "nrt1", sep_covered=False)]}, "covered by no trust anchor"),
        ({"members": [*fleet()[:6], member("nrt1", "nrt1", anchors="0")]}, "different trust anchors: 0, 8b6f"),
        ({"members": [*fleet()[:6], member("nrt1", "nrt1", version="0.1.0")]}, "different versions: 0.1.0, 0.2.0"),
        (
            {"members": [fleet()[0], withdrawn("zrh1-b", "zrh1", cluster="zrh1"), *fleet()[2:]]},
            "zrh1-a is the last box of zrh1",
        ),
        (
            {"members": [*fleet()[:5], *(withdrawn(n, n) for n in ("gru1", "nrt1"))]},
            "Only 5 of 7 members of all are announced (k is 1)",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_at_the_top(changes: dict[str, Any], problem: str) -> None:
    told = document(**changes)
    assert any(problem in each for each in found(told)), found(told)
    assert problem.partition("(")[0].strip() in page(told).replace("&#x27;", "'")


def test_what_members_say_is_shown_and_never_run() -> None:
    evil = '"><script>alert(1)</script>'
    told = document([*fleet()[:6], member("nrt1", "nrt1", alarms=[evil], version=evil, clock=evil)])
    assert evil not in page(told)


def test_without_the_role_mesh_the_page_says_so() -> None:
    assert "does not answer" in render(View(NOW), "here")
    assert page({"members": "nonsense", "sites": 7, "engine": None, "groups": [7]})


def test_prometheus_has_a_target_for_each_member_that_says_where_its_metrics_are() -> None:
    listed = fleet()
    listed[3]["metrics"] = ""
    groups = json.loads(targets(Said(document(listed)), "x.root-servers.net"))
    assert len(groups) == len(listed) - 1
    assert groups[0] == {
        "targets": ["zrh1-a.example:9353"],
        "labels": {
            "service": "x.root-servers.net", "site": "zrh1", "member": "zrh1-a", "group": "all", "country": "CH",
            "canary": "true",
        },
    }  # fmt: skip


@pytest.fixture
def ill() -> dict[str, Any]:
    """One is missing, one behind, one cluster on its last box."""
    listed = fleet()
    listed[1] = member("zrh1-b", "zrh1", cluster="zrh1", routes={"4": "withdrawn", "6": "withdrawn"})
    listed[2] = member("nbo1", "nbo1", present=False)
    listed[4] = member("akl1", "akl1", serials={".": SERIAL - 1}, alarms=["clock: 3 s off"])
    return document(listed)


@pytest.fixture
def served(ill: dict[str, Any]) -> Iterator[str]:
    """Both pages at / and /ill."""
    port, started, loop = free_port(), threading.Event(), asyncio.new_event_loop()

    def shows(text: str) -> Any:
        async def answer(_: Request) -> Response:
            return Response(text.encode(), "text/html; charset=utf-8", headers=PAGE_HEADERS)

        return answer

    server = HttpServer({"/": shows(page(document())), "/ill": shows(page(ill))})

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server.listen(("127.0.0.1",), port))
        started.set()
        loop.run_forever()
        server.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    yield f"http://127.0.0.1:{port}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.mark.parametrize("size", ["1280,1600", "390,2400"])
def test_a_browser_shows_it_without_a_complaint_on_a_desk_and_on_a_phone(
    served: str, size: str, tmp_path: Path
) -> None:
    for number, path in enumerate(("/", "/ill")):
        picture = tmp_path / f"{number}.png"
        _, log = browse(served + path, tmp_path, f"--window-size={size}", f"--screenshot={picture}")
        assert "Refused to" not in log
        assert "CONSOLE" not in log
        octets = picture.read_bytes()
        assert struct.unpack(">II", octets[16:24]) == tuple(map(int, size.split(",")))
        assert len(octets) > 15_000  # not an empty page


def points() -> list[tuple[float, float]]:
    """All points of the outlines, as longitude and latitude."""
    found = []
    for ring in COUNTRIES.split("z")[:-1]:
        numbers = [int(each) for each in re.findall(r"-?\d+", ring)]
        x = y = 0
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            x, y = x + dx, y + dy
            found.append((x / PER_DEGREE - 180, 90 - y / PER_DEGREE))
    return found


@pytest.mark.parametrize(
    ("cape", "longitude", "latitude"),
    [
        ("Cape Agulhas", 20.0, -34.8),
        ("Cape Horn", -67.3, -55.9),
        ("North Cape", 25.8, 71.2),
        ("Cape York", 142.5, -10.7),
    ],
)
def test_the_outlines_are_where_the_world_is(cape: str, longitude: float, latitude: float) -> None:
    assert all(-180 <= x <= 180 and -90 <= y <= 84 for x, y in points())
    assert min(abs(x - longitude) + abs(y - latitude) for x, y in points()) < 1.5, cape


def test_a_page_is_no_larger_for_its_map_than_a_picture_would_be() -> None:
    assert len(COUNTRIES) < 50_000
    assert page(document()).count('class="country"') == 1
