"""`rootsrv setup`: ask what differs from site to site, show what would change, check it, write it."""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rootsrv.commands.changes import FileChange, look_at_the_host, present, write_when_agreed
from rootsrv.commands.form import SetupForm
from rootsrv.commands.printing import reason_of, say
from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.process import installation
from rootsrv.setup import discovery, files
from rootsrv.setup.site import NUMBERS, SECRETS, SiteAnswers

_QUESTIONS = {
    "name": "name of this instance (NSID)",
    "admin_interface": "administrative interface (zones in, metrics, shell)",
    "admin_addresses": "  its addresses",
    "management": "  prefixes that may reach shell and metrics",
    "service_interface": "service interface (queries, and the router)",
    "link_addresses": "  its addresses on the link to the router",
    "routers": "  the router's addresses on that link",
    "service_addresses": "shared unicast addresses of the service",
    "prefixes": "  prefixes to announce for them",
    "local_as": "AS number of this site",
    "router_as": "AS number of the router",
    "session_password": "password of the BGP session",
    "reach": "announce to everybody (global) or to the neighbour's own network (local)",
    "primaries": "primaries: ADDRESS or ADDRESS@KEY",
    "peers": "other hosts that fetch zones from here",
    "cookie_secret": "secret of the DNS cookies, the same on all instances",
    "sources_key": "key of the unique sources that are counted, the same on all instances",
    "mesh": "file that `rootsrv mesh join` printed, when there is a mesh",
}

_OF_THE_HOST = {
    "network/60-rootsrv.conf": "sysctl.d/60-rootsrv.conf",
    "network/networkd.conf": "systemd/networkd.conf.d/60-rootsrv.conf",
    "chrony/rootsrv.conf": "chrony/conf.d/rootsrv.conf",
}
"""Below deploy/ → below /etc: of the whole host, so that no package sets them before an instance is wanted."""

