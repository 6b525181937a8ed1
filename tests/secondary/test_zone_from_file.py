"""A zone that comes from a file: the file is its primary, and looking at it confirms the zone (protocol-notes.md)."""

import time
from pathlib import Path

from tests.secondary import versions
from tests.secondary.maintained import maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version

OFTEN = "[refresh]\nmin_seconds = 1\nmax_seconds = 1\n"


def test_a_file_that_did_not_change_confirms_its_zone_but_never_past_its_signatures(tmp_path: Path) -> None:
    path = tmp_path / "root.zone"
    expiration = int(time.time()) + 3 * 86_400  # before SOA expire
    path.write_bytes(versions.text(version(FIRST, expiration=expiration)))
    with maintained(tmp_path / "one", "", zone=f'file = "{path}"', limits=OFTEN) as instance:
        instance.wait_for_serial(FIRST)
        began = time.monotonic()
        instance.wait(lambda: time.monotonic() - began > 3, "some refreshes", 10)
        instance.wait(lambda: instance.zone()["confirmed_age_seconds"] < 1.5, "confirmed by the file")
        zone = instance.zone()
        assert zone["lease_seconds"] <= expiration - time.time() + 1
        assert zone["lease_until"] == zone["signatures_until"]
        # A file that is gone, or is no zone, confirms nothing and takes nothing away.
        path.unlink()
        instance.wait(lambda: instance.zone()["primaries"][0]["failures"] > 0, "noticed")
        confirmed = instance.zone()["confirmed_age_seconds"]
        instance.wait(lambda: instance.zone()["confirmed_age_seconds"] > confirmed + 2, "no confirmation")
        assert instance.serial() == FIRST


def test_whatever_it_starts_from_all_primaries_are_asked_at_once(tmp_path: Path) -> None:
    path = tmp_path / "root.zone"
    path.write_bytes(versions.text(version(FIRST)))
    with scripted(version(FIRST + 1)) as primary:
        sections = primary_section(primary, "scripted")
        with maintained(tmp_path / "one", sections, zone=f'file = "{path}"') as instance:
            instance.wait_for_serial(FIRST + 1)
            assert instance.journal()[0]["serial"] == FIRST
            # … and from what is kept.
            instance.process.terminate()
            instance.process.wait(20)
            primary.publish(version(FIRST + 2))
            instance.start()
            instance.wait_for_serial(FIRST + 2)
