"""`rootsrv rssac002`: export a day, merge the records of several instances, validate files."""

import argparse
import datetime
import json
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from rootsrv.commands.printing import complain, reason_of, say
from rootsrv.config import file as config_file
from rootsrv.process import whole_file
from rootsrv.telemetry import rssac002_file
from rootsrv.telemetry.daybook import find_record, read_record
from rootsrv.telemetry.rssac002 import DayRecord, DifferentKeys, RecordDamaged
from rootsrv.telemetry.rssac002_file import NotRssac002, Rssac002File


def add_arguments(commands: Any) -> None:
    """The sub-commands, into `rootsrv rssac002`'s *commands*."""
    export = commands.add_parser("export", help="write the five files of a day of this instance, and its record")
    export.add_argument("--config", type=Path, required=True, metavar="FILE")
    export.add_argument("--day", type=_day, help="YYYY-MM-DD, UTC (default: yesterday; today: as far as it is written)")
    _add_output(export)
    export.set_defaults(command=run_export)

    merge = commands.add_parser("merge", help="write the five files of a day of several instances from their records")
    merge.add_argument("records", type=Path, nargs="+", metavar="RECORD", help="YYYYMMDD.json, of export or statistics")
    merge.add_argument("--service", required=True, help="as in the files: x.root-servers.net")
    merge.add_argument(
        "--without-sources",
        action="store_true",
        help="leave unique-sources out: of instances that counted them under different keys",
    )
    _add_output(merge)
    merge.set_defaults(command=run_merge)

    validate = commands.add_parser("validate", help="say what is wrong with RSSAC002 files")
    validate.add_argument("paths", type=Path, nargs="+", metavar="FILE|DIRECTORY")
    validate.add_argument("--sums", action="store_true", help="files of one day must agree on the responses sent")
    validate.set_defaults(command=run_validate)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        metavar="DIRECTORY",
        help="where YYYY/MM/<metric>/ is made (default: .)",
    )


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a day: {text!r} (YYYY-MM-DD)") from error


def run_export(arguments: argparse.Namespace) -> int:
    """`rootsrv rssac002 export`."""
    loaded = config_file.load(arguments.config)
    day = arguments.day or datetime.datetime.fromtimestamp(time.time(), datetime.UTC).date() - datetime.timedelta(1)
    directory = Path(loaded.report.statistics_directory)
    try:
        record = find_record(directory, day)
    except (OSError, RecordDamaged) as error:
        return _failed(error)
    if record is None:
        return _failed(f"{directory}: nothing is known of {day}")
    return _write(record, loaded.report.service, arguments.output)


def run_merge(arguments: argparse.Namespace) -> int:
    """`rootsrv rssac002 merge`."""
    if not arguments.service.split(".")[0]:
        return _failed(f"--service: not a host name: {arguments.service!r}", status=2)
    if len({path.resolve() for path in arguments.records}) != len(arguments.records):
        return _failed("a record is named twice", status=2)
    try:
        records = [read_record(path) for path in arguments.records]
        if arguments.without_sources:
            records = [each.without_sources() for each in records]
        record = DayRecord.sum(records)
    except DifferentKeys as error:
        return _failed(f"{error}; --without-sources merges the rest")
    except (OSError, ValueError) as error:
        return _failed(error)
    left_out = {"unique-sources"} if arguments.without_sources else set()
    return _write(record, arguments.service, arguments.output, left_out)


def _write(record: DayRecord, service: str, directory: Path, left_out: Collection[str] = ()) -> int:
    texts = {name: text for name, text in record.texts(service).items() if Path(name).parent.name not in left_out}
    texts[f"{record.day:%Y%m%d}.json"] = json.dumps(record.to_document()) + "\n"
    try:
        for name, text in texts.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            whole_file.replace(path, text.encode())
            say(path)
    except OSError as error:
        return _failed(error)
    return 0


def run_validate(arguments: argparse.Namespace) -> int:
    """`rootsrv rssac002 validate`."""
    wrong = False
    files: list[Rssac002File] = []
    for path in _yaml_files(arguments.paths):
        try:
            file = rssac002_file.read(path)
            found = list(rssac002_file.problems(file))
        except (OSError, NotRssac002) as error:
            found = [reason_of(error)]
        else:
            if not found:
                files.append(file)
        for problem in found:
            say(f"{path}: {problem}")
        wrong = wrong or bool(found)
    if arguments.sums:
        for problem in _disagreements(files):
            say(problem)
            wrong = True
    if not files and not wrong:
        return _failed("there are no .yaml files")
    if not wrong:
        print(f"{len(files)} files are right")
    return int(wrong)


def _yaml_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.yaml"))
        else:
            yield path


def _disagreements(files: Sequence[Rssac002File]) -> Iterator[str]:
    """Days on which the files do not tell the same number of responses."""
    told: dict[str, dict[str, int]] = {}
    tls: dict[str, int] = {}
    for file in files:
        if file.metric == "traffic-volume":
            tls[_stem(file)] = rssac002_file.tls_responses(file)
    for file in files:
        if (amount := rssac002_file.responses(file)) is not None:
            if file.metric == "traffic-sizes":
                amount += tls.get(_stem(file), 0)
            told.setdefault(_stem(file), {})[file.metric] = amount
    for day, amounts in sorted(told.items()):
        if len(set(amounts.values())) > 1:
            yield f"{day}: responses sent: {', '.join(f'{metric} {number}' for metric, number in amounts.items())}"


def _stem(file: Rssac002File) -> str:
    """What the names of all files of a day begin with."""
    return file.name.removesuffix(f"-{file.metric}.yaml")


def _failed(reason: object, *, status: int = 1) -> int:
    complain(reason)
    return status
