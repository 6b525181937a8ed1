"""The commands an operator types.

Each command is a function that takes the parsed arguments and returns the exit status: 0 done, 1 it did not work (a
zone is bad, a host lacks something), 2 the command or the configuration is wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rootsrv import __version__, config, zone_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `rootsrv`; returns the exit status."""
    parsed = parser().parse_args(arguments)
    try:
        status: int = parsed.command(parsed)
    except config.ConfigError as error:
        print(f"rootsrv: {error}", file=sys.stderr)
        return 2
    return status


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(prog="rootsrv", description="An anycast, authoritative DNS root server instance.")
    top.add_argument("--version", action="version", version=f"rootsrv {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check-config", help="print the effective configuration")
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(command=check_config)

    zone = commands.add_parser("zone", help="look at zone files").add_subparsers(required=True, metavar="COMMAND")
    verify = zone.add_parser("verify", help="say whether a zone can be believed, and why not")
    zone_file.add_verify_arguments(verify)
    verify.set_defaults(command=zone_file.run_verify)
    return top


def check_config(arguments: argparse.Namespace) -> int:
    """`rootsrv check-config FILE`."""
    print(config.load(arguments.file))
    return 0
