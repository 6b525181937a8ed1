"""`rootsrv security-events`: a day's security events as one signed JSON lines file (RFC 2870 §4.4)."""
# The log is where they are (D51): systemd's journal, or whatever keeps standard error elsewhere; lines are read in both
# of our formats.  The last line of the file signs all before it with the member's key: a file that was shortened,
# or put together from others, does not verify.

import argparse
import datetime
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature

from rootsrv.commands.asking import DEFAULT_CONFIG
from rootsrv.commands.printing import complain, reason_of
from rootsrv.config import file as config_file
from rootsrv.config.checks import ConfigError
from rootsrv.engine import signing_key
from rootsrv.engine.signing_key import SigningKeyUnusable
from rootsrv.mesh.roster import public_key, public_text
from rootsrv.process import json_text, whole_file

CONTEXT = b"rootsrv security events 1\0"
"""In front of what is signed, so that no signature made for something else counts here."""

_LOGFMT = re.compile(r"(?:<\d>)?(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) security: (.*)")
_FACT = re.compile(r' ([A-Za-z_][A-Za-z0-9_]*)=("(?:[^"\\]|\\.)*"|[^ ]*)')
_ESCAPE = re.compile(r"\\(u[0-9a-f]{4}|.)")


class NotSigned(Exception):
    """The file is not what its signature says; the text names the cause."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `rootsrv security-events`."""
    parser.add_argument("--day", type=_day, help="YYYY-MM-DD, UTC (default: yesterday)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the log (default: the journal; -: standard input)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument("--verify", type=Path, metavar="FILE", help="instead: whether FILE is as it was signed")
    parser.add_argument("--public-key", metavar="HEX", help="of --verify: the member's, as the roster lists it")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE", help=f"default {DEFAULT_CONFIG}")
    parser.set_defaults(command=run)


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a day: {text!r} (YYYY-MM-DD)") from error


def run(arguments: argparse.Namespace) -> int:
    """Export, or verify; returns the exit status."""
    if arguments.verify is not None:
        return _verify(arguments)
    loaded = config_file.load(arguments.config)
    if loaded.mesh is None:
        return _failed(f"{arguments.config}: has no [mesh] section: there is no key to sign with")
    day = arguments.day or datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(1)
    try:
        key = signing_key.load(Path(loaded.mesh.key))
        found = [each for each in events(_lines(arguments.log, day)) if each["at"].startswith(day.isoformat())]
        octets = signed(found, day, loaded.mesh.member, key)
        if arguments.output is None:
            sys.stdout.write(octets.decode())
        else:
            whole_file.put(arguments.output.absolute(), octets, mode=0o640)
            print(f"{arguments.output}: {len(found)} security events of {day}")
    except (SigningKeyUnusable, OSError, subprocess.SubprocessError) as error:
        return _failed(error)
    return 0


def _failed(reason: object) -> int:
    complain(reason)
    return 1


def _lines(log: Path | None, day: datetime.date) -> Iterator[str]:
    if log is not None and str(log) == "-":
        yield from sys.stdin
        return
    if log is not None:
        with log.open(encoding="utf-8", errors="replace") as stream:
            yield from stream
        return
    command = (
        "journalctl", "--utc", "--no-pager", "--output=cat", "--unit=rootsrv-*",
        f"--since={day} 00:00:00 UTC", f"--until={day + datetime.timedelta(1)} 00:00:05 UTC",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600, check=False)
    if done.returncode:
        raise OSError(done.returncode, done.stderr.strip() or "journalctl failed", "the journal")
    yield from done.stdout.splitlines()


def events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The security events among the lines of a log, in either format; whatever else stands there is passed over."""
    for line in lines:
        if '"level": "security"' in line:
            try:
                document = json_text.parse(re.sub(r"^<\d>", "", line))
            except ValueError:
                continue
            is_event = isinstance(document, dict) and document.get("level") == "security"
            if is_event and isinstance(document.get("at"), str):
                yield {key: value for key, value in document.items() if key != "level"}
            continue
        found = _LOGFMT.match(line.rstrip("\n"))
        if found is None:
            continue
        at, rest = found.groups()
        first = _FACT.search(rest)
        event = rest if first is None else rest[: first.start()]
        facts = {name: _plain(value) for name, value in _FACT.findall(rest)}
        yield {"at": at, "event": event} | {f"{key}_" if key in {"at", "event"} else key: v for key, v in facts.items()}


def _plain(value: str) -> str:
    return _ESCAPE.sub(_unescaped, value[1:-1]) if value.startswith('"') else value


def _unescaped(found: re.Match[str]) -> str:
    text = found[1]
    if len(text) > 1:
        return chr(int(text[1:], 16))
    return {"n": "\n", "t": "\t"}.get(text, text)


def signed(found: list[dict[str, Any]], day: datetime.date, member: str, key: Any) -> bytes:
    """The file: a line for each event, and one that signs them."""
    body = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found).encode()
    about = {
        "day": day.isoformat(),
        "member": member,
        "events": len(found),
        "sha256": hashlib.sha256(body).hexdigest(),
        "public_key": public_text(key),
    }
    signature = key.sign(CONTEXT + json.dumps(about, sort_keys=True).encode()).hex()
    return body + json.dumps({"signed": about, "signature": signature}).encode() + b"\n"


def check(octets: bytes, public: str | None) -> dict[str, Any]:
    """What the last line signs; NotSigned if the file is not that, or another key than *public* signed it."""
    body, _, last = octets.removesuffix(b"\n").rpartition(b"\n")
    body = body + b"\n" if body else b""
    try:
        document = json_text.parse(last)
        about: dict[str, Any] = document["signed"]
        signature = bytes.fromhex(document["signature"])
        key = public_key(public or about["public_key"], "the public key")
    except (ValueError, KeyError, TypeError, ConfigError) as error:
        raise NotSigned(f"the last line signs nothing: {error}") from error
    try:
        key.verify(signature, CONTEXT + json.dumps(about, sort_keys=True).encode())
    except InvalidSignature as error:
        raise NotSigned("the signature is not that of this key") from error
    if hashlib.sha256(body).hexdigest() != about.get("sha256"):
        raise NotSigned(f"the lines are not those that were signed ({about.get('events')} events)")
    return about


def _verify(arguments: argparse.Namespace) -> int:
    try:
        about = check(arguments.verify.read_bytes(), arguments.public_key)
    except (OSError, NotSigned) as error:
        return _failed(f"{arguments.verify}: {reason_of(error)}")
    by = f"{about['member']}, {about['public_key'][:16]}…"
    print(f"{about['events']} security events of {about['day']}, signed by {by}")
    if not arguments.public_key:
        print("whether that key is the member's was not asked: --public-key")
    return 0
