"""RSSAC002: records, how they add up, the files, and which files of others are right."""

import base64
import datetime
import json
import random
import zlib
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.page import counts, unique_sources
from rootsrv.page.layout import COUNTER_WORDS, REGISTERS
from rootsrv.page.unique_sources import SourcesKey, key_name
from rootsrv.telemetry import rssac002_file
from rootsrv.telemetry.rssac002 import METRICS, DayRecord, DifferentKeys, RecordDamaged, percentile_95
from rootsrv.telemetry.rssac002_file import NotRssac002, Rssac002File

DAY = datetime.date(2026, 11, 21)
SERVICE = "x.root-servers.net"


KEY, OTHER_KEY = SourcesKey.of(bytes(16)), SourcesKey.of(bytes(15) + b"\1")


def a_record(
    day: datetime.date = DAY, *, scale: int = 1, sources: range = range(1000), key: SourcesKey = KEY
) -> DayRecord:
    """A day's record in which the numbers agree."""
    words = [0] * COUNTER_WORDS
    for path in range(4):
        words[counts.QUERIES + path] = words[counts.RESPONSES + path] = scale * (path + 1) * 100
        first = counts.RCODES + path * counts.RCODES_PER_PATH
        words[first], words[first + 3] = scale * (path + 1) * 40, scale * (path + 1) * 59
        words[first + 32] = scale * (path + 1)  # truncated, NOERROR
    for transport, amount in ((0, 300), (1, 700)):
        words[counts.REQUEST_SIZES + transport * counts.REQUEST_BINS + 1] = scale * (amount - 10)
        words[counts.REQUEST_SIZES + transport * counts.REQUEST_BINS + 18] = scale * 10
        words[counts.RESPONSE_SIZES + transport * counts.RESPONSE_BINS + 64] = scale * (amount - 5)
        words[counts.RESPONSE_SIZES + transport * counts.RESPONSE_BINS + 256] = scale * 5
    registers = bytearray(3 * REGISTERS)
    unique_sources.observe(memoryview(registers), [number.to_bytes(4, "big") for number in sources], key.octets)
    split = tuple(bytes(registers[at : at + REGISTERS]) for at in range(0, 3 * REGISTERS, REGISTERS))
    counted = DayRecord(day, {}, {}, {}, {2026112101: 17.2}, {key_name(key.id): split})
    return DayRecord.from_words(day, words).and_then(counted)


def test_the_five_files_have_the_layout_of_published_ones() -> None:
    texts = a_record().texts(SERVICE)

    assert sorted(texts) == [f"2026/11/{metric}/x-root-20261121-{metric}.yaml" for metric in sorted(METRICS)]
    assert texts["2026/11/load-time/x-root-20261121-load-time.yaml"] == (
        "---\nversion: rssac002v5\nservice: x.root-servers.net\nstart-period: 2026-11-21T00:00:00Z\n"
        "metric: load-time\ntime:\n  2026112101: 18\n"
    )
    assert texts["2026/11/traffic-volume/x-root-20261121-traffic-volume.yaml"].splitlines()[5:] == [
        "dns-udp-queries-received-ipv4: 100", "dns-udp-queries-received-ipv6: 200",
        "dns-udp-responses-sent-ipv4: 100", "dns-udp-responses-sent-ipv6: 200",
        "dns-tcp-queries-received-ipv4: 300", "dns-tcp-queries-received-ipv6: 400",
        "dns-tcp-responses-sent-ipv4: 300", "dns-tcp-responses-sent-ipv6: 400",
    ]  # fmt: skip
    assert texts["2026/11/rcode-volume/x-root-20261121-rcode-volume.yaml"].splitlines()[5:] == ["0: 410", "3: 590"]
    assert texts["2026/11/traffic-sizes/x-root-20261121-traffic-sizes.yaml"].splitlines()[5:] == [
        "udp-request-sizes:", "  16-31: 290", "  288-: 10",
        "udp-response-sizes:", "  1024-1039: 295", "  4096-: 5",
        "tcp-request-sizes:", "  16-31: 690", "  288-: 10",
        "tcp-response-sizes:", "  1024-1039: 695", "  4096-: 5",
    ]  # fmt: skip


