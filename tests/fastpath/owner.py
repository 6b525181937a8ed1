"""An owner of the fast path and nothing else, to be killed: attaches, activates a table, renews, until it ends.

python -m tests.fastpath.owner HOOK KEEP ORPHAN_SECONDS TABLE [NUMBER_OF_A_PROGRAM_LEFT_BEHIND]
"""

import os
import select
import sys
import time
from pathlib import Path

from rootsrv.answer.responder import ResponderSettings
from rootsrv.fastpath.attachment import HookName, attach, find_interface, own_addresses
from rootsrv.fastpath.program import Program
from rootsrv.store.table_file import open_table

WIRE = "wire"
SERVICE = ("192.0.2.53", "2001:db8::53")


def main(hook: HookName, keep: bool, orphan_seconds: float, table: Path, left_behind: set[int]) -> None:
    """Own the fast path on the wire."""
    program = Program.load()
    program.set_service(SERVICE, 53)
    program.set_responses(ResponderSettings())
    program.set_own_addresses(own_addresses())
    interface = find_interface(WIRE)
    program.set_interfaces([interface.kernel])
    generation = program.stage(open_table(table))
    program.publish_time(time.time())

    def until() -> list[int]:
        return [time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(orphan_seconds * 1e9)] * 2

    program.activate(generation, until())
    attached = attach(program, interface, hook, replace=False, keep=keep, left_behind=left_behind)
    print("attached", attached.program, flush=True)
    while True:
        program.note_owner()
        if not select.select([sys.stdin], [], [], 0.5)[0]:
            continue
        if not os.read(sys.stdin.fileno(), 1):  # the end of our input is the end of us
            break
        program.renew(until())  # a renewal for each octet
        print("renewed", flush=True)
    attached.detach()
    program.close()
    print("detached", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "keep", float(sys.argv[3]), Path(sys.argv[4]), {*map(int, sys.argv[5:])})  # type: ignore[arg-type]
