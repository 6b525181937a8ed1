"""A genuine root that only newer software could serve, on an instance that runs: held, said, and not circled round."""

import json
import time
from pathlib import Path

from rootsrv.demo.sign import Signing, sign_root
from rootsrv.wire.name import ROOT, from_text
from rootsrv.wire.rdata import DNAME, NS, A
from rootsrv.zone.contents import RRset, ZoneContents
from tests.secondary import versions
from tests.secondary.maintained import SMALL_LIMITS, Maintained, maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version

LIMIT = "newer software wanted: no answer table can hold DNAME (zz.)"


def changed(serial: int, *rrsets: RRset) -> ZoneContents:
    """A version with these RRsets more, signed."""
    made = version(serial)
    signing = Signing(keys=versions.keys(), inception=int(time.time()) - 3600, expiration=int(time.time()) + 864_000)
    return sign_root(ZoneContents(ROOT, made.rrsets | {(each.owner, each.rtype): each for each in rrsets}), signing)


def zone_findings(instance: Maintained, zone: str = ".") -> tuple[str, str]:
    """What `rootsrv doctor` says of a zone: grade and text."""
    findings = json.loads(instance.command("doctor", "--json").stdout)["findings"]
    return next(((each["grade"], each["found"]) for each in findings if each["about"] == f"zone {zone}"), ("", ""))


def test_a_root_of_another_shape_is_held_for_newer_software_and_the_next_one_is_served(tmp_path: Path) -> None:
    of_another_shape = changed(FIRST + 1, RRset(from_text("zz."), DNAME, 300, (from_text("com."),)))
    new_type = RRset(from_text("com."), 65280, 300, (b"\1",))
    arpa = RRset(from_text("arpa."), NS, 300, (from_text("a.ns.arpa."),))
    here = RRset(from_text("a.ns.arpa."), A, 300, (bytes((127, 0, 0, 2)),))  # where the instance answers
    with_a_new_type = changed(FIRST + 2, new_type, arpa, here)
    # A hold ends 60 s before stale_hard_seconds: an ordinary one would end at once.
    limits = SMALL_LIMITS + "\n[hold]\nstale_hard_seconds = 60\n"
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted"), limits=limits) as instance:
            instance.wait_for_serial(FIRST)
            assert zone_findings(instance) == ("ok", f"{FIRST} is served")
            primary.publish(of_another_shape)
            instance.order("zone-refresh")
            held = instance.wait(lambda: instance.zone().get("held"), "held")
            assert (held[0]["serial"], held[0]["reasons"][0]) == (FIRST + 1, LIMIT)
            assert any(LIMIT in alarm for alarm in instance.status()["alarms"])
            refused = instance.command("zone", "approve", str(FIRST + 1))
            assert refused.returncode == 1
            assert LIMIT in refused.stdout + refused.stderr
            grade, found = zone_findings(instance)
            assert (grade, f"{FIRST + 1} is held: {LIMIT}" in found) == ("FAIL", True)
            assert f"{FIRST} is answered until" in found

            # A restart tries it again: the software may be newer.
            instance.kill()
            instance.start()
            instance.wait_for_serial(FIRST)
            instance.wait(lambda: instance.zone().get("held"), "held again")
            assert instance.log.count("zone held") >= 2
            assert "hold ended without a decision" not in instance.log

            assert zone_findings(instance, "arpa.") == ("", "")
            primary.publish(with_a_new_type)
            instance.order("zone-refresh")
            instance.wait_for_serial(FIRST + 2)
            assert instance.zone()["held"] == []
            grade, found = zone_findings(instance)
            assert zone_findings(instance, "arpa.")[0] == "note"
            assert grade == "note"
            assert "delegation TYPE65280 (1) is new to this version of the software, and answered as ever" in found
