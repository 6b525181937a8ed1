"""A response policy zone that answers everything in place of the copy: what resolvers do with it is what is told."""

from collections.abc import Callable
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from bench.peers.bind import lock_option
from bench.peers.daemon import free_port, running
from rootsrv.hyperlocal import beside
from rootsrv.resolvers.policy_zone import EVERY_NAME, EVERY_QUERY, answers_all
from tests.hyperlocal.programs import software
from tests.needs import require_tool

HEAD = "$TTL 60\n@ 60 IN SOA a. b. 1 1 1 1 1\n@ 60 IN NS a.\n"
ORIGIN = "$ORIGIN rpz.example.\n"
ROOT_ZONE = """\
. 86400 IN SOA a. b. 1 1800 900 604800 86400
. 86400 IN NS a.nic.tld.
tld. 86400 IN NS a.nic.tld.
a.nic.tld. 86400 IN A 127.0.0.1
"""

UNBOUND_PART = 'auth-zone: name: "." zonefile: "DIR/root" for-downstream: no for-upstream: yes\n'
BIND_PART = 'zone "." { type primary; file "DIR/root"; };\n'


def _part(directory: Path, text: str) -> Path:
    path = directory / "parts.d" / "part.conf"
    path.parent.mkdir()
    path.write_text(text.replace("DIR", str(directory)))
    return path


def unbound(directory: Path, port: int, more: str) -> list[str]:
    path = directory / "unbound.conf"
    path.write_text(
        f"""rpz: name: "rpz.example" zonefile: "rpz" {more}
        include-toplevel: "{_part(directory, UNBOUND_PART)}"
        server: interface: 127.0.0.1 port: {port} do-ip6: no username: "" chroot: "" directory: "{directory}"
        pidfile: "" use-syslog: no do-not-query-localhost: no module-config: "respip validator iterator"
        remote-control: control-enable: no"""
    )
    return [require_tool("unbound"), "-d", "-c", str(path)]


def bind(directory: Path, port: int, more: str) -> list[str]:
    path = directory / "named.conf"
    (directory / "zones").write_text('zone "RPZ.example." { type primary; file "rpz"; };\n')
    path.write_text(
        f"""options {{ directory "{directory}"; pid-file none; session-keyfile none;
        {lock_option(require_tool("named"))} listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
        dnssec-validation no; empty-zones-enable no; allow-recursion {{ 127.0.0.0/8; }};
        response-policy {{ zone "rpz.example" {more}; }}; }};
        controls {{ }};
        include "{directory}/zones";
        include "{_part(directory, BIND_PART)}";"""
    )
    return [require_tool("named"), "-4", "-g", "-n", "1", "-c", str(path)]


def kresd(directory: Path, port: int, more: str) -> list[str]:
    path = directory / "kresd.conf"
    path.write_text(
        f"net.listen('127.0.0.1', {port})\nnet.ipv6 = false\ncache.size = 20 * MB\ntrust_anchors.remove('.')\n"
        f"modules.load('hints')\nhints.root({{['a.root.'] = '127.0.0.9'}})\n"
        f"policy.add(policy.rpz({more or 'policy.DENY'}, '{directory}/rpz'))\n"
    )
    (directory / "kresd").mkdir()
    return [require_tool("kresd"), "-n", "-c", str(path), str(directory / "kresd")]


def pdns(directory: Path, port: int, more: str) -> list[str]:
    command = [require_tool("pdns_recursor"), f"--config-dir={directory}", "--daemon=no", "--write-pid=no"]
    (directory / "hints").write_text(". 3600 NS a.root.\na.root. 3600 A 127.0.0.9\n")
    if software("pdns") == "pdns5":
        policy = "\n      defpol: NoAction" if "NoAction" in more else ""
        (directory / "recursor.yml").write_text(
            f"incoming:\n  listen: ['127.0.0.1']\n  port: {port}\ndnssec:\n  validation: 'off'\nrecursor:\n"
            f"  rpzs:\n    - name: '{directory}/rpz' # a file\n      policyName: mine{policy}\n"
            f"  socket_dir: '{directory}'\n  hint_file: '{directory}/hints'\n  threads: 1\n  security_poll_suffix: ''\n"
        )
        return command
    (directory / "own.lua").write_text(f'rpzFile("{directory}/rpz"{more})\n')
    (directory / "recursor.conf").write_text(
        f"local-address=127.0.0.1\nlocal-port={port}\nsocket-dir={directory}\nhint-file={directory}/hints\n"
        f"lua-config-file={directory}/own.lua\ndnssec=off\nthreads=1\nsecurity-poll-suffix=\n"
    )
    return command


