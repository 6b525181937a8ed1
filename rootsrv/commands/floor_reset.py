"""`rootsrv zone reset-floor`: after a serial that nobody meant was served, so that lower ones are taken again."""
# Nothing ever rolls back, so a zone whose serial is years ahead by mistake would shut out all that follow (RFC 1982).
# The one way back is for a person, on one instance that is stopped and drained: what it remembers of that zone – the
# ledger, the tables, the kept versions, the shared page – is put aside, and it starts as a new box does, from what its
# primaries have then.  Nothing is deleted; the journal says who did it and what was served.

import argparse
import json
import shutil
import time
from pathlib import Path

from rootsrv.commands import numbers
from rootsrv.commands.asking import add_config, failed
from rootsrv.config import file as config_file
from rootsrv.control.protocol import Refused
from rootsrv.store.store import Store, StoreFailed
from rootsrv.wire import name
from rootsrv.zone import instant

_PAGE_PARTS = ("page", "page.*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv zone reset-floor`."""
    parser.add_argument(
        "served", type=numbers.serial, metavar="SERIAL", help="the one that was served and nobody meant"
    )
    parser.add_argument("--zone", default=".", help="default: the root")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="what the journal will say")
    add_config(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Put aside what keeps lower serials out; 1 if the instance runs, or another serial was served."""
    loaded = config_file.load(arguments.config)
    zone = arguments.zone if arguments.zone.endswith(".") else f"{arguments.zone}."
    if zone not in {each.name for each in loaded.zone}:
        return failed(arguments, f"{zone}: is not a configured zone")
    directory = Path(loaded.state.directory)
    if not directory.is_dir():
        return failed(arguments, f"{directory}: there is nothing kept")
    try:
        store = Store(directory)
    except StoreFailed as error:
        return failed(arguments, f"{error}; stop the instance first: systemctl stop rootsrv.target")
    try:
        aside = _put_aside(store, Path(loaded.state.runtime_directory), zone, arguments.served, arguments.reason)
    except (StoreFailed, Refused, OSError) as error:
        return failed(arguments, error)
    finally:
        store.close()
    told = {"ok": True, "zone": zone, "served": arguments.served, "put_aside": str(aside)}
    print(json.dumps(told) if arguments.json else f"zone {zone}: started anew; what was kept is in {aside}")
    return 0


def _put_aside(store: Store, runtime: Path, zone: str, served: int, reason: str) -> Path:
    lease = store.read_ledger().get("leases", {}).get(zone)
    was = lease.get("serial") if isinstance(lease, dict) else None
    if was != served:
        raise Refused(f"zone {zone}: {'nothing' if was is None else was} was served, not {served}; nothing was changed")
    now = instant.to_text(time.time())
    aside = store.directory / f"before-reset-{now.replace(':', '')}"
    aside.mkdir(mode=0o700)
    store.journal(now, "serial floor reset", zone=zone, was=served, reason=reason, put_aside=str(aside))
    # The page first: as long as it names a generation, that and nothing older is gone on from.
    for pattern in _PAGE_PARTS:
        for part in runtime.glob(pattern):
            part.unlink()
    ledger = store.ledger_file
    for each in (ledger.twin, ledger.path, store.tables, store.zone_directory(name.from_text(zone))):
        if each.exists():
            shutil.move(each, aside / each.name)
    return aside
