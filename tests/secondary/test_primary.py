"""Transfers of genuine zones from NSD, Knot and BIND."""

import asyncio
from pathlib import Path

import pytest

from bench.peers.primaries import KEY_NAME, SECRET, HiddenPrimary, hidden_primary, without_last_soa
from rootsrv.config import file as config_file
from rootsrv.secondary.primary import Source, Transferred, ask_serial, transfer
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import NotAuthenticated, TransferFailed
from tests.needs import genuine_root_zone_text

ROOT = b"\0"
KINDS = ["NSD", "Knot", "BIND"]


def source(primary: HiddenPrimary, *, secret: str = SECRET, key: str = KEY_NAME) -> Source:
    read = config_file.read(
        {
            "key": [{"name": key, "secret": secret}],
            "zone": [{"name": "."}],
            "primary": [{"name": "hidden", "address": primary.address, "port": primary.port, "key": key}],
        }
    )
    return Source.from_config(read.primary[0], read)


def fetch(primary: HiddenPrimary, base: ZoneContents | None = None) -> Transferred:
    return asyncio.run(transfer(source(primary), ROOT, base))


def contents(serial: int) -> ZoneContents:
    return presentation.from_text(genuine_root_zone_text(serial), ROOT)


@pytest.mark.parametrize("kind", KINDS)
def test_a_genuine_root_is_transferred_whole_and_equal(kind: str, tmp_path: Path) -> None:
    text = without_last_soa(genuine_root_zone_text(2025091902))
    with hidden_primary(kind, {".": text}, tmp_path) as primary:
        answer = asyncio.run(ask_serial(source(primary), ROOT))
        got = fetch(primary)
        assert answer.serial == got.serial == 2025091902
        assert got.how == "axfr"
        assert got.contents is not None
        assert got.contents.rrsets == contents(2025091902).rrsets
        if kind != "NSD":  # NSD 4.6 does not know EXPIRE for zones that it is primary of
            assert got.expire_seconds in (604800, None)
        again = fetch(primary, got.contents)
        assert kind == "NSD" or again.contents is None
        wrong = source(primary, secret="d3Jvbmcgc2VjcmV0IHdyb25nIHNlY3JldA==")
        with pytest.raises(TransferFailed):
            asyncio.run(transfer(wrong, ROOT, None))
        with pytest.raises(TransferFailed):
            asyncio.run(ask_serial(wrong, ROOT))


@pytest.mark.parametrize("kind", ["Knot", "BIND"])
def test_the_october_pair_comes_by_ixfr_and_equals_the_file(kind: str, tmp_path: Path) -> None:
    with hidden_primary(kind, {".": genuine_root_zone_text(2025103001)}, tmp_path) as primary:
        first = fetch(primary)
        primary.publish(genuine_root_zone_text(2025103100))
        second = asyncio.run(_until(source(primary), first.contents, 2025103100))
        assert second.how == "ixfr"
        assert second.contents is not None
        assert second.contents.rrsets == contents(2025103100).rrsets


async def _until(source: Source, base: ZoneContents | None, serial: int) -> Transferred:
    async with asyncio.timeout(60):
        while (await ask_serial(source, ROOT)).serial != serial:  # noqa: ASYNC110  (the other side is a process)
            await asyncio.sleep(0.05)
    return await transfer(source, ROOT, base)


def test_a_primary_whose_answers_are_not_signed_is_not_believed(tmp_path: Path) -> None:
    with hidden_primary("BIND", {".": genuine_root_zone_text(2025103001)}, tmp_path, tsig=False) as primary:
        with pytest.raises(NotAuthenticated):
            asyncio.run(ask_serial(source(primary, key="unknown.example."), ROOT))