Start = Callable[[Path, int, str], list[str]]
STARTS: dict[str, Start] = {"unbound": unbound, "bind": bind, "kresd": kresd, "pdns": pdns}
OTHERS = ("0.0.0.0.0.rpz-client-ip", "*.rpz-nsdname", "0.0.0.0.0.rpz-nsip")
ALL = "* 60 IN A 192.0.2.1"

CASES = [
    *((kind, ALL, "", True) for kind in STARTS),
    *((kind, "*.rpz.example. 60 IN A 192.0.2.1", "", True) for kind in STARTS),
    *((kind, "*.tld A 192.0.2.1\nno.name A 192.0.2.1", "", False) for kind in STARTS),
    *((kind, "* CNAME rpz-passthru.", "", False) for kind in STARTS),
    *((kind, f"{trigger} CNAME .", "", True) for trigger in OTHERS for kind in ("unbound", "pdns")),
    ("bind", "0.0.0.0.0.rpz-client-ip A 192.0.2.1", "", False),
    ("bind", "*.rpz-nsdname A 192.0.2.1", "", False),
    ("unbound", ALL, "rpz-action-override: passthru", False),
    ("unbound", ALL, "rpz-action-override: disabled", False),
    ("bind", ALL, "policy passthru", False),
    ("bind", ALL, "add-soa no policy disabled", False),
    ("bind", ALL, "policy given", True),
    ("kresd", ALL, "policy.PASS", True),
    ("kresd", "* CNAME .", "policy.DENY_MSG('no')", True),
    ("pdns", ALL, ", {defpol=Policy.NoAction}", False),
]  # fmt: skip


def answered(port: int, name: str, seconds: float) -> str:
    """The rcode, and whether there is an answer."""
    try:
        response = dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", seconds, port)
    except (dns.exception.Timeout, OSError):
        return "none"
    return f"{dns.rcode.to_text(response.rcode())} {len(response.answer)}"


@pytest.mark.parametrize(("kind", "rpz", "more", "answers"), CASES)
def test_an_rpz_is_told_where_it_answers_in_place_of_the_copy(
    tmp_path: Path, kind: str, rpz: str, more: str, answers: bool
) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "root").write_text(ROOT_ZONE)
    (tmp_path / "rpz").write_text(f"{ORIGIN}{HEAD}{rpz}\n")
    port = free_port("127.0.0.1")
    command = STARTS[kind](tmp_path, port, more)
    with running(kind, command, tmp_path / "log", lambda: answered(port, "version.invalid.", 0.5) != "none"):
        # A name that the copy delegates: of name servers Unbound hears when it asks them.
        told = answered(port, "www.tld." if "CNAME ." in rpz else "no-such-name.", 30)
    # Knot Resolver and PowerDNS have no copy here: what their rpz does not answer they ask for, and nobody is there.
    assert (told in ("NOERROR 1", "NXDOMAIN 0") if "CNAME ." in rpz else told == "NOERROR 1") == answers
    said = beside.warnings(software(kind), tmp_path / "parts.d" / "part.conf")
    assert [each.partition(": is an rpz's answer to every name")[0] for each in said] == (
        [f"{tmp_path}/rpz:5"] if answers else []
    )


