"""A LocalRoot service: what differs from one to the next, and the configuration that is made from it.

Kept as `localroot-answers.toml` beside the configuration: the answers of `rootsrv localroot setup`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from rootsrv.config.checks import ConfigError
from rootsrv.config.localroot import DistributeConfig, LocalRootConfig
from rootsrv.config.portal import PortalConfig
from rootsrv.setup import remembered
from rootsrv.setup.discovery import interfaces
from rootsrv.setup.files import primary_sections, toml
from rootsrv.setup.site import check_hosts, check_primaries

CONFIGURATION = "localroot.toml"
ANSWERS = "localroot-answers.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRootAnswers:
    """The answers; ConfigError names the one that cannot be right."""

    name: str
    """Domain name of the service: in the names of keys, on the pages, in its certificate."""

    addresses: tuple[str, ...]
    """Where resolvers have zones from."""

    primaries: tuple[str, ...]
    """`ADDRESS` or `ADDRESS@KEY`, where /etc/rootsrv/keys/KEY has the TSIG secret in base64."""

    zones: tuple[str, ...] = ()
    """Signed zones that are given out besides the root."""

    certificate: str = ""
    """PEM chain for transfers over TLS and for https; empty = neither."""

    certificate_key: str = ""
    url: str = ""
    """Of the pages; empty = there are none."""

    contact: str = ""
    mail_from: str = ""
    """Sender of mails; empty = nobody signs up but by `rootsrv localroot invite`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", self.name):
            raise ConfigError(f"name: must be a domain name in lower case, without a dot at its end, got {self.name!r}")
        if not self.addresses:
            raise ConfigError("addresses: at least one is needed")
        check_hosts("addresses", self.addresses)
        check_primaries(self.primaries)
        for each in self.primaries:
            if each.partition("@")[0] in self.addresses:
                raise ConfigError(f"primaries: {each} is an address of this service")
        for each in self.zones:
            _check("zones", partial(DistributeConfig, name=each))
            if each == "root-servers.net.":
                raise ConfigError("zones: root-servers.net. is unsigned; it is given out where a primary has a key")
        if len(set(self.zones)) != len(self.zones):
            raise ConfigError("zones: one is there twice")
        if bool(self.certificate) != bool(self.certificate_key):
            raise ConfigError("certificate_key: goes with the certificate")
        _check(
            "certificate",
            lambda: LocalRootConfig(
                name=self.name,
                addresses=self.addresses,
                tls_certificate=self.certificate,
                tls_key=self.certificate_key,
            ),
        )
        if self.url:
            _check("url", lambda: PortalConfig(url=self.url))
            _check("mail_from", lambda: PortalConfig(url=self.url, mail_from=self.mail_from))
        elif self.mail_from:
            raise ConfigError("mail_from: mails are of the pages, which need a url")


def _check(answer: str, make: Callable[[], object]) -> None:
    """Have *make* check what its section of the configuration checks; its ConfigError then names *answer*."""
    try:
        make()
    except ConfigError as error:
        _, _, reason = str(error).partition(": ")
        raise ConfigError(f"{answer}: {reason}") from error


def make(answers: LocalRootAnswers) -> dict[str, str]:
    """Name → text of the files."""
    title = f"The answers of `rootsrv localroot setup`, which has made {CONFIGURATION} from them."
    return {ANSWERS: remembered.to_text(answers, title), CONFIGURATION: _configuration(answers)}


def _configuration(answers: LocalRootAnswers) -> str:
    has_key = any("@" in each for each in answers.primaries)
    localroot = [f"[localroot]\nname = {toml(answers.name)}", f"addresses = {toml(list(answers.addresses))}"]
    if answers.certificate:
        localroot.append(f"tls_certificate = {toml(answers.certificate)}")
        localroot.append(f"tls_key = {toml(answers.certificate_key)}\nhttps_port = 443")
    parts = [
        f"# Made by `rootsrv localroot setup` from {ANSWERS}.  docs/localroot.md and docs/portal.md explain the keys;\n"
        "# what is not here has its default.",
        "\n".join(localroot),
        '[[zone]]\nname = "."\ntrust_anchors = "/etc/rootsrv/root-anchors.xml"\nzonemd = "required"',
    ]
    if has_key:  # which is all that vouches for it
        parts.append('[[zone]]\nname = "root-servers.net."\nvalidation = "none"')
    for zone in answers.zones:
        # Without a key ZONEMD alone says that nothing of it is missing.
        zonemd = "" if all("@" in each for each in answers.primaries) else '\nzonemd = "required"'
        parts.append(f"[[distribute]]\nname = {toml(zone)}{zonemd}")
    parts += primary_sections(
        answers.primaries, lambda keyed: [".", *(["root-servers.net."] if keyed else []), *answers.zones]
    )
    if answers.url:
        # On loopback, for a proxy on this host that does TLS and says who asks.
        portal = [f'[portal]\nurl = {toml(answers.url)}\ntrusted_proxies = ["127.0.0.1", "::1"]']
        portal += [
            f"{key} = {toml(text)}"
            for key, text in (("contact", answers.contact), ("mail_from", answers.mail_from))
            if text
        ]
        parts.append("\n".join(portal))
    parts.append('[state]\ndirectory = "/var/lib/rootsrv-localroot"\nruntime_directory = "/run/rootsrv-localroot"')
    return "\n\n".join(parts) + "\n"


def suggested() -> dict[str, object]:
    """What this host says: its addresses that others reach, of the interface that the default route leaves by."""
    found = next((each for each in interfaces() if each.default_route and each.addresses), None)
    return {"addresses": [str(each.ip) for each in found.addresses]} if found else {}


def stand_ins(given: dict[str, object]) -> dict[str, object]:
    """Answers that fit *given*, for what has not been asked yet."""
    # From what is reserved for benchmarks (RFC 2544): no host has them.
    made: dict[str, object] = {"name": "x.example", "addresses": ["198.18.1.1"], "primaries": ["198.18.9.1"]}
    if given.get("certificate"):
        made["certificate_key"] = "x"
    return made
