"""`rootsrv zone compile`: an answer table from zone files, and what is in it."""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rootsrv.answer.compiler import compile_table
from rootsrv.answer.table import AnswerTable
from rootsrv.commands import zone_files
from rootsrv.commands.printing import complain
from rootsrv.process import whole_file
from rootsrv.store import zone_file
from rootsrv.store.table_file import open_table
from rootsrv.wire import name
from rootsrv.zone import instant
from rootsrv.zone.anchors import AnchorsMalformed
from rootsrv.zone.verify import verify, verify_hosts


def add_compile_arguments(command: argparse.ArgumentParser) -> None:
    """The arguments of `rootsrv zone compile`."""
    command.add_argument("file", type=Path, metavar="FILE", help="root zone file, may be gzipped")
    command.add_argument("--hosts", type=Path, metavar="FILE", help="file of the zone of the root's hosts")
    command.add_argument(
        "--hosts-name", type=zone_files.zone_name, default="root-servers.net.", help="its name (default: %(default)s)"
    )
    zone_files.add_judging_arguments(command)
    command.add_argument("--output", type=Path, required=True, metavar="FILE", help="the table file to write")


def run_compile(arguments: argparse.Namespace) -> int:
    """Verify, compile, write, describe: 0 done, 1 a zone was rejected or held, 2 the arguments are wrong."""
    now = time.time() if arguments.at is None else arguments.at
    try:
        trust_anchors = zone_file.read_trust_anchors(arguments.anchors)
        hosts_anchors = zone_files.read_hosts_anchors(arguments)
        root = zone_files.report(
            arguments.file,
            name.ROOT,
            lambda contents: verify(contents, trust_anchors, now, zonemd=arguments.zonemd),
        )
        if root is None:
            return 1
        hosts = None
        if arguments.hosts is not None:
            hosts = zone_files.report(
                arguments.hosts,
                arguments.hosts_name,
                lambda contents: verify_hosts(
                    contents, root, now, zonemd=arguments.zonemd, trust_anchors=hosts_anchors
                ),
            )
            if hosts is None:
                return 1
        if root.limits or (hosts is not None and hosts.limits):
            return 1
        started = time.perf_counter()
        octets = compile_table(root, hosts)
        seconds = time.perf_counter() - started
        whole_file.put(arguments.output, octets, 0o644)
    except AnchorsMalformed as error:
        complain(error)
        return 2
    except zone_file.FileUnusable as error:
        complain(error)
        return 2
    except OSError as error:
        complain(f"{arguments.output}: {error.strerror}")
        return 2
    print(f"{arguments.output}: compiled, took {seconds:.2f} s")
    for line in describe(open_table(arguments.output)):
        print(f"      {line}")
    return 0


def describe(table: AnswerTable) -> Iterator[str]:
    """What is in *table*, a line each."""
    for zone in table.zones:
        until = instant.to_text(zone.signatures_until) if zone.signatures_until else "no signature expires"
        yield f"zone {name.to_text(zone.name)} serial {zone.serial}, expire {zone.expire} s, signatures until {until}"
    answers = list(table.answers())
    referrals = sum(1 for info in table.names() if info.label)
    kinds = Counter("positive" if answer.cuts[-1].ancount else "other" for answer in answers)
    yield f"{len(table.octets)} octets, SHA-256 {table.digest.hex()}"
    yield f"{len(answers)} different answers ({kinds['positive']} positive) for {referrals} delegations"
    largest = max(answers, key=lambda answer: len(answer.body))
    yield (
        f"bodies: {sum(len(answer.body) for answer in answers)} octets, largest {len(largest.body)};"
        f" at most {max(len(answer.pointers) for answer in answers)} compression pointers"
        f" and {max(len(answer.cuts) for answer in answers)} cuts"
    )
