"""The corpus, put to every implementation."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers import AUTHORITATIVE, Peer
from rootsrv.answer.responder import Responder, Transport
from tests.conformance.asking import NoAnswer, over_tcp, over_udp
from tests.conformance.conftest import VALID_AT
from tests.conformance.corpus import Case, Served, load_cases, mismatches
from tests.conformance.differences import (
    GLUE_AS_IT_FITS,
    SIGNS,
    SILENT_ON_MALFORMED,
    SUFFIX_NOT_SHARED,
    TRUNCATED_AS_IT_FITS,
    shows,
)
from tests.conformance.wire import Message, parse, show
from tests.needs import REPOSITORY
from tests.server.live import Instance

CASES = [case for path in sorted(Path(__file__).parent.glob("*.txt")) for case in load_cases(path)]

SILENCE_SECONDS = 0.25
"""How long silence is listened to, where it is expected of a server on loopback."""

LOCALHOST = b"\x7f\0\0\1"


def with_transport(transport: str) -> list[Case]:
    return [case for case in CASES if transport in case.transports]


def parsed(octets: bytes | None) -> Message | None:
    return None if octets is None else parse(octets)


def check(case: Case, response: Message | None, served: Served) -> None:
    assert mismatches(case, response, served) == [], "silence" if response is None else show(response)


@pytest.mark.parametrize(
    ("transport", "case"),
    [(transport, case) for transport in Transport for case in with_transport(transport.name.lower())],
    ids=str,
)
def test_the_responder_answers_as_the_corpus_says(
    transport: Transport, case: Case, responder: Responder, served: Served
) -> None:
    octets = responder.respond(case.query, LOCALHOST, transport, VALID_AT)
    check(case, parsed(octets), served)
    # The complete way, without shortcuts, gives the same octets.
    assert octets == responder.respond_fully(case.query, LOCALHOST, transport, VALID_AT)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("case", with_transport("udp"), ids=str)
def test_the_server_answers_over_udp_as_the_corpus_says(
    case: Case, address: str, live: Instance, served: Served
) -> None:
    check(case, parsed(ask(over_udp, address, live.port, case.query, silent=case.silence)), served)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("case", with_transport("tcp"), ids=str)
def test_the_server_answers_over_tcp_as_the_corpus_says(
    case: Case, address: str, live: Instance, served: Served
) -> None:
    check(case, parsed(ask(over_tcp, address, live.port, case.query, silent=case.silence)), served)


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for case in CASES for name in AUTHORITATIVE if not case.only_rootsrv],
    ids=str,
)
def test_a_peer_answers_as_the_corpus_says_or_differs_as_the_corpus_says(
    name: str, case: Case, peer: Callable[[str], Peer], served: Served
) -> None:
    other = peer(name)
    reason = case.differs(name, other.version)
    silent = case.silence or reason == SILENT_ON_MALFORMED
    way = over_udp if "udp" in case.transports else over_tcp
    response = parsed(ask(way, other.address, other.port, case.query, silent=silent))
    if reason is not None:
        shown = "silence" if response is None else show(response)
        assert mismatches(case, response, served), f"{name} {other.version} does not differ:\n{shown}"
        assert shows(reason, response), f"{name} {other.version} does not differ by {reason}:\n{shown}"
    else:
        check(case, response, served)


def ask(way: Callable[..., bytes], address: str, port: int, query: bytes, *, silent: bool) -> bytes | None:
    try:
        return way(address, port, query, SILENCE_SECONDS if silent else 5.0)
    except NoAnswer:
        return None


def test_every_case_has_a_name_of_its_own() -> None:
    names = [str(case) for case in CASES]
    assert sorted(names) == sorted(set(names))


def explained_classes() -> list[str]:
    """Classes of differences, as docs/protocol-notes.md introduces them: `- **name**` at the start of a line."""
    return re.findall(r"^- \*\*([a-z-]+)\*\*", (REPOSITORY / "docs" / "protocol-notes.md").read_text(), re.MULTILINE)


def test_every_class_of_difference_is_explained_in_the_protocol_notes() -> None:
    known = {*SIGNS, SILENT_ON_MALFORMED, GLUE_AS_IT_FITS, TRUNCATED_AS_IT_FITS, SUFFIX_NOT_SHARED}
    assert sorted(explained_classes()) == sorted(known)


@pytest.mark.parametrize(
    ("line", "version", "reason"),
    [
        ("differs NSD badcookie", "4.6.1", "badcookie"),
        ("differs NSD badcookie before 4.12", "4.6.1", "badcookie"),
        ("differs NSD badcookie before 4.12", "4.12.0", None),
        ("differs NSD badcookie before 4.12", "4.12", None),
        ("differs NSD badcookie from 4.12", "4.6.1", None),
        ("differs NSD badcookie from 4.12", "4.12.0", "badcookie"),
        ("differs NSD badcookie from 4.12", "5.0", "badcookie"),
        ("differs Knot badcookie", "4.12.0", None),
    ],
)
def test_a_difference_is_of_the_versions_that_its_line_names(
    line: str, version: str, reason: str | None, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(f"== a case\nquery . SOA\nresponse NOERROR aa\n{line}\n")
    (case,) = load_cases(corpus)
    assert case.differs("NSD", version) == reason


def test_lines_of_differences_that_nobody_could_mean_are_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    head = "== a case\nquery . SOA\nresponse NOERROR aa\n"
    for wrong in ("differs NSD badcookie since 4.12", "differs NSD badcookie from", "differs NSD"):
        corpus.write_text(f"{head}{wrong}\n")
        with pytest.raises(ValueError, match="corpus"):
            load_cases(corpus)
    corpus.write_text(f"{head}differs NSD badcookie\ndiffers NSD no-cookies from 4.12\n")
    (case,) = load_cases(corpus)
    assert case.differs("NSD", "4.6.1") == "badcookie"
    with pytest.raises(ValueError, match="badcookie and no-cookies"):
        case.differs("NSD", "4.12.0")


def test_every_class_of_difference_is_seen_at_some_peer() -> None:
    assert {each.reason for case in CASES for each in case.differences} == {*SIGNS, SILENT_ON_MALFORMED}
