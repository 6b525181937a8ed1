"""Under full load, flips and rewrites of the kernel's two tables: no reply is mixed, lost, or older than the flip."""

import ipaddress
import threading
import time
from collections.abc import Iterator

import pytest

from rootsrv.answer.responder import Responder, Transport
from rootsrv.answer.table import AnswerTable
from rootsrv.demo.signed import generate_root, generate_successor
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.program import TABLE_ROOM, Interface, Program, TableUnfit
from tests.fastpath.conftest import (
    CLIENT,
    DAY,
    NOW,
    SERVICE,
    SETTINGS,
    TC,
    XDP,
    Hook,
    compiled,
    frame,
    message,
    opt,
    require_program,
    wire,
)

FLIPS = 100
LIVE = {XDP: "rootsrv_xdp", TC: "rootsrv_tc"}


@pytest.fixture(scope="module")
def versions() -> tuple[AnswerTable, AnswerTable]:
    """Two versions of a zone, signed at different times: every signed answer differs."""
    first = generate_root(inception=NOW - DAY, expiration=NOW + 13 * DAY, seed=9, tlds=200, algorithm=13)
    second = generate_successor(first, changes=20, inception=NOW - DAY + 60, expiration=NOW + 13 * DAY + 60)
    return compiled(first), compiled(second)


@pytest.fixture
def program() -> Iterator[Program]:
    loaded = Program.load(require_program())
    loaded.set_service(list(SERVICE.values()), 53)
    loaded.set_responses(SETTINGS)
    loaded.set_interfaces([Interface(1, 65536, bytes(6), virtual=True, loopback=False)])
    loaded.publish_time(NOW)
    yield loaded
    loaded.close()


def later(seconds: float = 3600) -> list[int]:
    return [time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)] * 2


def queries(tables: tuple[AnswerTable, AnswerTable]) -> list[bytes]:
    """Queries whose answers differ between the two versions."""
    labels = [info.label for info in tables[0].names() if info.label][::7]
    found = [message(wire(), qtype, opt=opt()) for qtype in (6, 2, 48)]
    found += [message(wire(b"www", b"example", label), opt=opt()) for label in labels]
    found += [message(wire(label + b"-x"), opt=opt()) for label in labels]
    responders = [Responder(table, SETTINGS) for table in tables]
    return [query for query in found if answer(responders[0], query) != answer(responders[1], query)]


def answer(responder: Responder, query: bytes) -> bytes:
    response = responder.respond(query, ipaddress.ip_address(CLIENT[4]).packed, Transport.UDP, NOW)
    assert response is not None
    return response


def test_a_hundred_flips_under_full_load(
    program: Program, versions: tuple[AnswerTable, AnswerTable], hook: Hook
) -> None:
    asked = queries(versions)
    assert len(asked) > 40
    responders = [Responder(table, SETTINGS) for table in versions]
    right = [[answer(responder, query) for query in asked] for responder in responders]
    frames = [frame(query).to_octets() for query in asked]
    program.activate(program.stage(versions[0]), later())
    newest = [0]  # number of flips done; the version is its parity
    done = threading.Event()
    faults: list[str] = []
    served = [0, 0]

    def load(first: int) -> None:
        descriptor = program.descriptor(LIVE[hook])
        number = first
        while not done.is_set() and not faults:
            number = (number + 1) % len(frames)
            before = newest[0]
            run = libbpf.run_on_packet(descriptor, frames[number])
            after = newest[0]
            if run.verdict != hook.reply:
                faults.append(f"lost: verdict {run.verdict}")
                return
            response = run.packet[42:]
            # Between the flips that were done before the query and after the reply, every version is right.
            allowed = {flips % 2 for flips in range(before, after + 2)}
            found = [version for version in (0, 1) if response == right[version][number]]
            if not found:
                faults.append("a reply that neither version gives")
            elif found[0] not in allowed:
                faults.append(f"a reply of version {found[0]} between flips {before} and {after}")
            else:
                served[found[0]] += 1

    threads = [threading.Thread(target=load, args=(start,)) for start in (0, 11)]
    for thread in threads:
        thread.start()
    for flip in range(1, FLIPS + 1):
        generation = program.stage(versions[flip % 2])
        program.activate(generation, later())
        newest[0] = flip
    done.set()
    for thread in threads:
        thread.join()

    assert faults == []
    assert min(served) > 20, f"replies by version: {served}"
    print(f"{hook}: {FLIPS} flips, replies by version: {served}")


def test_past_answer_until_everything_is_passed_zone_by_zone(
    program: Program, versions: tuple[AnswerTable, AnswerTable], hook: Hook
) -> None:
    descriptor = program.descriptor(LIVE[hook])
    root = frame(message(wire(b"com"), opt=opt())).to_octets()
    hosts = frame(message(wire(b"a", b"root-servers", b"net"), 1)).to_octets()
    program.activate(program.stage(versions[0]), later())

    def verdicts() -> tuple[int, int]:
        time.sleep(0.02)  # the clock is read once per tick of the kernel: 10 ms at most
        return libbpf.run_on_packet(descriptor, root).verdict, libbpf.run_on_packet(descriptor, hosts).verdict

    assert verdicts() == (hook.reply, hook.reply)
    program.renew([later()[0], 1])
    assert verdicts() == (hook.reply, hook.passed)
    program.renew([1, later()[0]])
    assert verdicts() == (hook.passed, hook.reply)
    program.renew(())
    assert verdicts() == (hook.passed, hook.passed)
    program.renew(later())
    assert verdicts() == (hook.reply, hook.reply)


def test_a_program_without_a_table_passes_everything(program: Program, hook: Hook) -> None:
    for query in (message(wire()), message(wire(b"com"), opt=opt())):
        run = libbpf.run_on_packet(program.descriptor(LIVE[hook]), frame(query).to_octets())
        assert run.verdict == hook.passed


def test_what_is_staged_does_not_answer_before_it_is_activated(
    program: Program, versions: tuple[AnswerTable, AnswerTable], hook: Hook
) -> None:
    query = message(wire(), 6, opt=opt())
    octets = frame(query).to_octets()
    program.activate(program.stage(versions[0]), later())
    program.stage(versions[1])

    live = libbpf.run_on_packet(program.descriptor(LIVE[hook]), octets).packet
    staged = libbpf.run_on_packet(program.descriptor(hook.program), octets).packet

    assert live.endswith(answer(Responder(versions[0], SETTINGS), query))
    assert staged.endswith(answer(Responder(versions[1], SETTINGS), query))


def test_a_table_that_is_too_large_is_refused(program: Program, versions: tuple[AnswerTable, AnswerTable]) -> None:
    class Large:
        octets = bytes(TABLE_ROOM + 1)
        zones = versions[0].zones

    with pytest.raises(TableUnfit, match=f"{TABLE_ROOM + 1} octets; the kernel has room for {TABLE_ROOM}"):
        program.stage(Large())  # type: ignore[arg-type]
