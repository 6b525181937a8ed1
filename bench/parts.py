"""What each part of the fast path costs per packet: `python -m bench.parts`.  Needs root and clang, and no interface.

The fastest of many short rounds counts: whatever else the machine does only ever makes a round slower.
"""

import itertools
import mmap
import struct
import sys
import time
from collections.abc import Sequence

from bench.bpf_object import compiled
from bench.mix import Mix
from rootsrv.answer.compiler import compile_table
from rootsrv.answer.cookies import ServerCookies
from rootsrv.answer.responder import ResponderSettings
from rootsrv.answer.table import AnswerTable
from rootsrv.demo_zone import generate_root
from rootsrv.fastpath import libbpf
from rootsrv.fastpath.program import TEST_IFINDEX, Interface, Program
from rootsrv.zone.anchors import TrustAnchors
from rootsrv.zone.verify import verify, verify_hosts
from tests.fastpath.frames import Frame

PARTS = ("restore", "headers", "question", "checksum", "find", "OPT", "fit", "send", "count")
SERVICE = {4: "192.0.2.53", 6: "2001:db8::53"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8:1::7"}
QUERIES = 2048
ROUNDS, REPEAT = 60, 2048
_SLOT = 1028


def table(now: float) -> tuple[AnswerTable, list[str]]:
    """A generated root of the real one's size."""
    generated = generate_root(inception=now - 86_400, expiration=now + 86_400)
    root = verify(generated.root, TrustAnchors.from_text(generated.trust_anchor), now)
    octets = compile_table(root, verify_hosts(generated.hosts, root, now))
    labels = [owner[1:-1].decode() for owner in generated.root.delegations]
    return AnswerTable.from_octets(octets), labels


def measure(program: Program, loaded: libbpf.BpfObject, frames: Sequence[bytes]) -> list[float]:
    """Nanoseconds per packet up to each part."""
    queries = loaded.map("queries")
    for number, frame in enumerate(frames):
        queries.update(number, struct.pack("=I", len(frame)) + frame.ljust(_SLOT - 4, b"\0"))
    with mmap.mmap(loaded.map(".data.parts").fd, mmap.PAGESIZE) as block:
        fastest = []
        for part in range(len(PARTS)):
            best = float("inf")
            for _ in range(ROUNDS):
                block[:16] = struct.pack("=4I", len(frames), 0, part, 0)
                run = libbpf.run_on_packet(program.descriptor("parts_xdp"), frames[0].ljust(1500, b"\0"), repeat=REPEAT)
                best = min(best, run.nanoseconds)
            fastest.append(best)
            (answered,) = struct.unpack_from("=I", block, 12)
            if PARTS[part] in ("send", "count") and answered < REPEAT * 0.98:
                raise RuntimeError(f"only {answered} of {REPEAT} were answered")
    return fastest


def main() -> int:
    """Print a table; the exit status."""
    now = time.time()
    made, labels = table(now)
    loaded = libbpf.BpfObject.open(compiled("parts"), "rootsrv").load()
    program = Program(loaded)
    program.set_service(list(SERVICE.values()), 53)
    program.set_responses(ResponderSettings(nsid=b"bench.example", cookies=ServerCookies(bytes(16))))
    program.set_interfaces([Interface(TEST_IFINDEX, 65_536, bytes(6), virtual=True, loopback=False)])
    program.publish_time(now)
    program.activate(program.stage(made), [1 << 62] * 2)
    mix = Mix.read()
    kinds = {
        "mix": mix.with_edns(cookie=0.0),
        "mix, cookies": mix.with_edns(cookie=1.0),
        **{kind: mix.only(kind).with_edns(cookie=0.0) for kind in ("nxdomain", "referral", "apex")},
    }
    print("nanoseconds per packet, by part; fastest of", ROUNDS, "rounds")
    print(f"{'':18}", *(f"{part:>9}" for part in (*PARTS, "all")))
    for family in (4, 6):
        for name, drawn in kinds.items():
            frames = [
                Frame(source=CLIENT[family], destination=SERVICE[family], payload=query.octets).to_octets()
                for query in drawn.queries(labels, QUERIES)
                if query.kind != "chaos"
            ]
            sums = measure(program, loaded, frames)
            costs = [sums[0], *(after - before for before, after in itertools.pairwise(sums))]
            print(f"IPv{family} {name:13}", *(f"{cost:9.0f}" for cost in (*costs, sums[-1] - sums[0])), flush=True)
    program.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
