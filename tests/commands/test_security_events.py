"""`rootsrv security-events`: what the log says comes out again, and a file that was changed does not verify."""

import datetime
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rootsrv.commands.parser import main
from rootsrv.commands.security_events import NotSigned, check, events, signed
from rootsrv.mesh.roster import public_text
from rootsrv.process import log
from tests.mesh.mesh_of import key_of

DAY = datetime.date(2026, 11, 21)
KEY = key_of("m0")
FACTS: dict[str, Any] = {
    "key": "zone/./order", "kind": "Forged", "reason": 'signed by "nobody"\nwho may = x \\ Zürich\x1b', "at": "7",
    "empty": "", "peer": "2001:db8::1",
}  # fmt: skip


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_what_was_logged_in_either_format_comes_out_as_it_went_in(
    style: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    monkeypatch.setenv(log.FORMAT_VARIABLE, style)
    handlers = logging.getLogger().handlers[:]
    try:
        log.to_standard_error()
        log.event("zone served", zone=".")
        log.security("board refused", **FACTS)
        log.alarm("security: forged by a stranger", text="2026-11-21T00:00:00Z security: no event")
    finally:
        logging.getLogger().handlers[:] = handlers
    lines = capfd.readouterr().err.splitlines()
    (found,) = events([*lines, "garbage", '{"level": "security"', "<4>"])
    assert found.pop("event") == "board refused"
    assert len(found.pop("at")) == 20
    assert found == {"at_" if name == "at" else name: value for name, value in FACTS.items()}


FOUND = [{"at": f"2026-11-21T00:00:0{number}Z", "event": "tsig failed"} for number in range(3)]


def test_a_file_verifies_as_it_was_signed_and_in_no_other_way() -> None:
    octets = signed(FOUND, DAY, "m0", KEY)
    assert check(octets, public_text(KEY))["events"] == 3
    lines = octets.splitlines(keepends=True)
    assert len(lines) == 4
    for changed in (
        b"".join(lines[1:]),
        b"".join(lines[:-1]),
        b"".join([*lines[:2], lines[3]]),
        octets.replace(b"tsig", b"TSIG", 1),
        octets.replace(b'"events": 3', b'"events": 2'),
        b"".join([lines[1], lines[0], *lines[2:]]),
        b"",
        b"{}\n",
    ):
        with pytest.raises(NotSigned):
            check(changed, public_text(KEY))
    with pytest.raises(NotSigned):
        check(octets, public_text(key_of("mallory")))
    assert check(signed([], DAY, "m0", KEY), None)["events"] == 0


def test_an_operator_exports_a_day_and_verifies_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.mesh.test_fleet import key_file

    key_file(tmp_path, "m0")
    config = tmp_path / "rootsrv.toml"
    config.write_text(
        '[[zone]]\nname = "."\nvalidation = "none"\n[mesh]\nservice = "x-root"\nmember = "m0"\n'
        f'key = "{tmp_path}/m0.key"\n'
        f'roster_keys = ["{public_text(KEY)}"]\nendpoints = ["http://127.0.0.1:2379"]\n'
    )
    (tmp_path / "log").write_text(
        "2026-11-20T23:59:59Z security: tsig failed peer=a\n2026-11-21T00:00:00Z security: tsig failed peer=b\n"
        "2026-11-21T12:00:00Z zone served\n2026-11-22T00:00:00Z security: tsig failed peer=c\n"
    )
    out = tmp_path / "events.jsonl"
    arguments = ["--day", "2026-11-21", "--log", str(tmp_path / "log"), "--output", str(out), "--config", str(config)]
    assert main(["security-events", *arguments]) == 0, capsys.readouterr()
    assert json.loads(out.read_text().splitlines()[0])["peer"] == "b"
    assert main(["security-events", "--verify", str(out), "--public-key", public_text(KEY)]) == 0
    assert "1 security events of 2026-11-21, signed by m0" in capsys.readouterr().out
    out.write_text(out.read_text().replace("peer", "beer"))
    assert main(["security-events", "--verify", str(out)]) == 1
