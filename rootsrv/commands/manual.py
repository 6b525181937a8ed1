"""Manual pages and shell completion, made from the parser: `python -m rootsrv.commands.manual DIRECTORY` (`make man`).

What the parser does not know – the files, the exit status, what an instance is – is written here.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rootsrv.commands import parser

PROGRAM = "rootsrv"

_ABOUT = """rootsrv answers for the root zone of the DNS and for root\\-servers.net, as one instance of an anycast set:
it fetches the zones, verifies them from the trust anchor to ZONEMD, answers from its workers and from the kernel,
announces its prefixes through BIRD for as long as its answers are right, and tells what it does."""

_EXIT = (
    ("0", "done"),
    ("1", "it did not work: a zone is bad, a host lacks something, a role does not answer"),
    ("2", "the command or the configuration is wrong"),
)

_FILES = (
    (
        "/etc/rootsrv/rootsrv.toml",
        "configuration; share/rootsrv/deploy/rootsrv.toml in the installation explains each key",
    ),
    ("/etc/rootsrv/network.conf", "interfaces and addresses, for rootsrv\\-network"),
    ("/var/lib/rootsrv", "state: kept zones, answer tables, decisions, statistics"),
    ("/run/rootsrv", "the shared page and the sockets of the roles"),
)


@dataclass(frozen=True, slots=True)
class ManualEntry:
    """One command: a leaf of the parser, or a group of them."""

    words: tuple[str, ...]
    """After the program's name; empty = the program itself."""

    about: str
    parser: argparse.ArgumentParser

    @property
    def page(self) -> str:
        """Name of its page: rootsrv-zone-verify."""
        return "-".join((PROGRAM, *self.words))

    def below(self) -> list["ManualEntry"]:
        """The commands one word longer."""
        found = []
        for action in self.parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                about = {choice.dest: choice.help or "" for choice in action._choices_actions}
                found += [ManualEntry((*self.words, name), about[name], each) for name, each in action.choices.items()]
        return found

    def options(self) -> list[argparse.Action]:
        """Its arguments and options, sub-commands left out."""
        return [each for each in self.parser._actions if not isinstance(each, argparse._SubParsersAction)]


def commands(top: ManualEntry | None = None) -> Iterator[ManualEntry]:
    """The program and all its commands, each before those below it."""
    top = top or ManualEntry((), "an anycast, authoritative DNS root server instance", parser.parser())
    yield top
    for each in top.below():
        yield from commands(each)


# ── manual pages ──


def page(command: ManualEntry) -> str:
    """The manual page of *command*, for man(7)."""
    below = command.below()
    lines = [
        f'.TH {command.page.upper().replace("-", chr(92) + "-")} 1 "" rootsrv "rootsrv"',
        ".SH NAME",
        f"{_text(command.page)} \\- {_text(command.about)}",
        ".SH SYNOPSIS",
        f".B {_text(' '.join((PROGRAM, *command.words)))}",
        *_synopsis(command),
        ".SH DESCRIPTION",
        _ABOUT if not command.words else _sentence(command.parser.description or command.about),
    ]
    if below:
        lines.append(".SH COMMANDS")
        for each in below:
            lines += [".TP", f".BR {_text(each.page)} (1)", _text(each.about)]
    lines.append(".SH OPTIONS")
    for action in command.options():
        lines += [".TP", _term(action), _text(_help(action)) or "(no more to say)"]
    lines.append(".SH EXIT STATUS")
    for status, meaning in _EXIT:
        lines += [".TP", f".B {status}", _text(meaning)]
    lines.append(".SH FILES")
    for path, meaning in _FILES:
        lines += [".TP", f".I {path}", meaning]
    others = [PROGRAM] if command.words else [each.page for each in below]
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_text(each)} (1)" for each in others).replace(",\n", " ,\n"), ""]
    return "\n".join(lines)


def _synopsis(command: ManualEntry) -> list[str]:
    lines = []
    for action in command.options():
        term = _term(action).removeprefix(".B").strip()
        needed = action.required or not action.option_strings
        lines.append(term if needed else f"[{term}]")
    if command.below():
        lines.append("\\fICOMMAND\\fR ...")
    return [" ".join(lines)] if lines else []


def _term(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else (action.dest.upper() if action.nargs != 0 else "")
    if action.choices and action.nargs != 0:
        value = "|".join(map(str, action.choices))
    if not action.option_strings:
        return f"\\fI{_text(value)}\\fR"
    names = ", ".join(f"\\fB{_text(name)}\\fR" for name in action.option_strings)
    return f"{names} \\fI{_text(value)}\\fR" if action.nargs != 0 else names


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")


def _sentence(text: str) -> str:
    text = _text(text.strip())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _text(text: str) -> str:
    """*text* as roff takes it: no macro at its beginning, hyphens that can be copied."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in escaped)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


# ── completion ──

_BASH = """# bash completion for rootsrv; made by `make man`.
_rootsrv() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} path= word at=1
    while [ $at -lt $COMP_CWORD ]; do
        word=${{COMP_WORDS[at]}}
        case " $(_rootsrv_words "$path") " in *" $word "*) case $word in -*) ;; *) path="$path $word" ;; esac ;; esac
        at=$((at + 1))
    done
    case "$path $previous" in
{values}
    *" --config"|*" --output"|*" --anchors"|*" --hosts"|*" --root"|*" --network")
       COMPREPLY=($(compgen -f -- "$current")) ;;
    *) COMPREPLY=($(compgen -W "$(_rootsrv_words "$path")" -- "$current"))
       [ ${{#COMPREPLY[@]}} -gt 0 ] || COMPREPLY=($(compgen -f -- "$current")) ;;
    esac
}}
_rootsrv_words() {{
    case "$1" in
{words}
    esac
}}
complete -o filenames -F _rootsrv rootsrv
"""

_ZSH = """#compdef rootsrv
# zsh completion for rootsrv, by way of that for bash; made by `make man`.
autoload -U +X bashcompinit && bashcompinit
source ${{0:A:h}}/../../bash-completion/completions/rootsrv
"""


def bash_completion() -> str:
    """The completion script for bash."""
    words, values = [], []
    for each in commands():
        path = "".join(f" {word}" for word in each.words)
        names = [name for action in each.options() for name in action.option_strings]
        offered = " ".join([*(below.words[-1] for below in each.below()), *names])
        words.append(f'    "{path}") echo "{offered}" ;;')
        for action in each.options():
            if action.choices and action.option_strings:
                choices = " ".join(map(str, action.choices))
                for name in action.option_strings:
                    values.append(f'    "{path} {name}") COMPREPLY=($(compgen -W "{choices}" -- "$current")) ;;')
    return _BASH.format(words="\n".join(words), values="\n".join(values))


def files() -> dict[str, str]:
    """All that is generated: path below deploy/ → contents."""
    made = {f"man/{each.page}.1": page(each) for each in commands()}
    made["completions/rootsrv.bash"] = bash_completion()
    made["completions/_rootsrv"] = _ZSH.format()
    return made


def main() -> None:
    """Write them below the directory that is named, and remove pages of commands that are gone."""
    directory = Path(sys.argv[1])
    made = files()
    for old in (directory / "man").glob("*.1"):
        if f"man/{old.name}" not in made:
            old.unlink()
    for name, contents in made.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents, encoding="utf-8")


if __name__ == "__main__":
    main()
