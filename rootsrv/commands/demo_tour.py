"""What happens on a tour of the demo: new versions of the zone, one that is refused, one that is held."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootsrv.control.client import NoAnswer, NotDone, ask, ask_for_octets
from rootsrv.demo import generate
from rootsrv.demo.sign import Signing, sign_root, sign_rrset
from rootsrv.wire.rdata import ZONEMD
from rootsrv.zone import presentation
from rootsrv.zone.contents import ZoneContents

_PATIENCE_SECONDS = 120.0


class Tour:
    """Versions after the one that the demo began with, one every *seconds*: good, good, wrong ZONEMD, too different."""

    def __init__(
        self, root: ZoneContents, signing: Signing, configuration: Path, seconds: float, tell: Callable[[str], object],
        typed: str,
    ) -> None:  # fmt: skip
        """*typed*: how a person here types `rootsrv`."""
        self._typed = typed
        self._root, self._signing = root, signing
        self._serial = root.serial
        self._configuration = configuration
        self._maintain = configuration.parent / "run" / "maintain.sock"
        self._seconds = seconds
        self._tell = tell

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for scene in (self._successor, self._successor, self._wrong_digest, self._too_different):
                await asyncio.sleep(self._seconds)
                try:
                    await scene()
                except NoAnswer as error:
                    self._tell(f"tour: {error}")

    async def _successor(self) -> None:
        contents = await self._signed(len(self._root.delegations))
        self._tell(f"tour: serial {contents.serial} is offered, a version like any other")
        told = await self._import(contents)
        self._root = contents
        self._tell(f"tour: serial {contents.serial} is {told['state']}")

    async def _wrong_digest(self) -> None:
        contents = await self._signed(len(self._root.delegations))
        rrset = contents.rrset(contents.apex, ZONEMD)
        assert rrset is not None
        wrong = tuple(each[:6] + bytes((each[6] ^ 1,)) + each[7:] for each in rrset.rdatas)
        altered = sign_rrset(replace(rrset, rdatas=wrong), contents.apex, self._signing)
        contents = ZoneContents(contents.apex, {**contents.rrsets, (contents.apex, ZONEMD): altered})
        self._tell(f"tour: serial {contents.serial} is offered; its signatures are good, one bit of its ZONEMD is not")
        try:
            await self._import(contents)
        except NotDone as refusal:
            self._tell(f"tour: refused: {refusal}")
            self._tell(f"tour: serial {self._root.serial} is answered on")

    async def _too_different(self) -> None:
        tlds = len(self._root.delegations)
        contents = await self._signed(max(generate.MIN_TLDS, tlds * 9 // 10))
        self._tell(f"tour: serial {contents.serial} is offered; all of it verifies, and many of the TLDs are gone")
        told = await self._import(contents)
        if told["state"] != "held":
            self._root = contents
            return
        self._tell(f"tour: held: {'; '.join(told['reasons'])}; the status page says so, too")
        self._tell(f"tour: decide: {self._typed} zone approve {contents.serial} --config {self._configuration}")
        await asyncio.sleep(self._seconds)
        try:
            await ask(self._maintain, {"command": "zone-reject", "serial": contents.serial}, timeout=5.0)
        except NotDone:  # somebody has decided
            self._root = contents
            return
        self._tell(f"tour: nobody has decided: serial {contents.serial} is rejected")

    async def _signed(self, tlds: int) -> ZoneContents:
        self._serial += 1
        return await asyncio.to_thread(successor, self._root, self._signing, self._serial, tlds)

    async def _import(self, contents: ZoneContents) -> Mapping[str, Any]:
        octets = presentation.to_text(contents).encode()
        order = {"command": "zone-import", "name": "tour", "now": True}
        return (await ask_for_octets(self._maintain, order, timeout=_PATIENCE_SECONDS, octets=octets))[0]


def successor(root: ZoneContents, signing: Signing, serial: int, tlds: int, *, seed: int = 1) -> ZoneContents:
    """The generated root with *tlds* delegations as version *serial*; RRSIGs of what stays are those of *root*."""
    with ThreadPoolExecutor() as pool:
        unsigned = generate.root_contents(serial=serial, tlds=tlds, seed=seed)
        return sign_root(unsigned, signing, reuse=root, parallel_map=pool.map)
