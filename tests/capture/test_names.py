"""Whatever a capture is called, and whatever lies there already, its files are known by their names."""

import re
from pathlib import Path

import pytest

from rootsrv.capture import file_writer, formats
from rootsrv.capture.cdns import Collection
from rootsrv.capture.compression import compressors
from rootsrv.capture.wanted import WantedCapture
from tests.capture.test_collector import MIDNIGHT, Bench


@pytest.mark.parametrize("kind", ["cdns", "pcap"])
@pytest.mark.parametrize("name", ["2", "0", "-", "20261127-235", "_", "cdns", "pcap", "a" * 64])
def test_a_second_file_of_the_same_microsecond_is_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    bench = Bench(tmp_path / "files")
    for number in range(3):
        # Of a name that is there already so many times.
        taken = iter([True] * number + [False])
        monkeypatch.setattr(file_writer, "is_taken", lambda path, taken=taken: next(taken))
        bench.collector.start(
            WantedCapture(
                make_format=lambda: formats.make(kind, Collection()),
                begin_member=compressors("none"),
                compression="none",
                name=name,
                rotation_seconds=60,
            )
        )
        bench.ask(MIDNIGHT - 20.25)
        bench.turn()
        bench.stop()

    found = {each.name for each in bench.place.files()}

    told = {"cdns": rf"20261127-235939\.\d{{6}}_{name}(-[23])?\.cdns", "pcap": rf"{name}(-[23])?\.20261127\..*\.pcap"}
    matches = [re.fullmatch(told[kind], each) for each in found]
    assert {match[1] for match in matches if match} == {None, "-2", "-3"}, list(bench.directory.iterdir())
    bench.collector.close()
    bench.theirs.close()
