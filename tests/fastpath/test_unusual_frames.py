"""Frames that are not one datagram in one buffer: tags kept aside, segments merged by the sender, jumbo frames.

Multi-buffer frames do not reach the program in XDP: it is not marked for them (xdp.frags), so the kernel refuses to
attach it where they could come, which is tested.  (A test run makes fragments all the same and proves nothing.)
"""

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.frames import Frame
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.layout import Reason
from tests.fastpath.conftest import TC, InKernel, Zones, frame, message, opt, require_program, wire
from tests.fastpath.site import CLIENT, SERVICE, WIRE, Site, mac_of, site, socket_in
from tests.needs import REPOSITORY, require_tool
from tests.network import network

# Offsets in struct __sk_buff (linux/bpf.h), of which a test run takes these from us.
SK_BUFF_OCTETS, GSO_SEGS, GSO_SIZE = 192, 164, 176
UDP_SEGMENT = 103  # linux/udp.h
PACKET_AUXDATA = 8  # linux/if_packet.h
VLAN_IS_VALID = 1 << 4  # TP_STATUS_VLAN_VALID
QUERY = message(wire(b"com"), opt=opt())


def merged(field: int, value: int) -> bytes:
    context = bytearray(SK_BUFF_OCTETS)
    struct.pack_into("=I", context, field, value)
    return bytes(context)


@pytest.mark.parametrize("family", [4, 6])
def test_at_tc_what_holds_several_datagrams_goes_up(kernel: InKernel, family: int) -> None:
    octets = frame(QUERY, family).to_octets()
    descriptor = kernel.program.descriptor(TC.program)
    for field, value in ((GSO_SIZE, len(QUERY)), (GSO_SEGS, 2)):
        run = libbpf.run_on_packet(descriptor, octets, context=merged(field, value))
        assert (run.verdict, run.packet) == (TC.passed, octets)
        assert kernel.reason() is Reason.MERGED
    assert libbpf.run_on_packet(descriptor, octets, context=merged(GSO_SEGS, 1)).verdict == TC.reply


@pytest.fixture(scope="module")
def tc_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_program()
    require_tool("ethtool")
    with site(tmp_path_factory.mktemp("unusual"), mode="tc") as made:
        yield made


@pytest.mark.parametrize("family", [4, 6])
def test_queries_that_a_sender_merges_are_all_answered_by_the_workers(tc_site: Site, family: int) -> None:
    for host in (tc_site.client, tc_site.server):
        host.run("ethtool", "-K", WIRE, "tx", "on", "tx-udp-segmentation", "on")
    before = tc_site.status()["counters"]["passes"].get("merged", 0)
    queries = [message(wire(b"com"), opt=opt(), ident=number) for number in range(5)]
    with socket_in(tc_site.client, socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((SERVICE[family], 53))
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(queries[0]))
        client.send(b"".join(queries))
        answered = sorted(client.recv(4096)[:2] for _ in queries)

    assert answered == sorted(query[:2] for query in queries)
    assert tc_site.status()["counters"]["passes"]["merged"] == before + 1
    print(f"hook {tc_site.hook()}")


@pytest.mark.parametrize("family", [4, 6])
def test_at_tc_the_reply_to_a_tagged_frame_has_the_tag(tc_site: Site, family: int) -> None:
    tag = 0x6023  # priority 3, VLAN 35
    sent = Frame(
        source=CLIENT[family], destination=SERVICE[family], source_mac=mac_of(tc_site.client),
        destination_mac=mac_of(tc_site.server), payload=QUERY, vlan=tag,
    )  # fmt: skip
    before = tc_site.kernel_replies(family)
    with socket_in(tc_site.client, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as far_end:
        far_end.bind((WIRE, 3))
        far_end.setsockopt(263, PACKET_AUXDATA, 1)  # SOL_PACKET
        far_end.settimeout(5)
        far_end.send(sent.to_octets())
        while True:
            octets, ((_, _, said),), _, address = far_end.recvmsg(4096, 256)
            if address[2] != socket.PACKET_OUTGOING and octets[:6] == sent.source_mac:
                break
    status, _, _, _, _, vlan, _ = struct.unpack("=IIIHHHH", said[:20])

    assert status & VLAN_IS_VALID
    assert vlan == tag
    assert Frame.from_octets(octets).payload[:2] == QUERY[:2]
    assert tc_site.kernel_replies(family) == before + 1


def test_with_jumbo_frames_tc_answers(tc_site: Site) -> None:
    for host in (tc_site.client, tc_site.server):
        host.ip("link", "set", WIRE, "mtu", "9000")
    before = tc_site.kernel_replies(4)
    assert "NXDOMAIN" in tc_site.dig(f"@{SERVICE[4]}", "nosuchtld.", "A", "+dnssec", "+bufsize=4096")
    assert tc_site.kernel_replies(4) == before + 1


def test_with_jumbo_frames_xdp_is_refused_and_the_cause_is_named(zones: Zones, tmp_path: Path) -> None:
    require_program()
    table = tmp_path / "1.table"
    table.write_bytes(zones.table.octets)
    with network() as made:
        server, client = made.host("server"), made.host("client")
        made.link(server, client, WIRE, ((f"{SERVICE[4]}/24", f"{CLIENT[4]}/24"),))
        for host in (server, client):
            host.ip("link", "set", WIRE, "mtu", "9000")
        done = subprocess.run(
            (*server.prefix, sys.executable, "-m", "tests.fastpath.owner", "xdp", "link", "3", str(table)),
            cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode != 0
    assert "its MTU of 9000 is more than XDP takes there" in done.stderr.splitlines()[-1]
