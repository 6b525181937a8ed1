"""Real instances, real etcd: one set time for all, canaries first; what operators order; what adversaries write."""

import asyncio
import base64
import datetime
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.peers.etcd import Cluster
from rootsrv.engine.etcd import Etcd, tls_context
from rootsrv.mesh.envelope import Envelope, seal
from rootsrv.secondary.membership import subject_of
from rootsrv.telemetry import utilisation
from rootsrv.telemetry.daybook import record_path
from rootsrv.telemetry.utilisation import Utilisation
from tests.mesh.fleets import FleetUnderTest, fleet
from tests.mesh.mesh_of import SERVICE, key_of
from tests.secondary.versions import FIRST, version
from tests.telemetry.prometheus_server import ask, prometheus_server
from tests.telemetry.test_rssac002 import a_record

PREFIX = f"/rootsrv/v1/{SERVICE}/"
REPORTS = "x.root-servers.net"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    """Three members: m0 distributes, m1 and m2 are canaries.  The tests follow each other, each with a newer serial."""
    with fleet(tmp_path_factory.mktemp("fleet"), 3) as started:
        yield started


def key_file(directory: Path, name: str) -> Path:
    path = directory / f"{name}.key"
    path.touch(mode=0o600)
    path.write_bytes(key_of(name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def order(running: FleetUnderTest, directory: Path, *arguments: str, key: str = "alice") -> tuple[int, str]:
    """An operator's order at m0; exit status and what was printed."""
    where = ("--key", str(key_file(directory, key)), "--reason", "because", "--json")
    done = running.members["m0"].command("mesh", *arguments, *where)
    return done.returncode, done.stdout + done.stderr


def write(engine: Cluster, key: str, value: bytes, client: str = "root") -> None:
    """What an adversary writes, with *client*'s certificate."""

    async def work() -> None:
        files = engine.certificates
        etcd = Etcd(engine.endpoints, tls_context(files.ca, files.certificate(client), files.key(client)))
        await etcd.put(key, value)
        etcd.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())


def test_an_update_goes_to_the_canaries_and_then_to_all_at_one_t(running: FleetUnderTest) -> None:
    serial = FIRST + 1
    running.publish(serial)
    running.wait_for_all(serial)
    (canary,) = running.orders("canary", serial)
    (ordered,) = running.orders("all", serial)
    flips = running.flips(serial)
    assert ordered["at"] >= canary["at"] + running.mesh.roster.timing.soak
    for at, names in ((canary["at"], ("m1", "m2")), (ordered["at"], ("m0",))):
        print({name: round(1000 * (flips[name] - at), 1) for name in names}, "ms after T")
        assert all(0 <= flips[name] - at < 0.5 for name in names)
    told = json.loads(running.members["m1"].command("mesh", "status", "--json").stdout)
    assert [each["name"] for each in told["members"]] == ["m0", "m1", "m2"]
    assert "canary" in running.members["m1"].command("mesh", "status").stdout


def test_a_hold_keeps_everybody_back_and_an_approval_ends_it(running: FleetUnderTest, tmp_path: Path) -> None:
    serial = FIRST + 2
    contents = version(serial)
    digest = subject_of(".", contents).digest
    assert order(running, tmp_path, "hold", str(serial), "--digest", digest)[0] == 0
    running.publish(serial, contents)
    for each in running.members.values():
        each.wait(lambda each=each: f"serial={serial} activate_at=never" in each.log, "held")
    assert set(running.serials().values()) == {FIRST + 1}

    assert order(running, tmp_path, "approve", str(serial))[0] == 0
    running.wait_for_all(serial)
    assert all("by=alice decision=approve" in each.log for each in running.members.values())


def test_of_two_orders_in_one_second_the_later_counts(running: FleetUnderTest, tmp_path: Path) -> None:
    for serial in range(FIRST + 90, FIRST + 93):
        digest = ("--digest", f"{serial:096x}")
        assert order(running, tmp_path, "hold", str(serial), *digest)[0] == 0
        assert order(running, tmp_path, "approve", str(serial), *digest)[0] == 0
        told = json.loads(running.members["m0"].command("mesh", "status", "--json").stdout)["verdicts"]
        sent = {each["decision"]: each["sent"] for each in told if each["serial"] == serial}
        assert sent["hold"] < sent["approve"]


def test_an_order_for_canaries_keeps_the_others_back_until_an_approval(running: FleetUnderTest, tmp_path: Path) -> None:
    serial = FIRST + 3
    contents = version(serial)
    digest = subject_of(".", contents).digest
    assert order(running, tmp_path, "hold", str(serial), "--digest", digest)[0] == 0
    running.publish(serial, contents)
    for each in running.members.values():
        each.wait(lambda each=each: f"serial={serial} activate_at=never" in each.log, "held")
    status, text = order(running, tmp_path, "canary", str(serial))
    assert status == 0, text
    running.wait(lambda: set(running.flips(serial)) == {"m1", "m2"}, lambda: f"the canaries: {running.flips(serial)}")
    running.wait(lambda: "decision=canary" in running.members["m0"].log, "m0 has heard")
    assert running.serials()["m0"] == serial - 1
    assert order(running, tmp_path, "approve", str(serial))[0] == 0
    running.wait_for_all(serial)


def maintenance(running: FleetUnderTest, *arguments: str) -> tuple[int, str]:
    done = running.members["m0"].command("mesh", "maintenance", *arguments)
    return done.returncode, done.stdout + done.stderr


def test_maintenance_is_announced_to_all_and_too_much_at_a_time_is_refused(
    running: FleetUnderTest, tmp_path: Path
) -> None:
    signed = ("--key", str(key_file(tmp_path, "alice")), "--reason", "new disks")
    day = ("--start", "2090-01-01T10:00:00Z", "--end", "2090-01-01T12:00:00Z")
    status, text = maintenance(running, "add", "disks", "--member", "m1", *day, *signed)
    assert (status, "announced disks: m1, by alice" in text) == (0, True), text
    running.wait(lambda: [e["id"] for e in running.ask("m2").get("maintenance", [])] == ["disks"], "m2 knows")
    assert "m1" in maintenance(running, "list")[1]
    assert "maintenance disks: m1" in running.members["m2"].command("mesh", "status").stdout

    overlapping = ("--start", "2090-01-01T11:00:00Z", "--end", "2090-01-01T13:00:00Z")
    status, text = maintenance(running, "add", "more", "--member", "m2", *overlapping, *signed)
    assert (status, "2 members of all would be away (m1, m2), k is 1; it overlaps disks" in text) == (1, True), text
    stranger = ("--key", str(key_file(tmp_path, "mallory")), "--reason", "x")
    assert "lists no operator" in maintenance(running, "add", "more", "--member", "m2", *overlapping, *stranger)[1]

    # What stands on the board can be deleted by anybody; what was announced is not taken back by that.
    running.engine.ctl("del", "--prefix", PREFIX + "maintenance/", client="member")
    assert maintenance(running, "remove", "disks", *signed)[0] == 0
    running.wait(lambda: running.ask("m2").get("maintenance") == [], "cancelled")
    assert maintenance(running, "add", "more", "--member", "m2", *overlapping, *signed)[0] == 0


def test_nobody_orders_whom_the_roster_does_not_list(running: FleetUnderTest, tmp_path: Path) -> None:
    status, text = order(running, tmp_path, "hold", str(FIRST + 2), key="mallory")
    assert (status, "lists no operator with this key" in text) == (1, True)


def test_an_emergency_does_not_wait_for_canaries(running: FleetUnderTest, tmp_path: Path) -> None:
    serial = FIRST + 4
    running.publish(serial)
    running.wait(
        lambda: all(each["ready"] and each["ready"]["serial"] == serial for each in running.ask("m0")["members"]),
        "all are ready",
    )
    status, text = order(running, tmp_path, "emergency", str(serial))
    assert status == 0, text
    running.wait_for_all(serial)


def test_what_nobody_signed_who_may_is_a_security_event_and_nothing_else(running: FleetUnderTest) -> None:
    serial = FIRST + 5
    running.wait(lambda: running.ask("m1")["orders"][-1]["stage"] == "all", "the last order of the zone before")
    heard = running.ask("m1")["orders"]
    stolen = {**heard[-1], "serial": serial, "stage": "void", "at": 0.0}
    forged = Envelope("zone/./order", "m0", 2**40, 1, 0.0, 2.0**50, stolen)
    now = 2.0**31
    for value in (
        b"garbage",
        bytes(2000),
        seal(forged, SERVICE, key_of("m1")),  # a member, and no distribution host
        seal(Envelope("zone/./order", "m0", now + 10**7, 1, now, 2.0**50, stolen), SERVICE, key_of("m0")),  # the future
    ):
        write(running.engine, PREFIX + "zone/./order", value, client="member")
    running.wait(lambda: running.members["m1"].log.count("board refused") >= 4, "four refusals")
    assert "security: board refused" in running.members["m1"].log
    assert running.ask("m1")["orders"] == heard

    running.engine.ctl("del", "--prefix", PREFIX, client="member")
    running.publish(serial)
    running.wait_for_all(serial)
    assert all(each.rcode() == 0 for each in running.members.values())


def test_a_role_mesh_that_dies_costs_nothing_but_news(running: FleetUnderTest) -> None:
    serial = FIRST + 6
    for name in running.members:
        os.kill(running.ask(name)["pid"], signal.SIGKILL)
    running.publish(serial)
    running.wait_for_all(serial)
    running.wait(lambda: all(running.ask(name).get("engine", {}).get("there") for name in running.members), "back")


def test_an_older_roster_and_another_of_the_same_version_are_refused(running: FleetUnderTest, tmp_path: Path) -> None:
    mesh = running.mesh
    newer = mesh.changed(version=2)
    (tmp_path / "newer").write_bytes(newer.octets)
    done = running.members["m0"].command("mesh", "publish", str(tmp_path / "newer"))
    assert done.returncode == 0, done.stderr
    running.wait(lambda: all(running.ask(name)["roster_version"] == 2 for name in running.members), "version 2")

    write(running.engine, PREFIX + "roster", mesh.octets, client="member")
    running.wait(lambda: "version 1, 2 is in force" in running.members["m1"].log, "refused")
    assert {running.ask(name)["roster_version"] for name in running.members} == {2}


def fetched(running: FleetUnderTest, path: str, **headers: str) -> str:
    """A page of m0's report."""
    member = next(each for each in running.mesh.roster.member if each.name == "m0")
    with urlopen(Request(f"http://{member.metrics}{path}", headers=headers), timeout=10) as response:
        text: str = response.read().decode()
        return text


def test_the_fleet_page_shows_everybody_and_a_prometheus_finds_them(running: FleetUnderTest, tmp_path: Path) -> None:
    signed = ("--key", str(key_file(tmp_path, "alice")), "--reason", "new fans")
    day = ("--start", "2091-01-01T10:00:00Z", "--end", "2091-01-01T12:00:00Z")
    assert maintenance(running, "add", "fans", "--site", "here", *day, *signed)[0] == 0
    running.wait(lambda: "fans" in fetched(running, "/mesh/maintenance.json"), "announced")
    page = fetched(running, "/mesh")
    assert all(f">✓ {name}<" in page or f">✗ {name}<" in page for name in running.members), page
    assert "Zürich" in page
    assert fetched(running, "/mesh/maintenance.ics").startswith("BEGIN:VCALENDAR")
    (fans,) = [each for each in json.loads(fetched(running, "/mesh/maintenance.json")) if each["id"] == "fans"]
    assert fans["members"] == ["m1"]

    host = next(each for each in running.mesh.roster.member if each.name == "m0").metrics
    changes = {"192.0.2.10:9353": host, "60s": "1s", "15s": "1s"}
    with prometheus_server(tmp_path, "fleet.yml", changes) as port:
        running.wait(lambda: len(ask(port, "up == 1")) == 3, lambda: f"all are scraped: {ask(port, 'up')}")
        found = {each["metric"]["member"]: each["metric"] for each in ask(port, "rootsrv_mesh_members == 3")}
        assert set(found) == set(running.members)
        assert (found["m2"]["canary"], found["m2"]["site"], found["m2"]["country"]) == ("true", "there", "KE")


def test_the_status_page_shows_this_members_part_in_its_mesh(running: FleetUnderTest) -> None:
    mesh = running.ask("m0")
    order = [each for each in mesh["orders"] if each["stage"] != "void"][-1]

    def part() -> str:
        (section,) = re.findall(rf"<section><h2>Mesh {SERVICE}</h2>.*?</section>", fetched(running, "/"), re.DOTALL)
        return re.sub(r"<[^>]+>", " ", section)

    running.wait(
        lambda: "✓ there for" in part() and "✓ 3 of 3 are heard of" in part(), lambda: f"all is well: {part()}"
    )
    shown = part()
    for text in ("m0", "distribution host, leads, all in there", f"version {mesh['roster_version']}", "set time, .",
                 f"{order['serial']} for {order['stage']} at ", f"by {order['by']}", "✓ served",
                 "tokens of all", "of 1 taken, 3 members"):  # fmt: skip
        assert text in shown, (text, shown)
    assert '<a href="/mesh">the fleet</a>' in fetched(running, "/")


def test_the_days_records_are_fetched_from_all_and_published_as_one(running: FleetUnderTest) -> None:
    day = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(2)
    for name in ("m0", "m1"):
        path = record_path(running.members[name].directory / "state" / "statistics", day)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(a_record(day).to_document()))
    used = Utilisation(processors=2, processor_seconds=17.0)
    utilisation.write(running.members["m1"].directory / "state" / "statistics", REPORTS, day, {"box": used})
    where = f"/mesh/rssac002/{day:%Y%m%d}"
    forged = seal(Envelope(f"rssac002/m0/{day:%Y%m%d}", "m1", 1.0, 1, time.time(), 2.0**50, {}), SERVICE, key_of("m1"))
    stale = seal(Envelope(f"rssac002/m0/{day:%Y%m%d}", "m0", 1.0, 1, 7.0, 2.0**50, {}), SERVICE, key_of("m0"))
    for request in ("", f"Rootsrv {base64.b64encode(forged).decode()}", f"Rootsrv {base64.b64encode(stale).decode()}"):
        with pytest.raises(HTTPError) as refused:
            fetched(running, where, Authorization=request)
        refused.value.close()
        assert refused.value.code in {401, 403}

    os.kill(running.ask("m0")["pid"], signal.SIGKILL)  # it asks when it starts, and then every five minutes
    host = running.members["m0"].directory / "state" / "mesh" / "statistics"
    published = host / f"{day:%Y%m%d}.json"
    running.wait(published.exists, "published")
    document = json.loads(published.read_text())
    assert (document["instances"], document["missing"]) == (["m0", "m1"], ["m2"])
    assert len(list(host.rglob(f"*-{day:%Y%m%d}-*.yaml"))) == 5
    assert utilisation.read(host, REPORTS, day) == {"m1": used}
    today = utilisation.read(
        running.members["m0"].directory / "state" / "statistics", REPORTS, datetime.datetime.now(datetime.UTC).date()
    )
    (here,) = today.values()  # written by a running instance
    assert here.processors
    assert "2 instances; missing: m2" in fetched(running, "/mesh/statistics")
    running.wait(lambda: all(running.ask(name).get("engine", {}).get("there") for name in running.members), "back")


def test_with_the_engine_gone_all_go_alone_at_one_t(running: FleetUnderTest) -> None:
    serial = FIRST + 7
    running.engine.nodes[0].freeze()
    running.wait(lambda: all(not running.ask(name)["engine"]["there"] for name in running.members), "engine gone")
    running.publish(serial)
    running.wait_for_all(serial)
    flips = list(running.flips(serial).values())
    print("spread", round(max(flips) - min(flips), 3), "s")
    assert max(flips) - min(flips) < 4 * running.mesh.roster.timing.align  # one T, or one of the next multiples
    assert all(each.rcode() == 0 for each in running.members.values())
    running.engine.nodes[0].thaw()
    running.wait(lambda: all(running.ask(name)["engine"]["there"] for name in running.members), "engine back")
