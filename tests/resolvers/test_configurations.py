"""Generated configurations before the software that they are for, and texts that try to be more than they are."""

import itertools
import subprocess
from pathlib import Path

import pytest

from rootsrv.commands.parser import main
from rootsrv.hyperlocal.generated import TRUST_ANCHORS
from rootsrv.resolvers.software import SOFTWARE
from rootsrv.resolvers.wanted import CannotConfigure, Publisher, ResolverKey, ResolverSetup
from tests.hyperlocal.programs import software as installed
from tests.needs import require_tool

V4, V6 = Publisher("192.0.2.1"), Publisher("2001:db8::1", 5353)
OVER_TLS = Publisher("192.0.2.2", 853, "root.example")
KEY = ResolverKey("k1.resolver.example", "MDEyMzQ1Njc4OWFiY2RlZg==")
URL = "https://root.example:8443/root.zone"

CASES: dict[str, ResolverSetup] = {
    "one": ResolverSetup(publishers=(V4,)),
    "of_both_families": ResolverSetup(publishers=(V4, V6)),
    "with_fallbacks": ResolverSetup(publishers=(V6,), fallbacks=(V4, Publisher("192.0.2.9"))),
    "over_tls": ResolverSetup(publishers=(OVER_TLS,), fallbacks=(V4,), hosts=True),
    "with_a_key": ResolverSetup(publishers=(V4,), key=KEY),
    "with_a_key_and_hosts": ResolverSetup(publishers=(V4,), key=KEY, hosts=True),
    "with_key_and_tls": ResolverSetup(publishers=(OVER_TLS, V4), key=KEY, hosts=True),
    "with_a_url": ResolverSetup(publishers=(V4,), url=URL),
    "by_https_only": ResolverSetup(publishers=(), url=URL),
    "with_a_canary": ResolverSetup(publishers=(V4, OVER_TLS), key=KEY, canary="canary.root.example."),
    "private_zones": ResolverSetup(publishers=(V4,), url=URL, private_zones=("10.in-addr.arpa", "Home.Example.")),
}

CANNOT = {
    "unbound": {"with_a_key_and_hosts": "knows no TSIG", "by_https_only": "needs a publisher"},
    "bind": {"by_https_only": "by AXFR only"},
    "kresd": dict.fromkeys(set(CASES) - {"with_a_url", "by_https_only", "private_zones"}, "by https only"),
    "pdns": {"private_zones": "auth-zones"},
}
CANNOT |= {"pihole": CANNOT["unbound"], "opnsense": CANNOT["unbound"], "kresd6": CANNOT["kresd"]}
CANNOT["pdns5"] = {"private_zones": "auth_zones"}


def check(software: str, text: str, directory: Path) -> None:
    """Have the software itself read *text*."""
    path = directory / "configuration"
    path.write_text(text)
    match software:
        case "unbound" | "pihole" | "opnsense":
            # Alone it has no place of its own for what it changes to, here.
            (directory / "root.key").write_text(TRUST_ANCHORS.read_text())
            path.write_text(f'server:\n    username: ""\n    chroot: ""\n    pidfile: ""\n{text}')
            command = [require_tool("unbound-checkconf"), str(path)]
        case "bind":
            command = [require_tool("named-checkconf"), str(path)]
        case "kresd":
            path.write_text(f"{text}\nquit()\n")
            command = [require_tool("kresd"), "-n", "-c", str(path), str(directory)]
        case "pdns5" if installed("pdns") == "pdns5":
            path.rename(directory / "recursor.yml")
            command = [require_tool("pdns_recursor"), f"--config-dir={directory}", "--config=check"]
        case _:
            return
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + text
    assert "error" not in (done.stdout + done.stderr).replace("no errors", "").lower(), done.stdout + done.stderr


@pytest.mark.parametrize(("software", "whole"), list(itertools.product(SOFTWARE, (False, True))))
def test_every_configuration_is_taken_by_its_software(software: str, whole: bool, tmp_path: Path) -> None:
    ca = Path("/etc/ssl/certs/ca-certificates.crt")
    for case, wanted in CASES.items():
        directory = tmp_path / case
        directory.mkdir()
        options = {
            each: getattr(wanted, each) for each in ("publishers", "fallbacks", "url", "key", "hosts", "private_zones")
        }
        asked = ResolverSetup(**options, whole=whole, storage=str(directory))
        if reason := CANNOT.get(software, {}).get(case):
            with pytest.raises(CannotConfigure, match=reason):
                SOFTWARE[software].configuration(asked)
            continue
        if case == "by_https_only" and software.startswith("pdns"):
            assert "url" in SOFTWARE[software].configuration(asked)
            continue
        text = SOFTWARE[software].configuration(asked)
        if software in {"unbound", "pihole", "opnsense"}:
            text = text.replace("/usr/local/etc/ssl/cert.pem", str(ca))  # FreeBSD's
        check(software, text, directory)
        assert (KEY.secret in text) == (software == "bind" and asked.key is not None), "a secret is where it is used"


