"""`rootsrv probe`: what is right is found right, what is wrong is found and named, and the figures are RSSAC047's."""

import asyncio
import json
import random
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from bench.peers.daemon import free_port
from rootsrv.commands.parser import main
from rootsrv.commands.probe import RightZones
from rootsrv.vantage.asking import ask
from rootsrv.vantage.correctness import CorrectnessQuestion, draw, fault
from rootsrv.vantage.measurement import PublicationLatency, Sample, Target, median, summary
from rootsrv.wire.name import ROOT
from rootsrv.wire.rdata import DNSKEY, DS, NS, SOA
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents
from tests.server.live import SERIALS, Instance, running, wait_until, zone_files


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with running(tmp_path_factory.mktemp("probed")) as instance:
        yield instance


@pytest.fixture(scope="module")
def zones() -> tuple[ZoneContents, ZoneContents]:
    first, second = (presentation.from_text(text, ROOT) for text in zone_files().versions)
    return first, second


def questions(zone: ZoneContents) -> dict[str, CorrectnessQuestion]:
    """One of each kind."""
    secure = next(owner for owner in zone.delegations if (owner, DS) in zone.rrsets)
    insecure = next((owner for owner in zone.delegations if (owner, DS) not in zone.rrsets), secure)
    return {
        "referral": CorrectnessQuestion(secure, NS),
        "insecure": CorrectnessQuestion(insecure, NS),
        "ds": CorrectnessQuestion(secure, DS),
        "soa": CorrectnessQuestion(ROOT, SOA),
        "ns": CorrectnessQuestion(ROOT, NS),
        "dnskey": CorrectnessQuestion(ROOT, DNSKEY),
        "nxdomain": CorrectnessQuestion(b"\4zzzz\0", 1),
    }


def test_every_kind_of_question_is_drawn_and_every_answer_of_ours_is_right(
    live: Instance, zones: tuple[ZoneContents, ZoneContents]
) -> None:
    chance = random.Random(47)
    drawn = [draw(zones[0], chance) for _ in range(150)]
    assert {each.rtype for each in drawn} == {1, NS, DS, SOA, DNSKEY}
    assert 5 <= sum(each.rtype == 1 for each in drawn) <= 30  # one of ten has no positive answer
    target = Target("x", "127.0.0.1", live.port)

    async def ask_all() -> list[Sample]:
        asked = [*dict.fromkeys(drawn), *questions(zones[0]).values()]
        return [await ask(target, transport, each, zones) for each in asked for transport in ("udp", "tcp")]  # type: ignore[arg-type]

    samples = asyncio.run(ask_all())
    assert [(each.question, each.fault) for each in samples if each.fault] == []
    assert all(each.available and each.judged for each in samples)


def response_to(live: Instance, question: CorrectnessQuestion) -> dns.message.Message:
    import dns.query

    return dns.query.tcp(question.to_message(), "127.0.0.1", port=live.port, timeout=5)


def without(section: str, rtype: int, covers: int = 0) -> Callable[[dns.message.Message], None]:
    def change(message: dns.message.Message) -> None:
        kept = [each for each in getattr(message, section) if (each.rdtype, each.covers) != (rtype, covers)]
        assert len(kept) < len(getattr(message, section))
        getattr(message, section)[:] = kept

    return change


def with_record(section: str, owner: str, rtype: str, text: str) -> Callable[[dns.message.Message], None]:
    return lambda message: getattr(message, section).append(dns.rrset.from_text(owner, 60, "IN", rtype, text))


def with_flag(message: dns.message.Message) -> None:
    message.flags ^= dns.flags.AA


def with_rcode(message: dns.message.Message) -> None:
    message.set_rcode(dns.rcode.SERVFAIL)


def truncated(message: dns.message.Message) -> None:
    message.flags |= dns.flags.TC


def other_rdata(section: str) -> Callable[[dns.message.Message], None]:
    def change(message: dns.message.Message) -> None:
        rrset = getattr(message, section)[0]
        rrset.remove(rrset[0])

    return change


