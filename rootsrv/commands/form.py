"""What a setup asks: taken as options, from a file, or at a terminal; what is known already stands in brackets."""

import argparse
import contextlib
import dataclasses
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rootsrv.commands.printing import say, shown
from rootsrv.config.checks import ConfigError
from rootsrv.setup.remembered import check, lists, load, read
from rootsrv.wire import digits

A = TypeVar("A")


@dataclass(frozen=True, kw_only=True)
class SetupForm(Generic[A]):
    """The questions whose answers are an A, a dataclass that checks them."""

    kind: type[A]
    questions: Mapping[str, str]
    """By the name of the answer, in the order in which they are asked."""

    suggested: Callable[[], dict[str, object]]
    """Answers that the host suggests."""

    derived: Callable[[dict[str, object]], dict[str, object]]
    """What follows from answers already given."""

    stand_ins: Callable[[dict[str, object]], dict[str, object]]
    """Answers that fit those already given, for what has not been asked yet."""

    numbers: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    """Those that are made where nobody has one yet, 16 octets in hexadecimal digits, and never asked for."""

    passwords: tuple[str, ...] = ()
    """Those that are not shown when they are asked for again."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """An option for each answer, and where else answers come from."""
        parser.add_argument("--answers", type=Path, metavar="FILE", help="take the answers from FILE; ask nothing")
        for name, what in self.questions.items():
            what = what.strip().replace("`", "")
            option = f"--{name.replace('_', '-')}"
            if name in lists(self.kind):
                parser.add_argument(
                    option, action="append", default=None, metavar="VALUE", help=f"{what}; again for more"
                )
            else:
                parser.add_argument(option, metavar="VALUE", help=what)
        parser.add_argument("--show", action="store_true", help="only show what would change; 1 when something would")
        parser.add_argument("--yes", action="store_true", help="ask nothing: a missing answer is an error")
        parser.add_argument(
            "--overwrite", action="store_true", help="also what was edited by hand since (the old file is kept)"
        )
        parser.add_argument(
            "--no-doctor", action="store_true", help="do not look at the host afterwards (rootsrv doctor)"
        )

    def answered(self, arguments: argparse.Namespace, remembered: Path) -> A:
        """Options come before --answers, these before what was answered last time and what the host says."""
        typed = {name: getattr(arguments, name) for name in self.questions if getattr(arguments, name) is not None}
        given = {name: _number(name, each) if name in self.numbers else each for name, each in typed.items()}
        if arguments.answers:
            return self._with_secrets({**read(arguments.answers), **given}, remembered, f"{arguments.answers}: ")
        known = read(remembered) if remembered.exists() else {}
        suggested = {**self.suggested(), **known}
        if arguments.yes or arguments.show:
            answers = {**suggested, **given}
            try:
                return self._with_secrets({**self.derived(answers), **answers}, remembered, "")
            except ConfigError as error:
                name, _, what = str(error).partition(": ")
                remedy = f": give --{name.replace('_', '-')} or --answers, or be asked, without --yes and --show"
                raise ConfigError(f"{error}{remedy if what == 'is missing' else ''}") from error
        if not sys.stdin.isatty():
            raise ConfigError(
                "setup asks at a terminal; without one give --yes and the answers as options or --answers"
            )
        return self._asked(suggested, given, remembered)

    def check(self, answers: dict[str, object], where: str = "") -> A:
        """*answers* as an A; ConfigError begins with *where*."""
        return check(self.kind, answers, where)

    def load(self, path: Path) -> A:
        """The answers kept at *path*; ConfigError names file and key."""
        return load(self.kind, path)

    def secrets_of(self, answers: A) -> list[str]:
        """What nobody is to see of *answers*."""
        return [text for name in (*self.passwords, *self.secrets) if (text := getattr(answers, name))]

    def _with_secrets(self, answers: dict[str, object], remembered: Path, where: str) -> A:
        """The A of *answers*; a secret that nobody named is the one of before, or a new one."""
        before = None
        with contextlib.suppress(ConfigError):
            before = self.load(remembered)
        for name in self.secrets:
            answers[name] = answers.get(name) or getattr(before, name, "") or secrets.token_hex(16)
        return self.check(answers, where)

    def _asked(self, suggested: dict[str, object], given: dict[str, object], remembered: Path) -> A:
        answers = dict(given)
        say("An empty line takes what stands in brackets; blanks separate several values; Ctrl-C writes nothing.")
        for name in self.questions:
            if name in given or name in self.secrets:
                continue
            default = {**self.derived(answers), **suggested}.get(name, [] if name in lists(self.kind) else "")
            while True:
                answers[name] = self._ask(name, default)
                # Every answer is judged as soon as it is given, with what stands before it.
                if not (reason := self._reason_against(answers)):
                    break
                say(f"    {reason}")
        return self._with_secrets(answers, remembered, "")

    def _ask(self, name: str, default: object) -> object:
        field = next(each for each in dataclasses.fields(self.kind) if each.name == name)  # type: ignore[arg-type]
        is_list = name in lists(self.kind)
        while True:
            shown_default = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
            hint = "unchanged" if name in self.passwords and default else shown_default
            text = input(f"{self.questions[name]}{f' [{shown(hint)}]' if hint else ''}: ").strip()
            if not text and not shown_default and field.default is dataclasses.MISSING:
                say("    an answer is needed")
                continue
            if not text:
                return default if default else ([] if is_list else field.default)
            if is_list:
                return text.split()
            if name in self.numbers:
                try:
                    return _number(name, text)
                except ConfigError as error:
                    say(f"    {error}")
                    continue
            return text

    def _reason_against(self, answers: dict[str, object]) -> str:
        """Why *answers*, as far as they go, cannot be right; "" when they can."""
        given = {key: value for key, value in answers.items() if key in self.questions}
        try:
            self.check({**self.stand_ins(given), **given})
        except ConfigError as error:
            # A fault of what is not asked yet is no fault of this answer.
            key = str(error).split(":")[0].split("[")[0]
            return str(error) if key in given else ""
        return ""


def _number(name: str, value: str) -> int:
    try:
        return digits.whole(value)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
