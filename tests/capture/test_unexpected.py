"""An exception that nobody expected, once at each step between ring and file: what it costs is counted, to the query.

Whatever the step: queries asked = queries in whole files + losses in the totals; each file's metadata say what is in
it, and as C-DNS its statistics say the same losses.
"""

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import cbor2
import pytest

from rootsrv.capture import (
    cdns,
    cdns_columns,
    cdns_plain,
    formats,
    message_columns,
    messages,
    output_file,
    pcap,
    rings,
    sequence,
)
from rootsrv.capture.anonymise import Truncation
from rootsrv.capture.cdns import Collection
from rootsrv.capture.collector import Collector
from rootsrv.capture.compression import Compressor, compressors
from rootsrv.capture.file_writer import FileWriter
from rootsrv.capture.output_file import OutputFile
from rootsrv.capture.wanted import WantedCapture
from tests.capture.test_collector import MIDNIGHT, Bench
from tests.capture.test_role import packets

KINDS = ("cdns", "cdns without numpy", "pcap")
UNEXPECTED = RuntimeError("nobody expected it")
FAILED = OSError(errno.EIO, "Input/output error")
Where = tuple[object, str]

# By step: what is made to fail, of C-DNS by columns, of C-DNS by plain Python, of pcap; and to what queries are lost.
STEPS: dict[str, tuple[Where, Where, Where, str]] = {
    "what workers tell": ((message_columns, "_facts"), (messages, "fact_of"), (message_columns, "_packets"), "format"),
    "merge": (*3 * ((sequence, "merge"),), "format"),
    "portions by file": (*3 * ((sequence, "before"),), "format"),
    "late ones": (*3 * ((sequence, "older"),), "format"),
    "format": ((cdns_columns, "_block"), (cdns_plain, "_block"), (pcap, "records"), "format"),
    "anonymise": ((Truncation, "addresses"), (Truncation, "address"), (Truncation, "address"), "format"),
    "the last block": ((formats.Cdns, "flush"), (formats.Cdns, "flush"), (formats.Pcap, "flush"), "format"),
    "a file's name": ((formats.Cdns, "file_name"), (formats.Cdns, "file_name"), (formats.Pcap, "file_name"), "writer"),
    "a file's head": ((formats.Cdns, "begin"), (formats.Cdns, "begin"), (formats.Pcap, "begin"), "writer"),
    "write": (*3 * ((OutputFile, "_put"),), "writer"),
    "end of a member": (*3 * ((OutputFile, "end_member"),), "writer"),
    "end of a file": (*3 * ((OutputFile, "end"),), "writer"),
    "fsync": (*3 * ((output_file.os, "fsync"),), "writer"),
    "checksum": (*3 * ((output_file.hashlib, "md5"),), "writer"),
    "metadata": (*3 * ((output_file.json, "dumps"),), "writer"),
    "rename": (*3 * ((output_file.os, "rename"),), "writer"),
}  # fmt: skip


class FailsOnce:
    """Stands before a function, and raises at one of its calls."""

    def __init__(self, error: Exception, call: int) -> None:
        self._error = error
        self._left = call

    @property
    def has_failed(self) -> bool:
        return self._left <= 0

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                raise self._error
            return function(*arguments, **named)

        return called


