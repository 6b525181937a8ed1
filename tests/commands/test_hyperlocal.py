"""`rootsrv hyperlocal`: what is refused, what a resolver is told, what is shipped."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from bench.peers.daemon import free_port
from rootsrv.commands.parser import main
from rootsrv.config import file as config_file
from rootsrv.config import text
from rootsrv.config.checks import ConfigError
from rootsrv.hyperlocal import check, generated, loopback, resolvers
from rootsrv.zone.anchors import TrustAnchors
from tests.needs import require_genuine_zones, require_tool

NOT_OURS = {
    "every_address": ("0.0.0.0", "not on loopback"),
    "every_address_v6": ("::", "not on loopback"),
    "another_host": ("192.0.2.1", "not on loopback"),
    "another_host_v6": ("2001:db8::1", "not on loopback"),
    "link_local": ("fe80::1", "not on loopback"),
    "mapped": ("::ffff:192.0.2.1", "not on loopback"),
    "root_server": ("198.41.0.4", "a root server's address"),
    "root_server_v6": ("2001:7FD:0::1", "a root server's address"),
    "root_server_mapped": ("::ffff:193.0.14.129", "a root server's address"),
    "no_address": ("localhost", "does not appear to be"),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_an_address_that_is_not_this_hosts_own_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    address, reason = NOT_OURS[case]
    assert main(["hyperlocal", "--address", address, "--configure", "unbound"]) == 2
    assert reason in capsys.readouterr().err
    assert main(["hyperlocal", "--notify", address]) == 2
    assert "loopback" in (told := capsys.readouterr().err) or "does not appear" in told


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_taken(address: str) -> None:
    (taken,) = generated.generate(generated.Options(addresses=(address,))).admin.addresses
    assert taken == address.removeprefix("::ffff:")


CONFIGURATION = """
service = { addresses = ["127.0.0.1"] }
admin = { addresses = ["127.12.12.12"], port = 8806 }
primary = [{ name = "publisher", address = "192.0.2.1"KEY }]
key = [{ name = "key.", secret = "MDEyMzQ1Njc4OWFiY2RlZg==" }]
zone = [ROOT]
"""
ROOT = '{ name = ".", trust_anchors = "anchors", zonemd = "required" }'

WEAKER = {
    "zonemd_if_supported": (ROOT.replace("required", "if-supported"), "", "zone.zonemd"),
    "zonemd_off": (ROOT.replace("required", "off"), "", "zone.zonemd"),
    "no_validation": ('{ name = ".", validation = "none" }', "", "zone.validation"),
    "anycast": (ROOT, '[anycast]\nprefixes = ["127.0.0.0/24"]\n', "anycast"),
    "hosts_too": (f'{ROOT}, {{ name = "root-servers.net.", validation = "none" }}', "", "zone"),
    "a_peer": (ROOT, '[[peer]]\nname = "p"\naddress = "192.0.2.2"\nkey = "key."\n', "peer"),
    "not_loopback": (ROOT, "", "admin.addresses"),
}


@pytest.mark.parametrize("case", WEAKER)
def test_a_configuration_that_promises_less_is_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, more, key = WEAKER[case]
    path = tmp_path / "rootsrv.toml"
    text = CONFIGURATION.replace("ROOT", root).replace("KEY", ', key = "key."')
    path.write_text((text.replace("127.12.12.12", "192.0.2.3") if case == "not_loopback" else text) + more)
    assert main(["hyperlocal", "--config", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"rootsrv: {key}")


FAULTS = {
    "not_there": (None, "No such file"),
    "no_toml": ("[[publisher", "publishers: "),
    "nobody": ("", r"one or more \[\[publisher\]\]"),
    "something_else": ('other = 1\n[[publisher]]\nname = "a"\naddresses = ["192.0.2.1"]', "nothing else"),
    "without_name": ('[[publisher]]\naddresses = ["192.0.2.1"]', "without name"),
    "without_place": ('[[publisher]]\nname = "a"', "neither addresses nor url"),
    "unknown_key": ('[[publisher]]\nname = "a"\nadresses = ["192.0.2.1"]', "adresses: unknown key"),
    "wrong_type": ('[[publisher]]\nname = "a"\naddresses = "192.0.2.1"', "wrong type"),
    "number_for_address": ('[[publisher]]\nname = "a"\naddresses = [1]', "must be strings"),
    "no_address": ('[[publisher]]\nname = "a"\naddresses = ["a.example"]', "does not appear to be"),
    "no_https": ('[[publisher]]\nname = "a"\nurl = "http://a.example/"', "must be https"),
    "twice": ('[[publisher]]\nname = "a"\naddresses = ["192.0.2.1"]\n' * 2, "named twice"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_list_of_publishers_with_a_fault_is_refused_by_name(case: str, tmp_path: Path) -> None:
    text, reason = FAULTS[case]
    path = tmp_path / "publishers.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        generated.read_publishers(path)


def test_the_shipped_list_has_several_organisations_and_both_transports() -> None:
    config = generated.generate(generated.Options())
    assert len({each.name.partition("/")[0] for each in config.primary}) == 9
    assert {"https" if each.url else "axfr" for each in config.primary} == {"https", "axfr"}
    assert (config.zone[0].zonemd, config.zone[0].validation) == ("required", "required")


def test_what_is_shipped_is_what_the_genuine_files_say() -> None:
    genuine = require_genuine_zones()
    shipped = TrustAnchors.from_text(generated.TRUST_ANCHORS.read_text())
    iana = TrustAnchors.from_text((genuine / "root-anchors.xml").read_text())
    assert not shipped.alarms
    now = 1_790_000_000.0  # 2026: KSK-2010 has ended
    assert {each.rdata for each in shipped.anchors} == {each.rdata for each in iana.valid_at(now)}

    (hosts,) = genuine.glob("root-servers.net.zone.*")
    listed = re.findall(r"^[a-m]\.root-servers\.net\.\s.*\s(?:A|AAAA)\s+(\S+)$", hosts.read_text().lower(), re.M | re.I)
    assert len(listed) == 26
    assert set(listed) == set(generated.ROOT_SERVERS)
    published = {
        each.address for each in generated.read_publishers(generated.PUBLISHERS) if "root-servers" in each.name
    }
    assert published <= generated.ROOT_SERVERS


@pytest.mark.parametrize("address", ["127.12.12.12", "::1"])
def test_the_resolvers_own_checkers_take_what_is_printed(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(kind: str) -> str:
        assert main(["hyperlocal", "--configure", kind, "--storage", str(tmp_path), "--address", address]) == 0
        return capsys.readouterr().out

    (tmp_path / "unbound.conf").write_text(
        f'server:\n    username: ""\n    chroot: ""\n    directory: "{tmp_path}"\n{printed("unbound")}'
    )
    (tmp_path / "named.conf").write_text(f'options {{ directory "{tmp_path}"; }};\n{printed("bind")}')
    for command in (["unbound-checkconf", "unbound.conf"], ["named-checkconf", "named.conf"]):
        done = subprocess.run(
            [require_tool(command[0]), str(tmp_path / command[1])], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    target = "[::1]:8806" if ":" in address else "127.12.12.12:8806"
    assert f'zoneToCache(".", "axfr", "{target}"' in printed("pdns")


def test_writing_keeps_the_very_first_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rootsrv.conf"
    kept = tmp_path / "rootsrv.conf.before-rootsrv"
    write = ["hyperlocal", "--configure", "unbound", "--write", str(path)]
    assert main(write) == 0
    assert not kept.exists()
    path.write_text("mine\n")
    assert main(write) == 0
    assert f"what was there: {kept}" in capsys.readouterr().out
    assert main([*write, "--port", "8807"]) == 0
    assert kept.read_text() == "mine\n"
    assert "@8807" in path.read_text()


@pytest.mark.parametrize("target", ["there", "gone"])
def test_a_link_is_not_written_through_nor_replaced(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, elsewhere = tmp_path / "rootsrv.conf", tmp_path / target
    if target == "there":
        elsewhere.write_text("mine\n")
    path.symlink_to(elsewhere)
    assert main(["hyperlocal", "--configure", "unbound", "--write", str(path)]) == 1
    assert f"{path}: is a link to {elsewhere}" in capsys.readouterr().err
    assert path.is_symlink()
    assert len(list(tmp_path.iterdir())) == 1 + (target == "there")


def test_a_resolver_that_is_checked_may_listen_for_its_clients() -> None:
    assert loopback.resolver_at("--check", "192.0.2.1@5335") == ("192.0.2.1", 5335)
    for each in ("192.0.2.1@0", "localhost", "192.0.2.1@dns"):
        with pytest.raises(ConfigError, match=r"^--check: "):
            loopback.resolver_at("--check", each)


def test_what_cannot_be_written_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "nowhere" / "rootsrv.conf"
    assert main(["hyperlocal", "--configure", "bind", "--write", str(path)]) == 1
    assert f"{path}: No such file or directory" in capsys.readouterr().err
    assert main(["hyperlocal", "--write"]) == 2
    assert main(["hyperlocal", "--configure", "bind", "--storage", 'a"; }; evil']) == 2
    assert main(["hyperlocal", "--config", str(path), "--port", "1"]) == 2


def test_every_software_has_its_place() -> None:
    assert set(resolvers.HERE) == {"unbound", "bind", "pdns", "pdns5", "kresd", "kresd6"}


@dataclass
class Answers:
    """A resolver with a clock: what it answers, how long it takes."""

    serial: int = 7
    seconds: float = 0.0005
    rcode: int = dns.rcode.NXDOMAIN
    authentic: bool = True
    now: float = 0.0

    def __call__(self, query: dns.message.Message) -> dns.message.Message:
        self.now += 0.0003 if query.question[0].name == dns.name.root else self.seconds
        response = dns.message.make_response(query)
        response.set_rcode(self.rcode)
        if self.authentic:
            response.flags |= dns.flags.AD
        soa = f"a. b. {self.serial} 1800 900 604800 86400"
        response.authority.append(dns.rrset.from_text(".", 86400, "IN", "SOA", soa))
        return response


SEEN = {
    "from_the_copy": (Answers(), []),
    "from_an_older_one": (Answers(serial=6), ["serial 6, older than the copy's 7"]),
    "from_a_newer_one": (Answers(serial=8), ["serial 8, not the copy's 7"]),
    "from_far_away": (
        Answers(seconds=0.012),
        ["12.0 ms each, and 0.3 ms for what it knows (medians): it asks somebody"],
    ),
    "not_validated": (Answers(authentic=False), ["0 of 15"]),
    "not_at_all": (Answers(rcode=dns.rcode.SERVFAIL), ["SERVFAIL, expected NXDOMAIN"]),
}


@pytest.mark.parametrize("own", [False, True])
def test_where_the_copy_is_not_given_out_a_check_names_the_command_that_tells_why(
    own: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configuration is no instance's: without --config status looks for one that a household has not."""
    state = tmp_path / "the state"
    if own:
        path = tmp_path / "own.toml"
        path.write_text(text.to_toml(generated.generate(generated.Options(port=free_port("127.12.12.12")))))
        given = ["--config", str(path)]
    else:
        path = state / "rootsrv.toml"
        given = ["--state", str(state), "--port", str(free_port("127.12.12.12"))]
    assert main(["hyperlocal", "--check", *given]) == 1
    told = capsys.readouterr().out
    assert told.startswith("FAIL  the copy is not given out at 127.12.12.12@")
    assert f"→ rootsrv status --config {shlex.quote(str(path))} tells why\n" in told