_FILTER = "network/rootsrv.nft"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    _FORM.add_arguments(parser)
    parser.add_argument(
        "--directory", type=Path, default=Path("/etc/rootsrv"), metavar="DIRECTORY", help="default /etc/rootsrv"
    )
    parser.add_argument(
        "--bird", type=Path, default=Path("/etc/bird/bird.conf"), metavar="FILE", help="default /etc/bird/bird.conf"
    )
    parser.add_argument(
        "--etc", type=Path, default=Path("/etc"), metavar="DIRECTORY", help="of the host's own settings; default /etc"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, show, check, write, in this order; nothing is written unless all of it is right.

    The exit status is that of the writing, whatever doctor finds then.
    """
    directory: Path = arguments.directory
    site = _FORM.answered(arguments, directory / files.SITE)
    examples = _examples()
    places = {name: directory / name for name in (files.SITE, files.CONFIGURATION, files.NETWORK)}
    places[files.SOURCES_KEY] = directory / files.SOURCES_KEY
    places[files.BIRD] = arguments.bird
    wanted = files.make(site, examples, _mesh_section(site))
    for name, place in {
        **{name: arguments.etc / path for name, path in _OF_THE_HOST.items()},
        _FILTER: directory / "rootsrv.nft",
    }.items():
        places[name], wanted[name] = place, (deployed() / name).read_text(encoding="utf-8")
    changes = {name: each for name, text in wanted.items() if (each := _change(name, places[name], text)).is_new()}
    for each in changes.values():
        each.show(_FORM.secrets_of(site))
    if changes and arguments.show:
        return 1
    if changes:
        edited = _edited_by_hand(places, examples, changes)
        troubles = lambda: _check(wanted, places, directory)  # noqa: E731
        if status := write_when_agreed(arguments, list(changes.values()), edited, troubles):
            return status
    say("written" if changes else "nothing to change")
    if not arguments.show:
        look_at_the_host(arguments, places[files.CONFIGURATION])
    return 0


def _change(name: str, path: Path, text: str) -> FileChange:
    return FileChange(path, text, group="" if name in _OF_THE_HOST else "bird" if name == files.BIRD else "rootsrv")


# ── the answers ──


def _stand_ins(given: dict[str, object]) -> dict[str, object]:
    """Answers that fit *given*, for what has not been asked yet."""
    known = next((given[key] for key in ("service_addresses", "link_addresses") if key in given), None)
    texts = [str(each) for each in known] if isinstance(known, list) else ["1.", ":"]
    versions = [version for version in (4, 6) if any((":" in each) == (version == 6) for each in texts)]
    # From what is reserved for benchmarks (RFC 2544, RFC 5180): no box has them.
    places = {4: "198.18.{}.1", 6: "2001:2:0:{}::1"}
    stand_ins: dict[str, object] = {
        key: [places[version].format(number) for version in versions]
        for number, key in enumerate(("admin_addresses", "link_addresses", "routers", "service_addresses"), 1)
    }
    stand_ins |= {"name": "x", "admin_interface": "-a", "service_interface": "-s", "management": ["198.18.0.0/15"]}
    stand_ins |= {"local_as": 1, "router_as": 1, "session_password": "x", "primaries": ["198.18.9.1"], "prefixes": []}
    return {**stand_ins, **discovery.derived({**stand_ins, **given})}


_FORM = SetupForm(
    kind=SiteAnswers,
    questions=_QUESTIONS,
    suggested=discovery.defaults,
    derived=discovery.derived,
    stand_ins=_stand_ins,
    numbers=NUMBERS,
    secrets=SECRETS,
    passwords=("session_password",),
)


# ── the files ──


def deployed() -> Path:
    """The directory deploy/ of this installation; ConfigError when it is not there."""
    if found := installation.brought("deploy", "network/network.conf"):
        return found
    raise ConfigError("share/rootsrv/deploy is not in this installation: install the wheel or the package again")


def _examples() -> files.Examples:
    deploy = deployed()
    return files.Examples(
        network=(deploy / "network/network.conf").read_text(encoding="utf-8"),
        bird_global=(deploy / "bird/global.conf").read_text(encoding="utf-8"),
        bird_local=(deploy / "bird/local.conf").read_text(encoding="utf-8"),
    )


def _mesh_section(site: SiteAnswers) -> str:
    if not site.mesh:
        return ""
    try:
        text = Path(site.mesh).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mesh: {site.mesh}: {reason_of(error)}") from error
    if "[mesh]" not in text:
        raise ConfigError(f"mesh: {site.mesh}: has no section [mesh]: it is to be what `rootsrv mesh join` printed")
    return text


def _edited_by_hand(places: dict[str, Path], examples: files.Examples, changes: dict[str, FileChange]) -> list[Path]:
    """Files that differ from what the remembered answers make: somebody's work would be lost."""
    there = {name: present(places[name]) for name in changes if name != files.SITE}
    there = {name: text for name, text in there.items() if text}
    made: dict[str, str] = {}
    with contextlib.suppress(ConfigError):
        before = _FORM.load(places[files.SITE])
        made = files.make(before, examples, _mesh_section(before))
    return [places[name] for name, text in there.items() if made.get(name) != text and not _as_shipped(name, text)]


def _as_shipped(name: str, text: str) -> bool:
    """Whether a file is the example that a package has put there: nobody's work."""
    deploy = deployed()
    shipped = {
        files.CONFIGURATION: ("box.toml", "rootsrv.toml"),
        files.NETWORK: ("network/network.conf",),
        files.BIRD: ("bird/global.conf", "bird/local.conf"),
    }.get(name, (name,))
    if any((deploy / each).is_file() and (deploy / each).read_text(encoding="utf-8") == text for each in shipped):
        return True
    # Debian's own bird.conf, as the package installs it, says so at its top and has no session.
    basic = "This is a basic configuration file" in text
    return name == files.BIRD and basic and not re.search(r"^\s*protocol bgp\b", text, re.MULTILINE)


def _check(wanted: dict[str, str], places: dict[str, Path], directory: Path) -> Iterator[str]:
    """What is wrong with *wanted*, by those who will read it: rootsrv, rootsrv-network and bird."""
    with tempfile.TemporaryDirectory(prefix="rootsrv-setup-") as name:
        trial = Path(name)
        for each in (files.CONFIGURATION, files.NETWORK, files.BIRD):
            (trial / each).write_text(wanted[each], encoding="utf-8")
        try:
            config_file.load(trial / files.CONFIGURATION)
        except ConfigError as error:
            yield str(error).replace(str(trial), str(directory))
        script = shutil.which("rootsrv-network") or str(deployed() / "network/rootsrv-network")
        (trial / "rootsrv.nft").write_text(wanted[_FILTER], encoding="utf-8")
        yield from _asking("sh", script, "check", trial=trial, places=places)
        if shutil.which("bird"):
            yield from _asking("bird", "-p", "-c", str(trial / files.BIRD), trial=trial, places=places)
        else:
            yield "bird is not installed (apt install bird2)"


def _asking(*command: str, trial: Path, places: dict[str, Path]) -> Iterator[str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "ROOTSRV_NETWORK": str(trial)},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        yield f"{command[0]}: {reason_of(error)}"
        return
    if done.returncode:
        told = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        for name, place in places.items():
            told = told.replace(str(trial / name), str(place))
        yield told
