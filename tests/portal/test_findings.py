"""Check my resolver, and the mails: from what the zone service observed to what its operator is told, each once."""

import re
from pathlib import Path

import pytest

from rootsrv.localroot import observations
from rootsrv.localroot.observations import Asked, Fresh, KeyFailed, Notified, Observations, Proved, TransferSeen
from rootsrv.localroot.servers import ServerWish
from rootsrv.portal import findings
from rootsrv.portal.configuration import Choice, configuration
from rootsrv.portal.findings import Check
from rootsrv.portal.visits import Portal
from rootsrv.portal.watch import FEW, FORGOTTEN_SECONDS, Watch
from rootsrv.resolvers.software import SOFTWARE
from tests.localroot.accounts import add_user
from tests.portal.site import portal_in

NOW = 1_800_000_000.0
V4, V6 = "192.0.2.1", "2001:db8::1"
KEY = "k.rz.localroot.example."


class Observed:
    """A portal with one user's server, and a zone service that observes."""

    def __init__(self, directory: Path, software: str = "bind") -> None:
        self.portal: Portal = portal_in(directory)
        self.user = add_user(self.portal.accounts.register, "a@example.net", NOW)
        self.server = self.add(software, software)
        self.writer = Observations(directory / observations.FILE)
        self.watch = Watch(self.portal)

    def add(self, name: str, software: str = "bind") -> int:
        return self.portal.servers.add(self.user, ServerWish(name, software, [V4, V6], ["."]), NOW)

    def note(self, *seen: observations.Kind) -> None:
        for each in seen:
            self.writer.note(each)
        assert self.writer.write()

    def check(self, now: float = NOW) -> Check:
        server = self.portal.servers.get(self.user, self.server)
        return findings.check(server, findings.seen(self.portal.observed, server), now)

    def mails(self, now: float) -> list[str]:
        """What one more look at *now* has mailed."""
        register = self.portal.accounts.register
        before = {row["id"] for row in register.rows("SELECT id FROM mails")}
        self.watch.look(now)
        return [row["body"] for row in register.rows("SELECT * FROM mails ORDER BY id") if row["id"] not in before]

    def fresh(self, serial: int, at: float = NOW) -> Fresh:
        return Fresh(".", serial, at, 9, None, None, None)

    def transferred(self, serial: int, at: float = NOW, server: int = 0, key: str = KEY) -> TransferSeen:
        return TransferSeen(server or self.server, ".", serial, at, "axfr", 1_336_000, V4, "tcp", key, 0.4)

    def notified(
        self, serial: int, outcome: str, rcode: int | None = None, at: float = NOW, server: int = 0
    ) -> Notified:
        return Notified(server or self.server, V4, ".", serial, at, outcome, rcode, 5, 30.0, "")

    def close(self) -> None:
        self.writer.close()
        self.portal.accounts.register.close()


@pytest.fixture
def seen(tmp_path: Path) -> Observed:
    made = Observed(tmp_path)
    yield made  # type: ignore[misc]
    made.close()


def test_a_server_of_which_nothing_was_seen_waits_and_is_told_how_addresses_are_proved(seen: Observed) -> None:
    found = seen.check()
    assert found.state == "waiting"
    assert found.zones[0].summary == "this zone is not given out yet"
    seen.note(seen.fresh(5))
    found = seen.check()
    assert (found.zones[0].newest, found.zones[0].serial) == (5, None)
    assert [each.text for each in found.addresses] == [f"{V4}: not proved yet", f"{V6}: not proved yet"]
    assert "signed transfer or SOA query" in found.addresses[0].advice


def test_who_has_the_newest_version_is_well(seen: Observed) -> None:
    seen.note(seen.fresh(5), seen.transferred(5), seen.notified(5, "confirmed", 0), Proved(seen.server, V4, NOW, KEY))
    found = seen.check()
    assert found.state == "good"
    assert found.zones[0].summary == "has the newest version, 5"
    texts = [each.text for each in found.zones[0].findings]
    assert texts[0] == f"NOTIFY of 5 to {V4}: NOERROR after 30.00 s"
    assert texts[1].startswith(
        "5 by axfr over TCP to 192.0.2.1, with its key, 1,336,000 octets, 0.4 s after the NOTIFY"
    )
    assert found.addresses[0].text == f"{V4}: proved"


@pytest.mark.parametrize(
    ("software", "after", "state"),
    [("bind", 599, "waiting"), ("bind", 601, "bad"), ("pdns", 601, "waiting"), ("pdns", 7201, "bad")],
)
def test_how_long_a_new_version_may_take(tmp_path: Path, software: str, after: float, state: str) -> None:
    seen = Observed(tmp_path, software)
    seen.note(seen.transferred(5), seen.fresh(5), seen.fresh(6, NOW + 100))
    assert seen.check(NOW + 100 + after).state == state
    seen.note(seen.transferred(6, NOW + 200))
    assert seen.check(NOW + 100 + after).state == "good"
    seen.close()