@pytest.mark.parametrize("case", SEEN)
def test_a_check_says_what_is_wrong(case: str) -> None:
    resolver, wrong = SEEN[case]
    findings = check.examine(resolver, 7, lambda: resolver.now)
    bad = [each.text for each in findings if not each.good]
    assert len(bad) == len(wrong)
    assert all(expected in text for expected, text in zip(wrong, bad, strict=True))


REFUSED_SERVERS = {
    "not_here": (["--serve=192.0.2.1"], "service.addresses: 192.0.2.1 is not on loopback"),
    "a_root_server": (["--serve=198.41.0.4@53"], "a root server's address"),
    "two_ports": (["--serve=127.0.0.9@53", "--serve=127.0.0.8@54"], "--serve: one port is needed"),
    "no_port": (["--serve=127.0.0.9@dns"], "--serve: one port is needed"),
    "where_the_zone_is_given": (["--serve=127.12.12.12"], "is a service address"),
    "nothing_to_be_stale": (["--on-stale=servfail"], "goes with --serve"),
}


@pytest.mark.parametrize("case", REFUSED_SERVERS)
def test_a_server_that_others_could_ask_is_refused(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    options, reason = REFUSED_SERVERS[case]
    assert main(["hyperlocal", *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_written_configuration_is_what_was_asked_for(tmp_path: Path) -> None:
    options = generated.Options(serve=("127.0.0.9", "::1"), serve_port=5300, on_stale="servfail", notify=("::1",))
    path = tmp_path / "rootsrv.toml"
    path.write_text(text.to_toml(generated.generate(options)))
    read = config_file.load(path)
    generated.refuse(read)
    settings = generated.settings_of(read)
    assert (read.service.addresses, read.service.port) == (("127.0.0.9", "::1"), 5300)
    assert (settings.answer, settings.on_stale, settings.notify) == (True, "servfail", ("::1",))
    assert settings.follow_key_rolls
    assert not generated.settings_of(generated.generate(generated.Options(trust_anchors=path))).follow_key_rolls


def test_a_resolver_that_takes_zones_by_https_needs_the_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hyperlocal", "--configure", "kresd"]) == 0
    printed = capsys.readouterr().out
    assert f"https://127.12.12.12:{generated.HTTPS_PORT}/root.zone" in printed
    assert "'/run/rootsrv-hyperlocal/https.pem'" in printed
    assert main(["hyperlocal", "--configure", "kresd", "--https-port", "0"]) == 2
    assert "a url is needed" in capsys.readouterr().err


def test_a_check_names_where_nobody_gives_out_the_copy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_TIMEOUT_SECONDS", 0.05)
    assert main(["hyperlocal", "--address=127.88.88.88", "--port=1", "--check=127.0.0.1"]) == 1
    assert capsys.readouterr().out.startswith("FAIL  the copy is not given out at 127.88.88.88@1: ")
