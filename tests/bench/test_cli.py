"""What `python -m bench` is told that cannot be: refused at once, with the option, and nothing is begun."""

from pathlib import Path
from types import ModuleType

import pytest

from bench import capture, cli, dot, switchover
from bench.cli import main
from bench.peers.daemon import PeerFailed


@pytest.mark.parametrize(
    "command",
    [
        "compare --step-seconds 0", "compare --step-seconds -1", "compare --step-seconds nan",
        "abreast --turn-seconds 0", "limits --seconds 0", "limits --seconds inf", "fleet --seconds 0",
        "fleet --every -1", "localroot --mbit -1", "localroot --tlds 2", "responder --tlds 1",
        "responder --tlds 100000", "peak --tlds 0", "notify --tlds 2", "parts --rounds 0", "dot --handshakes 0",
        "peak --tlds 1_440", "load --rate 1e3", "flood --port +53", "load --seconds nan", "dot --rounds ٣",
    ],
)  # fmt: skip
def test_a_number_out_of_bounds_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    assert f"error: argument {command.split()[1]}: must be " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("compare --name a/b", "--name: a file's name without a directory, got 'a/b'"),
        ("responder --name ..", "--name: a file's name"),
        ("compare --results /dev/null/x", "--results: /dev/null/x: Not a directory"),
        ("peak --multiples 0", "--multiples: must be above 0"),
        ("peak --multiples nan", "--multiples: expected numbers"),
        ("peak --peak 0", "--peak: "),
        ("compare --cores 0", "--cores: expected two"),
        ("compare --servers nobody", "--servers: 'nobody'"),
        ("compare --zone /dev/null", "--zone needs --hosts and --anchors"),
        ("load --target 127.0.0.1 --port 70000", "--port: must be above 0 and at most 65,535"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_measured(
    command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in (cli.compare, cli.responder, cli.peak):
        monkeypatch.setattr(each, "run", lambda *arguments, **more: pytest.fail("it was begun"))
    options = [] if "--results" in command or "load" in command else ["--results", str(tmp_path)]
    assert main([*command.split(), *options]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_fails_is_named_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failed(*arguments: object, **more: object) -> None:
        raise PeerFailed("NSD: does not answer")

    monkeypatch.setattr(dot, "run", failed)
    assert main(["dot", "--rounds", "1"]) == 1
    assert capsys.readouterr().err.endswith("bench: NSD: does not answer\n")


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        (capture, "--seconds 0", "argument --seconds: must be "),
        (capture, "--rates x", "argument --rates: must be a whole number in digits, got 'x'"),
        (capture, "--rates 0", "argument --rates: must be at least 1"),
        (capture, "--kinds nosuch", "--kinds: known are "),
        (switchover, "/nonexistent", "zones: there is no /nonexistent/root.zone."),
        (switchover, "--runs 0 /nonexistent", "argument --runs: must be at least 1"),
    ],
)
def test_so_do_benchmarks_with_a_command_line_of_their_own(
    module: ModuleType, arguments: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