def test_what_is_wanted_is_what_is_written() -> None:
    unbound = SOFTWARE["unbound"].configuration(CASES["over_tls"])
    assert "primary: 192.0.2.2@853#root.example" in unbound
    assert unbound.count("primary: 192.0.2.1@53") == 1, "the unsigned zone comes from nobody who is not proved"
    assert "zonemd-reject-absence: yes" in unbound
    assert "for-downstream: no" in unbound
    bind = SOFTWARE["bind"].configuration(CASES["with_key_and_tls"])
    assert '192.0.2.2 port 853 key "k1.resolver.example" tls "root.example"' in bind
    assert "type mirror" in bind
    pdns = SOFTWARE["pdns"].configuration(CASES["of_both_families"])
    assert 'zoneToCache(".", "axfr", "192.0.2.1:53"' in pdns
    assert '"[2001:db8::1]:5353"' in SOFTWARE["pdns5"].configuration(ResolverSetup(publishers=(V6,)))
    assert "allow-notify: 192.0.2.9" not in SOFTWARE["unbound"].configuration(CASES["with_fallbacks"])


EVIL = [
    'x"; }; evil { "', "x'\nos.execute('id')", "a b", "a;b", "a\\", "a$(id)", "é", "a\0b", "", "..", "-- x", "x]]",
    "/*", "{x}", "<x>", "`x`",
]  # fmt: skip


@pytest.mark.parametrize("text", EVIL)
def test_no_text_ends_another(text: str) -> None:
    attempts = [
        lambda: Publisher(text),
        lambda: Publisher("192.0.2.1", 853, text or "\n"),
        lambda: Publisher.from_text(f"192.0.2.1@{text or 'x'}"),
        lambda: ResolverKey(text, KEY.secret),
        lambda: ResolverKey("k.", text),
        lambda: ResolverKey("k.", KEY.secret, text),
        lambda: ResolverSetup(publishers=(V4,), storage=f"/{text}" if text not in {"", ".."} else "relative"),
        lambda: ResolverSetup(publishers=(V4,), ca_file=f"/{text}" if text not in {"", ".."} else "relative"),
        lambda: ResolverSetup(
            publishers=(V4,), url=f"https://a.example/{text}" if text not in {"", "..", "x]]"} else "x"
        ),
        lambda: ResolverSetup(publishers=(V4,), private_zones=(text,)),
    ]
    for attempt in attempts:
        with pytest.raises(CannotConfigure):
            attempt()


NO_PLACE = ["", "192.0.2.1@0", "192.0.2.1@65536", "192.0.2.1@x", "192.0.2.1@", "fe80::1%eth0", "a.example"]


@pytest.mark.parametrize("text", NO_PLACE)
def test_a_publisher_is_an_address(text: str) -> None:
    with pytest.raises(CannotConfigure):
        Publisher.from_text(text)


def test_unsigned_hosts_need_proof() -> None:
    with pytest.raises(CannotConfigure, match="is not signed"):
        ResolverSetup(publishers=(V4,), hosts=True)
    with pytest.raises(CannotConfigure, match="there is none"):
        ResolverSetup(publishers=())


def test_the_command_prints_it_and_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{KEY.secret}\n")
    told = ["resolver", "bind", "--publisher=192.0.2.1", f"--key={KEY.name}", f"--secret-file={secret}", "--whole"]
    assert main(told) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("// For BIND 9.18, 9.20.\n")
    assert KEY.secret in printed
    check("bind", printed, tmp_path)
    assert main(["resolver", "kresd6", f"--url={URL}"]) == 0
    assert "which no test has tried" in capsys.readouterr().out
    for wrong, reason in (
        (["bind"], "publisher: there is none: --publisher or --publications"),
        (["bind", "--publisher=x"], "publisher: 'x' does not appear"),
        (["bind", "--publisher=192.0.2.1", "--key=k."], "go together"),
        (["bind", "--publisher=192.0.2.1", "--key=k.", "--secret-file=/nowhere"], "No such file"),
        (["kresd", "--publisher=192.0.2.1"], "by https only"),
    ):
        assert main(["resolver", *wrong]) == 2
        assert reason in capsys.readouterr().err
