import gzip
import json
import lzma
import os
import random
import re
import struct
import subprocess
import threading
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rootsrv.capture.cdns import Collection
from rootsrv.capture.cdns_columns import ColumnWriter
from rootsrv.capture.facts import Fact
from rootsrv.capture.tally import Tally
from rootsrv.commands.parser import main
from tests.capture import random_facts
from tests.capture.test_cdns import written
from tests.needs import require_tool
from tests.telemetry.browser import FLAGS

HOSTILE = b"<script>alert(1)</script>"


def files(directory: Path, count: int = 3) -> list[Path]:
    paths = []
    for number in range(count):
        found = random_facts.facts(number, 300, anything=False, start=10**15 + number * 600 * 10**9, step=10**9)
        path = directory / f"2026-{number}.cdns"
        path.write_bytes(written(ColumnWriter, found, Collection(host_id="a.example"), lost=1))
        paths.append(path)
    return paths


def nxdomain(name: bytes) -> Fact:
    fact = random_facts.query(random.Random(1), 10**15)
    return fact._replace(octets=name, name_octets=len(name), response_flags=0x8403, response_octets=100)


def test_show_prints_what_a_person_wants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "show", *map(str, files(tmp_path))]) == 0
    text = capsys.readouterr().out
    for part in (
        "host: a.example",
        "queries in 3 files",
        "3 lost",
        "EDNS",
        "IPv4 UDP",
        "NXDOMAIN",
        "busiest networks",
        "/24",
    ):
        assert part in text, text


def test_show_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "show", "--json", *map(str, files(tmp_path))]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["queries"] + told["malformed"] == 900
    assert (told["files"], told["lost"], told["about"]["host"]) == (3, 3, ["a.example"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["first"])


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.cdns").write_bytes(b"no")
    assert (
        main(["capture", "show", str(tmp_path / "broken.cdns"), str(tmp_path / "absent"), str(files(tmp_path)[0])]) == 1
    )
    out, err = capsys.readouterr()
    assert "300 queries" in out or "malformed messages, 1 lost" in out
    assert f"{tmp_path}/broken.cdns: is neither C-DNS nor pcap" in err
    assert f"{tmp_path}/absent: No such file or directory" in err


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_pipe_is_shown_whose_writer_is_slow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], compress: Callable[[bytes], bytes]
) -> None:
    octets = compress(files(tmp_path, 1)[0].read_bytes())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as stream:
            for piece in (octets[:1], octets[1:3], octets[3:]):
                stream.write(piece)

    thread = threading.Thread(target=write)
    thread.start()
    assert main(["capture", "show", str(pipe), "--json"]) == 0
    thread.join()
    told = json.loads(capsys.readouterr().out)
    assert told["queries"] + told["malformed"] == 300


def test_a_file_that_is_still_written_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = files(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-10])
    assert main(["capture", "show", str(path)]) == 0
    assert "ends within a block" in capsys.readouterr().out


