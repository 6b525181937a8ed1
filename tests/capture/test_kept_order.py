"""An order that was kept, and cannot be carried out any more, ends nothing: the role goes on and listens."""

import asyncio
from pathlib import Path

import pytest

from rootsrv.capture import files
from rootsrv.config.file import load
from rootsrv.roles import capture as role
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
        (Path(config.capture.directory) / files.ORDER).write_text(kept)
    stop = asyncio.Event()
    stop.set()
    asyncio.run(working.run(stop))
