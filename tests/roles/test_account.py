"""What is left of root in the roles that need none of it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rootsrv.capture.file_names import is_made_here
from rootsrv.process import privileges
from tests.needs import REPOSITORY, require_root

_CHILD = """
import json, os, sys
from pathlib import Path
from rootsrv.config.file import read
from rootsrv.process import privileges
from rootsrv.roles.account import keep_what_is_needed

writes, reads, user, port = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
capability = privileges.NET_BIND_SERVICE if port == "port" else None
closed = keep_what_is_needed(read({"service": {"user": user}}), writes, (reads,), capability=capability)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "closed": closed, "uid": os.geteuid(), "gid": os.getegid(), "capabilities": int(status["CapEff"], 16),
    "owner": writes.stat().st_uid,
}))
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """Open to everybody, as no directory of pytest is."""
    with tempfile.TemporaryDirectory(prefix="rs-account-") as name:
        Path(name).chmod(0o755)
        (Path(name) / "writes").mkdir()
        (Path(name) / "reads").mkdir()
        yield Path(name)


def kept(directory: Path, user: str, port: str = "") -> dict[str, object]:
    """What the process has left."""
    require_root()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, directory / "writes", directory / "reads", user, port],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_it_becomes_the_account_in_its_own_group_and_what_it_writes_is_its_own(directory: Path) -> None:
    nobody = 65_534
    assert kept(directory, "nobody") == {
        "closed": "", "uid": nobody, "gid": os.getegid(), "capabilities": 0, "owner": nobody,
    }  # fmt: skip
    assert kept(directory, "nobody", "port")["capabilities"] == 1 << 10  # CAP_NET_BIND_SERVICE


def test_where_a_directory_is_closed_to_the_account_it_stays_and_says_which(directory: Path) -> None:
    (directory / "reads").chmod(0o600)
    found = kept(directory, "nobody")
    assert found["uid"] == 0
    assert "is closed to nobody" in str(found["closed"])


def test_without_an_account_it_stays_who_it_is(directory: Path) -> None:
    found = kept(directory, "")
    assert (found["closed"], found["uid"], found["owner"]) == ("", 0, 0)


def handed_over(directory: Path, own: Callable[[str], bool] | None = is_made_here) -> set[str]:
    """What is *nobody's* then."""
    require_root()
    privileges.hand_over(directory, 65_534, own)
    return {each.name for each in (directory, *directory.rglob("*")) if each.lstat().st_uid == 65_534}


OURS = {
    "a.20261128.000000.000000.pcap.gz", "a.20261128.000000.000000.pcap.gz.json", "a.20261128.000000.000000.pcap.gz.md5",
    "20261128-000000.000000_a.cdns.part", "20261128-000000.000000_a.cdns.2.incomplete", "order.json",
    f"order.json.{'0' * 16}.writing",
}  # fmt: skip


def test_of_what_is_in_a_captures_directory_only_its_own_is_handed_over(directory: Path) -> None:
    place = directory / "writes"
    (place / "of others").mkdir()
    for name in (*OURS, "key.pem", "a.pcap", "of others/order.json"):
        (place / name).touch()
    assert handed_over(place) == {"writes", *OURS}
    assert handed_over(place, None) == {"writes", *OURS, "key.pem", "a.pcap", "of others", "order.json"}


def test_a_directory_in_use_by_others_is_not_handed_over_and_a_new_one_is(directory: Path) -> None:
    place = directory / "writes"
    (place / "lost+found").mkdir()
    (directory / "reads" / "passwd").touch()
    with pytest.raises(PermissionError, match="nothing of ours"):
        handed_over(directory / "reads")
    assert (directory / "reads").stat().st_uid == 0
    assert handed_over(place) == {"writes"}
    (place / "note").touch()
    assert handed_over(place) == {"writes"}, "it is the account's already"