def over_tls(scale: int = 1) -> DayRecord:
    """As the slot of DNS over TLS counts: its messages where others have those over TCP."""
    words = [0] * COUNTER_WORDS
    words[counts.QUERIES + 2], words[counts.QUERIES + 3] = 6 * scale, 7 * scale
    words[counts.RESPONSES + 2], words[counts.RESPONSES + 3] = 5 * scale, 7 * scale
    words[counts.RCODES + 2 * counts.RCODES_PER_PATH] = 5 * scale
    words[counts.RCODES + 3 * counts.RCODES_PER_PATH + 3] = 7 * scale
    words[counts.RESPONSE_SIZES + counts.RESPONSE_BINS + 29] = 12 * scale
    return DayRecord.from_words_over_tls(DAY, words)


def test_what_was_asked_over_tls_has_the_operators_own_keys_as_b_root_publishes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In b-root's files of 2024-06-01 rcode-volume is the sum of all transports, and traffic-sizes has no TLS."""
    record = DayRecord.sum([a_record().and_then(over_tls()), a_record().and_then(over_tls(10)), a_record()])
    assert DayRecord.from_document(json.loads(json.dumps(record.to_document()))) == record
    texts = record.texts(SERVICE)
    assert texts["2026/11/traffic-volume/x-root-20261121-traffic-volume.yaml"].splitlines()[-4:] == [
        "x-dns-tls-queries-received-ipv4: 66", "x-dns-tls-queries-received-ipv6: 77",
        "x-dns-tls-responses-sent-ipv4: 55", "x-dns-tls-responses-sent-ipv6: 77",
    ]  # fmt: skip
    rcodes = texts["2026/11/rcode-volume/x-root-20261121-rcode-volume.yaml"].splitlines()[5:]
    assert rcodes == [f"0: {3 * 410 + 55}", f"3: {3 * 590 + 77}"]
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert main(["rssac002", "validate", "--sums", str(tmp_path)]) == 0, capsys.readouterr().out
    volume = tmp_path / "2026/11/traffic-volume/x-root-20261121-traffic-volume.yaml"
    volume.write_text(volume.read_text().replace("x-dns-tls", "y-dns-tls"))
    assert main(["rssac002", "validate", str(tmp_path)]) == 1
    assert "y-dns-tls-queries-received-ipv4: does not belong here" in capsys.readouterr().out


def test_our_own_files_are_right_and_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in a_record().texts(SERVICE).items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)

    assert main(["rssac002", "validate", "--sums", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "5 files are right\n"


def test_a_day_without_any_query_has_five_right_files(tmp_path: Path) -> None:
    for name, text in DayRecord(DAY).texts(SERVICE).items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)

    assert main(["rssac002", "validate", "--sums", str(tmp_path)]) == 0


def test_a_record_survives_json() -> None:
    record = a_record()

    assert DayRecord.from_document(json.loads(json.dumps(record.to_document()))) == record


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.update(format=3),
        lambda document: document.pop("volume"),
        lambda document: document["registers"].pop(),
        lambda document: document["sketches"][key_name(KEY.id)].pop(),
        lambda document: document.update(sketches=["0"]),
        lambda document: document["registers"].__setitem__(
            0, base64.b64encode(zlib.compress(bytes(REGISTERS + 1))).decode()
        ),
        lambda document: document["registers"].__setitem__(0, "no base64"),
        lambda document: document["registers"].__setitem__(0, "AAAA"),
        lambda document: document.update(day="2026-13-01"),
        lambda document: document["rcodes"].update(x=1),
        lambda document: document.update(sizes=[]),
        lambda document: document["rcodes"].update({"1_0": 1}),
        lambda document: document["rcodes"].update({"٣": 1}),
        lambda document: document["rcodes"].update({"3": "1_0"}),
        lambda document: document["rcodes"].update({"3": 1.5}),
        lambda document: document["load_times"].update({"2026112101": "nan"}),
        lambda document: document["load_times"].update({"2026112101": "inf"}),
    ],
    ids=range(17),
)
def test_a_damaged_record_is_refused(damage: object) -> None:
    document = a_record().to_document()
    damage(document)  # type: ignore[operator]

    with pytest.raises(RecordDamaged):
        DayRecord.from_document(document)


