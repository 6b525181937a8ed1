"""The only process of the guest (its init): loads the program, runs the corpus, attaches by clsact and asks over lo."""

import contextlib
import ctypes
import json
import os
import socket
import sys
import termios
import time
import traceback
from pathlib import Path

HERE = Path("/guest")
_REBOOT = 0x4321FEDC  # power off


def main() -> None:
    """Everything; an exception is printed and the host sees that the last line is missing."""
    for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("bpf", "/sys/fs/bpf")):
        os.makedirs(place, exist_ok=True)
        mounted = ctypes.CDLL(None).mount(kind.encode(), place.encode(), kind.encode(), 0, None)
        print(f"mount {place}: {mounted}")
    sys.path[:0] = (HERE / "path").read_text().split(":")

    from bench.frames import Frame
    from rootsrv.answer.cookies import ServerCookies
    from rootsrv.answer.responder import ResponderSettings
    from rootsrv.answer.table import AnswerTable
    from rootsrv.fastpath import libbpf
    from rootsrv.fastpath.program import TC_NEXT, TC_REDIRECT, XDP_PASS, XDP_TX, Interface, Program

    corpus = json.loads((HERE / "corpus").read_text())
    cases = [
        (bytes.fromhex(octets), answer and bytes.fromhex(answer), reason) for octets, answer, reason in corpus["cases"]
    ]
    began = time.monotonic()
    program = Program.load()
    print(f"Linux {os.uname().release}: loaded all programs in {time.monotonic() - began:.2f} s")
    Program.load(capture_chunks=1).close()
    print("loaded those that capture")
    table = AnswerTable(bytes.fromhex(corpus["table"]))
    settings = ResponderSettings(
        nsid=b"lax1a.example", version=b"rootsrv", cookies=ServerCookies(bytes(range(16)), (bytes(range(16, 32)),))
    )
    program.set_service(corpus["service"], 53)
    program.set_responses(settings)
    program.set_interfaces([Interface(1, 65536, bytes(6), virtual=True, loopback=False)])
    program.publish_time(corpus["now"])
    forever = [1 << 62, 1 << 62]
    program.activate(program.stage(table), forever)

    for name, passed, replied in (("xdp_test", XDP_PASS, XDP_TX), ("tc_test", TC_NEXT, TC_REDIRECT)):
        descriptor = program.descriptor(name)
        answers = passes = 0
        for octets, expected, reason in cases:
            before = program.counters(test_runs=True).passed() if reason else {}
            run = libbpf.run_on_packet(descriptor, octets)
            if run.verdict == passed:
                assert run.packet == octets, f"{name}: passed and changed: {octets.hex()}"
                if reason:
                    after = program.counters(test_runs=True).passed()
                    assert [k for k in after if after[k] != before.get(k, 0)] == [reason], octets.hex()
                passes += 1
                continue
            assert run.verdict == replied, f"{name}: verdict {run.verdict} for {octets.hex()}"
            assert Frame.from_octets(run.packet).payload == expected, f"{name}: {octets.hex()}"
            answers += 1
        assert answers > 0.9 * (len(cases) - passes)
        print(f"{name}: {answers} answered as the Responder does, {passes} passed up")

    queries = list(map(bytes.fromhex, corpus["plain"]))
    attach_and_ask(program, table, settings, queries)
    answer_on_a_wire(program, table, settings, corpus["service"], queries)


def attach_and_ask(program: object, table: object, settings: object, queries: list[bytes]) -> None:
    """auto takes clsact here (no tcx before 6.6); the kernel answers on lo although no server runs."""
    from rootsrv.answer.responder import Responder, Transport
    from rootsrv.fastpath.attachment import CannotAttach, attach, find_interface

    for module in sorted((HERE / "modules").iterdir()):
        descriptor = os.open(module, os.O_RDONLY)
        assert ctypes.CDLL(None).syscall(313, descriptor, b"", 0) == 0, module.name  # finit_module
        os.close(descriptor)
    set_up_loopback()
    lo = find_interface("lo")
    program.set_service(["127.0.0.1", "::1"], 53)  # type: ignore[attr-defined]
    program.set_interfaces([lo.kernel])  # type: ignore[attr-defined]
    for hook, expected in (("xdp", "no native XDP"), ("tcx", "no tcx")):
        refused = ""
        try:
            attach(program, lo, hook, replace=False, keep=False)  # type: ignore[arg-type]
        except CannotAttach as error:
            refused = str(error)
        assert expected in refused, f"{hook}: {refused or 'attached'}"
    attached = attach(program, lo, "clsact", replace=False, keep=False)  # type: ignore[arg-type]
    assert attached.is_there()
    responder = Responder(table, settings)  # type: ignore[arg-type]
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            source = socket.inet_pton(family, address)
            for query in queries:
                client.sendto(query, (address, 53))
                assert client.recv(4096) == responder.respond(query, source, Transport.UDP, 0.0), address
    attached.detach()
    assert not attached.is_there()
    print("clsact: attached to lo, answered without a server over IPv4 and IPv6, detached")


def answer_on_a_wire(
    program: object, table: object, settings: object, services: list[str], queries: list[bytes]
) -> None:
    """Native XDP on a veth: frames that are redirected into it come back as replies."""
    from pyroute2 import IPRoute

    from bench.frames import Frame
    from rootsrv.answer.responder import Responder, Transport
    from rootsrv.fastpath.attachment import attach, find_interface
    from tests.fastpath.sender import Sender

    with IPRoute() as netlink:
        netlink.link("add", ifname="server", kind="veth", peer={"ifname": "client"})
        for name in ("server", "client"):
            netlink.link("set", index=socket.if_nametoindex(name), state="up")
    server, client = find_interface("server"), find_interface("client")
    program.set_service(services, 53)  # type: ignore[attr-defined]
    program.set_interfaces([server.kernel])  # type: ignore[attr-defined]
    attached = attach(program, server, "xdp", replace=False, keep=False)  # type: ignore[arg-type]
    sender = Sender("client")
    responder = Responder(table, settings)  # type: ignore[arg-type]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as far_end:
        far_end.bind(("client", 3))
        far_end.settimeout(20)
        for query in queries:
            for source, service in zip(("198.51.100.7", "2001:db8:1:2::7"), services, strict=True):
                sent = Frame(
                    source=source, destination=service, source_mac=client.kernel.mac,
                    destination_mac=server.kernel.mac, payload=query,
                )  # fmt: skip
                sender.send(sent.to_octets())
                while True:
                    octets, address = far_end.recvfrom(65535)
                    # The interfaces greet their neighbours, too.
                    if address[2] != socket.PACKET_OUTGOING and octets[:12] == sent.source_mac + sent.destination_mac:
                        break
                packed = socket.inet_pton(socket.AF_INET6 if ":" in source else socket.AF_INET, source)
                expected = responder.respond(query, packed, Transport.UDP, 0.0)
                assert Frame.from_octets(octets).payload == expected, source
    assert program.counters().answered() >= 2 * len(queries)  # type: ignore[attr-defined]
    attached.detach()
    print("xdp: attached to a veth, answered redirected frames over IPv4 and IPv6, detached")


def set_up_loopback() -> None:
    """Bring lo up (the kernel gives it 127.0.0.1)."""
    import fcntl
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: UP, RUNNING


if __name__ == "__main__":
    try:
        main()
        print("GUEST DONE")
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError, termios.error):  # where it is no terminal nothing has to drain
        termios.tcdrain(sys.stdout.fileno())
    ctypes.CDLL(None).reboot(_REBOOT)