def test_names_that_a_terminal_would_obey_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.cdns"
    path.write_bytes(written(ColumnWriter, [nxdomain(b"\x06\x1b[31mx\0")], Collection(host_id="\x1b[2J[/bold]")))
    assert main(["capture", "show", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[/bold]" in out


class Links(HTMLParser):
    """What a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href") or name.startswith("on")]


def test_report_is_one_page_that_needs_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = tmp_path / "2026" / "11"
    deep.mkdir(parents=True)
    files(deep)
    (tmp_path / "x.cdns").write_bytes(written(ColumnWriter, [nxdomain(bytes([len(HOSTILE)]) + HOSTILE + b"\0")]))
    assert main(["capture", "report", str(tmp_path), "--title", "A & B"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "of 4 files" in capsys.readouterr().out
    found = Links()
    found.feed(page)
    assert "script" not in found.tags
    assert found.loads == []
    assert "url(" not in page
    assert "<h1>A &amp; B</h1>" in page
    assert "&lt;script&gt;" in page
    for title in (
        "Queries by IP version and transport", "Responses by RCODE", "Types", "RCODEs", "Name length", "EDNS, DO, RD",
        "Response length by RCODE", "Busiest networks", "Undelegated top-level domains",
    ):  # fmt: skip
        assert f"<h2>{title}</h2>" in page


def test_report_into_a_pipe_leaves_the_pipe_where_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    thread = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    thread.start()
    assert main(["capture", "report", str(tmp_path), "--output", str(pipe)]) == 0
    thread.join()
    assert read[0].startswith(b"<!doctype html>")
    assert pipe.is_fifo()
    out, err = capfd.readouterr()
    assert out == ""
    assert "of 3 files" in err


def test_report_shows_what_is_no_text_in_titles_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    octets = files(tmp_path, 1)[0].read_bytes()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.cdns")).write_bytes(octets[:-10])
    output = os.fsdecode(os.fsencode(tmp_path) + b"/\xfe.html")
    assert main(["capture", "report", str(tmp_path), "--title", "x\udcfd", "--output", output]) == 0
    page = Path(output).read_text()
    assert "<h1>x\\udcfd</h1>" in page
    assert "\\udcff.cdns ends within a block" in page


@pytest.mark.parametrize("output", [".", "/"])
def test_report_onto_a_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    files(tmp_path)
    assert main(["capture", "report", str(tmp_path), "--output", output]) == 1
    assert f"{output}: Is a directory" in capsys.readouterr().err


def test_report_counts_what_is_there_in_two_compressions_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While the role makes .xz of a file both are there, and after a crash until it starts again."""
    for path in files(tmp_path):
        octets = path.read_bytes()
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(octets))
        path.unlink()
    (whole, *_) = sorted(tmp_path.glob("*.gz"))
    packed = whole.with_suffix(".xz")
    packed.write_bytes(lzma.compress(gzip.decompress(whole.read_bytes())))
    # Somebody unpacks one, and has not done; the role's is as its metadata say.
    begun = whole.with_suffix("")
    begun.write_bytes(gzip.decompress(whole.read_bytes())[:-2000])
    packed.with_name(packed.name + ".json").write_text(json.dumps({"octets": packed.stat().st_size}))
    assert main(["capture", "report", str(tmp_path)]) == 0
    assert "of 3 files" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert "ends within a block" not in page
    assert "<dt>lost</dt><dd>3</dd>" in page


def test_report_finds_what_becomes_another_compression_while_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = files(tmp_path)
    known = Tally.read

    def read(tally: Tally, path: Path) -> None:
        if paths[2].exists():
            paths[2].with_name(paths[2].name + ".xz").write_bytes(lzma.compress(paths[2].read_bytes()))
            paths[2].unlink()
        known(tally, path)

    monkeypatch.setattr(Tally, "read", read)
    assert main(["capture", "report", str(tmp_path)]) == 0
    assert "of 3 files" in capsys.readouterr().out


def test_report_of_a_directory_without_captures_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capture", "report", str(tmp_path)]) == 1
    assert main(["capture", "report", str(tmp_path / "absent")]) == 1
    err = capsys.readouterr().err
    assert f"{tmp_path}: there is no *.cdns or *.pcap file" in err
    assert f"{tmp_path}/absent: No such file or directory" in err
    assert not (tmp_path / "report.html").exists()


def test_report_of_files_that_hold_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "x.cdns").write_bytes(written(ColumnWriter, []))
    (tmp_path / "y.pcap").write_bytes(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, 101))
    assert main(["capture", "report", str(tmp_path), "--output", str(tmp_path / "page.html")]) == 0
    assert "no time is known" in (tmp_path / "page.html").read_text()


def test_chromium_draws_the_report_no_wider_than_a_telephone(tmp_path: Path) -> None:
    files(tmp_path)
    assert main(["capture", "report", str(tmp_path)]) == 0
    # The report itself allows no script.
    page = re.sub(r"<meta http-equiv[^>]*>", "", (tmp_path / "report.html").read_text())
    told = "document.documentElement.scrollWidth, innerWidth, document.querySelectorAll('polygon').length"
    measured = tmp_path / "measured.html"
    measured.write_text(page.replace("</body>", f"<script>document.title = [{told}].join(' ')</script></body>"))
    flags = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,800", "--dump-dom"]
    done = subprocess.run(
        [require_tool("chromium"), *flags, measured.as_uri()],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", done.stdout)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= 500
    assert int(found[3]) >= 6