@pytest.mark.parametrize(
    ("text", "zone", "lines"),
    [
        pytest.param(f"{HEAD}* CNAME .\n", "", [4], id="neither a name nor an origin"),
        pytest.param(f"{HEAD}* CNAME .\n", "rpz.example", [4], id="a name"),
        pytest.param(f"{HEAD}*.RPZ.example. CNAME .\n", "rpz.example", [4], id="whole"),
        pytest.param("$ORIGIN example.\nrpz SOA a. b. 1 1 1 1 1\n*.rpz 1h IN TXT x\n", "", [3], id="below an origin"),
        pytest.param(f"{HEAD}$ORIGIN com\n* CNAME .\n", "", [], id="of one TLD, by an origin"),
        pytest.param(f"{HEAD}; * CNAME .\n *\n*\n*.a.* CNAME .\n*", "", [], id="no records"),
        pytest.param("", "", [], id="nothing"),
    ],
)
def test_what_answers_every_name_is_found(text: str, zone: str, lines: list[int]) -> None:
    assert [line for line, _ in answers_all(text, zone, EVERY_NAME)] == lines


def test_other_triggers_are_told_by_their_names() -> None:
    found = dict(answers_all(f"{HEAD}*.rpz-nsdname CNAME .\n32.1.2.0.192.rpz-client-ip CNAME .\n", "", EVERY_QUERY))
    assert found == {4: "is an rpz's answer to every name (*.rpz-nsdname): the copy answers none"}


def test_one_that_is_in_no_file_yet_and_one_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "MAX_POLICY_OCTETS", 1 << 20)
    clauses = 'rpz: name: "x" primary: 192.0.2.1\nrpz: name: "y" zonefile: "none"\nrpz: name: "z" zonefile: "large"\n'
    (tmp_path / "unbound.conf").write_text(clauses)
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    assert beside.warnings("unbound", tmp_path / "parts.d" / "part.conf") == [
        f"{tmp_path}/large: was not looked at, it is larger than 1 MiB"
    ]


YAML = {
    "powerdns 5, a list": ("recursor.yml", "recursor:\n  rpzs:\n    - name: DIR/rpz\n    - name: 'none'\n", True),
    "powerdns 5, as far to the left as its name": ("recursor.yml", "recursor:\n  rpzs:\n  - name: DIR/rpz\n", True),
    "powerdns 5, values in front": ("recursor.yml", "recursor:\n  rpzs:\n  - tags: [a, b]\n    name: rpz\n", True),
    "powerdns 5, in one line": ("recursor.yml", 'recursor: {rpzs: [{name: "x", tags: [a]}, {name: "rpz"}]}\n', True),
    "powerdns 5, another list behind": (
        "recursor.yml", "recursor:\n  rpzs:\n    - name: none\n  others:\n    - name: rpz\n", False,
    ),
    "powerdns 5, for the log alone": (
        "recursor.yml", "recursor:\n  rpzs:\n    - name: rpz\n      defpol: NoAction # for now\n", False,
    ),
    "powerdns 5, from a server": (
        "recursor.yml", "recursor:\n  rpzs:\n    - name: rpz\n      addresses:\n        - 192.0.2.1\n", False,
    ),
    "powerdns 5, a comment": ("recursor.yml", "recursor:\n  rpzs:\n  # - name: rpz\n    - name: none\n", False),
    "powerdns 5, in a file of include_dir": ("recursor.yml", "recursor:\n  include_dir: DIR/more\n", True),
    "knot resolver 6": ("config.yaml", "local-data:\n  rpz:\n    - file: DIR/rpz\n      watchdog: false\n", True),
    "knot resolver 6, one alone": ("config.yaml", "local-data:\n  rpz:\n    - tags: [a]\n      file: rpz\n", True),
    "knot resolver 6, no rpz": ("config.yaml", "local-data:\n  rules:\n  - file: rpz\n  rpz:\n  - file: x\n", False),
}  # fmt: skip


@pytest.mark.parametrize("case", YAML)
def test_an_rpz_that_yaml_names_is_looked_into(case: str, tmp_path: Path) -> None:
    main, text, answers = YAML[case]
    (tmp_path / main).write_text(text.replace("DIR", str(tmp_path)))
    (tmp_path / "rpz").write_text(f"{ORIGIN}{HEAD}{ALL}\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "mine.yml").write_text("recursor:\n  rpzs:\n    - name: rpz\n")
    kind = "pdns5" if main == "recursor.yml" else "kresd6"
    said = beside.warnings(kind, tmp_path / "parts.d" / "part.conf")
    assert [each.partition(": is an rpz's answer to every name")[0] for each in said] == (
        [f"{tmp_path}/rpz:5"] if answers else []
    )
