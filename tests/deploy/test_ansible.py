"""deploy/ansible: ansible can read it, and what it hands over is what `rootsrv setup` and the roster take."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from rootsrv.commands.parser import main
from rootsrv.mesh import roster as rosters
from tests.needs import REPOSITORY
from tests.setup.site import check

ROLE = REPOSITORY / "deploy" / "ansible"
RENDER = """
- ansible.builtin.set_fact:
    rootsrv_public_key: {stdout: "{{ inventory_hostname | hash('sha256') }}"}
- ansible.builtin.template:
    src: site.toml.j2
    dest: "{{ inventory_dir }}/{{ inventory_hostname }}.toml"
    mode: "0600"
- ansible.builtin.template:
    src: roster.toml.j2
    dest: "{{ inventory_dir }}/roster.toml"
    mode: "0600"
  run_once: true
"""
PLAY = """
- hosts: rootsrv
  gather_facts: false
  connection: local
  vars:
    ansible_python_interpreter: {python}
  roles: [rendered]
"""


def public(name: str) -> str:
    """The public key that RENDER gives to the host *name*."""
    return hashlib.sha256(name.encode()).hexdigest()


def ansible(directory: Path, program: str, *arguments: object) -> str:
    """What a program of ansible's says; it must be content."""
    done = subprocess.run(
        [Path(sys.executable).parent / program, *map(str, arguments)], cwd=ROLE,
        env={**os.environ, "ANSIBLE_LOCAL_TEMP": str(directory / "local"), "ANSIBLE_HOME": str(directory / "home"),
             "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_what_it_hands_over_is_what_is_taken(tmp_path: Path) -> None:
    (tmp_path / "inventory.yml").write_bytes((ROLE / "inventory.yml").read_bytes())
    # The role as it is, but for what it does.
    rendered = tmp_path / "roles" / "rendered"
    (rendered / "tasks").mkdir(parents=True)
    for part in ("defaults", "vars", "templates"):
        (rendered / part).symlink_to(ROLE / "roles" / "rootsrv" / part)
    (rendered / "tasks" / "main.yml").write_text(RENDER)
    (tmp_path / "render.yml").write_text(PLAY.format(python=sys.executable))
    ansible(tmp_path, "ansible-playbook", "-i", tmp_path / "inventory.yml", tmp_path / "render.yml")
    hosts = yaml.safe_load((ROLE / "inventory.yml").read_text())["rootsrv"]["hosts"]
    sites = {name: check(tomllib.loads((tmp_path / f"{name}.toml").read_text())) for name in hosts}
    assert len(sites) == 3
    for name, site in sites.items():
        assert site.name == name
        assert site.mesh
        others = {each for other in sites.values() for each in other.admin_addresses if other is not site}
        assert set(site.peers) == others
    for shared in ("cookie_secret", "sources_key"):
        (value,) = {getattr(each, shared) for each in sites.values()}
        assert len(value) == 32
        assert (tmp_path / "secrets" / shared).stat().st_mode & 0o077 == 0
    text = 'service = "x-root"\nversion = 1\n' + (tmp_path / "roster.toml").read_text()
    roster = rosters.from_document(tomllib.loads(text))
    assert [(each.name, each.public_key) for each in roster.member] == [(name, public(name)) for name in hosts]
    assert roster.distribution_hosts
    assert [each.city for each in roster.site] == ["Los Angeles", "Zürich"]


def test_every_command_of_the_role_is_one_that_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        ["setup", "--answers", "--show", "--yes", "--no-doctor", "--overwrite"],
        ["mesh", "key", "--public"],
        ["mesh", "join", "--roster", "--roster-key", "--service", "--member", "--key", "--endpoint"],
        ["restart", "--if-needed", "--when-token"],
        ["doctor", "--json"],
        ["status", "--json"],
        ["check-config", "--live"],
        ["reload"],
    ]
    tasks = "".join(each.read_text() for each in (ROLE / "roles" / "rootsrv").rglob("*.yml"))
    for words in given:
        options = [word for word in words if word.startswith("--")]
        assert [word for word in options if word not in tasks] == []
        with pytest.raises(SystemExit):
            main([*(word for word in words if word not in options), "--help"])
        told = capsys.readouterr().out
        assert [word for word in options if word not in told] == []


def test_what_doctor_finds_wrong_ends_the_run_with_its_remedy_unless_it_is_accepted(tmp_path: Path) -> None:
    (judge,) = (
        each
        for each in yaml.safe_load((ROLE / "roles/rootsrv/tasks/service.yml").read_text())
        if each["name"] == "Go on only if it is"
    )
    findings = [
        {"about": "clock", "grade": "FAIL", "found": "not synchronised", "remedy": "chronyc waitsync"},
        {"about": "memory", "grade": "ok", "found": "enough", "remedy": ""},
    ]
    play = {
        "hosts": "all",
        "gather_facts": False,
        "connection": "local",
        "vars": {"rootsrv_doctor": {"stdout": json.dumps({"fit": False, "findings": findings})}},
        "tasks": [judge],
    }
    (tmp_path / "judge.yml").write_text(yaml.safe_dump([play]))
    hosts = {"strict": {"rootsrv_doctor_accepted": []}, "lenient": {"rootsrv_doctor_accepted": ["clock"]}}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    with pytest.raises(AssertionError) as told:
        ansible(tmp_path, "ansible-playbook", "-i", tmp_path / "inventory.yml", tmp_path / "judge.yml")
    assert "chronyc waitsync" in str(told.value)
    assert "enough" not in str(told.value)
    recap = str(told.value).partition("PLAY RECAP")[2]
    assert re.search(r"lenient +: ok=1 .*failed=0", recap)
    assert re.search(r"strict +: ok=0 .*failed=1", recap)


def test_ansible_reads_the_playbooks(tmp_path: Path) -> None:
    ansible(tmp_path, "ansible-playbook", "-i", "inventory.yml", "--syntax-check", "site.yml", "roster.yml")


@pytest.mark.long
def test_ansible_lint_has_nothing_to_say(tmp_path: Path) -> None:
    ansible(tmp_path, "ansible-lint", "--offline", "--profile", "production", "-q", ".")
