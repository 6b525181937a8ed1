"""Only gross changes are held; each threshold is tried on both sides."""

from dataclasses import replace

from rootsrv.wire.name import from_text
from rootsrv.wire.record import Record
from rootsrv.zone.builder import from_records
from rootsrv.zone.contents import Soa, ZoneContents
from rootsrv.zone.plausibility import Accept, ChangeLimits, Hold, judge

NOW = 1_758_369_600.0
UNTIL = NOW + 10 * 86_400
LIMITS = ChangeLimits()


def soa(serial: int) -> Record:
    names = from_text("a.root-servers.net") + from_text("nstld.example")
    return (b"\0", 6, 86400, names + b"".join(n.to_bytes(4, "big") for n in (serial, 1800, 900, 604800, 86400)))


def zone(*, tlds: int = 100, without_ds: int = 0, without_address: int = 0, apex_moved: int = 0) -> ZoneContents:
    records = [soa(1)]
    for letter in range(13):
        moved = letter < apex_moved
        host = from_text(f"{chr(97 + letter)}.root-servers.net")
        records.append((b"\0", 2, 518400, host))
        records.append((host, 1, 518400, bytes((192, 0, 2 if not moved else 3, letter))))
    for number in range(tlds):
        tld, host = from_text(f"tld{number}"), from_text(f"ns.tld{number}")
        records.append((tld, 2, 172800, host))
        if number >= without_ds:
            records.append((tld, 43, 86400, bytes((0, 1, 8, 2)) + bytes(32)))
        if number >= without_address:
            records.append((host, 1, 172800, bytes((192, 0, 2, number % 250))))
    return from_records(b"\0", records)


def verdict(update: ZoneContents, serving: ZoneContents | None = None) -> Accept | Hold:
    return judge(update, serving or zone(), UNTIL, NOW, LIMITS)


def test_a_zone_like_the_one_in_service_is_accepted_without_a_word() -> None:
    assert verdict(zone()) == Accept()


def test_five_percent_of_the_tlds_may_go_with_an_alarm_and_more_are_held() -> None:
    accepted = verdict(zone(tlds=95))
    assert isinstance(accepted, Accept)
    assert accepted.oddities[0].startswith("TLDs gone: 5 of 100 (tld95., tld96.")
    held = verdict(zone(tlds=94))
    assert isinstance(held, Hold)
    assert held.reasons[0].startswith("TLDs gone: 6 of 100")


def test_five_percent_of_the_ds_may_go_and_more_are_held() -> None:
    assert isinstance(verdict(zone(without_ds=5)), Accept)
    held = verdict(zone(without_ds=6))
    assert isinstance(held, Hold)
    assert held.reasons[0].startswith("DS gone: 6 of 100")


def test_tlds_that_lost_all_addresses_are_held_and_those_that_never_had_any_are_not() -> None:
    assert isinstance(verdict(zone(without_address=5)), Accept)
    held = verdict(zone(without_address=6))
    assert isinstance(held, Hold)
    assert held.reasons[0].startswith("TLDs without any address: 6 of 100")
    assert isinstance(verdict(zone(without_address=50), zone(without_address=50)), Accept)


def test_three_apex_servers_may_change_and_four_are_held() -> None:
    assert isinstance(verdict(zone(apex_moved=3)), Accept)
    held = verdict(zone(apex_moved=4))
    assert isinstance(held, Hold)
    assert held.reasons == (
        "4 apex name servers changed: a.root-servers.net., b.root-servers.net., c.root-servers.net., "
        "d.root-servers.net.",
    )


def test_half_the_size_is_held() -> None:
    held = verdict(zone(tlds=30))
    assert isinstance(held, Hold)
    assert any(reason.startswith("shrunk from 327 to 117 records") for reason in held.reasons)


def test_signatures_that_expire_within_a_day_are_held_even_for_the_first_zone() -> None:
    held = judge(zone(), None, NOW + 86_399, NOW, LIMITS)
    assert isinstance(held, Hold)
    assert held.reasons == ("signatures expire within 24.0 hours",)
    assert judge(zone(), None, NOW + 86_400, NOW, LIMITS) == Accept()
    assert judge(zone(), None, None, NOW, LIMITS) == Accept()


def test_other_soa_timers_are_an_oddity() -> None:
    serving = zone()
    old = Soa.from_rdata(serving.rrsets[b"\0", 6].rdatas[0])
    rdata = serving.rrsets[b"\0", 6].rdatas[0][:-8] + (3600).to_bytes(4, "big") + old.minimum.to_bytes(4, "big")
    changed = replace(serving.rrsets[b"\0", 6], rdatas=(rdata,))
    update = ZoneContents(b"\0", {**serving.rrsets, (b"\0", 6): changed})
    assert verdict(update) == Accept(("SOA expire changed: 604800 to 3600",))


def with_serial(serial: int) -> ZoneContents:
    return from_records(b"\0", [soa(serial)])


def test_a_serial_more_than_a_year_ahead_is_held_and_an_instance_that_was_off_for_years_goes_on() -> None:
    today = 2025092000  # NOW is 2025-09-20
    for ours, theirs, ahead in (
        (today, today + 1_000_099, False),
        (today, today + 1_000_100, True),
        (today, 4_099_123_101, True),  # a typing error
        (2020092000, today + 1, False),  # off for five years
        (2020092000, today + 1_000_100, True),
        (today + 3_000_000, today + 4_000_000, False),  # served by approval: a year from there
        (1_758_369_600, 1_758_369_600 + 366 * 86_400, False),  # seconds since 1970
        (1_758_369_600, 1_758_369_601 + 366 * 86_400, True),
        (7, 8, False),
    ):
        judged = judge(with_serial(theirs), with_serial(ours), UNTIL, NOW, LIMITS)
        found = isinstance(judged, Hold) and any("ahead of" in each for each in judged.reasons)
        assert found is ahead, (ours, theirs, judged)