RRSIG, NSEC = 46, 47
WRONG: list[tuple[str, Callable[[dns.message.Message], None], str]] = [
    *((kind, with_flag, "AA is") for kind in ("referral", "ds", "soa", "ns", "dnskey", "nxdomain")),
    *((kind, with_rcode, "rcode SERVFAIL") for kind in ("referral", "ds", "soa", "ns", "dnskey", "nxdomain")),
    *((kind, truncated, "truncated") for kind in ("referral", "soa")),
    ("referral", without("authority", DS), "another"),
    ("referral", without("authority", RRSIG, DS), "other signatures"),
    ("referral", without("authority", NS), "lacks"),
    ("referral", other_rdata("authority"), "another"),
    ("referral", with_record("answer", ".", "TXT", "x"), "answer section is not empty"),
    ("referral", with_record("additional", "evil.example.", "A", "192.0.2.66"), "no glue of it"),
    ("referral", lambda message: message.additional.clear(), "no glue"),
    ("ds", without("answer", RRSIG, DS), "other signatures"),
    ("ds", with_record("authority", ".", "TXT", "x"), "authority section is not empty"),
    ("ds", with_record("additional", ".", "TXT", "x"), "additional section is not empty"),
    ("soa", without("answer", RRSIG, SOA), "other signatures"),
    ("soa", with_record("authority", ".", "TXT", "x"), "not the NS RRset"),
    ("ns", other_rdata("answer"), "another ./NS"),
    ("ns", with_record("authority", ".", "TXT", "x"), "authority section is not empty"),
    ("dnskey", other_rdata("answer"), "another ./DNSKEY"),
    ("dnskey", with_record("additional", ".", "TXT", "x"), "additional section is not empty"),
    ("nxdomain", without("authority", NSEC), "another"),
    ("nxdomain", without("authority", SOA), "another ./SOA"),
    ("nxdomain", with_record("answer", ".", "TXT", "x"), "answer section is not empty"),
]


@pytest.mark.parametrize(("kind", "change", "why"), WRONG)
def test_whatever_is_changed_in_a_right_response_makes_it_wrong(
    live: Instance,
    zones: tuple[ZoneContents, ZoneContents],
    kind: str,
    change: Callable[[dns.message.Message], None],
    why: str,
) -> None:
    question = questions(zones[0])[kind]
    response = response_to(live, question)
    assert fault(question, response, zones[:1]) == ""
    change(response)
    assert why in fault(question, response, zones[:1])


def test_an_answer_of_a_zone_before_is_right_for_48_hours_and_of_another_is_not(
    live: Instance, zones: tuple[ZoneContents, ZoneContents]
) -> None:
    first, second = zones
    question = questions(first)["referral"]
    response = response_to(live, question)
    assert fault(question, response, (second, first)) == ""
    assert fault(question, response, (second,))


