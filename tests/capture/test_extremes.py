"""The longest messages and the shortest: each is one query, in the file, its metadata and the totals."""

import json
import struct
from pathlib import Path

import pytest

from rootsrv.capture import formats, messages, pcap, rings, sequence
from rootsrv.capture.cdns import Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.cdns_plain import PlainWriter
from rootsrv.capture.tally import Tally
from tests.capture import random_facts
from tests.capture.test_cdns import Writer, written
from tests.capture.test_collector import MIDNIGHT, SECOND, Bench, bench  # noqa: F401  (fixture)
from tests.capture.test_role import packets


def long_query(octets: int) -> bytes:
    return struct.pack("!6H", 7, 0, 1, 0, 0, 0) + b"\3com\0\0\1\0\1" + bytes(octets - 21)


@pytest.mark.parametrize("has_columns", [True, False])
def test_it_is_counted_once_and_both_of_its_packets_are_there(
    bench: Bench,  # noqa: F811
    has_columns: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not has_columns:
        monkeypatch.setattr(pcap, "numpy", None)
        monkeypatch.setattr(sequence, "numpy", None)
        monkeypatch.setattr(formats, "message_columns", None)
    bench.start()
    own = (bytes(4), 53)
    for number, octets in enumerate((64_998, 64_999, 65_535)):
        time = (MIDNIGHT - 31 + number) * SECOND - bench.wall_offset
        bench.writers[0].write(time, 1, own, [long_query(octets)], [b"\x7f\0\0\1"], [4000], [None])
        bench.turn()
    bench.stop()

    (path,) = bench.place.files()
    about = json.loads(path.with_name(f"{path.name}.json").read_text())
    found = [packet[40:] for _, packet in packets(path.read_bytes())]
    assert bench.collector.totals.items == about["items"] == 3
    assert len(found) == 5
    assert b"".join(found) == b"".join(
        len(each).to_bytes(2) + each for each in map(long_query, (64_998, 64_999, 65_535))
    )


def test_as_c_dns_it_is_one_that_is_lost_where_the_rows_are_packets() -> None:
    message = messages.CapturedMessage(1, 4, 1, bytes(16), 4000, bytes(16), 53, 0, b"", long_query(65_535))
    writer = formats.make("cdns", Collection())
    assert writer.add(pcap.rows_of(message), 0, 0, 0) == b""
    assert (writer.left_out, writer.held) == (1, rings.Counts(0, 1))


@pytest.mark.parametrize("writer", [ColumnWriter, PlainWriter])
def test_a_message_of_no_octets_is_kept_as_one(tmp_path: Path, writer: Writer) -> None:
    """A datagram of nothing but its header, or a length of 0 over TCP: it came, and nothing of it is lost."""
    found = [messages.CapturedMessage(at, 4, at, bytes(16), 4000, bytes(16), 53, 0, b"", b"") for at in (0, 1)]
    for compare in (1, 2):  # alone, and beside others
        facts = [messages.fact_of(each) for each in found] + random_facts.facts(1, 20) * (compare - 1)
        (tmp_path / "x.cdns").write_bytes(written(writer, facts))
        counted = Tally()
        counted.read(tmp_path / "x.cdns")
        assert counted.queries + counted.malformed == len(facts)
        assert counted.lost == 0
    rows = b"".join(map(pcap.rows_of, found))
    records, _ = pcap.records(rows, 0)
    assert (sequence.items(rows), len(records)) == (2, 2 * 16 + 28 + 42)
