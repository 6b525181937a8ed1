"""`rootsrv localroot setup`: ask what a LocalRoot service needs, show what would change, check it, write it."""

import argparse
import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

from rootsrv.commands.changes import FileChange, look_at_the_host, present, write_when_agreed
from rootsrv.commands.form import SetupForm
from rootsrv.commands.printing import say
from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.setup import localroot

_FORM = SetupForm(
    kind=localroot.LocalRootAnswers,
    questions={
        "name": "domain name of the service (in keys' names, on its pages, in its certificate)",
        "addresses": "addresses that resolvers have zones from",
        "primaries": "primaries: ADDRESS or ADDRESS@KEY",
        "zones": "signed zones besides the root (arpa.)",
        "certificate": "certificate for transfers over TLS and https (PEM), when there is one",
        "certificate_key": "  its key",
        "url": "URL of the pages on which operators sign up, when there are to be pages",
        "contact": "  who is responsible, and how to reach them",
        "mail_from": "  sender of mails; without one nobody signs up but by `rootsrv localroot invite`",
    },
    suggested=localroot.suggested,
    derived=lambda _: {},
    stand_ins=localroot.stand_ins,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    _FORM.add_arguments(parser)
    parser.add_argument(
        "--directory", type=Path, default=Path("/etc/rootsrv"), metavar="DIRECTORY", help="default /etc/rootsrv"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask, show, check, write, in this order; nothing is written unless all of it is right."""
    directory: Path = arguments.directory
    answers = _FORM.answered(arguments, directory / localroot.ANSWERS)
    wanted = localroot.make(answers)
    made = (FileChange(directory / name, text) for name, text in wanted.items())
    changes = [each for each in made if each.is_new()]
    for each in changes:
        each.show(())
    if changes and arguments.show:
        return 1
    if changes:
        troubles = lambda: _troubles(wanted[localroot.CONFIGURATION])  # noqa: E731
        if status := write_when_agreed(arguments, changes, list(_edited_by_hand(directory, changes)), troubles):
            return status
    say("written" if changes else "nothing to change")
    if not arguments.show:
        look_at_the_host(arguments, directory / localroot.CONFIGURATION)
    return 0


def _edited_by_hand(directory: Path, changes: list[FileChange]) -> Iterator[Path]:
    """Files that differ from what the remembered answers make: somebody's work would be lost."""
    made: dict[str, str] = {}
    with contextlib.suppress(ConfigError):
        made = localroot.make(_FORM.load(directory / localroot.ANSWERS))
    for each in changes:
        if each.path.name != localroot.ANSWERS and present(each.path) not in ("", made.get(each.path.name)):
            yield each.path


def _troubles(text: str) -> Iterator[str]:
    """What is wrong with the configuration *text*, by those who will read it."""
    from rootsrv.localroot.settings import refuse
    from rootsrv.portal.settings import settings_of

    try:
        loaded = config_file.read(tomllib.loads(text))
        refuse(loaded)
        if loaded.portal is not None:
            settings_of(loaded)
    except ConfigError as error:
        yield str(error)
