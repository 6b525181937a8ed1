"""`rootsrv hyperlocal`: the root beside one resolver (RFC 8806): run it, configure the resolver, check it."""

import argparse
import contextlib
import json
import shlex
from pathlib import Path
from typing import Any

import dns.exception

from rootsrv.commands import numbers
from rootsrv.commands.printing import complain, reason_of
from rootsrv.config import file as config_file
from rootsrv.config import text
from rootsrv.config.file import Config
from rootsrv.hyperlocal import generated, loopback, over_https, resolvers
from rootsrv.process import log, whole_file
from rootsrv.resolvers.wanted import CannotConfigure
from rootsrv.wire import digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--configure", choices=tuple(resolvers.HERE), help="print the resolver's part of the configuration"
    )
    what.add_argument(
        "--check",
        nargs="?",
        const="127.0.0.1",
        metavar="ADDRESS[@PORT]",
        help="ask the resolver whether it answers for the root from the copy (default 127.0.0.1)",
    )
    what.add_argument(
        "--contribution",
        action="store_true",
        help="print what --contribute has counted and not sent yet",
    )
    parser.add_argument(
        "--write",
        nargs="?",
        const="",
        metavar="FILE",
        help="with --configure: write it (default: where the package looks for it) and keep the file that was there",
    )
    parser.add_argument("--storage", metavar="DIR", help="with --configure: where the resolver may keep its copy")
    parser.add_argument(
        "--address",
        action="append",
        help=f"give the zone out here; on loopback; may be repeated (default {generated.ADDRESS})",
    )
    parser.add_argument("--port", type=numbers.whole, help=f"UDP and TCP (default {generated.PORT})")
    parser.add_argument(
        "--notify",
        action="append",
        metavar="ADDRESS[@PORT]",
        help="resolver to tell of new zones; on loopback; may be repeated (default 127.0.0.1)",
    )
    parser.add_argument(
        "--serve",
        nargs="?",
        const=generated.SERVER_ADDRESS,
        action="append",
        metavar="ADDRESS[@PORT]",
        help="answer queries as well, as a root server for this host alone; may be repeated, with one port"
        f" (default {generated.SERVER_ADDRESS}@53)",
    )
    parser.add_argument(
        "--on-stale",
        choices=("relay", "servfail"),
        help="with --serve: what queries get while the copy is stale: what the root servers answer (default), SERVFAIL",
    )
    parser.add_argument(
        "--contribute",
        metavar="URL",
        help="with --serve: send there, once a day, how many queries of which transport and address family came, and"
        " how many responses of which rcode went (off by default; --contribution shows what)",
    )
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="with --contribute: holds a token for counts")
    parser.add_argument(
        "--https-port",
        type=numbers.whole,
        help="where a resolver that takes zones by https only gets /root.zone; 0 = nowhere"
        f" (default {generated.HTTPS_PORT})",
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help=f"what is kept (default {generated.STATE})")
    parser.add_argument("--runtime", type=Path, metavar="DIR", help=f"sockets of a run (default {generated.RUNTIME})")
    parser.add_argument("--publishers", type=Path, metavar="FILE", help="another list of publishers (TOML)")
    parser.add_argument("--trust-anchors", type=Path, metavar="FILE", help="other trust anchors of the root")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a whole configuration in place of the generated one"
    )


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv hyperlocal …`."""
    if arguments.write is not None and arguments.configure is None:
        raise config_file.ConfigError("--write: goes with --configure")
    config, path = _configuration(arguments)
    if arguments.configure is not None:
        return _configure(arguments, config)
    if arguments.contribution:
        return _contribution(config)
    if arguments.check is not None:
        return _check(arguments.check, config, path or _generated_path(config))
    return _run(config, path)


_GENERATED = {
    "address": "addresses",
    "port": "port",
    "notify": "notify",
    "serve": "serve",
    "on_stale": "on_stale",
    "https_port": "https_port",
    "contribute": "contribute_to",
    "token_file": "token_file",
    "state": "state",
    "runtime": "runtime",
    "publishers": "publishers",
    "trust_anchors": "trust_anchors",
}
"""Options of the command → fields of Options."""


def _configuration(arguments: argparse.Namespace) -> tuple[Config, Path | None]:
    """The configuration and where it stands; None: it is generated."""
    given = {key: value for key in _GENERATED if (value := getattr(arguments, key)) is not None}
    if arguments.config is not None:
        if given:
            raise config_file.ConfigError(f"--{next(iter(given)).replace('_', '-')}: stands in the --config file")
        config = config_file.load(arguments.config)
        generated.refuse(config)
        return config, arguments.config
    if "on_stale" in given and "serve" not in given:
        raise config_file.ConfigError("--on-stale: goes with --serve; else the resolver asks the root servers itself")
    options: dict[str, Any] = {
        _GENERATED[key]: tuple(value) if isinstance(value, list) else value for key, value in given.items()
    }
    if "token_file" in options:
        options["token_file"] = str(options["token_file"].absolute())
    if "serve" in options:
        options["serve"], options["serve_port"] = _served(options["serve"])
    return generated.generate(generated.Options(**options)), None


def _served(given: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Addresses and port of the options `--serve`; ConfigError if there is no one port."""
    addresses, ports = zip(*(each.partition("@")[::2] for each in given), strict=True)
    try:
        (port,) = {digits.whole(each or "53") for each in ports}
    except ValueError:
        raise config_file.ConfigError(f"--serve: one port is needed, got {', '.join(given)}") from None
    return addresses, port


def _run(config: Config, path: Path | None) -> int:
    from rootsrv.roles import run

    log.to_standard_error()
    log.use_format(config.log.format)
    try:
        if path is None:
            path = _write(config)
        run.run(config, path, "hyperlocal")
    except run.CannotRun as error:
        log.failure("cannot run", reason=error)
        return 1
    return 0


def _generated_path(config: Config) -> Path:
    """Where the generated configuration stands while it runs, and afterwards."""
    return Path(config.state.directory) / "rootsrv.toml"


def _write(config: Config) -> Path:
    """Put the generated configuration where `rootsrv status --config` and the others find it."""
    from rootsrv.roles.run import CannotRun

    path = _generated_path(config)
    toml = f"# Generated by `rootsrv hyperlocal` at each start.\n\n{text.to_toml(config)}".encode()
    before = b""
    with contextlib.suppress(OSError):
        before = path.read_bytes()
    if before == toml:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.replace(path, toml)
    except OSError as error:
        if before:  # a disk that is full, or takes no change any more, keeps nobody from the kept root
            log.alarm("configuration cannot be written", reason=error, effect="rootsrv status may ask elsewhere")
            return path
        raise CannotRun(f"{error.filename or path}: {error.strerror}") from error
    return path


def _configure(arguments: argparse.Namespace, config: Config) -> int:
    software = resolvers.HERE[arguments.configure]
    certificate = Path(config.state.runtime_directory) / over_https.CERTIFICATE
    https_port = generated.settings_of(config).https_port
    copy = resolvers.Copy(config.admin.addresses[0], config.admin.port, https_port, str(certificate))
    try:
        part = software.configuration(copy.wanted(arguments.configure, arguments.storage or ""))
    except CannotConfigure as error:
        raise config_file.ConfigError(str(error)) from error
    if arguments.write is None:
        print(part, end="")
        return 0
    target = Path(arguments.write) if arguments.write else software.file
    try:
        kept = resolvers.install(target, part)
    except resolvers.CannotInstall as error:
        complain(error)
        return 1
    print(f"written: {target}")
    if kept is not None:
        print(f"what was there: {kept}")
    print(f"now: {software.then.format(file=target)}")
    from rootsrv.hyperlocal import beside

    for each in beside.warnings(arguments.configure, target):
        complain(f"beware: {each}")
    return 0


def _check(resolver: str, config: Config, path: Path) -> int:
    from rootsrv.hyperlocal import check

    # It runs here, but need not listen on loopback: a household's has the address that its clients know.
    address, port = loopback.resolver_at("--check", resolver)
    ours_at = f"{config.admin.addresses[0]}@{config.admin.port}"
    source = check.over_udp(config.admin.addresses[0], config.admin.port)
    try:
        ours = check.serial_of(source)
    except (OSError, dns.exception.DNSException, ValueError) as error:
        print(f"FAIL  the copy is not given out at {ours_at}: {error}")
        print(f"      → rootsrv status --config {shlex.quote(str(path))} tells why")
        return 1
    findings = check.examine(check.over_udp(address, port), ours)
    for each in findings:
        print(f"{'ok  ' if each.good else 'FAIL'}  {each.text}")
    return 0 if all(each.good for each in findings) else 1


def _contribution(config: Config) -> int:
    from rootsrv.hyperlocal import contributing

    path = Path(config.state.directory) / contributing.FILE
    try:
        today, waiting = contributing.read(path)
    except FileNotFoundError:
        print(f"nothing was counted: there is no {path}")
        return 0
    except (OSError, ValueError) as error:
        complain(f"{path}: {reason_of(error)}")
        return 1
    to = generated.settings_of(config).contribute_to or "nobody"
    for state, each in (*(("waits", each) for each in waiting), ("so far today", today)):
        print(f"{state}, for {to}: {json.dumps(each.to_document()) if each is not None else 'nothing'}")
    return 0
