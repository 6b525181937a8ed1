"""`rootsrv setup`: ask what differs from site to site, show what would change, check it, write it."""

import argparse
import contextlib
import dataclasses
import difflib
import grp
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rootsrv.commands import doctor
from rootsrv.commands.printing import complain, say, shown
from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.process import installation, whole_file
from rootsrv.setup import discovery, files
from rootsrv.setup.site import LISTS, NUMBERS, SECRETS, SiteAnswers, check, load, read

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

_KEPT = ".before-setup"

_OF_THE_HOST = {
    "network/60-rootsrv.conf": "sysctl.d/60-rootsrv.conf",
    "network/networkd.conf": "systemd/networkd.conf.d/60-rootsrv.conf",
    "chrony/rootsrv.conf": "chrony/conf.d/rootsrv.conf",
}
"""Below deploy/ → below /etc: of the whole host, so that no package sets them before an instance is wanted."""

_FILTER = "network/rootsrv.nft"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--answers", type=Path, metavar="FILE", help="take the answers from a site.toml; ask nothing")
    for name, what in _QUESTIONS.items():
        what = what.strip().replace("`", "")
        option = f"--{name.replace('_', '-')}"
        if name in LISTS:
            parser.add_argument(option, action="append", default=None, metavar="VALUE", help=f"{what}; again for more")
        else:
            parser.add_argument(option, metavar="VALUE", help=what)
    parser.add_argument(
        "--directory", type=Path, default=Path("/etc/rootsrv"), metavar="DIRECTORY", help="default /etc/rootsrv"
    )
    parser.add_argument(
        "--bird", type=Path, default=Path("/etc/bird/bird.conf"), metavar="FILE", help="default /etc/bird/bird.conf"
    )
    parser.add_argument(
        "--etc", type=Path, default=Path("/etc"), metavar="DIRECTORY", help="of the host's own settings; default /etc"
    )
    parser.add_argument("--show", action="store_true", help="only show what would change; 1 when something would")
    parser.add_argument("--yes", action="store_true", help="ask nothing: a missing answer is an error")
    parser.add_argument(
        "--overwrite", action="store_true", help="also what was edited by hand since (the old file is kept)"
    )
    parser.add_argument("--no-doctor", action="store_true", help="do not look at the host afterwards (rootsrv doctor)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, show, check, write, in this order; nothing is written unless all of it is right.

    The exit status is that of the writing, whatever doctor finds then.
    """
    directory: Path = arguments.directory
    site = _answered(arguments, directory / files.SITE)
    examples = _examples()
    places = {name: directory / name for name in (files.SITE, files.CONFIGURATION, files.NETWORK)}
    places[files.SOURCES_KEY] = directory / files.SOURCES_KEY
    places[files.BIRD] = arguments.bird
    wanted = files.make(site, examples, _mesh_section(site))
    for name, place in {
        **{name: arguments.etc / path for name, path in _OF_THE_HOST.items()},
        _FILTER: directory / "rootsrv.nft",
    }.items():
        places[name], wanted[name] = place, (deployed() / name).read_text()
    changes = {name: text for name, text in wanted.items() if _present(places[name]) != text}
    for name in changes:
        _show(places[name], _present(places[name]), wanted[name], site)
    if not changes:
        say("nothing to change")
        _examine(arguments, places)
        return 0
    if arguments.show:
        return 1
    edited = _edited_by_hand(places, examples, changes)
    if edited and not arguments.overwrite:
        for each in edited:
            complain(f"{each}: is not as setup wrote it: edited by hand, or by another version")
        complain("nothing was written; --overwrite keeps the old files beside the new ones")
        return 1
    if troubles := list(_check(wanted, places, directory)):
        for trouble in troubles:
            complain(trouble)
        complain("nothing was written")
        return 1
    if not arguments.yes and not _agreed():
        complain("nothing was written")
        return 1
    _write(changes, places)
    for missing in _still_missing(places[files.CONFIGURATION]):
        say(f"still missing: {missing}")
    say("written")
    _examine(arguments, places)
    return 0


# ── the answers ──


def _answered(arguments: argparse.Namespace, remembered: Path) -> SiteAnswers:
    """Options come before --answers, these before what was answered last time and what the host says."""
    typed = {name: getattr(arguments, name) for name in _QUESTIONS if getattr(arguments, name) is not None}
    given = {name: _number(name, each) if name in NUMBERS else each for name, each in typed.items()}
    if arguments.answers:
        return _with_secrets({**read(arguments.answers), **given}, remembered, f"{arguments.answers}: ")
    known = read(remembered) if remembered.exists() else {}
    suggested = {**discovery.defaults(), **known}
    if arguments.yes or arguments.show:
        answers = {**suggested, **given}
        try:
            return _with_secrets({**discovery.derived(answers), **answers}, remembered, "")
        except ConfigError as error:
            name, _, what = str(error).partition(": ")
            remedy = f": give --{name.replace('_', '-')} or --answers, or be asked, without --yes and --show"
            raise ConfigError(f"{error}{remedy if what == 'is missing' else ''}") from error
    if not sys.stdin.isatty():
        raise ConfigError("setup asks at a terminal; without one give --yes and the answers as options or --answers")
    return _asked(suggested, given, remembered)


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name}: must be a number, got {value!r}") from None


def _with_secrets(answers: dict[str, object], remembered: Path, where: str) -> SiteAnswers:
    """The Site of *answers*; a secret that nobody named is the one of before, or a new one."""
    before = None
    with contextlib.suppress(ConfigError):
        before = load(remembered)
    for name in SECRETS:
        answers[name] = answers.get(name) or getattr(before, name, "") or secrets.token_hex(16)
    return check(answers, where)


def _asked(suggested: dict[str, object], given: dict[str, object], remembered: Path) -> SiteAnswers:
    answers = dict(given)
    optional = {each.name for each in dataclasses.fields(SiteAnswers) if each.default is not dataclasses.MISSING}
    say("An empty line takes what stands in brackets; several values are separated by blanks; Ctrl-C writes nothing.")
    for name, question in _QUESTIONS.items():
        if name in given or name in SECRETS:
            continue
        default = {**discovery.derived(answers), **suggested}.get(name, [] if name in LISTS else "")
        while True:
            answers[name] = _ask(name, question, default, name in optional)
            # Every answer is judged as soon as it is given, with what stands before it.
            if not (reason := _reason_against(answers)):
                break
            say(f"    {reason}")
    return _with_secrets(answers, remembered, "")


def _ask(name: str, question: str, default: object, may_be_empty: bool) -> object:
    secret = name == "session_password"
    while True:
        shown_default = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        hint = "unchanged" if secret and default else shown_default
        text = input(f"{question}{f' [{shown(hint)}]' if hint else ''}: ").strip()
        if not text and not shown_default and not may_be_empty:
            say("    an answer is needed")
            continue
        if not text:
            return default if default else ([] if name in LISTS else "global" if name == "reach" else "")
        if name in LISTS:
            return text.split()
        if name in NUMBERS:
            try:
                return _number(name, text)
            except ConfigError as error:
                say(f"    {error}")
                continue
        return text


def _reason_against(answers: dict[str, object]) -> str:
    """Why *answers*, as far as they go, cannot be right; "" when they can."""
    given = {key: value for key, value in answers.items() if key in _QUESTIONS}
    try:
        check({**_stand_ins(given), **given})
    except ConfigError as error:
        # A fault of what is not asked yet is no fault of this answer.
        key = str(error).split(":")[0].split("[")[0]
        return str(error) if key in given else ""
    return ""


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


# ── the files ──


def deployed() -> Path:
    """The directory deploy/ of this installation; ConfigError when it is not there."""
    if found := installation.brought("deploy", "network/network.conf"):
        return found
    raise ConfigError("share/rootsrv/deploy is not in this installation: install the wheel or the package again")


def _examples() -> files.Examples:
    deploy = deployed()
    return files.Examples(
        network=(deploy / "network/network.conf").read_text(),
        bird_global=(deploy / "bird/global.conf").read_text(),
        bird_local=(deploy / "bird/local.conf").read_text(),
    )


def _mesh_section(site: SiteAnswers) -> str:
    if not site.mesh:
        return ""
    try:
        text = Path(site.mesh).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mesh: {site.mesh}: {getattr(error, 'strerror', None) or error}") from error
    if "[mesh]" not in text:
        raise ConfigError(f"mesh: {site.mesh}: has no section [mesh]: it is to be what `rootsrv mesh join` printed")
    return text


def _present(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _show(path: Path, old: str, new: str, site: SiteAnswers) -> None:
    """The difference, without secrets: terminals are recorded, and looked at over shoulders."""
    hidden = [each for each in (site.session_password, *(getattr(site, name) for name in SECRETS)) if each]
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(path) if old else "/dev/null", str(path), lineterm=""
    )
    for line in lines:
        for each in hidden:
            line = line.replace(each, "…")
        if line.startswith("-") and any(word in line for word in ("secret", "password", "sources_key = ")):
            line = line.partition("=")[0] + " …" if "=" in line else line.partition('"')[0] + "…"
        # What stood in a file of its own.
        say(re.sub(r"\b[0-9a-fA-F]{32}\b", "…", line))


def _edited_by_hand(places: dict[str, Path], examples: files.Examples, changes: dict[str, str]) -> list[Path]:
    """Files that differ from what the remembered answers make: somebody's work would be lost."""
    there = {name: _present(places[name]) for name in changes if name != files.SITE}
    there = {name: text for name, text in there.items() if text}
    made: dict[str, str] = {}
    with contextlib.suppress(ConfigError):
        before = load(places[files.SITE])
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
    if any((deploy / each).is_file() and (deploy / each).read_text() == text for each in shipped):
        return True
    # Debian's own bird.conf, as the package installs it, says so at its top and has no session.
    basic = "This is a basic configuration file" in text
    return name == files.BIRD and basic and not re.search(r"^\s*protocol bgp\b", text, re.MULTILINE)


def _check(wanted: dict[str, str], places: dict[str, Path], directory: Path) -> Iterator[str]:
    """What is wrong with *wanted*, by those who will read it: rootsrv, rootsrv-network and bird."""
    with tempfile.TemporaryDirectory(prefix="rootsrv-setup-") as name:
        trial = Path(name)
        for each in (files.CONFIGURATION, files.NETWORK, files.BIRD):
            (trial / each).write_text(wanted[each])
        try:
            config_file.load(trial / files.CONFIGURATION)
        except ConfigError as error:
            yield str(error).replace(str(trial), str(directory))
        script = shutil.which("rootsrv-network") or str(deployed() / "network/rootsrv-network")
        (trial / "rootsrv.nft").write_text(wanted[_FILTER])
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
        yield f"{command[0]}: {error}"
        return
    if done.returncode:
        told = (done.stderr or done.stdout).strip() or f"status {done.returncode}"
        for name, place in places.items():
            told = told.replace(str(trial / name), str(place))
        yield told


def _still_missing(configuration: Path) -> Iterator[Path]:
    """Files that the configuration names and that are not there yet: zones, trust anchors, secrets of keys."""
    loaded = config_file.load(configuration)
    named = [text for zone in loaded.zone for text in (zone.file, zone.trust_anchors)]
    named += [key.secret_file for key in loaded.key]
    for each in dict.fromkeys(filter(None, named)):
        if not Path(each).exists():
            yield Path(each)


def _examine(arguments: argparse.Namespace, places: dict[str, Path]) -> None:
    """Show what doctor finds; what it finds, or how it fails, undoes nothing of what was written."""
    if arguments.no_doctor or arguments.show:
        return
    say("what `rootsrv doctor` says of this host now, before the steps that follow:")
    given = argparse.Namespace(config=places[files.CONFIGURATION], network=places[files.NETWORK], json=False)
    try:
        doctor.run(given)
    except KeyboardInterrupt:
        complain("doctor was interrupted; what is written stays")
    except Exception as error:
        complain(f"doctor could not look at this host ({type(error).__name__}: {error}); what is written stays")


def _agreed() -> bool:
    try:
        return input("write this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _write(changes: dict[str, str], places: dict[str, Path]) -> None:
    """All of *changes*, the old files beside them; when one cannot be written, those before it are as they were."""
    undo: list[Callable[[], None]] = []
    try:
        for name, text in changes.items():
            path = places[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            old = path.read_bytes() if path.exists() else None
            if old is not None:
                whole_file.replace(path.with_name(path.name + _KEPT), old, mode=0o600)
            if old is None:
                undo.append(partial(path.unlink, missing_ok=True))
            else:
                undo.append(partial(whole_file.replace, path, old, mode=0o640))
            whole_file.replace(path, text.encode(), mode=0o644 if name in _OF_THE_HOST else 0o640)
            if name not in _OF_THE_HOST:
                _give_to_group(path, "bird" if name == files.BIRD else "rootsrv")
    except OSError as error:
        for each in reversed(undo):
            with contextlib.suppress(OSError):
                each()
        raise ConfigError(f"{error.filename or path}: {error.strerror}; everything is as it was") from error


def _give_to_group(path: Path, group: str) -> None:
    """So that the role may read it; without the account (before the package is there) it stays root's."""
    with contextlib.suppress(KeyError):
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
