"""The neighbours: BIRD, and the primaries that zones come from."""

import asyncio
import shutil
from collections.abc import Iterator

from rootsrv.anycast import live_check
from rootsrv.config.checks import ConfigError, without_query
from rootsrv.config.file import Config
from rootsrv.doctor.finding import Finding, bad, good, remark
from rootsrv.secondary.primary import Source, ask_serial
from rootsrv.wire import name as names
from rootsrv.zone.transfer import TransferFailed


def checks(config: Config) -> Iterator[Finding]:
    """All of them."""
    yield from _bird(config)
    yield from primaries(config)


def primaries(config: Config) -> Iterator[Finding]:
    """Those alone."""
    if not config.primary:
        yield remark(
            "primaries", "none: zones come from files, and somebody must put new ones there",
            "name [[primary]] in the configuration, or see to the files",
        )  # fmt: skip
    yield from asyncio.run(_primaries(config))


def _bird(config: Config) -> Iterator[Finding]:
    if config.anycast is None:
        yield remark(
            "BIRD", "not needed: the prefixes are not announced from here",
            "add [anycast] to the configuration (deploy/rootsrv.toml) to announce them",
        )  # fmt: skip
        return
    if shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        yield bad("BIRD", "is not installed", "apt install bird2")
        return
    problems = asyncio.run(live_check.problems(config))
    for problem in problems:
        key, _, text = problem.partition(": ")
        remedy = "systemctl start bird; the account must be in its group" if key.endswith("bird_socket") else (
            "compare /etc/bird/bird.conf with deploy/bird; birdc configure"
        )  # fmt: skip
        yield bad(f"BIRD, {key}", text, remedy)
    if not problems:
        yield good("BIRD", "has the protocols that the configuration names")


async def _primaries(config: Config) -> list[Finding]:
    """Ask every primary for every serial, as the role maintain does: same address, same key, same TLS."""
    wanted = [(each, zone) for each in config.primary for zone in each.zones]

    async def ask(index: int) -> Finding:
        primary, zone = wanted[index]
        about = f"primary {primary.name}, zone {zone}"
        if primary.url:
            found = f"{without_query(primary.url)} is not fetched for a check"
            return remark(about, found, "rootsrv zone refresh, once it runs")
        try:
            answer = await ask_serial(Source.from_config(primary, config), names.from_text(zone))
        except ConfigError as error:
            return bad(about, str(error), "put the file there, or mend the configuration")
        except TransferFailed as error:
            what = str(error) or (type(error).__doc__ or "").strip()
            return bad(
                about, f"{primary.address}: {what}",
                "can the administrative address reach it (TRANSFER_PEERS, its own filter), is the key the same?",
            )  # fmt: skip
        return good(about, f"{primary.address} has serial {answer.serial}")

    return list(await asyncio.gather(*(ask(index) for index in range(len(wanted)))))
