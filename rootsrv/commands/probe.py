"""`rootsrv probe`: root server identities, measured from here as RSSAC047 measures them."""

import argparse
import asyncio
import ipaddress
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

from rootsrv.commands import numbers
from rootsrv.commands.printing import complain, say, table
from rootsrv.http.server import CannotListen, HttpServer, Request, Response
from rootsrv.process import log
from rootsrv.process.host_name import host_name
from rootsrv.store.zone_file import FileUnusable, read_octets, read_trust_anchors
from rootsrv.vantage.asking import ask
from rootsrv.vantage.correctness import ZONES_SECONDS, CorrectnessQuestion, draw
from rootsrv.vantage.measurement import (
    INTERVAL_SECONDS,
    TRANSPORTS,
    PublicationLatency,
    Sample,
    Target,
    Transport,
    summary,
)
from rootsrv.wire import digits
from rootsrv.wire.name import ROOT
from rootsrv.wire.rdata import SOA
from rootsrv.wire.record import ZoneMalformed
from rootsrv.zone import presentation
from rootsrv.zone.anchors import AnchorsMalformed
from rootsrv.zone.contents import ZoneContents
from rootsrv.zone.verify import ZoneRejected, verify

KEPT_SAMPLES = 2_000_000
"""A week of 26 addresses: both transports, two questions, every five minutes is 210,000."""

