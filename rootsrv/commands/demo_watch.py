"""What a demo shows while it runs: a line per second of what is answered, and by whom."""

import asyncio
import itertools
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype

from rootsrv.page import counts
from rootsrv.page.layout import KERNEL_SLOT, Page
from rootsrv.telemetry.view import KERNEL, Viewer
from rootsrv.wire.codes import NXDOMAIN
from rootsrv.zone.contents import ZoneContents

_LONGEST_RESPONSE_OCTETS = 65_535


class DemoAsker(threading.Thread):
    """Some resolvers, in one: asks an instance *rate* queries a second in turn, over UDP, now and then over TCP."""

    def __init__(self, root: ZoneContents, addresses: Sequence[str], port: int, rate: int) -> None:
        super().__init__(name="asker", daemon=True)
        self._targets = [(each, port) for each in addresses]
        self._rate = rate
        self._queries = itertools.cycle(list(_mixture(root)))
        self._over = threading.Event()

    def run(self) -> None:
        sockets = []
        for target in self._targets:
            each = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_DGRAM)
            each.setblocking(False)
            each.connect(target)
            sockets.append(each)
        try:
            for number, query in enumerate(self._queries):
                if self._over.wait(1 / self._rate):
                    return
                asked = number.to_bytes(8, "big")[-2:] + query
                if number % 50 == 49:
                    self._ask_over_tcp(asked)
                    continue
                each = sockets[number % len(sockets)]
                try:
                    each.send(asked)
                    while True:
                        each.recv(_LONGEST_RESPONSE_OCTETS)
                except OSError:  # what has not come yet is taken next time
                    continue
        finally:
            for each in sockets:
                each.close()

    def _ask_over_tcp(self, asked: bytes) -> None:
        try:
            with socket.create_connection(self._targets[0], timeout=1) as connection:
                connection.sendall(len(asked).to_bytes(2, "big") + asked)
                connection.recv(_LONGEST_RESPONSE_OCTETS)
        except OSError:
            return

    def stop(self) -> None:
        """End it, and wait for it."""
        self._over.set()
        self.join()


def _mixture(root: ZoneContents) -> Iterator[bytes]:
    """Queries without their id, in the shares that a root server sees: most names do not exist."""
    tlds = [each[1:-1].decode() for each in root.delegations if each[1:-1].isalnum()][:40]
    for number, tld in enumerate(tlds):
        for name, rtype in (
            (f"no-such-tld-{number}", dns.rdatatype.A),
            (f"{number}.lan", dns.rdatatype.AAAA),
            (f"www.{tld}", dns.rdatatype.A),
            (tld, dns.rdatatype.DS),
            (".", dns.rdatatype.NS if number % 4 else dns.rdatatype.DNSKEY),
        ):
            query = dns.message.make_query(name, rtype, want_dnssec=True, payload=1232, flags=dns.flags.Flag(0))
            yield query.to_wire()[2:]


async def watch(
    server: "subprocess.Popen[bytes]", runtime: Path, state: Path, addresses: Sequence[str], port: int,
    tell: Callable[[str], object],
) -> None:  # fmt: skip
    """Tell what is answered, once a second, until the *server* ends."""
    viewer = Viewer(runtime, state, addresses, port)
    before: tuple[float, list[int], list[int]] | None = None
    while server.poll() is None:
        await viewer.refresh()
        await viewer.count_kernel()
        page = viewer.page()
        if page is not None:
            at, everybody, kernel = time.monotonic(), counts.total(page), _kernel(page)
            if before is not None:
                view = viewer.view()
                serial = view.zones[0].serial if view.zones else 0
                tell(line(serial, at - before[0], _less(everybody, before[1]), _less(kernel, before[2]),
                          kernel_is_there=bool(viewer.role(KERNEL).object("counters"))))  # fmt: skip
            before = at, everybody, kernel
        await asyncio.sleep(1.0)


def _kernel(page: Page) -> list[int]:
    return list(page.worker(KERNEL_SLOT).counters)


def _less(now: Sequence[int], before: Sequence[int]) -> list[int]:
    return [ours - theirs for ours, theirs in zip(now, before, strict=True)]


def line(serial: int, seconds: float, everybody: Sequence[int], kernel: Sequence[int], *, kernel_is_there: bool) -> str:
    """One second: *everybody* and *kernel* are what the counters of page/counts.py have grown by in *seconds*."""

    def rate(number: float) -> str:
        return f"{number / max(seconds, 1e-9):.0f}"

    def queries(words: Sequence[int], paths: Sequence[int] = range(4)) -> int:
        return sum(words[counts.QUERIES + path] for path in paths)

    nxdomain = sum(
        everybody[counts.RCODES + path * counts.RCODES_PER_PATH + truncated + NXDOMAIN]
        for path in range(4)
        for truncated in (0, counts.TRUNCATED_BIT)
    )
    of_all, of_kernel = queries(everybody), queries(kernel)
    whom = f"kernel {rate(of_kernel)}, workers {rate(of_all - of_kernel)}" if kernel_is_there else "by workers"
    return (
        f"serial {serial}  {rate(of_all)} queries/s ({whom})  IPv6 {rate(queries(everybody, (1, 3)))}"
        f"  TCP {rate(queries(everybody, (2, 3)))}  NXDOMAIN {rate(nxdomain)}"
    )