def test_serials_are_compared_as_rfc_1982_does(seen: Observed) -> None:
    seen.note(seen.fresh(1, NOW + 10), seen.fresh(4294967295), seen.transferred(4294967295))
    assert seen.check(NOW + 700).state == "bad"
    seen.note(seen.transferred(1, NOW + 20))
    assert seen.check(NOW + 700).state == "good"


@pytest.mark.parametrize(
    ("outcome", "rcode", "text", "advice"),
    [
        ("sent", None, "sent, no answer yet", ""),
        ("refused", 5, "REFUSED", "among the zone's primaries"),
        ("refused", 9, "NOTAUTH", "does not have this zone"),
        ("refused", 4, "NOTIMP", "knows no NOTIFY"),
        ("refused", 23, "BADCOOKIE", ""),
        ("refused", 3841, "RCODE3841", ""),
        ("not confirmed", None, "no answer to 5 tries in 30 s", "port 53"),
    ],
)
def test_what_became_of_a_notify_is_said_with_what_to_do(
    seen: Observed, outcome: str, rcode: int | None, text: str, advice: str
) -> None:
    seen.note(seen.fresh(5), seen.notified(5, outcome, rcode))
    (found,) = seen.check().zones[0].findings
    assert found.text == f"NOTIFY of 5 to {V4}: {text}"
    assert advice in found.advice
    assert found.state == ("waiting" if outcome == "sent" else "bad")
    seen.note(seen.transferred(5))  # it works all the same
    assert seen.check().zones[0].findings[0].state == "waiting"
    assert seen.check().state == "good"


@pytest.mark.parametrize(
    ("error", "advice"),
    [("BADKEY", "deleted"), ("BADSIG", "copy it again"), ("BADTIME", "clock"), ("BADTRUNC", "algorithm")],
)
def test_a_key_that_fails_is_bad_until_it_is_used(seen: Observed, error: str, advice: str) -> None:
    seen.note(seen.fresh(5), seen.transferred(5), KeyFailed(seen.server, KEY, NOW + 1, error, V4, "why"))
    found = seen.check()
    assert found.state == "bad"
    assert found.keys[0].text == f"{error} with {KEY} from {V4}: why"
    assert advice in found.keys[0].advice
    seen.note(Proved(seen.server, V4, NOW + 2, KEY))
    assert seen.check().state == "good"
    assert seen.check().keys == ()


@pytest.mark.parametrize("software", sorted(SOFTWARE))
def test_an_unbound_that_refuses_notify_is_told_both_lines_of_its_configuration(tmp_path: Path, software: str) -> None:
    seen = Observed(tmp_path, software)
    seen.note(seen.fresh(5), seen.notified(5, "refused", 5))
    advice = seen.check().zones[0].findings[0].advice
    if software in findings.UNBOUND:
        generated = configuration(seen.portal.config, seen.portal.servers.get(seen.user, seen.server), Choice())
        lines = re.findall(r"^ +(access-control|allow-notify): 192\.0\.2\.53(.*)$", generated, re.MULTILINE)
        assert len(lines) == 2
        assert all(f"{key}:" in advice and rest in advice for key, rest in lines)
    assert ("refuse_non_local" in advice) is (software in findings.UNBOUND)
    seen.close()


@pytest.mark.parametrize("software", sorted(SOFTWARE))
def test_an_address_that_is_not_known_is_said_and_whence_unbound_transfers(tmp_path: Path, software: str) -> None:
    seen = Observed(tmp_path, software)
    seen.note(seen.fresh(5), KeyFailed(seen.server, KEY, NOW, "BADKEY", "192.0.2.99", ""))
    seen.note(KeyFailed(seen.server, KEY + "2", NOW, "BADKEY", V4, ""), Asked(seen.server, ".", NOW, V4, 5))
    found = seen.check()
    strange, known = found.keys
    assert "192.0.2.99 is not one of this server's addresses" in strange.advice
    assert "not one of" not in known.advice
    (asked,) = [each for each in found.zones[0].findings if each.text.startswith("asked for the serial")]
    for advice in (strange.advice, asked.advice, found.addresses[0].advice):
        assert ("whatever outgoing-interface says" in advice) is (software in findings.UNBOUND)
    seen.note(seen.transferred(5, NOW + 1))
    assert all("whatever" not in each.advice for each in seen.check().zones[0].findings)
    seen.close()


def test_a_query_that_found_it_current_is_said(seen: Observed) -> None:
    seen.note(seen.fresh(5), seen.transferred(5), Asked(seen.server, ".", NOW + 9, V4, 5))
    assert f"asked for the serial from {V4} and was told 5" in [each.text for each in seen.check().zones[0].findings]


# ── mails ──


def test_a_notify_that_nobody_took_note_of_is_mailed_once(seen: Observed) -> None:
    seen.note(seen.fresh(5), seen.notified(5, "not confirmed"))
    assert seen.mails(NOW + 1799) == []
    (mail,) = seen.mails(NOW + 1801)
    assert f"{V4} did not answer when it was told of version 5 of the root zone." in mail
    assert "/servers/1" in mail
    assert seen.mails(NOW + 1900) == []
    seen.note(seen.notified(6, "not confirmed", at=NOW + 2000))
    assert seen.mails(NOW + 9000) == []  # the same trouble, with the next version


