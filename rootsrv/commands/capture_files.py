"""`rootsrv capture show` and `rootsrv capture report`: what is in files of queries, C-DNS or pcap."""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rootsrv.commands.printing import complain, say, table
from rootsrv.process import whole_file

_SUFFIXES = (".cdns", ".pcap")
_COMPRESSED = ("", ".gz", ".zst", ".xz")
_SHOWN = 8


def add_arguments(commands: Any) -> None:
    """The sub-commands, into `rootsrv capture`'s *commands*."""
    show = commands.add_parser("show", help="a summary of files of queries: C-DNS or pcap, plain, gzip, zstd or xz")
    show.add_argument("files", type=Path, nargs="+", metavar="FILE")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(command=run_show)

    report = commands.add_parser("report", help="an HTML page of what the files in a directory hold")
    report.add_argument("directory", type=Path, metavar="DIRECTORY")
    report.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in the directory)")
    report.add_argument("--title", default="", help="above the page (default: the host that the files name)")
    report.set_defaults(command=run_report)


def run_show(arguments: argparse.Namespace) -> int:
    """`rootsrv capture show`: 0 done, 1 a file could not be read; what the others hold is shown nonetheless."""
    from rootsrv.capture.summary import summary
    from rootsrv.capture.tally import Tally

    tally = Tally()
    status = _read(tally, arguments.files)
    if not tally.files and status:
        return status
    told = summary(tally)
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        render(told)
    return status


def run_report(arguments: argparse.Namespace) -> int:
    """`rootsrv capture report`: 0 done, 1 a file could not be read (the page is of the others), or none is there."""
    from rootsrv.capture.report import page
    from rootsrv.capture.tally import Tally

    try:
        files = sorted(captures(arguments.directory))
    except OSError as error:
        return _failed(f"{arguments.directory}: {error.strerror}")
    if not files:
        return _failed(f"{arguments.directory}: there is no {' or '.join('*' + suffix for suffix in _SUFFIXES)} file")
    tally = Tally()
    status = _read(tally, files)
    if not tally.files:
        return status
    output = arguments.output or arguments.directory / "report.html"
    try:
        # What is no UTF-8 in a title or a file's name is shown as it is typed.
        whole_file.put(output, page(tally, arguments.title).encode(errors="backslashreplace"))
    except OSError as error:
        return _failed(f"{output}: {error.strerror}")
    tell = say if output.is_file() and not output.is_symlink() else complain  # a page that is printed is all there is
    tell(f"{output}: {tally.queries:,} queries of {len(tally.files):,} files")
    return status


def captures(directory: Path) -> Iterator[Path]:
    """The captures below *directory*, by their names; OSError if it is no directory that can be read.

    One that is there in several compressions, as while the role makes .xz of it, is one: the copy that is as its
    metadata say, or the one that is compressed the least.
    """
    from rootsrv.capture.file_names import is_whole

    endings = tuple(suffix + compressed for suffix in _SUFFIXES for compressed in _COMPRESSED)
    next(directory.iterdir(), None)
    found: dict[Path, list[Path]] = {}
    for path in directory.rglob("*"):
        if path.name.endswith(endings) and path.is_file():
            found.setdefault(_plain(path), []).append(path)
    for copies in found.values():
        yield min(copies, key=lambda each: (not is_whole(each), _COMPRESSED.index(_compression(each))))


def _compression(path: Path) -> str:
    return path.suffix if path.suffix in _COMPRESSED else ""


def _plain(path: Path) -> Path:
    """What *path* is called without its compression."""
    return path.with_name(path.name.removesuffix(_compression(path)))


def _another(path: Path) -> Path | None:
    """A copy of *path*, which went meanwhile, in another compression."""
    plain = _plain(path)
    return next((each for end in _COMPRESSED if (each := plain.with_name(plain.name + end)).is_file()), None)


def _read(tally: Any, files: list[Path]) -> int:
    from rootsrv.capture.cdns_reader import CaptureUnreadable

    status = 0
    for path in files:
        try:
            try:
                tally.read(path)
            except FileNotFoundError:
                if (other := _another(path)) is None:
                    raise
                tally.read(other)
        except CaptureUnreadable as error:
            reason = str(error)
            status = _failed(reason if reason.startswith(str(path)) else f"{path}: {reason}")
        except OSError as error:
            status = _failed(f"{path}: {error.strerror}")
    return status


def render(told: Mapping[str, Any]) -> None:
    """*told* (summary.py) as a person wants to read it."""
    for key, values in told["about"].items():
        say(f"{key}: {', '.join(values)}")
    if told["first"]:
        rate = f", {told['queries_per_second']:,} queries/s" if told["queries_per_second"] else ""
        say(f"from {told['first']} to {told['last']} ({told['seconds']:,.0f} s{rate})")
    files = f" in {told['files']:,} files" if told["files"] > 1 else ""
    say(f"{told['queries']:,} queries{files}, {told['malformed']:,} malformed messages, {told['lost']:,} lost")
    if told["not_sampled"]:
        say(f"{told['not_sampled']:,} not wanted, or not in the sample")
    if told["other_packets"]:
        say(f"{told['other_packets']:,} packets that hold no whole DNS message")
    if told["losses_unknown"]:
        say(f"what was lost is not known of {told['losses_unknown']:,} pcap files: no metadata (.json) beside them")
    for path in told["cut_off"]:
        say(f"{path} ends within a block: it is being written, or was cut off")
    queries = told["queries"]
    if not queries and not told["rcodes"]:
        return
    print()
    share = [(label, told[key]) for label, key in (("EDNS", "edns"), ("DO", "do"), ("RD", "rd"))]
    say(", ".join(f"{label} {_percent(count, queries)}" for label, count in share))
    say(f"names: {told['name_octets_median']} octets, the median")
    for title, key in (("from", "sources"), ("type", "qtypes"), ("response", "rcodes")):
        _counts(title, told[key])
    if told["response_octets_median"]:
        print()
        table(
            ("response", "octets, the median"),
            [(rcode, f"{octets:,}+") for rcode, octets in told["response_octets_median"].items()],
        )
    _counts("busiest networks", told["prefixes"], of=queries)
    if told["undelegated"]:
        _counts("undelegated TLDs", told["undelegated_tlds"], of=told["undelegated"])


def _counts(title: str, counts: Mapping[str, int], of: int | None = None) -> None:
    if not counts:
        return
    print()
    total = sum(counts.values()) if of is None else of
    rows = [(text, f"{count:,}", _percent(count, total)) for text, count in list(counts.items())[:_SHOWN]]
    if of is None and len(counts) > _SHOWN:
        rest = sum(list(counts.values())[_SHOWN:])
        rows.append((f"{len(counts) - _SHOWN} others", f"{rest:,}", _percent(rest, total)))
    table((title, "queries", ""), rows)


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else "–"


def _failed(reason: str) -> int:
    complain(reason)
    return 1
