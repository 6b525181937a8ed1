"""What is said of a command line that is wrong: what was meant, as far as that can be guessed."""

import argparse
import difflib
import re
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """One that says which command was meant; its sub-commands' parsers are of the same class."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with what was typed; exit status 2."""
        wrong = re.fullmatch(r"argument (\S+): invalid choice: '(.*)' \(choose from (.*)\)", message)
        if wrong and (meant := difflib.get_close_matches(wrong[2], re.findall(r"[\w-]+", wrong[3]), 1)):
            message = f"argument {wrong[1]}: there is no {wrong[2]!r}; did you mean {meant[0]}? (--help lists all)"
        elif wrong and wrong[1] == "COMMAND":
            message = f"there is no {wrong[2]!r} (--help lists all)"
        elif message.endswith("required: COMMAND"):
            message = f"{message} (--help lists all)"
        super().error(message)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As argparse does, but the command itself says what it does not know, and not the one above all."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error("; ".join(map(self._what_was_meant, unknown)))
        return found, unknown

    def _what_was_meant(self, word: str) -> str:
        name = word.partition("=")[0]
        if not name.startswith("-"):
            return f"{word!r} is too much (--help says what {self.prog} takes)"
        meant = difflib.get_close_matches(name, self._option_string_actions, 1)
        return f"there is no option {name}" + (f"; did you mean {meant[0]}?" if meant else f" ({self.prog} --help)")
