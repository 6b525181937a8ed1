"""Real resolvers with a generated part of configuration: what else each needs to run beside others in a test."""

import base64
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.peers.bind import lock_option
from bench.peers.daemon import release_of, version_of
from rootsrv.demo import generate
from rootsrv.hyperlocal import generated
from tests.hyperlocal.stand_ins import ROOT
from tests.needs import require_tool
from tests.secondary import versions

Start = Callable[[Path, str, str, str], list[str]]
"""(directory of all, the generated part, the address where it listens, that from which it asks) → the command."""


def unbound(directory: Path, part: str, address: str, own: str) -> list[str]:
    """Unbound, without what would answer in place of the copy."""
    path = directory / f"unbound-{address}.conf"
    path.write_text(
        f"""
{part}
server:
    interface: {address}
    outgoing-interface: {own}
    do-ip6: no
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: "{directory}/unbound-{address}.pid"
    use-syslog: no
    module-config: "validator iterator"
    root-hints: "{directory}/hints"
    trust-anchor-file: "{directory}/anchors"
    access-control: 127.0.0.0/8 allow
    do-not-query-localhost: no
    aggressive-nsec: no
remote-control:
    control-enable: no
"""
    )
    return [require_tool("unbound"), "-d", "-c", str(path)]


def bind(directory: Path, part: str, address: str, own: str) -> list[str]:
    """BIND, likewise, with a zone of type hint as Debian has one; a refresh may come after a second."""
    ksk = versions.keys()[0].dnskey
    path = directory / "named.conf"
    path.write_text(
        f"""
options {{
    directory "{directory}";
    pid-file "{directory}/named.pid";
    {lock_option(require_tool("named"))}
    session-keyfile "{directory}/session.key";
    managed-keys-directory "{directory}";
    listen-on port 53 {{ {address}; }};
    listen-on-v6 {{ none; }};
    query-source address {own};
    transfer-source {own};
    dnssec-validation yes;
    empty-zones-enable no;
    synth-from-dnssec no;
    min-refresh-time 1;
    min-retry-time 1;
    allow-query {{ 127.0.0.0/8; }};
    allow-recursion {{ 127.0.0.0/8; }};
}};
controls {{ }};
trust-anchors {{ . static-key 257 3 {ksk[3]} "{base64.b64encode(ksk[4:]).decode()}"; }};
zone "." {{ type hint; file "{directory}/hints"; }};
{part}"""
    )
    return [require_tool("named"), "-4", "-g", "-n", "1", "-c", str(path)]


def software(kind: str) -> str:
    """By which name our commands know the release of *kind* that is here: PowerDNS 5 reads YAML where 4 read Lua."""
    if kind != "pdns":
        return kind
    return "pdns5" if release_of(version_of([require_tool("pdns_recursor"), "--version"])) >= (5,) else "pdns"


def pdns(directory: Path, part: str, address: str, own: str) -> list[str]:
    """PowerDNS Recursor."""
    ksk = versions.keys()[0]
    anchor = f"{ksk.tag} {ksk.algorithm} 2 {hashlib.sha256(ROOT + ksk.dnskey).hexdigest()}"
    command = [require_tool("pdns_recursor"), f"--config-dir={directory}", "--daemon=no", "--write-pid=no"]
    if software("pdns") == "pdns5":
        (directory / "recursor.d").mkdir(exist_ok=True)
        (directory / "recursor.d" / "rootsrv-root.yml").write_text(part)
        (directory / "recursor.yml").write_text(
            f"""
incoming:
  listen: ['{address}']
outgoing:
  source_address: ['{own}']
  dont_query: []
dnssec:
  trustanchors:
    - name: .
      dsrecords: ['{anchor}']
recursor:
  include_dir: '{directory}/recursor.d'
  socket_dir: '{directory}'
  hint_file: '{directory}/hints'
  threads: 1
  security_poll_suffix: ''
"""
        )
        return command
    (directory / "recursor.lua").write_text(f'clearTA(".")\naddTA(".", "{anchor}")\n{part}')
    (directory / "recursor.conf").write_text(
        f"""
local-address={address}
query-local-address={own}
socket-dir={directory}
hint-file={directory}/hints
lua-config-file={directory}/recursor.lua
dnssec=validate
dont-query=
threads=1
security-poll-suffix=
"""
    )
    return command


def kresd(directory: Path, part: str, address: str, own: str) -> list[str]:
    """Knot Resolver 5 with an empty cache, which says what it was given."""
    # It soon asks root servers by the names in the zone, whose addresses nobody tells here: there is no net. below
    # these roots, and so no root-servers.net.  Until the zone is in its cache it would answer nobody.
    v4 = sorted(each for each in generated.ROOT_SERVERS if ":" not in each)
    known = "".join(
        f"hints.set('{chr(host[1])}.root-servers.net {address}')\n"
        for host, address in zip(generate.root_hosts(), v4, strict=True)
    )
    ksk = versions.keys()[0].dnskey
    cache = directory / "kresd"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    (cache / "kresd.conf").write_text(
        f"""
net.listen('{address}', 53)
net.outgoing_v4('{own}')
net.ipv6 = false
cache.size = 20 * MB
log_groups({{'prefil'}})
modules.load('hints')
hints.root_file('{directory}/hints')
{known}
trust_anchors.remove('.')
trust_anchors.add('. IN DNSKEY 257 3 {ksk[3]} {base64.b64encode(ksk[4:]).decode()}')
{part}"""
    )
    return [require_tool("kresd"), "-n", "-c", str(cache / "kresd.conf"), str(cache)]


STARTS: dict[str, Start] = {"unbound": unbound, "bind": bind, "pdns": pdns, "kresd": kresd}