_SOA = CorrectnessQuestion(ROOT, SOA)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv probe`."""
    parser.add_argument(
        "targets", nargs="+", type=_target, metavar="NAME=ADDRESS[@PORT]", help="m=202.12.27.33, m=2001:dc3::35"
    )
    parser.add_argument("--zone", type=Path, metavar="FILE", help="the root zone; read again when it changes")
    parser.add_argument("--anchors", type=Path, metavar="FILE", help="trust anchors by which it is verified")
    parser.add_argument(
        "--interval", type=numbers.decimal, default=INTERVAL_SECONDS, metavar="SECONDS", help="default 300"
    )
    parser.add_argument(
        "--rounds", type=numbers.whole, default=0, metavar="N", help="so often, then end (default: never)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="append a JSON line for each question")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="offer the figures to Prometheus at /metrics")
    parser.add_argument("--source", default=None, metavar="ADDRESS", help="to ask from, of the family of the targets")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(command=run)


def _target(text: str) -> Target:
    name, equals, where = text.partition("=")
    address, _, port = where.partition("@")
    try:
        if not name or not equals:
            raise ValueError("NAME=ADDRESS is needed")
        return Target(name, str(ipaddress.ip_address(address)), digits.whole(port or "53", 1, 65_535))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def run(arguments: argparse.Namespace) -> int:
    """Measure; the figures are printed at the end.  1: something could not be begun, or a target never answered."""
    if arguments.zone is not None and arguments.anchors is None:
        complain("--anchors: a zone is compared with only if it verifies")
        return 2
    log.to_standard_error()
    try:
        with arguments.output.open("a", encoding="utf-8") if arguments.output is not None else _nowhere() as output:
            probing = ProbeCommand(arguments, output)
            asyncio.run(probing.run())
    except (CannotListen, OSError, ValueError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        pass
    figures = summary(probing.samples, probing.publication)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        _render(figures)
    return 0 if all(each["availability_percent"] for each in figures) else 1


def _nowhere() -> IO[str]:
    return open("/dev/null", "w", encoding="utf-8")


class ProbeCommand:
    """All that the command does."""

    def __init__(self, arguments: argparse.Namespace, output: IO[str]) -> None:
        self._targets: Sequence[Target] = arguments.targets
        self._arguments = arguments
        self._output = output
        self._zones = RightZones(arguments.zone, arguments.anchors)
        self._chance = random.Random()
        self.samples: list[Sample] = []
        self.publication = PublicationLatency()

    async def run(self) -> None:
        """Round after round."""
        server = HttpServer({"/metrics": self._metrics})
        if self._arguments.listen:
            host, _, port = self._arguments.listen.rpartition(":")
            await server.listen((host.strip("[]"),), digits.whole(port, 0, 65_535))
        rounds = 0
        try:
            while True:
                began = time.monotonic()
                await self._round()
                rounds += 1
                if rounds == self._arguments.rounds:
                    return
                await asyncio.sleep(max(0.0, began + self._arguments.interval - time.monotonic()))
        finally:
            server.close()

    async def _round(self) -> None:
        zones = await asyncio.to_thread(self._zones.current, time.time())
        question = draw(zones[0], self._chance) if zones else _SOA
        asked: list[tuple[Target, Transport, CorrectnessQuestion]] = [
            (target, transport, each)
            for target in self._targets
            for transport in TRANSPORTS
            for each in dict.fromkeys((_SOA, question))
        ]
        source = self._arguments.source
        samples = await asyncio.gather(*(ask(*each, zones, source) for each in asked))
        for sample in samples:
            self.publication.note(sample)
            self._output.write(json.dumps(sample.to_document()) + "\n")
        self._output.flush()
        self.samples = [*self.samples[-KEPT_SAMPLES + len(samples) :], *samples]

    async def _metrics(self, _: Request) -> Response:
        registry = CollectorRegistry()
        registry.register(_Exposed(summary(self.samples, self.publication), self.publication))
        return Response(generate_latest(registry), "text/plain; version=0.0.4; charset=utf-8")


class RightZones:
    """Verified versions of the root zone that are right: the present one, and others until 48 hours after the next."""

    def __init__(self, path: Path | None, anchors: Path | None) -> None:
        self._path = path
        self._anchors = anchors
        self._seen: tuple[int, int] | None = None
        self._zones: list[tuple[float, ZoneContents]] = []
        """When each was read, newest first."""

    def current(self, now: float) -> list[ZoneContents]:
        """Newest first; what does not verify is told and not taken."""
        if self._path is not None and self._anchors is not None:
            try:
                status = self._path.stat()
                seen = (status.st_mtime_ns, status.st_ino)
                if seen != self._seen:
                    self._seen = seen
                    contents = presentation.from_text(read_octets(self._path), ROOT)
                    verify(contents, read_trust_anchors(self._anchors), now)
                    self._zones.insert(0, (now, contents))
            except (OSError, FileUnusable, AnchorsMalformed, ZoneMalformed, ZoneRejected) as error:
                log.alarm("zone not taken", path=self._path, reason=f"{type(error).__name__}: {error}")
        replaced = [now, *(at for at, _ in self._zones)]
        self._zones = [
            zone for number, zone in enumerate(self._zones) if number == 0 or now - replaced[number] < ZONES_SECONDS
        ]
        return [contents for _, contents in self._zones]


class _Exposed:
    """The figures as metrics, by target, transport and family."""

    _NAMES = (
        ("measurements", "rootsrv_probe_measurements", "Measurements since the start.", 1.0),
        ("availability_percent", "rootsrv_probe_availability_ratio", "Responses within 4 s (RSSAC047v2 §5.2).", 0.01),
        ("response_latency_ms", "rootsrv_probe_response_latency_seconds", "Median (RSSAC047v2 §5.1).", 0.001),
        ("correctness_percent", "rootsrv_probe_correctness_ratio", "Correct responses (RSSAC047v2 §5.3).", 0.01),
        ("publication_latency_seconds", "rootsrv_probe_publication_latency_seconds", "Median (RSSAC047v2 §5.4).", 1.0),
    )

    def __init__(self, figures: "list[dict[str, object]]", publication: PublicationLatency) -> None:
        self._figures = figures
        self._publication = publication

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for key, name, text, scale in self._NAMES:
            family = GaugeMetricFamily(name, text, labels=["target", "transport", "family"])
            for each in self._figures:
                value = each[key]
                if isinstance(value, int | float):
                    labels = [str(each["target"]), str(each["transport"]), str(each["family"])]
                    family.add_metric(labels, value * scale)
            yield family
        serial = GaugeMetricFamily("rootsrv_probe_serial", "The newest serial that a target served.", labels=["target"])
        newest: dict[str, tuple[float, int]] = {}
        for (target, number), at in self._publication.served.items():
            newest[target] = max(newest.get(target, (0.0, 0)), (at, number))
        for target, (_, number) in newest.items():
            serial.add_metric([target], number)
        yield serial


def _render(figures: "list[dict[str, object]]") -> None:
    def shown(value: object, unit: str) -> str:
        return "–" if value is None else f"{value}{unit}"

    say(f"seen from {host_name()}")
    table(
        ("target", "over", "measured", "available", "latency", "correct", "publication"),
        (
            (each["target"], f"{each['transport']} {each['family']}", each["measurements"],
             shown(each["availability_percent"], " %"), shown(each["response_latency_ms"], " ms"),
             shown(each["correctness_percent"], " %"), shown(each["publication_latency_seconds"], " s"))
            for each in figures
        ),
    )  # fmt: skip
