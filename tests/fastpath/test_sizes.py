"""Messages of every size are copied, summed and answered alike, whichever way the program takes for the size."""

import itertools
import os

import pytest
from siphash24 import siphash24

from rootsrv.fastpath.layout import ffi
from rootsrv.fastpath.program import Program
from tests.fastpath.conftest import HOOKS, Hook, InKernel, frame, message, opt, option, wire

MAX_QUERY = 512
PADDING = 12
COOKIE = 10


def name_of(octets: int) -> bytes:
    """A name of so many octets, below a TLD that does not exist where there is room for labels."""
    labels, left = [], octets - 1
    while left:
        take = min(left, 64)
        if left - take == 1:
            take -= 1  # no room for another label
        labels.append(b"x" * (take - 1))
        left -= take
    return wire(*labels)


def of_every_size() -> list[bytes]:
    """Queries of 17 … 512 octets: by the length of their name, and of a padding option behind short and long ones."""
    queries = [message(name_of(octets)) for octets in (1, *range(3, 256))]
    for qname in (wire(), wire(b"www", b"example"), name_of(200)):
        queries.append(message(qname, opt=opt()))
        room = MAX_QUERY - len(message(qname, opt=opt(options=option(PADDING))))
        queries += [message(qname, opt=opt(options=option(PADDING, b"p" * size))) for size in range(room + 1)]
    return queries


@pytest.mark.parametrize("family", [4, 6])
def test_every_size_is_answered_as_by_the_responder(kernel: InKernel, hook: Hook, family: int) -> None:
    queries = of_every_size()
    assert {len(query) for query in queries} >= set(range(19, MAX_QUERY + 1))
    for query in queries:
        assert kernel.ask(hook, query, family) == kernel.expected(query, family), f"{len(query)} octets"


@pytest.mark.parametrize("family", [4, 6])
def test_each_octet_of_a_message_is_part_of_its_checksum(kernel: InKernel, hook: Hook, family: int) -> None:
    """One that arrives changed is passed up, wherever the change is."""
    for query in of_every_size()[::13]:
        octets = frame(query, family).to_octets()
        start = len(octets) - len(query)
        for place in {*range(start, len(octets), 17), len(octets) - 1}:
            changed = octets[:place] + bytes([octets[place] ^ 0x20]) + octets[place + 1 :]
            run = kernel.run(hook, changed)
            assert (run.verdict, run.packet) == (hook.passed, changed), (len(query), place - start)


@pytest.mark.parametrize(
    "cookie", [b"\xff" * 8, bytes(8), b"\0\xff" * 4, b"\xff" * 8 + bytes(16), b"\xff" * 24], ids=bytes.hex
)
def test_a_cookie_is_summed_where_the_question_ends_at_an_odd_octet_or_an_even_one(
    kernel: InKernel, hook: Hook, cookie: bytes
) -> None:
    """A client cookie alone, which most options are, is summed by a way of its own."""
    for octets in (1, *range(3, 60)):
        query = message(name_of(octets), opt=opt(options=option(COOKIE, cookie)))
        assert kernel.ask(hook, query) == kernel.expected(query), octets
        changed = bytearray(frame(query).to_octets())
        changed[-len(cookie)] ^= 1
        run = kernel.run(hook, bytes(changed))
        assert (run.verdict, run.packet) == (hook.passed, changed), octets


@pytest.mark.parametrize("trailer", [0, 1, 18])
def test_octets_behind_the_datagram_are_none_of_its_own(kernel: InKernel, hook: Hook, trailer: int) -> None:
    """Short frames are padded by the link."""
    for query in of_every_size()[::5]:
        assert kernel.ask(hook, frame(query, trailer=b"t" * trailer)) == kernel.expected(query), len(query)


def test_ipv4_identifications_are_those_of_a_keyed_hash(kernel: InKernel) -> None:
    """SipHash-2-4 under a key that each program has of its own: four of each hash, counted per CPU."""
    cpu, allowed = min(os.sched_getaffinity(0)), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    program = Program.load()
    try:
        key = bytes(ffi.buffer(program.control.ip_id_key))
        assert key not in (bytes(16), bytes(ffi.buffer(kernel.program.control.ip_id_key)))
        fresh = InKernel(program, kernel.responder, kernel.table, kernel.settings)
        program.set_service(["192.0.2.53"], 53)
        program.set_interfaces([])
        program.set_responses(kernel.settings)
        program.activate(program.stage(kernel.table), [1 << 62] * 2)
        octets = frame(message(wire(b"com"))).to_octets()
        ids = []
        for hook in itertools.islice(itertools.cycle(HOOKS), 40):
            run = fresh.run(hook, octets)
            assert run.verdict == hook.reply
            ids.append(run.packet[18:20])
    finally:
        program.close()
        os.sched_setaffinity(0, allowed)

    hashed = b"".join(
        siphash24((made | cpu << 44).to_bytes(7, "little"), key=key).digest() for made in range(len(ids) // 4)
    )
    assert b"".join(ids) == hashed
