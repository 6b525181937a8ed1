"""The role *advertise*: probes, decides, and is the only one that talks to the routing daemon."""

import asyncio
import ipaddress
import secrets
from pathlib import Path

from rootsrv.answer.responder import Responder
from rootsrv.anycast import live_check
from rootsrv.anycast.bird import Bird
from rootsrv.anycast.control import RouteControl
from rootsrv.anycast.controller import Controller
from rootsrv.anycast.dot_watch import DotWatch
from rootsrv.anycast.fastpath_watch import FastPathWatch
from rootsrv.anycast.flaps import load_flaps
from rootsrv.anycast.floor_watch import FloorWatch
from rootsrv.anycast.netlink import ServiceInterface
from rootsrv.anycast.probe import Expectations
from rootsrv.anycast.wishes import Orders
from rootsrv.anycast.witness import Witness, boottime
from rootsrv.config.file import Config
from rootsrv.control.server import ControlServer
from rootsrv.health.evidence import ProbeTransport
from rootsrv.page import counts
from rootsrv.page.layout import Page
from rootsrv.process.clocks import boot_id
from rootsrv.server.worker import responder_settings
from rootsrv.server.worker_orders import responder_orders
from rootsrv.store.table_file import open_generation


class CannotAdvertise(Exception):
    """The configuration or the host does not let the prefixes be announced; the text names the cause."""


async def advertise(config: Config, stop: asyncio.Event) -> None:
    """Announce the service prefixes while the service is right, until *stop* is set.

    CannotAdvertise or NetlinkFailed name what is not as it must be.
    """
    if config.anycast is None:
        raise CannotAdvertise("anycast: there is no such section in the configuration, so nothing to advertise")
    if wrong := await live_check.problems(config, to_begin=True):
        raise CannotAdvertise("; ".join(wrong))
    runtime, state = Path(config.state.runtime_directory), Path(config.state.directory)
    page = Page.open(runtime / "page", writable=False)
    settings = responder_settings(responder_orders(config, secrets.token_hex(16)))
    expected = Expectations(
        page,
        lambda generation: Responder(open_generation(state / "tables", generation), settings),
        config.switchover.grace_seconds,
    )
    boot = boot_id()
    addresses = tuple(ipaddress.ip_address(each) for each in config.service.addresses)
    flaps_path = runtime / "flaps.json"
    bird = Bird(config.anycast.bird_socket, timeout_seconds=0.5)
    async with ServiceInterface(config.anycast.interface) as interface:
        orders = Orders(state / "orders.json")
        controller = Controller(
            config=config.anycast,
            port=config.service.port,
            addresses=addresses,
            expected=expected,
            dot=None if config.dot is None else DotWatch(addresses, config.dot.port, expected),
            witness=Witness(page, lambda: expected.zones, runtime / "maintain.sock", state),
            fastpath=FastPathWatch(runtime / "serve.sock", detach=config.anycast.on_fastpath_wrong == "detach"),
            floor=None if config.mesh is None else FloorWatch(runtime / "mesh.sock"),
            interface=interface,
            bird=bird,
            replies=lambda: _replies(page),
            orders=orders,
            flaps=load_flaps(flaps_path, boot, boottime()),
            flaps_path=flaps_path,
            boot_id=boot,
        )
        path = runtime / "advertise.sock"
        control = ControlServer(RouteControl(controller, orders).commands())
        control.start(path)
        try:
            await controller.run(stop)
        finally:
            control.close()
            bird.close()


def _replies(page: Page) -> dict[tuple[ProbeTransport, int], int]:
    """Replies that the workers have sent, by transport and IP version."""
    slots = [page.worker(slot).counters for slot in range(page.workers)]
    paths = ((transport, version) for transport in ProbeTransport for version in (4, 6))  # as in counts.PATHS
    return {path: sum(words[counts.RESPONSES + number] for words in slots) for number, path in enumerate(paths)}