def test_zones_are_read_again_when_they_change_verified_and_forgotten_in_time(tmp_path: Path) -> None:
    files, path, anchors = zone_files(), tmp_path / "root.zone", tmp_path / "anchors"
    anchors.write_bytes(files.anchor)
    kept = RightZones(path, anchors)
    now = float(files.expires - 3600)
    assert kept.current(now) == []
    path.write_bytes(files.versions[0])
    assert [each.serial for each in kept.current(now)] == [SERIALS[0]]
    beside = tmp_path / "next"
    beside.write_bytes(files.versions[1])
    beside.replace(path)
    assert [each.serial for each in kept.current(now + 60)] == [SERIALS[1], SERIALS[0]]
    assert [each.serial for each in kept.current(now + 60 + 48 * 3600)] == [SERIALS[1]]
    beside.write_bytes(files.versions[0][: len(files.versions[0]) // 2])
    beside.replace(path)
    assert [each.serial for each in kept.current(now + 120)] == [SERIALS[1]]


def probed(*arguments: object) -> tuple[int, list[dict[str, Any]]]:
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main(["probe", *map(str, arguments), "--json"])
    figures: list[dict[str, Any]] = json.loads(said.getvalue())
    return status, figures


def test_an_operator_sees_the_four_figures_of_both_transports_and_families(live: Instance, tmp_path: Path) -> None:
    files = zone_files()
    (tmp_path / "zone").write_bytes(files.versions[0])
    (tmp_path / "anchors").write_bytes(files.anchor)
    lines = tmp_path / "lines"
    judged = ("--zone", tmp_path / "zone", "--anchors", tmp_path / "anchors")
    targets = (f"x=127.0.0.1@{live.port}", f"x=::1@{live.port}")
    status, figures = probed(*targets, *judged, "--rounds", 3, "--interval", 0, "--output", lines)
    assert status == 0
    assert [(each["transport"], each["family"]) for each in figures] == [
        ("tcp", "ipv4"), ("tcp", "ipv6"), ("udp", "ipv4"), ("udp", "ipv6")
    ]  # fmt: skip
    for each in figures:
        assert (each["availability_percent"], each["correctness_percent"], each["measurements"]) == (100, 100, 3)
        assert 0 < each["response_latency_ms"] < 4000
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    assert {each["serial"] for each in written if each["question"] == "./SOA"} == {SERIALS[0]}
    assert len(written) >= 3 * 4


def test_who_does_not_answer_is_not_available(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        status, figures = probed(f"y=127.0.0.1@{free_port()}", "--rounds", 1)
    assert status == 1
    assert {each["availability_percent"] for each in figures} == {0}
    assert {each["response_latency_ms"] for each in figures} == {None}
    with pytest.raises(SystemExit):
        main(["probe", "no-address"])
    assert main(["probe", "x=127.0.0.1", "--zone", "x", "--rounds", "1"]) == 2


def test_prometheus_can_have_the_figures(live: Instance) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    arguments = ("probe", f"x=127.0.0.1@{live.port}", "--rounds", "2", "--interval", "3", "--listen", address)
    thread = threading.Thread(target=lambda: main([*arguments, "--json"]))
    thread.start()

    def scraped() -> str:
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
                text: str = response.read().decode()
                return text
        except OSError:
            return ""

    def has_figures() -> bool:
        return 'rootsrv_probe_availability_ratio{family="ipv4",target="x",transport="udp"} 1.0' in scraped()

    wait_until(has_figures, "the figures", 20)
    thread.join(30)


def sample(at: float, target: str, serial: int, seconds: float | None = 0.01, wrong: str = "") -> Sample:
    return Sample(
        at, target, "192.0.2.1", "ipv4", "udp", "./SOA", seconds, "NOERROR", serial, wrong, seconds is not None
    )


def test_publication_latency_counts_from_whoever_serves_a_serial_first() -> None:
    publication = PublicationLatency()
    for each in (
        sample(0, "a", 1), sample(0, "b", 1),
        sample(300, "a", 2), sample(300, "b", 1),
        sample(900, "b", 2),
        sample(1200, "a", 3), sample(1200, "b", 2),
        sample(1500, "b", 4), sample(1800, "a", 4),
    ):  # fmt: skip
        publication.note(each)
    assert publication.latencies("a") == [0, 0, 300]
    assert publication.latencies("b") == [600, 300, 0]  # b went from 2 to 4: then it has what came after 2, too


def test_the_figures_are_percentages_and_medians() -> None:
    samples = [sample(n, "a", 1, 0.01 * (n + 1), "wrong" if n == 0 else "") for n in range(4)]
    samples.append(sample(9, "a", 1, None))
    (figures,) = summary(samples, PublicationLatency())
    assert (figures["availability_percent"], figures["measurements"]) == (80, 5)
    assert figures["response_latency_ms"] == 25
    assert figures["correctness_percent"] == 75  # of what was answered
    assert (median([]), median([3]), median([1, 2, 9])) == (None, 3, 2)
