"""`rootsrv resolver`: the configuration that lets a resolver have the root from somebody who gives it out."""

import argparse
from pathlib import Path

from rootsrv.commands.printing import reason_of
from rootsrv.config.checks import ConfigError
from rootsrv.hyperlocal.generated import read_publishers
from rootsrv.resolvers.software import SOFTWARE
from rootsrv.resolvers.wanted import DNS_PORT, CannotConfigure, Publisher, ResolverKey, ResolverSetup


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("software", choices=tuple(SOFTWARE), help="what it is for")
    parser.add_argument(
        "--publisher",
        action="append",
        default=[],
        metavar="ADDRESS[@PORT][#NAME]",
        help="where the zone is to be had by AXFR, over TLS with NAME in its certificate; may be repeated",
    )
    parser.add_argument(
        "--fallback",
        action="append",
        default=[],
        metavar="ADDRESS[@PORT][#NAME]",
        help="another publisher, who permits AXFR to everybody; may be repeated",
    )
    parser.add_argument(
        "--publications",
        type=Path,
        metavar="FILE",
        help="a publication list: its addresses that give the root by AXFR are publishers, its first zone file the url",
    )
    parser.add_argument("--url", default="", help="the root zone by https")
    parser.add_argument("--ca-file", default="", metavar="FILE", help="what signed the url's certificate")
    parser.add_argument("--key", default="", metavar="NAME", help="the TSIG key, where the software can use one")
    parser.add_argument("--secret-file", type=Path, metavar="FILE", help="its secret (base64)")
    parser.add_argument("--algorithm", default="hmac-sha256", help="of the key (default hmac-sha256)")
    parser.add_argument("--storage", default="", metavar="DIR", help="where the resolver may keep its copy")
    parser.add_argument("--hosts", action="store_true", help="root-servers.net as well, where key or TLS prove it")
    parser.add_argument(
        "--private-zone",
        action="append",
        default=[],
        metavar="ZONE",
        help="answer NXDOMAIN for it here, as for those of RFC 6303; may be repeated",
    )
    parser.add_argument("--whole", action="store_true", help="a configuration that can stand alone, not a part of one")


def run(arguments: argparse.Namespace) -> int:
    """`rootsrv resolver …`."""
    software = SOFTWARE[arguments.software]
    try:
        text = software.configuration(_wanted(arguments))
    except CannotConfigure as error:
        raise ConfigError(str(error)) from error
    mark = {"bind": "//", "kresd": "--", "pdns": "--"}.get(arguments.software, "#")
    print(f"{mark} For {software.title}{'' if software.checked else ', which no test has tried'}.")
    print(text, end="")
    print(f"{mark} {software.file if not arguments.whole else 'Then'}: {software.then.format(file=software.file)}")
    return 0


def _wanted(arguments: argparse.Namespace) -> ResolverSetup:
    if bool(arguments.key) != bool(arguments.secret_file):
        raise CannotConfigure("key: --key and --secret-file go together")
    key = None
    if arguments.key:
        try:
            secret = arguments.secret_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CannotConfigure(f"key: {arguments.secret_file}: {reason_of(error)}") from error
        key = ResolverKey(arguments.key, secret, arguments.algorithm)
    publishers = tuple(map(Publisher.from_text, arguments.publisher))
    url = arguments.url
    if arguments.publications is not None:
        listed = read_publishers(arguments.publications)
        publishers += tuple(Publisher(each.address, each.port or DNS_PORT) for each in listed if each.address)
        url = url or next((each.url for each in listed if each.url), "")
        if arguments.software == "bind":
            url = ""
    if not publishers and not url:
        raise CannotConfigure(
            "publisher: there is none: --publisher or --publications says who gives the root, --url where a file is"
        )
    return ResolverSetup(
        publishers=publishers,
        fallbacks=tuple(map(Publisher.from_text, arguments.fallback)),
        url=url,
        ca_file=arguments.ca_file,
        key=key,
        storage=arguments.storage,
        hosts=arguments.hosts,
        private_zones=tuple(arguments.private_zone),
        whole=arguments.whole,
    )
