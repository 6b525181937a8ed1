"""docs/install.md by the package, command by command: one box up to its route, and a second one into the mesh."""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from tests.deploy.machine import Machine, booted, debian
from tests.deploy.packaged import package
from tests.deploy.racks import ADMIN, LINKS, LOCAL_AS, Racks, asked_by, engine, in_chroot, racks, way_to
from tests.deploy.test_guide import block
from tests.needs import REPOSITORY, require_tool
from tests.server.live import wait_until, zone_files

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1500)]


@dataclass
class Lab:
    """Two boxes with the package on them, and the engine of a mesh."""

    racks: Racks
    boxes: list[Machine]
    authority: Path
    endpoint: str


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    for tool in ("etcd", "openssl"):
        require_tool(tool)
    built = package("bookworm")
    directory = tmp_path_factory.mktemp("guide")
    (directory / "one").mkdir()
    root = debian(directory / "one")
    in_chroot(root, "apt-get update")
    # Archives are reached before the machine boots; what the guide calls it is a name.
    (name,) = re.findall(r"\./(\S+\.deb)", block("package: install"))
    (root / "root" / name).write_bytes(built.read_bytes())
    in_chroot(root, block("package: install"))
    (directory / "two").mkdir()
    subprocess.run(["cp", "-a", "--reflink=auto", root, directory / "two/root"], check=True, timeout=300)
    with racks(directory) as cabled, contextlib.ExitStack() as stack:
        authority = directory / "authority"
        endpoint = stack.enter_context(engine(cabled.manager, directory, authority))
        roots = (root, directory / "two/root")
        boxes = [stack.enter_context(booted(each, host)) for each, host in zip(roots, cabled.boxes, strict=True)]
        yield Lab(cabled, boxes, authority, endpoint)


def put_fetched(box: Machine) -> None:
    """What the guide fetches from elsewhere."""
    files = zone_files()
    box.path("/etc/rootsrv/root-anchors.xml").write_bytes(files.anchor)
    box.path("/etc/rootsrv/root-servers.net.zone").write_bytes(files.hosts)


def from_network_to_route(box: Machine) -> None:
    """The rest of the guide, once the box is set up."""
    # The clock of the machine that runs the test is not ours to set.
    box.run(block("package: network").replace("chrony ", ""))
    fit = box.run(block("package: doctor"), check=False)
    failures = [line for line in fit.splitlines() if line.startswith("FAIL")]
    assert [line for line in failures if not line.startswith("FAIL  clock")] == [], fit
    box.run(block("package: serve"))
    asked = "dig @192.0.2.53 +short +dnssec +norec +tries=1 . SOA || true"
    wait_until(lambda: "SOA" in box.run(asked), f"it answers\n{box.journal()}", 60)
    box.run(block("package: announce"))
    shown = lambda: "anycast4_up" in box.run("birdc show route for 192.0.2.53", check=False)  # noqa: E731
    wait_until(shown, f"BIRD has the route\n{box.journal()}", 60)


def test_ten_commands_lead_from_a_bare_box_to_a_route(lab: Lab) -> None:
    guide = (REPOSITORY / "docs/install.md").read_text()
    labels = re.findall(r"<!-- (package: (?!mesh).*?|not in the lab: .*for the package) -->", guide)
    assert sum(len(block(label).splitlines()) for label in labels) == 10
    box = lab.boxes[0]
    put_fetched(box)
    box.run(block("package: setup"))
    from_network_to_route(box)
    wait_until(lambda: way_to(lab.racks.core) == "10.9.1.1", f"the core has the route\n{box.journal()}", 60)
    wait_until(lambda: "RRSIG" in asked_by(lab.racks.client), "the client has a signed answer", 30)


def test_a_second_box_joins_the_mesh_and_is_announced(lab: Lab, tmp_path: Path) -> None:
    box, link = lab.boxes[1], LINKS[1]
    put_fetched(box)
    # What its operator answers differently.
    answers = {"name": "zrh1-a.example", "local-as": LOCAL_AS[1]}
    lists = {
        "admin-addresses": ADMIN[1], "link-addresses": (link.box4, link.box6), "routers": (link.router4, link.router6)
    }  # fmt: skip
    options = [f"--{key} {value}" for key, value in answers.items()]
    options += [f"--{key} {value}" for key, values in lists.items() for value in values]
    box.run(f"{block('package: setup').strip()} {' '.join(options)}")

    public = re.findall(r"[0-9a-f]{64}", box.run(block("package: mesh key")))[0]
    key = signed_roster(tmp_path, public)
    box.path("/etc/rootsrv/roster").write_bytes((tmp_path / "roster").read_bytes())
    script = REPOSITORY / "deploy/etcd/rootsrv-etcd-certificates"
    subprocess.run([script, "member", lab.authority, "zrh1-a"], check=True, timeout=60, stdout=subprocess.DEVNULL)
    for name, source in (("ca.pem", "ca.pem"), ("member.pem", "zrh1-a.pem"), ("member.key", "zrh1-a.key")):
        box.path(f"/{name}").write_bytes((lab.authority / source).read_bytes())
    typed = block("package: mesh join").replace("HEX", key).replace("https://192.0.2.31:2379", lab.endpoint)
    box.run(typed)

    from_network_to_route(box)
    told = lambda: box.run("rootsrv mesh status", check=False)  # noqa: E731
    wait_until(lambda: re.search(r"zrh1-a\b.*2026112101", told()), f"the board has it\n{told()}\n{box.journal()}", 60)
    # Its roles run as their account, and it still can restart itself when the others allow it.
    assert "nothing to restart" in box.run("rootsrv restart --when-token --if-needed")


def signed_roster(directory: Path, public: str) -> str:
    """Make and sign a roster as `directory`/roster, with *public* as zrh1-a's key; the key that has signed it."""
    assert main(["mesh", "init", str(directory), "--service", "x-root"]) == 0
    roster = directory / "roster.toml"
    text = roster.read_text() + '[[site]]\nname = "zrh1"\n'
    for number, (name, key) in enumerate((("zrh1-a", public), ("other-a", "a" * 64), ("other-b", "b" * 64))):
        text += f'[[member]]\nname = "{name}"\npublic_key = "{key}"\nsite = "zrh1"\ngroup = "all"\n'
        text += f"canary = {str(number > 0).lower()}\ndistribution_host = {str(number == 0).lower()}\n"
    roster.write_text(text)
    signing = ["--key", str(directory / "roster-1.key"), "--output", str(directory / "roster")]
    assert main(["mesh", "roster", "sign", str(roster), *signing]) == 0
    return re.findall(r'^    "([0-9a-f]{64})"', text, re.MULTILINE)[0]