def test_instances_are_merged_by_sums_and_their_sources_as_one() -> None:
    ours, theirs = a_record(sources=range(30_000)), a_record(scale=2, sources=range(20_000, 60_000))
    together = DayRecord.sum([ours, theirs])

    assert together.rcodes == {0: 1230, 3: 1770}
    assert together.volume["dns-tcp-queries-received-ipv6"] == 1200
    assert together.sizes["udp-response-sizes"] == {64: 885, 256: 15}
    # 5 standard errors of 0.81 %
    assert abs(together.unique_sources()["num-sources-ipv4"] - 60_000) < 60_000 * 0.041
    assert DayRecord.sum([theirs, ours]) == together


def test_sources_under_different_keys_are_not_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = a_record(), a_record(scale=2, key=OTHER_KEY)
    names = [key_name(KEY.id), key_name(OTHER_KEY.id)]
    with pytest.raises(DifferentKeys, match=f"different keys: {', '.join(sorted(names))} "):
        DayRecord.sum([ours, theirs])

    records = [str(tmp_path / f"{number}.json") for number in range(2)]
    for path, record in zip(records, (ours, theirs), strict=True):
        Path(path).write_text(json.dumps(record.to_document()))
    merge = ["rssac002", "merge", "--service", SERVICE, "--output", str(tmp_path / "out"), *records]
    assert main(merge) == 1
    assert "report.sources_key_file must be the same" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

    assert main([*merge, "--without-sources"]) == 0
    written = {path.parent.name: path.read_text() for path in (tmp_path / "out").rglob("*.yaml")}
    assert written.keys() == set(METRICS) - {"unique-sources"}
    assert "dns-udp-queries-received-ipv4: 300" in written["traffic-volume"]


def test_a_day_on_which_the_key_changed_tells_what_there_was_at_least_and_can_be_merged() -> None:
    changed = a_record(sources=range(20_000)).and_then(a_record(sources=range(5_000), key=OTHER_KEY))
    assert changed.sketches.keys() == {key_name(KEY.id), key_name(OTHER_KEY.id)}
    assert changed.unique_sources() == a_record(sources=range(20_000)).unique_sources()

    together = DayRecord.sum([changed, a_record(sources=range(20_000, 40_000), key=OTHER_KEY)])
    assert abs(together.unique_sources()["num-sources-ipv4"] - 25_000) < 25_000 * 0.041
    assert together.volume["dns-udp-queries-received-ipv4"] == 300


def test_a_record_of_version_0_1_is_read_and_what_it_has_not_mixed() -> None:
    record = a_record()
    document = record.to_document()
    document |= {"format": 1, "registers": document.pop("sketches")[key_name(KEY.id)]}
    old = DayRecord.from_document(document)
    assert old.unique_sources() == record.unique_sources()
    assert DayRecord.sum([old, old]).unique_sources() == record.unique_sources()
    with pytest.raises(DifferentKeys, match="none"):
        DayRecord.sum([old, record])

    upgraded = old.and_then(a_record(key=OTHER_KEY))
    assert DayRecord.from_document(json.loads(json.dumps(upgraded.to_document()))) == upgraded
    # What the book says to version 0.1, should it come back: all but the sources under keys.
    own = upgraded.to_own_document()
    assert own["format"] == 1
    assert own["registers"] == document["registers"]


def test_records_of_different_days_are_not_merged() -> None:
    with pytest.raises(ValueError, match="records of different days: 2026-11-21, 2026-11-22"):
        DayRecord.sum([a_record(), a_record(datetime.date(2026, 11, 22))])


def test_the_load_time_of_many_instances_is_what_95_percent_kept() -> None:
    assert percentile_95([5.0]) == 5.0
    assert percentile_95([float(number) for number in range(1, 101)]) == 95.0
    assert percentile_95([1.0] * 19 + [900.0]) == 1.0
    assert percentile_95([1.0] * 18 + [900.0] * 2) == 900.0


