"""`rootsrv check-config`: the configuration as it counts, and what is wrong with it."""

import argparse
import asyncio
from pathlib import Path

from rootsrv.commands.printing import complain
from rootsrv.config import file as config_file
from rootsrv.config import text
from rootsrv.store import sources_key, zone_file


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv check-config [--live] FILE`."""
    loaded = config_file.load(arguments.file)
    print(text.to_toml(loaded), end="")
    missing = [each for each in loaded.zone if each.trust_anchors and not Path(each.trust_anchors).exists()]
    told = [f"zone.trust_anchors: {each.trust_anchors}: is not there" for each in missing]
    for line in (*told, *zone_file.check_trust_anchors(each for each in loaded.zone if each not in missing)):
        complain(line)
    if loaded.report.sources_key_file:
        try:
            sources_key.read(Path(loaded.report.sources_key_file))
        except sources_key.SourcesKeyUnusable as error:
            raise config_file.ConfigError(f"report.sources_key_file: {error}") from error
    if not arguments.live or loaded.anycast is None:
        return 0
    from rootsrv.anycast import live_check

    problems = asyncio.run(live_check.problems(loaded))
    for problem in problems:
        complain(problem)
    return 1 if problems else 0