class Capture:
    """A capture of some minutes, most of what can happen included, in which something fails once."""

    def __init__(self, directory: Path, kind: str, fails: FailsOnce) -> None:
        self.bench = Bench(directory)
        self.fails = fails
        self.kind = kind.split(maxsplit=1)[0]
        self.begin_member: Callable[[], Compressor] = compressors("none")

    @property
    def collector(self) -> Collector:
        return self.bench.collector

    def run(self) -> None:
        bench, collection = self.bench, Collection(anonymiser=Truncation())
        bench.collector.start(
            WantedCapture(
                make_format=lambda: formats.make(self.kind, collection),
                begin_member=self.begin_member,
                compression="none",
                name="test",
                rotation_seconds=60,
                every=3,
            )
        )
        for number in range(24):
            for worker in (0, 1):
                bench.ask(MIDNIGHT - 300 + 10 * number, amount=40, worker=worker)
            bench.ask(MIDNIGHT - 299 + 10 * number, amount=2, padding=300)
            bench.writers[1]._ring.lose(1)
            bench.sent += 1
            for ring in bench.rings:
                assert ring.take() == []  # they are seen, so that rows and losses come in one turn
            bench.collector._room_at = 0.0
            bench.collector.turn()
            bench.finisher.wait()
        bench.stop()
        bench.collector.settle()

    def check(self) -> None:
        """All sums agree."""
        assert self.fails.has_failed
        totals, told, written = self.collector.totals, rings.Counts(), 0
        for path in self.bench.directory.glob(f"*.{self.kind}"):
            about = json.loads(path.with_name(path.name + ".json").read_text())
            octets = path.read_bytes()
            assert about["octets"] == len(octets)
            of_file = rings.Counts(about["items"], about["lost"], about["passed_over"])
            told += of_file
            if self.kind == "pcap":
                written += len(packets(octets))
                continue
            in_blocks = rings.Counts()
            for block in cbor2.loads(octets)[2]:
                written += len(block.get(3, ())) + len(block.get(5, ()))
                in_blocks += rings.Counts(block[1][1] + block[1][5], block[1][-7], block[1][-8])
            assert in_blocks == of_file, path.name
        lost = sum(totals.lost.values())
        assert totals.items + lost + totals.passed_over == self.bench.sent
        assert written == totals.items > 0
        # What became known when no file followed any more is in the totals alone.
        assert told + self.collector.account.untold == rings.Counts(totals.items, lost, totals.passed_over)
        assert self.collector.account.in_hand == 0
        assert not list(self.bench.directory.glob("*.part"))

    def close(self) -> None:
        self.collector.close()
        self.bench.theirs.close()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members and blocks of which one capture has many; and files that end for what comes, not for the time."""
    monkeypatch.setattr(output_file, "MEMBER_OCTETS", 5_000)
    monkeypatch.setattr(FileWriter, "end_in_time", lambda *_: None)
    monkeypatch.setattr(output_file.os, "fsync", lambda _: None)  # what a power cut leaves is another test's
    for writer in (cdns_columns, cdns_plain):
        monkeypatch.setattr(writer, "BLOCK_ITEMS", 50)


@pytest.fixture(params=[1, 4], ids=["first", "fourth"])
def capture(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Capture]:
    kind, error = request.node.callspec.params["kind"], request.node.callspec.params.get("error", UNEXPECTED)
    if kind.endswith("without numpy"):
        monkeypatch.setattr(cdns, "block_writer", cdns_plain.PlainWriter)
        monkeypatch.setattr(formats, "message_columns", None)
    made = Capture(tmp_path / "files", kind, FailsOnce(error, request.param))
    yield made
    made.close()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_exception_costs_is_counted(
    capture: Capture, kind: str, step: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    place, name = cast("Where", STEPS[step][KINDS.index(kind)])
    monkeypatch.setattr(place, name, capture.fails.before(getattr(place, name)))
    capture.run()
    capture.check()
    where = STEPS[step][3]
    # The fourth fsync is that of the directory: the file has its name already.
    at_directory = step == "fsync" and "fourth" in request.node.name
    assert set(capture.collector.failing) == (set() if at_directory else {f"capture {where}"})
    assert {each for each, lost in capture.collector.totals.lost.items() if lost} <= {"worker", where}


@pytest.mark.parametrize("step", ["write", "end of a member", "end of a file", "fsync", "rename"])
@pytest.mark.parametrize("error", [FAILED])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_disk_that_fails_costs_is_counted(
    capture: Capture, kind: str, error: OSError, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, name = cast("Where", STEPS[step][KINDS.index(kind)])
    monkeypatch.setattr(place, name, capture.fails.before(getattr(place, name)))
    capture.run()
    capture.check()
    assert capture.collector.failing == {}
    assert {each for each, lost in capture.collector.totals.lost.items() if lost} <= {"worker", "disk"}


@pytest.mark.parametrize("step", ["begin", "compress", "flush"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_compressor_that_fails_costs_is_counted(capture: Capture, kind: str, step: str) -> None:
    class Failing:
        def __init__(self) -> None:
            self._member = compressors("none")()
            self.compress, self.flush = self._member.compress, self._member.flush
            if step != "begin":
                setattr(self, step, capture.fails.before(getattr(self, step)))

    capture.begin_member = capture.fails.before(Failing) if step == "begin" else Failing
    capture.run()
    capture.check()
    assert set(capture.collector.failing) == {"capture writer"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_that_an_exception_costs_are_told_though_the_next_block_fails_too(
    capture: Capture, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = FailsOnce(UNEXPECTED, 2)
    place, name = cast("Where", STEPS["format"][KINDS.index(kind)])
    monkeypatch.setattr(place, name, second.before(capture.fails.before(getattr(place, name))))
    capture.run()
    capture.check()
    assert second.has_failed
    assert capture.collector.totals.lost["format"] > 0


@pytest.mark.parametrize("kind", ["cdns", "cdns without numpy"])
@pytest.mark.parametrize("shape", [rings.PACKETS, rings.FACTS])
def test_rows_that_the_format_cannot_keep_are_lost_and_counted(
    capture: Capture, kind: str, shape: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ring of a CPU holds of the other format, or a name whose continuation is not there."""
    ring = capture.bench.rings[0]
    ring.where = "kernel"
    rows = []
    for number in range(7):
        message = messages.CapturedMessage(number, 4, 0, bytes(16), 4000, bytes(16), 53, 0, b"", bytes(300))
        whole = pcap.rows_of(message) if shape == rings.PACKETS else messages.fact_of(message).to_rows()[:128]
        rows.append(whole)
    writer = capture.bench.writers.pop(0)
    capture.bench.writers.insert(0, capture.bench.writers[0])
    started = Collector.start

    def start(collector: Collector, wanted: WantedCapture) -> None:
        started(collector, wanted)
        writer._ring.append(rows)
        capture.bench.sent += len(rows)
        capture.fails._left = 0

    monkeypatch.setattr(Collector, "start", start)
    capture.run()
    capture.check()
    assert capture.collector.totals.lost["format"] == 7
    assert capture.collector.failing == {}
