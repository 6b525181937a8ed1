"""Transfers from NSD, Knot and BIND: of genuine zones where there are some, of generated ones everywhere."""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers.primaries import KEY_NAME, SECRET, HiddenPrimary, hidden_primary, without_last_soa
from rootsrv.config import file as config_file
from rootsrv.secondary.primary import Source, Transferred, ask_serial, transfer
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.transfer import NotAuthenticated, TransferFailed
from tests.needs import genuine_root_zone_text
from tests.secondary.versions import FIRST, version

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


@functools.cache  # who signs twice gets other signatures
def generated(serial: int) -> bytes:
    return presentation.to_text(version(serial, tlds=400)).encode()


Zone = tuple[Callable[[int], bytes], int, int]
"""The text of a version, and the serials of two."""

ZONES: dict[str, Zone] = {
    "generated": (generated, FIRST, FIRST + 1),
    "genuine": (genuine_root_zone_text, 2025103001, 2025103100),
}


def is_expire(seconds: int | None, zone: ZoneContents) -> bool:
    """Whether *seconds* is what a primary says of *zone* (RFC 7314 §3): the EXPIRE of its SOA, or nothing."""
    return seconds in (zone.soa.expire, None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("text_of", "serial"), [(generated, FIRST), (genuine_root_zone_text, 2025091902)])
def test_a_root_is_transferred_whole_and_equal(
    text_of: Callable[[int], bytes], serial: int, kind: str, tmp_path: Path
) -> None:
    text = without_last_soa(text_of(serial))
    expected = presentation.from_text(text, ROOT)
    with hidden_primary(kind, {".": text}, tmp_path) as primary:
        answer = asyncio.run(ask_serial(source(primary), ROOT))
        got = fetch(primary)
        assert answer.serial == got.serial == serial
        assert got.how == "axfr"
        assert got.contents is not None
        assert got.contents.rrsets == expected.rrsets
        if kind != "NSD":  # NSD 4.6 does not know EXPIRE for zones that it is primary of
            assert is_expire(got.expire_seconds, expected)
        again = fetch(primary, got.contents)
        assert kind == "NSD" or again.contents is None
        wrong = source(primary, secret="d3Jvbmcgc2VjcmV0IHdyb25nIHNlY3JldA==")
        with pytest.raises(TransferFailed):
            asyncio.run(transfer(wrong, ROOT, None))
        with pytest.raises(TransferFailed):
            asyncio.run(ask_serial(wrong, ROOT))


@pytest.mark.parametrize("kind", ["Knot", "BIND"])
@pytest.mark.parametrize("zone", ZONES)
def test_the_next_version_comes_by_ixfr_and_equals_the_file(zone: str, kind: str, tmp_path: Path) -> None:
    text_of, older, newer = ZONES[zone]
    with hidden_primary(kind, {".": text_of(older)}, tmp_path) as primary:
        first = fetch(primary)
        primary.publish(text_of(newer))
        second = asyncio.run(_until(source(primary), first.contents, newer))
        assert second.how == "ixfr"
        assert second.contents is not None
        assert second.contents.rrsets == presentation.from_text(text_of(newer), ROOT).rrsets


async def _until(source: Source, base: ZoneContents | None, serial: int) -> Transferred:
    async with asyncio.timeout(60):
        while (await ask_serial(source, ROOT)).serial != serial:  # noqa: ASYNC110  (the other side is a process)
            await asyncio.sleep(0.05)
    return await transfer(source, ROOT, base)


def test_a_primary_whose_answers_are_not_signed_is_not_believed(tmp_path: Path) -> None:
    with hidden_primary("BIND", {".": generated(FIRST)}, tmp_path, tsig=False) as primary:
        with pytest.raises(NotAuthenticated):
            asyncio.run(ask_serial(source(primary, key="unknown.example."), ROOT))
