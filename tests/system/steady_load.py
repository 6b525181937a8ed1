"""Sends queries at a steady rate and reports which were lost: steady_load.py REPORT SECONDS RATE ADDRESS…

A program of its own because it runs in another network namespace.  A query without answer after a second is lost.
"""

import ipaddress
import json
import select
import socket
import struct
import sys
import time
from pathlib import Path

PATIENCE_SECONDS = 1.0


def main() -> None:
    report, seconds, rate, *addresses = sys.argv[1:]
    sockets = []
    for address in addresses:
        version = ipaddress.ip_address(address).version
        each = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        # Not connected: an ICMP error, while there is no route, is a lost query and not an error of the socket.
        each.setblocking(False)
        sockets.append((str(version), each, (address, 53)))
    open_queries: dict[tuple[str, int], float] = {}
    result = {version: {"sent": 0, "lost": []} for version, _, _ in sockets}
    start = time.monotonic()
    to_wall = time.time() - start
    sent = 0
    while (now := time.monotonic()) < start + float(seconds) + PATIENCE_SECONDS:
        while now < start + float(seconds) and sent < (now - start) * float(rate):
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
            except OSError:
                pass
        select.select([each for _, each, _ in sockets], [], [], 0.0005)
    for (version, _), at in open_queries.items():
        result[version]["lost"].append(at + to_wall)
    Path(report).write_text(json.dumps(result))


main()
