"""An order that was kept, and cannot be carried out any more, ends nothing: the role goes on and listens."""

import asyncio
import time
from pathlib import Path

import pytest

from rootsrv.capture import file_names
from rootsrv.config.file import load
from rootsrv.roles import capture as role
from tests.capture.test_role_alone import made
from tests.secondary.maintained import configure


@pytest.mark.parametrize(
    ("kept", "begin"),
    [
        ('["a list"]', "by-order"),
        ('{"until": "tomorrow"}', "by-order"),
        ('{"format": 7}', "by-order"),
        ('{"until": 1', "by-order"),
        ('{"compression": "gzip", "begun": []}', "by-order"),
        ('{"rotation_seconds": 7}', "by-order"),
        (None, "at-once"),
    ],
)
def test_it_goes_on_whatever_was_kept(
    tmp_path: Path, kept: str | None, begin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    section = f'[capture]\nbegin = "{begin}"\n'
    config = load(configure(tmp_path, section, service=("127.0.0.2", 5300), admin=("127.0.0.1", 5301)))
    assert config.capture is not None
    if kept is None:

        def none_of_it(_: str) -> None:
            raise role.CompressionUnavailable("compression: zstd is not installed")

        monkeypatch.setattr(role, "compressors", none_of_it)
    working = role._Capture(config, config.capture)
    if kept is not None:
        (Path(config.capture.directory) / file_names.ORDER).write_text(kept)
    stop = asyncio.Event()
    stop.set()
    asyncio.run(working.run(stop))


def test_an_order_whose_time_has_come_is_tried_until_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty hours of a collection must not go for what goes wrong in one instant."""
    working = made(tmp_path)
    now = time.time()
    working._start(role.StartOrder(at=now + 3600, until=now + 7200, format="pcap"))
    monkeypatch.setattr(time, "time", lambda: now + 3601)

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as failing:
        failing.setattr(working._collector, "start", no_memory)
        for _ in range(2):
            with pytest.raises(MemoryError):
                working._turn()
    assert working.status()["state"] == "idle"
    assert (tmp_path / "files" / file_names.ORDER).exists()
    working._turn()
    told = working.status()
    assert (told["state"], told["format"], told["begins"], told["until"]) == ("capturing", "pcap", 0.0, now + 7200)
    working._close()
