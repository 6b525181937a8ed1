"""What programs that are not ours find on the same server: dnsperf (sockets) and kxdpgun (AF_XDP)."""
# Each is run in turns with the engine of ours that is most like it, and the median of the turns' quotients counts: on a
# machine whose speed changes, figures taken one after the other would differ by that.  kxdpgun brings an XDP program of
# its own to the client's interface, where the kernel engine has one already: it gets a second wire and server.

import contextlib
import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import measure
from bench.engine_process import EngineProcess
from bench.engine_socket import SocketEngine
from bench.load import Target
from bench.network import (
    CLIENT_INTERFACE,
    CLIENT_IPV4,
    CLIENT_MAC,
    SERVER_IPV4,
    SERVER_MAC,
    SOURCE_PREFIX_IPV4,
    SOURCE_PREFIX_IPV6,
)
from bench.queries import Query, read_names, write_names
from bench.subjects import Subject

if TYPE_CHECKING:
    from bench.compare import Comparison

AGREEMENT = 0.15
"""How far another program's figure may be from ours."""

_TURNS = 3
_NAMES = 20_000
_PAYLOAD = {"dnsperf": 4096, "kxdpgun": 1232}  # what they put into OPT


class ToolFailed(Exception):
    """The other program is not there, or said nothing that we understand."""


@dataclass(frozen=True)
class Agreement:
    """Responses per second: theirs, ours, and the median of theirs / ours over the turns."""

    theirs: float
    ours: float
    ratio: float

    @property
    def good(self) -> bool:
        """Within `AGREEMENT`."""
        return abs(self.ratio - 1) <= AGREEMENT


def beside_dnsperf(comparison: "Comparison", turns: int = _TURNS) -> Agreement:
    """dnsperf and the socket engine, both with 512 queries outstanding, on the server that *comparison* has running."""
    seconds = max(1, round(comparison.options.step_seconds))
    with _names(comparison, "") as (path, names):
        queries = _ipv4(names, "dnsperf")
        build = functools.partial(
            SocketEngine, queries, Target(SERVER_IPV4, None), sources=(SOURCE_PREFIX_IPV4, SOURCE_PREFIX_IPV6)
        )
        command = ["-s", SERVER_IPV4, "-d", str(path), "-c", "16", "-T", "1", "-q", "512", "-e", "-D"]
        command += ["-l", str(seconds)]
        cpu, namespace = comparison.options.generator_cpu, comparison.wire.client.path
        with EngineProcess(build, namespace=namespace, cpu=cpu) as engine:
            return _agreement(
                [
                    (
                        _told(comparison, "dnsperf", command, rb"Queries per second:\s+([0-9.]+)"),
                        engine.run(None, seconds).answer_rate,
                    )
                    for _ in range(turns)
                ]
            )


def beside_kxdpgun(
    comparison: "Comparison", second: "Comparison", subject: Subject, reply_octets: int,
    rate: float, turns: int = _TURNS,
) -> Agreement:  # fmt: skip
    """kxdpgun on the wire of *second*, the generator of *comparison* on its own, with the same offered *rate*.

    The rate is to be one that the server can answer: of two servers that are overloaded in turns on one core, each
    still works off what its turn left it while the other's has begun.  *comparison* has *subject* running; *second*
    gets one here and must not have a kernel engine.
    """
    seconds = max(1, round(comparison.options.step_seconds))
    with second.serving(subject, reply_octets), _names(second, " D") as (path, names):
        queries = _ipv4(names, "kxdpgun")
        found = []
        with comparison.sending(queries) as generator:
            for _ in range(turns):
                ours = generator.run(rate, seconds)
                # A generator that is kept from its core offers less than it was asked to: the same for both.
                command = ["-t", str(seconds), "-Q", str(max(1, round(ours.offered_rate))), "-p", "53"]
                command += ["-F", str(comparison.options.generator_cpu), "-I", CLIENT_INTERFACE, "-l", CLIENT_IPV4]
                command += ["-L", CLIENT_MAC, "-R", SERVER_MAC, "-i", str(path), SERVER_IPV4]
                theirs = _told(second, "kxdpgun", command, rb"total replies:\s+(\d+)") / seconds
                found.append((theirs, ours.answer_rate))
        return _agreement(found)


@contextlib.contextmanager
def _names(comparison: "Comparison", flags: str) -> Iterator[tuple[Path, Path]]:
    """The comparison's names as a file for the other program, each with *flags*, and as one that `read_names` reads."""
    with tempfile.TemporaryDirectory(prefix="rs-bench-names-") as directory:
        plain, flagged = Path(directory) / "names", Path(directory) / "flagged"
        write_names([query for query in comparison.queries if query.rcode is not None][:_NAMES], plain)
        flagged.write_text("".join(f"{line}{flags}\n" for line in plain.read_text().splitlines()))
        yield flagged, plain


def _ipv4(names: Path, program: str) -> list[Query]:
    return [replace(query, family=4) for query in read_names(names, payload=_PAYLOAD[program])]


def _told(comparison: "Comparison", program: str, arguments: Sequence[str], figure: bytes) -> float:
    """Run *program* in the client's namespace; the number that it printed."""
    path = shutil.which(program, path="/usr/local/bin:/usr/bin:/usr/sbin:/sbin")
    if path is None:
        raise ToolFailed(f"{program} is not installed")
    process = comparison.wire.client.spawn(
        [path, *arguments], cpu=comparison.options.generator_cpu, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = process.communicate(timeout=comparison.options.step_seconds + 60)
    finally:
        process.kill()
        process.wait()
    found = re.search(figure, output)
    if found is None:
        raise ToolFailed(f"{program}: {output.decode(errors='replace').strip()[-200:] or 'said nothing'}")
    return float(found[1])


def _agreement(turns: Sequence[tuple[float, float]]) -> Agreement:
    return Agreement(
        measure.median([theirs for theirs, _ in turns]),
        measure.median([ours for _, ours in turns]),
        measure.median([theirs / ours for theirs, ours in turns if ours]),
    )