@pytest.mark.parametrize("size", [100, 5_000, 100_000])
def test_the_estimate_of_unique_sources_is_within_its_stated_error(size: int) -> None:
    exact = set()
    generator = random.Random(size)
    while len(exact) < size:
        exact.add(generator.randbytes(4))
    registers = bytearray(3 * REGISTERS)
    unique_sources.observe(memoryview(registers), exact, KEY.octets)

    estimate = unique_sources.count(bytes(registers[:REGISTERS]))
    assert abs(estimate - size) <= max(3, 0.0081 * 4 * size)


# ── files of others (rssac-caucus/RSSAC002-data) ──

PUBLISHED = {
    "a-root-20240103-load-time.yaml": (
        "---\nversion: rssac002v4\nservice: a.root-servers.net\nstart-period: '2024-01-03T00:00:00Z'\n"
        "metric: load-time\ntime:\n  2024010300: 10\n  2024010301: 8\n  2024010302: 12\n"
    ),
    "rzm-20230503-zone-size.yaml": (
        "---\nversion: rssac002v4\nservice: root-servers.net\nstart-period: '2023-05-03T00:00:00Z'\n"
        "metric: zone-size\nsize:\n  2023050300: 1341090\n  2023050301: 1341090\n  2023050302: 1341136\n"
    ),
    "root-20180501-zone-size.yaml": (
        "---\nversion: rssac002v3\nservice: root-servers.net\nstart-period: '2018-05-01T00:00:00Z'\n"
        "metric: zone-size\nsize:\n  2018050100: 1488107\n  2018050101: 1488107\n  2018050102: 1488375\n"
    ),
    "b-root-20240103-unique-sources.yaml": (
        "---\nversion: rssac002v5\nservice: b.root-servers.net\nstart-period: 2024-01-03T00:00:00Z\n"
        "metric: unique-sources\nnum-sources-ipv4: 10465228\nnum-sources-ipv6: 1144177\n"
        "num-sources-ipv6-aggregate: 579973\n"
    ),
    "l-root-20240103-rcode-volume.yaml": (
        "---\nversion: rssac002v4\nservice: l.root-servers.net\nstart-period: 2024-01-03T00:00:00Z\n"
        "metric: rcode-volume\n0: 4734092774\n1: 970027\n2: 47605\n3: 5551713687\n4: 204134\n5: 401702\n6: 1\n"
        "9: 229433\n16: 50\n"
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_right(name: str) -> None:
    assert list(rssac002_file.problems(Rssac002File(rssac002_file.parse(PUBLISHED[name]), name))) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "problem"),
    [
        ("b-root-20240103-unique-sources.yaml", "rssac002v5", "rssac002v9", "version: must be one of"),
        ("b-root-20240103-unique-sources.yaml", "T00:00:00Z", "T01:00:00Z", "start-period: must be midnight UTC"),
        ("b-root-20240103-unique-sources.yaml", "2024-01-03", "2024-01-04", "start-period: 2024-01-04T00:00:00Z in a"),
        ("b-root-20240103-unique-sources.yaml", "b.root", "c.root", "service: c.root-servers.net in a file of b-root"),
        ("b-root-20240103-unique-sources.yaml", "ipv6: 1144177", "ipv6: many", "num-sources-ipv6: must be a whole"),
        ("b-root-20240103-unique-sources.yaml", "num-sources-ipv6:", "num-sources-6:", "num-sources-6: does not bel"),
        ("b-root-20240103-unique-sources.yaml", "unique-sources\n", "zone-size\n", "metric: zone-size in a file of"),
        ("rzm-20230503-zone-size.yaml", "root-servers.net", "k.root-servers.net", "service: must be root-servers.net"),
        ("rzm-20230503-zone-size.yaml", "1341136", "large", "size: 2023050302: must be a whole number"),
        ("rzm-20230503-zone-size.yaml", "2023050302", "today", "size: today: must be a serial"),
        ("rzm-20230503-zone-size.yaml", "size:\n", "sizes:\n", "sizes: does not belong here"),
        ("rzm-20230503-zone-size.yaml", "zone-size", "load-time", "metric: load-time in a file of zone-size"),
        ("l-root-20240103-rcode-volume.yaml", "16: 50", "4096: 50", "4096: must be an rcode, 0..4095"),
        ("a-root-20240103-load-time.yaml", "time:\n", "tide:\n", "tide: does not belong here"),
        ("a-root-20240103-load-time.yaml", ": 12", ": -1", "time: 2024010302: must be a whole number"),
        ("x-root-20261121-traffic-sizes.yaml", "16-31", "17-32", "udp-request-sizes: 17-32: must be 16 octets"),
        ("x-root-20261121-traffic-sizes.yaml", "288-:", "288-303:", "udp-request-sizes: 288-303: must be 16 octets"),
        ("x-root-20261121-traffic-sizes.yaml", "tcp-request-sizes", "tcp-sizes", "tcp-sizes: does not belong here"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(name: str, old: str, new: str, problem: str) -> None:
    texts = PUBLISHED | {Path(path).name: text for path, text in a_record().texts(SERVICE).items()}
    assert old in texts[name]
    changed = texts[name].replace(old, new, 1)

    found = list(rssac002_file.problems(Rssac002File(rssac002_file.parse(changed), name)))
    assert any(each.startswith(problem) for each in found), found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metric\n", "line 1: expected `key: value`"),
        ("a: 1\na: 2\n", "line 2: a is there twice"),
        ("a: [1, 2]\n", "line 1: expected a plain value"),
        ("a: {b: 1}\n", "line 1: expected a plain value"),
        ("a: &anchor 1\n", "line 1: expected a plain value"),
        ("- a: 1\n", "line 1: expected `key: value`"),
        ("a: 1\n  b: 2\n", "line 2: unexpected indentation"),
        ("a:\n  b: 1\n    c: 2\n", "line 3: unexpected indentation"),
        ("a:\nb: 1\n", "line 2: a has no value"),
        ("a:\n", "a has no value"),
        ("a: 1\n---\nb: 2\n", "line 2: expected `key: value`"),
        ("\0\n", "line 1: expected `key: value`"),
    ],
)
def test_what_is_no_such_yaml_is_refused_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(NotRssac002) as refused:
        rssac002_file.parse(text)
    assert str(refused.value).startswith(problem)


# ── commands ──


def record_file(directory: Path, name: str, record: DayRecord) -> str:
    path = directory / name
    path.write_text(json.dumps(record.to_document()))
    return str(path)


def test_merge_writes_the_files_of_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [record_file(tmp_path, f"{site}.json", a_record(scale=scale)) for site, scale in (("lax", 1), ("fra", 3))]

    assert main(["rssac002", "merge", "--service", SERVICE, "--output", str(tmp_path / "out"), *records]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    assert main(["rssac002", "validate", "--sums", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/2026/11/rcode-volume/x-root-20261121-rcode-volume.yaml").read_text()
    assert text.endswith("0: 1640\n3: 2360\n")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "absent.json: No such file or directory"),
        ("not json", "not JSON"),
        ("{}", "KeyError: 'format'"),
        ("[]", "TypeError"),
    ],
)
def test_a_record_that_cannot_be_merged_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, cause: str
) -> None:
    path = tmp_path / ("absent.json" if content is None else "bad.json")
    if content is not None:
        path.write_text(content)

    assert main(["rssac002", "merge", "--service", SERVICE, "--output", str(tmp_path / "out"), str(path)]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert cause in error
    assert not (tmp_path / "out").exists()


def test_files_that_disagree_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in a_record().texts(SERVICE).items():
        (tmp_path / Path(name).name).write_text(text.replace("3: 590", "3: 589"))

    assert main(["rssac002", "validate", str(tmp_path)]) == 0
    assert main(["rssac002", "validate", "--sums", str(tmp_path)]) == 1
    assert "x-root-20261121: responses sent: rcode-volume 999, traffic-sizes 1000" in capsys.readouterr().out


def test_wrong_absent_and_no_files_are_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rssac002", "validate", str(tmp_path)]) == 1
    assert main(["rssac002", "validate", str(tmp_path / "x-root-20261121-load-time.yaml")]) == 1
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe")
    assert main(["rssac002", "validate", str(tmp_path)]) == 1
    assert "not UTF-8" in capsys.readouterr().out
