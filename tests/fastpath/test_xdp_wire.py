"""XDP on a wire: redirected frames have room for replies to grow and are answered; a socket's have none and go up."""

import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from bench.frames import Frame
from tests.fastpath.conftest import message, opt, require_program, wire
from tests.fastpath.site import CLIENT, SERVICE, WIRE, RawEnd, Site, mac_of, site
from tests.needs import REPOSITORY

COUNT = 32


@pytest.fixture(scope="module")
def xdp_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_program()
    with site(tmp_path_factory.mktemp("xdp"), mode="xdp") as made:
        yield made


@pytest.fixture(scope="module")
def sender(xdp_site: Site) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        (*xdp_site.client.prefix, sys.executable, "-m", "tests.fastpath.sender", WIRE),
        cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def redirect(process: "subprocess.Popen[str]", octets: bytes) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(octets.hex() + "\n")
    assert process.stdout.readline() == "sent\n"


def query_frame(made: Site, query: bytes, family: int, **changes: object) -> bytes:
    return Frame(
        source=CLIENT[family], destination=SERVICE[family], source_mac=mac_of(made.client),
        destination_mac=mac_of(made.server), payload=query, **changes,  # type: ignore[arg-type]
    ).to_octets()  # fmt: skip


def test_it_is_native_xdp(xdp_site: Site) -> None:
    assert xdp_site.hook() == "xdp"
    print(f"hook xdp, mode {xdp_site.status()['mode']}")


@pytest.mark.parametrize("family", [4, 6])
def test_redirected_frames_are_answered_in_xdp(xdp_site: Site, sender: "subprocess.Popen[str]", family: int) -> None:
    before, passed = xdp_site.kernel_replies(family), Counter(xdp_site.status()["counters"]["passes"])
    far_end = RawEnd(xdp_site.client)
    try:
        for number in range(COUNT):
            query = message(wire(b"www", b"x" * (number % 60 + 1), b"com"), opt=opt(), ident=number)
            redirect(sender, query_frame(xdp_site, query, family))
        replies = far_end.replies(COUNT)
    finally:
        far_end.close()

    assert sorted(struct.unpack_from("!H", Frame.from_octets(octets).payload)[0] for octets in replies) == [
        *range(COUNT)
    ]
    # While the owner of the program does not get its turn, what it said has run out, and the worker answers.
    by_worker = sum(Frame.from_octets(octets).partial for octets in replies)
    up = Counter(xdp_site.status()["counters"]["passes"]) - passed
    assert by_worker == up["expired"], up
    assert by_worker < COUNT // 2, up
    assert xdp_site.kernel_replies(family) == before + COUNT - by_worker


def test_a_corrupted_checksum_is_answered_by_nobody(xdp_site: Site, sender: "subprocess.Popen[str]") -> None:
    far_end = RawEnd(xdp_site.client)
    try:
        bad = message(wire(b"com"), opt=opt(), ident=1)
        good = message(wire(b"com"), opt=opt(), ident=2)
        redirect(sender, query_frame(xdp_site, bad, 4, udp_checksum=0x1234))
        redirect(sender, query_frame(xdp_site, good, 4))
        (reply,) = far_end.replies(2, seconds=1.0)
        assert Frame.from_octets(reply).payload[:2] == b"\0\2"
    finally:
        far_end.close()


def test_a_packet_without_room_to_grow_goes_up_and_is_answered_there(xdp_site: Site) -> None:
    passed = xdp_site.status()["counters"]["passes"].get("no_tailroom", 0)
    before = xdp_site.kernel_replies(4)

    assert "NXDOMAIN" in xdp_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A", "+dnssec")

    status = xdp_site.status()["counters"]
    assert status["passes"]["no_tailroom"] == passed + 1
    assert xdp_site.kernel_replies(4) == before
