"""`rootsrv doctor [--config FILE] [--network FILE] [--json]`."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rootsrv.commands.asking import add_config
from rootsrv.commands.printing import complain, say
from rootsrv.config import file as config_file
from rootsrv.doctor.finding import Finding, Grade, bad


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    add_config(parser)
    parser.add_argument(
        "--network", type=Path, metavar="FILE", help="settings of rootsrv-network (default: network.conf beside it)"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 1 when something is to be mended."""
    if not sys.platform.startswith("linux"):
        complain("doctor looks at Linux hosts only")
        return 1
    loaded = config_file.load(arguments.config)
    conf = arguments.network or arguments.config.absolute().parent / "network.conf"
    findings = list(examine(loaded, arguments.config, conf))
    failed = sum(each.grade is Grade.BAD for each in findings)
    if arguments.json:
        document = {"fit": not failed, "findings": [dataclasses.asdict(each) for each in findings]}
        print(json.dumps(document, indent=2))
    else:
        for line in render(findings):
            say(line)
    return 1 if failed else 0


def examine(loaded: config_file.Config, path: Path, conf: Path) -> Iterator[Finding]:
    """Everything, of the configuration *loaded* from *path* and network.conf at *conf*.

    A part that cannot be looked at is a finding, and the others go on.
    """
    # Here, so that no other command has to wait for what these need.
    from rootsrv.doctor import capture, dot, host, kernel, localroot, mesh, neighbours, network, real_time, zones

    parts: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("host", lambda: host.checks(loaded, path)),
        ("network", lambda: network.checks(loaded, conf)),
        ("fast path", lambda: kernel.checks(loaded)),
        ("real-time priority", lambda: real_time.checks(loaded)),
        ("neighbours", lambda: neighbours.checks(loaded)),
        ("zones", lambda: zones.checks(loaded)),
        ("mesh", lambda: mesh.checks(loaded)),
        ("DNS over TLS", lambda: dot.checks(loaded)),
        ("capture", lambda: capture.checks(loaded)),
    )
    if loaded.localroot is not None:
        # It answers no queries and announces nothing: what those need is no fault here.
        parts = (
            ("host", lambda: host.checks(loaded, path)),
            ("LocalRoot service", lambda: localroot.checks(loaded)),
            ("primaries", lambda: neighbours.primaries(loaded)),
        )
    for name, checks in parts:
        try:
            yield from checks()
        except OSError as error:
            what = f"{error.filename or name}: {error.strerror or error}"
            yield bad(name, f"could not be looked at to the end: {what}", "run this as root, outside of a sandbox")


def render(findings: list[Finding]) -> list[str]:
    """A line for each finding, the remedy below it."""
    lines = []
    for each in findings:
        lines.append(f"{each.grade.value:4}  {each.about}: {each.found}")
        if each.remedy:
            lines.append(f"      → {each.remedy}")
    failed = sum(each.grade is Grade.BAD for each in findings)
    lines.append(f"{failed} to mend" if failed else "this host is fit")
    return lines
