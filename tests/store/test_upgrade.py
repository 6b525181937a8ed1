"""docs/upgrade.md: this version on the state and the configuration of 0.1."""

import json
import shutil
import struct
import tomllib
from pathlib import Path

from rootsrv.config import file as config_file
from rootsrv.config import text
from tests.needs import REPOSITORY
from tests.server.live import SERIALS, running, wait_until

TABLE_FORMAT = 2
"""That of 0.1."""


def as_0_1_left_it(state: Path) -> None:
    """Take from a state directory what 0.1 did not know, and give its tables 0.1's format."""
    path = state / "ledger.json"
    ledger = json.loads(path.read_text())
    del ledger["highest"], ledger["served"]
    path.write_text(json.dumps(ledger))
    (table,) = state.glob("tables/*.table")
    octets = bytearray(table.read_bytes())
    struct.pack_into("<I", octets, 8, TABLE_FORMAT)
    table.write_bytes(octets)
    for each in state.glob("tables/*.mac"):
        each.unlink()
    shutil.rmtree(state / "secret")
    (state / "ledger.json.twin").unlink()
    (state / "sources.key").unlink()


def test_the_state_of_0_1_is_taken_over_and_nothing_older_is_served(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(tmp_path) as instance:
        instance.put_zone(1)
        instance.reload()
        wait_until(lambda: instance.ask(".", "SOA").answer[0][0].serial == SERIALS[1], "the newer zone")
    before = json.loads((state / "ledger.json").read_text())
    as_0_1_left_it(state)

    with running(tmp_path) as instance:  # which puts the older zone in place of the file
        assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[1]
        log = instance.log
    after = json.loads((state / "ledger.json").read_text())
    assert f"answer table of format version {TABLE_FORMAT}, this program reads" in log
    assert "Traceback" not in log
    assert after["generation"] > before["generation"]
    assert after["highest"] == after["generation"]
    assert after["leases"]["."]["serial"] == SERIALS[1]
    assert after["leases"]["."]["signatures_until"] == before["leases"]["."]["signatures_until"]


def test_every_key_of_0_1_is_taken_and_means_what_it_meant() -> None:
    path = REPOSITORY / "tests" / "config" / "rootsrv-0.1.toml"
    given, taken = tomllib.loads(path.read_text()), tomllib.loads(text.to_toml(config_file.load(path)))

    def differences(old: object, new: object, where: str) -> list[str]:
        if isinstance(old, dict) and isinstance(new, dict):
            return [each for key in old for each in differences(old[key], new.get(key), f"{where}.{key}")]
        if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            pairs = enumerate(zip(old, new, strict=True))
            return [each for number, (a, b) in pairs for each in differences(a, b, f"{where}[{number}]")]
        return [] if old == new else [f"{where}: {old!r} became {new!r}"]

    assert differences(given, taken, "") == []
