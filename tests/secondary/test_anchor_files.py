"""A trust anchor file that cannot be read judges no zone: what was good is served, and the right file heals (D31)."""

from pathlib import Path

import dns.rcode

from rootsrv.demo.signed import generate_keys
from tests.secondary import versions
from tests.secondary.maintained import maintained
from tests.secondary.scripted import primary_section, scripted
from tests.secondary.versions import FIRST, version

UNKNOWN = ". IN DS 17 17 6 00\n"


def test_a_file_that_cannot_be_read_is_refused_by_reload_and_ends_no_service_at_a_restart(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            anchors = instance.directory / "anchors"
            good = anchors.read_text()

            # One entry that nobody here knows, beside the good ones, spoils nothing and is told.
            anchors.write_text(good + UNKNOWN)
            assert instance.command("reload").returncode == 0
            instance.wait(lambda: "digest type 6" in " ".join(instance.status()["alarms"]), "told")

            anchors.write_text(UNKNOWN)
            refused = instance.command("reload")
            assert refused.returncode == 1
            assert "digest type 6" in refused.stdout + refused.stderr
            primary.publish(version(FIRST + 1))
            instance.order("zone-refresh")
            instance.wait(lambda: "trust anchors cannot be read" in instance.zone()["last_rejection"], "told")
            assert instance.serial() == FIRST

            instance.kill()
            (instance.directory / "run" / "page").unlink()
            instance.start()
            instance.wait_for_serial(FIRST)
            told = "could not be verified again: the trust anchors cannot be read"
            instance.wait(lambda: told in " ".join(instance.status().get("alarms", [])), "told")
            assert instance.serial() == FIRST

            anchors.write_text(good)
            assert instance.command("reload").returncode == 0
            instance.wait_for_serial(FIRST + 1)
            instance.wait(lambda: told not in " ".join(instance.status()["alarms"]), "judged")


def test_a_zone_that_is_distrusted_is_answered_again_when_the_right_file_is_back(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            anchors = instance.directory / "anchors"
            good = anchors.read_text()
            wrong = versions.anchor(generate_keys(13)[0]).splitlines(keepends=True)[-1]

            # While it is served, a file that does not cover it is an alarm.
            anchors.write_text(wrong)
            assert instance.command("reload").returncode == 0
            instance.wait(lambda: "does not verify" in instance.log, "told")
            assert instance.serial() == FIRST

            instance.kill()
            instance.start()
            instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "distrusted")
            anchors.write_text(good)
            instance.order("reload")
            instance.wait_for_serial(FIRST)

            # … or when a primary confirms it.
            anchors.write_text(wrong)
            instance.kill()
            instance.start()
            instance.wait(lambda: instance.rcode() == dns.rcode.SERVFAIL, "distrusted")
            anchors.write_text(good)
            instance.order("zone-refresh")
            instance.wait_for_serial(FIRST)
            assert instance.log.count("zone is trusted again") == 2


def test_what_an_operator_gave_while_the_file_could_not_be_read_is_kept_before_it_is_served(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            anchors = instance.directory / "anchors"
            good = anchors.read_text()
            anchors.write_text(UNKNOWN)
            told = instance.order("zone-import", versions.text(version(FIRST + 1)), name="by hand")
            assert "trust anchors cannot be read" in told["error"]
            anchors.write_text(good)
            instance.wait_for_serial(FIRST + 1)
            assert FIRST + 1 in [each["serial"] for each in instance.order("zone-list")["versions"]]

            instance.kill()
            (instance.directory / "run" / "page").unlink()
            primary.rcode = primary.ixfr_rcode = dns.rcode.REFUSED
            primary.named = FIRST
            instance.start()
            instance.wait_for_serial(FIRST + 1)
