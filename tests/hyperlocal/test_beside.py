"""What the resolver's own configuration has beside the part that `--write` put there."""

import socket
import subprocess
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from bench.peers.bind import lock_option
from bench.peers.daemon import free_port, running
from rootsrv.commands.parser import main
from rootsrv.hyperlocal import beside
from tests.needs import require_tool

MAIN = {
    "unbound": "unbound.conf",
    "bind": "named.conf",
    "kresd": "kresd.conf",
    "kresd6": "config.yaml",
    "pdns": "recursor.conf",
    "pdns5": "recursor.yml",
}


def found(kind: str, directory: Path, files: dict[str, str]) -> list[str]:
    """What is said of *files*, without the directory; the part itself is there too."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("DIR", str(directory)))
    said = beside.warnings(kind, directory / "parts.d" / "part.conf")
    return [each.replace(f"{directory}/", "") for each in said]


UNBOUND_ZONE = 'auth-zone:\n  name: "."\n  zonefile: "x"\n'

RIVALS = {
    "unbound, a second auth-zone": (
        "unbound",
        {
            "unbound.conf": 'include-toplevel: "DIR/parts.d/*.conf"\n',
            "parts.d/part.conf": UNBOUND_ZONE,
            "parts.d/mine.conf": f"# mine\n{UNBOUND_ZONE}",
        },
        ["parts.d/mine.conf:3: is a second auth-zone"],
    ),
    "unbound, all that has the root, on one line and without quotes": (
        "unbound",
        {
            "unbound.conf": "server: verbosity: 1\nforward-zone: name: . forward-addr: 9.9.9.9@853#dns.quad9.net\n"
            "stub-zone:\n  stub-addr: 1.2.3.4\n  name: '.'\n"
        },
        ["unbound.conf:2: is a forward-zone", "unbound.conf:5: is a stub-zone"],
    ),
    "unbound, by a relative name below the directory": (
        "unbound",
        {"unbound.conf": 'server:\n  directory: "DIR/sub"\n  include: more.conf\n', "sub/more.conf": UNBOUND_ZONE},
        ["sub/more.conf:2: is a second auth-zone"],
    ),
    "unbound, what answers in place of the copy": (
        "unbound",
        {
            "unbound.conf": 'server:\n  local-zone: "example." static\n  local-zone: "." # all\n    "static"\n'
            '  local-zone: . always_nxdomain local-data: "a. A 192.0.2.1"\nrpz:\n  name: "."\n  zonefile: "z"\n'
        },
        [
            'unbound.conf:3: is a local-zone "." (static)',
            'unbound.conf:5: is a local-zone "." (always_nxdomain)',
            'unbound.conf:7: is an rpz "."',
        ],
    ),
    "bind, forwarders for everything": (
        "bind",
        {
            "named.conf": "options {\n  forward first;\n  forwarders port 853 {\n    192.0.2.1; ::1 port 5; };\n};\n"
            'zone "corp" { type forward; forwarders { 192.0.2.2; }; };\n'
        },
        ["named.conf:3: are forwarders for everything"],
    ),
    "bind, a second zone behind two includes": (
        "bind",
        {
            "named.conf": '/* zone "." {\n type forward; }; */\ninclude "DIR/one";\ninclude "DIR/parts.d/part.conf";\n',
            "one": '// include "DIR/none";\ninclude "DIR/two";\n',
            "two": 'zone "example" { type primary; file "x"; };\nzone "." IN {\n  type secondary; };\n',
            "parts.d/part.conf": 'zone "." { type mirror; };\n',
        },
        ['two:2: is a second zone "." (secondary)'],
    ),
    "bind, views": (
        "bind",
        {"named.conf": 'options { directory "DIR"; };\nview "inside" {\n  zone "." { type hint; file "h"; };\n};\n'},
        ["named.conf:2: is a view"],
    ),
    "knot resolver, prefill again and a forwarder": (
        "kresd",
        {
            "kresd.conf": "--[[ prefill.config({}) ]]\n-- prefill.config\nlog('-- x') dofile('DIR/more.lua')\n"
            "dofile('DIR/parts.d/part.conf')\npolicy.add(policy.all(policy.TLS_FORWARD({{'9.9.9.9'}})))\n",
            "parts.d/part.conf": "prefill.config({['.'] = {}})\n",
            "more.lua": "modules.load('prefill')\nprefill.config({\n})\n",
        },
        ["kresd.conf:5: forwards everything", "more.lua:2: configures prefill, too"],
    ),
    "knot resolver 6": (
        "kresd6",
        {"config.yaml": "cache:\n  prefill:\n    - origin: .\n"},
        ["config.yaml:2: has the root already"],
    ),
    "knot resolver 6, which forwards": (
        "kresd6",
        {
            "config.yaml": "forward:\n  - subtree: example\n    servers: [192.0.2.1]\n  - servers: [192.0.2.2]\n"
            "    subtree: [internal, '.']\n  - {subtree: ., servers: 192.0.2.3}\n"
        },
        ["config.yaml:4: forwards everything", "config.yaml:6: forwards everything"],
    ),
    "powerdns, in its own file, in Lua and in a list": (
        "pdns",
        {
            "recursor.conf": "include-dir=DIR/more\nlua-config-file=DIR/own.lua\nauth-zones=example=/x, .=/y\n",
            "more/forward.conf": "#forward-zones=.=9.9.9.9\nforward-zones-file=DIR/list\n",
            "own.lua": 'dofile("DIR/parts.d/part.conf")\nzoneToCache(".", "url", "https://…")\n',
            "list": "example=192.0.2.1\n+.=192.0.2.1\n",
            "parts.d/part.conf": 'zoneToCache(".", "axfr", "127.0.0.1")\n',
        },
        ['recursor.conf:3: has "." in auth-zones', "own.lua:2: is another zoneToCache", 'list:2: forwards "."'],
    ),
    "powerdns 5": (
        "pdns5",
        {"recursor.yml": "recordcache:\n  zonetocaches:\n    - zone: .\n      method: url\n"},
        ["recursor.yml:3: is another entry of zonetocaches"],
    ),
    "powerdns 5 as Debian has it, in all that it takes in": (
        "pdns5",
        {
            "recursor.conf": "recursor:\n  include_dir: DIR/parts.d\n  lua_config_file: 'DIR/own.lua' # x\n",
            "parts.d/part.conf": "recordcache:\n  zonetocaches:\n    - zone: .\n",
            "parts.d/mine.yml": "recursor:\n  forward_zones: [{zone: example}, {zone: '.', recurse: true}]\n"
            "  forward_zones_file: DIR/list\n  auth_zones:\n    - {file: /x, zone: .}\n",
            "own.lua": 'zoneToCache(".", "url", "https://…")\n',
            "list": "- zone: example\n- zone: .\n  forwarders: [192.0.2.1]\n",
        },
        [
            'parts.d/mine.yml:2: forwards "."',
            'parts.d/mine.yml:5: has "." in auth_zones',
            "own.lua:1: is another zoneToCache",
            'list:2: forwards "."',
        ],
    ),
}


@pytest.mark.parametrize("case", RIVALS)
def test_whatever_has_the_root_from_elsewhere_is_named_with_its_line(case: str, tmp_path: Path) -> None:
    kind, files, expected = RIVALS[case]
    said = found(kind, tmp_path, files)
    assert len(said) == len(expected), said
    for line, begins in zip(said, expected, strict=True):
        assert line.startswith(begins)


HARMLESS = {
    "unbound": 'server:\n  root-hints: "h"\n  local-zone: "." transparent\nauth-zone:\n  name: "example."\n'
    'rpz:\n  name: "rpz.example"\n  zonefile: "."\n'
    'forward-zone:\n  name: "home.example"\n  # name: "."\nremote-control:\n  control-enable: no\n',
    "bind": 'options { forwarders { }; };\nzone "." { type hint; file "h"; };\nzone "b" { type primary; file "b";'
    ' forwarders { 192.0.2.1; }; };\nzone "a" { type primary; file "."; };\n',
    "kresd": "modules = { 'hints > iterate' }\nhints.root_file('h')\n"
    "policy.add(policy.suffix(policy.FORWARD('::1'), x))\n",
    "kresd6": "cache:\n  size-max: 100M\n  # prefill:\nforward:\n  - subtree: a.b.\n    servers: [192.0.2.1]\n",
    "pdns": "hint-file=/h\nforward-zones=example=192.0.2.1\n# auth-zones=.=x\n",
    "pdns5": "recursor:\n  # zone: .\n  auth_zones:\n    - zone: example.\n    - {file: x, zone: ..}\n",
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_of_a_usual_configuration_nothing_is_said(kind: str, tmp_path: Path) -> None:
    assert found(kind, tmp_path, {MAIN[kind]: HARMLESS[kind]}) == []


def test_what_cannot_be_looked_at_is_said(tmp_path: Path) -> None:
    circle = 'include: "DIR/unbound.conf"\ninclude: "DIR/large"\ninclude: "DIR/a-directory*"\ninclude: "DIR/none"\n'
    (tmp_path / "a-directory").mkdir()
    (tmp_path / "large").write_bytes(b"#" * (beside.MAX_OCTETS + 1))
    assert found("unbound", tmp_path, {"unbound.conf": circle}) == [
        "large: was not looked at, it is larger than 4 MiB",
        "a-directory: was not looked at: Is a directory",
    ]


def test_so_many_files_and_no_more(tmp_path: Path) -> None:
    files = {f"many/{number}.conf": "server:\n" for number in range(beside.MAX_FILES + 1)}
    said = found("unbound", tmp_path, files | {"unbound.conf": 'include: "DIR/many/*.conf"\n'})
    assert len(said) == 1
    assert "more than 500 files" in said[0]


def test_writing_says_what_is_there_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "unbound.conf"
    own.write_text(f'include: "{tmp_path}/parts.d/*.conf"\n{UNBOUND_ZONE}')
    path = tmp_path / "parts.d" / "rootsrv-root.conf"
    path.parent.mkdir()
    assert main(["hyperlocal", "--configure", "unbound", "--write", str(path)]) == 0
    printed = capsys.readouterr()
    assert printed.err == (
        f'rootsrv: beware: {own}:3: is a second auth-zone ".": Unbound answers from the first of both, and does not'
        " say so\n"
    )
    assert "written:" in printed.out


def test_what_unbound_takes_without_a_word_and_bind_refuses(tmp_path: Path) -> None:
    """So it is with the programs themselves."""
    zone = 'auth-zone:\n  name: "."\n  primary: 127.0.0.1\n  zonefile: "z"\n'
    (tmp_path / "unbound.conf").write_text(
        f'server:\n  username: ""\n  chroot: ""\n  directory: "{tmp_path}"\n{zone}{zone}'
    )
    mirror = 'zone "." { type mirror; primaries { 127.0.0.1; }; file "m"; };\n'
    options = f'options {{ directory "{tmp_path}"; }};\n'

    def checked(program: str, name: str, text: str = "") -> "subprocess.CompletedProcess[str]":
        if text:
            (tmp_path / name).write_text(options + text)
        command = [require_tool(program), str(tmp_path / name)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked("unbound-checkconf", "unbound.conf").returncode == 0
    assert checked("named-checkconf", "a", mirror + 'zone "." { type hint; file "h"; };\n').returncode == 0
    twice = checked("named-checkconf", "b", mirror + 'zone "." { type secondary; primaries { ::1; }; file "s"; };\n')
    assert (twice.returncode, "already exists" in twice.stdout) == (1, True)
    views = checked("named-checkconf", "c", mirror + 'view "a" { };\n')
    assert (views.returncode, "all zones must be in views" in views.stdout) == (1, True)


ROOT_ZONE = """\
. 86400 IN SOA a. b. 1 1800 900 604800 86400
. 86400 IN NS a.nic.tld.
tld. 86400 IN NS a.nic.tld.
a.nic.tld. 86400 IN A 127.0.0.1
"""


def answered(directory: Path, name: str, own: str, first: str = "", forwarders: str = "") -> tuple[str, bool]:
    """(rcode that Unbound, or BIND with *forwarders*, has for *name*, whether the forwarder was asked).

    It has the root from a file; *own* is in its server clause, *first* before the copy.
    """
    (directory / "root").write_text(ROOT_ZONE)
    (directory / "rpz").write_text("@ 60 IN SOA a. b. 1 1 1 1 1\n@ 60 IN NS a.\nbad.tld 60 IN CNAME .\n")
    port = free_port()
    configuration = directory / "conf"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forwarder:
        forwarder.bind(("127.0.0.1", 0))
        if forwarders:
            here = forwarders.replace("PORT", str(forwarder.getsockname()[1]))
            configuration.write_text(
                f"""options {{ directory "{directory}"; pid-file none; session-keyfile none;
                {lock_option(require_tool("named"))} listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
                dnssec-validation no; empty-zones-enable no; allow-recursion {{ 127.0.0.0/8; }}; {here} }};
                controls {{ }};
                zone "." {{ type primary; file "{directory}/root"; }};"""
            )
            command = [require_tool("named"), "-4", "-g", "-n", "1", "-c", str(configuration)]
        else:
            configuration.write_text(
                f"""{first}
                auth-zone: name: "." zonefile: "{directory}/root" for-downstream: no for-upstream: yes
                server: interface: 127.0.0.1 port: {port} do-ip6: no username: "" chroot: "" directory: "{directory}"
                pidfile: "" use-syslog: no do-not-query-localhost: no module-config: "respip validator iterator" {own}
                remote-control: control-enable: no"""
            )
            command = [require_tool("unbound"), "-d", "-c", str(configuration)]

        def asked(name: str, seconds: float = 5.0) -> str:
            try:
                answer = dns.query.udp(dns.message.make_query(name, "A"), "127.0.0.1", seconds, port)
            except (dns.exception.Timeout, OSError):
                return "none"
            return dns.rcode.to_text(answer.rcode())

        with running(command[0], command, directory / "log", lambda: asked("version.invalid.", 0.5) != "none"):
            if not forwarders:
                return asked(name), False
            asked(name, 0.5)
            forwarder.settimeout(10)
            try:
                return "", b"\3tld" in forwarder.recv(4096)
            except TimeoutError:
                return "", False


@pytest.mark.parametrize(
    ("own", "first", "rcode"),
    [
        pytest.param("", "", "NXDOMAIN", id="nothing"),
        pytest.param('local-zone: "." transparent', "", "NXDOMAIN", id="a local-zone that harms nothing"),
        pytest.param('local-zone: "." refuse', "", "REFUSED", id="a local-zone"),
        pytest.param("", 'rpz: name: "." zonefile: "rpz"', "SERVFAIL", id="an rpz in its place"),
        pytest.param("", 'rpz: name: "rpz.example" zonefile: "rpz"', "NXDOMAIN", id="another rpz"),
    ],
)
def test_what_answers_in_place_of_unbounds_copy_is_what_is_named(
    tmp_path: Path, own: str, first: str, rcode: str
) -> None:
    assert answered(tmp_path, "no-such-name.", own, first)[0] == rcode
    said = found("unbound", tmp_path, {"unbound.conf": f"{first}\nserver: {own}\n"})
    assert bool(said) == (rcode != "NXDOMAIN")


@pytest.mark.parametrize("forwarders", ["forwarders { 127.0.0.1 port PORT; };", "forwarders { };"])
def test_forwarders_of_bind_are_asked_for_what_the_copy_delegates(tmp_path: Path, forwarders: str) -> None:
    is_asked = "PORT" in forwarders
    assert answered(tmp_path, "www.tld.", "", forwarders=forwarders)[1] == is_asked
    said = found("bind", tmp_path, {"named.conf": f"options {{ {forwarders.replace('PORT', '53')} }};\n"})
    assert bool(said) == is_asked