def test_it_is_mailed_again_when_it_was_over_for_a_day_and_came_back(seen: Observed) -> None:
    seen.note(seen.fresh(5), seen.notified(5, "refused", 5))
    assert len(seen.mails(NOW + 1801)) == 1
    seen.note(seen.notified(5, "confirmed", 0))
    assert seen.mails(NOW + 2000) == []
    again = NOW + 1801 + FORGOTTEN_SECONDS + 1
    assert seen.mails(again) == []
    seen.note(seen.notified(7, "refused", 5, at=again))
    assert len(seen.mails(again + 1801)) == 1


def test_a_notify_that_was_not_confirmed_is_no_trouble_where_the_version_is(seen: Observed) -> None:
    seen.note(seen.fresh(5), seen.notified(5, "not confirmed"), seen.transferred(5))
    assert seen.mails(NOW + 4000) == []


def test_versions_that_are_not_transferred_are_mailed(seen: Observed) -> None:
    seen.note(seen.transferred(5), *(seen.fresh(each, NOW + each) for each in (5, 6, 7)))
    assert seen.mails(NOW + 5000) == []
    seen.note(seen.fresh(8, NOW + 6000))
    assert seen.mails(NOW + 6100) == []  # it may still come
    (mail,) = seen.mails(NOW + 6700)
    assert "It has version 5 of the root zone; 3 newer ones were not transferred." in mail


def test_a_key_that_fails_is_mailed_once_and_another_error_is_another_trouble(seen: Observed) -> None:
    seen.note(KeyFailed(seen.server, KEY, NOW, "BADTIME", V4, ""))
    assert len(seen.mails(NOW + 60)) == 1
    assert seen.mails(NOW + 120) == []
    seen.note(KeyFailed(seen.server, KEY, NOW + 130, "BADSIG", V4, ""))
    (mail,) = seen.mails(NOW + 180)
    assert "BADSIG" in mail
    assert "BADTIME" not in mail


def test_what_one_does_not_want_to_hear_is_not_mailed_later_either(seen: Observed) -> None:
    seen.portal.accounts.set_mails(seen.user, ["notify"])
    seen.note(KeyFailed(seen.server, KEY, NOW, "BADTIME", V4, ""))
    assert seen.mails(NOW + 60) == []
    seen.portal.accounts.set_mails(seen.user, ["key"])
    assert seen.mails(NOW + 120) == []


def test_when_most_servers_are_in_trouble_it_is_ours_and_nobody_is_mailed(
    seen: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    servers = [seen.add(f"server {at}") for at in range(2 * FEW)]
    seen.note(seen.fresh(5), *(seen.notified(5, "not confirmed", server=each) for each in servers))
    assert seen.mails(NOW + 1801) == []
    assert "most servers are in trouble" in caplog.text
    seen.note(*(seen.notified(5, "confirmed", 0, server=each) for each in servers[FEW:]))
    assert len(seen.mails(NOW + 1900)) == FEW


def test_one_owner_whose_many_servers_are_in_trouble_keeps_no_mail_from_the_others(seen: Observed) -> None:
    servers = [seen.add(f"server {at}") for at in range(4 * FEW)]
    register = seen.portal.accounts.register
    others = [
        seen.portal.servers.add(add_user(register, f"{at}@b.example", NOW), ServerWish("rz", "bind", [V4], ["."]), NOW)
        for at in range(3)
    ]
    seen.note(seen.fresh(5), *(seen.notified(5, "not confirmed", server=each) for each in (*servers, others[0])))
    seen.watch.look(NOW + 1801)
    assert "0@b.example" in {row["recipient"] for row in register.rows("SELECT recipient FROM mails")}


def test_the_old_key_ends_a_grace_after_its_successor_was_used_first(seen: Observed) -> None:
    old = seen.portal.servers.new_key(seen.user, seen.server, NOW)
    new = seen.portal.servers.new_key(seen.user, seen.server, NOW + 10)
    seen.note(Proved(seen.server, V4, NOW + 20, old.name))
    seen.watch.look(NOW + 30)
    ends = {each.name: each.ends for each in seen.portal.servers.get(seen.user, seen.server).keys}
    assert ends == {old.name: None, new.name: None}
    seen.note(seen.transferred(5, NOW + 40, key=new.name))
    seen.watch.look(NOW + 60)
    ends = {each.name: each.ends for each in seen.portal.servers.get(seen.user, seen.server).keys}
    assert ends == {old.name: NOW + 40 + 72 * 3600, new.name: None}
    seen.watch.look(NOW + 40 + 72 * 3600)
    assert [each.name for each in seen.portal.servers.get(seen.user, seen.server).keys] == [new.name]


def test_what_cannot_be_read_mails_nobody_and_is_an_error_of_this_look_alone(seen: Observed, tmp_path: Path) -> None:
    (tmp_path / observations.FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(observations.ObservationsUnusable):
        seen.watch.look(NOW)
