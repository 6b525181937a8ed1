"""Sends queries at a steady rate and reports which were lost: steady_load.py REPORT SECONDS RATE ADDRESS[@PORT]…

It ends after SECONDS or with SIGTERM.  A query without answer a second later is lost.  Once each address has answered
there is a file REPORT.begun.  A program of its own because it runs in another network namespace.
"""

import ipaddress
import json
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 1.0

RECEIVE_OCTETS = 8 << 20
BURST = 16
"""After a pause what is overdue is sent in parts, and the replies to each are read: none is lost here, on our side."""

_SO_RCVBUFFORCE = 33  # socket(7)


def main() -> None:
    report, seconds, rate, *addresses = sys.argv[1:]
    sockets = []
    for each_address in addresses:
        address, _, port = each_address.partition("@")
        ip_version = ipaddress.ip_address(address).version
        each = socket.socket(socket.AF_INET if ip_version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        # Not connected: an ICMP error, while there is no route, is a lost query and not an error of the socket.
        each.setblocking(False)
        each.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_OCTETS)
        sockets.append((str(ip_version), each, (address, int(port or 53))))
    open_queries: dict[tuple[str, int], float] = {}
    result: dict[str, dict[str, Any]] = {version: {"sent": 0, "lost": []} for version, _, _ in sockets}
    silent = {version for version, _, _ in sockets}
    start = time.monotonic()
    end = start + float(seconds)

    def end_now(*_: object) -> None:
        nonlocal end
        end = min(end, time.monotonic())

    signal.signal(signal.SIGTERM, end_now)
    to_wall = time.time() - start
    sent = 0
    while (now := time.monotonic()) < end + PATIENCE_SECONDS:
        for _ in range(BURST):
            if now >= end or sent >= (now - start) * float(rate):
                break
            version, each, target = sockets[sent % len(sockets)]
            number = sent % 65536
            query = struct.pack("!6H", number, 0, 1, 0, 0, 0) + b"\x03com\0" + struct.pack("!HH", 1, 1)
            try:
                each.sendto(query, target)
                open_queries[version, number] = now
            except OSError:
                result[version]["lost"].append(now + to_wall)
            result[version]["sent"] += 1
            sent += 1
        for version, each, _ in sockets:
            try:
                while True:
                    reply = each.recv(4096)
                    open_queries.pop((version, int.from_bytes(reply[:2], "big")), None)
                    if version in silent:
                        silent.remove(version)
                        if not silent:
                            Path(f"{report}.begun").touch()
            except OSError:
                pass
        select.select([each for _, each, _ in sockets], [], [], 0.0005)
    for (version, _), at in open_queries.items():
        result[version]["lost"].append(at + to_wall)
    Path(report).write_text(json.dumps(result))


main()
