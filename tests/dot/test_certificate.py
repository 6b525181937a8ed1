"""Certificates: those that can be shown, those that cannot, and why."""

import base64
import datetime
import os
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from rootsrv.config.dot import DotConfig
from rootsrv.dot import certificate
from rootsrv.dot.beside import EXPIRES_SOON_SECONDS, DnsOverTls
from rootsrv.dot.certificate import CertificateUnusable
from rootsrv.dot.libssl import Context, TlsUnavailable
from rootsrv.page.layout import TLS_SLOT
from tests.dot.client import DAY, write_certificate

NOW = time.time()


def test_a_certificate_with_its_key_and_chain_is_read(tmp_path: Path) -> None:
    now = time.time()
    own, key = write_certificate(tmp_path, "own")
    above, _ = write_certificate(tmp_path, "above", ends=7 * DAY)
    own.write_bytes(own.read_bytes() + above.read_bytes())
    shown = certificate.read(own, key, now)
    assert [x509.load_der_x509_certificate(each).subject.rfc4514_string() for each in shown.chain] == [
        "CN=own",
        "CN=above",
    ]
    assert abs(shown.not_after - now - 7 * 86_400) < 60
    assert certificate.from_document(shown.to_document()) == ([*shown.chain], shown.key)
    Context(shown.chain, shown.key)


def refusal(files: tuple[Path, Path]) -> str:
    with pytest.raises(CertificateUnusable) as refused:
        certificate.read(*files, NOW)
    return str(refused.value)


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    good, key = write_certificate(tmp_path, "good")
    old, old_key = write_certificate(tmp_path, "old", begins=-9 * DAY, ends=-DAY)
    early, early_key = write_certificate(tmp_path, "early", begins=DAY)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\0\1\2")
    sealed = tmp_path / "sealed.key"
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes128", "-passout", "pass:x", "-out", sealed], check=True, capture_output=True
    )
    above = tmp_path / "above.crt"
    above.write_bytes(good.read_bytes() + old.read_bytes())
    ahead = tmp_path / "ahead.crt"
    ahead.write_bytes(good.read_bytes() + early.read_bytes())

    assert "No such file" in refusal((tmp_path / "nothing.crt", key))
    assert "No such file" in refusal((good, tmp_path / "nothing.key"))
    assert refusal((garbage, key)).startswith(f"dot.certificate: {garbage}: ")
    assert refusal((good, garbage)).startswith(f"dot.key: {garbage}: ")
    assert refusal((good, sealed)).startswith(f"dot.key: {sealed}: ")
    assert refusal((good, old_key)) == f"dot.key: {old_key} is not the key of {good}"
    assert refusal((old, old_key)).startswith(f"dot.certificate: {old}: CN=old has expired (")
    assert refusal((above, key)).startswith(f"dot.certificate: {above}: CN=old has expired (")
    assert refusal((early, early_key)).startswith(f"dot.certificate: {early}: CN=early is valid from ")
    assert refusal((ahead, key)).startswith(f"dot.certificate: {ahead}: CN=early is valid from ")


def test_one_that_is_made_here_has_the_service_addresses_and_is_made_anew_in_time() -> None:
    shown = certificate.make("a.example", ["192.0.2.1", "2001:db8::1"], NOW)
    made = x509.load_der_x509_certificate(shown.chain[0])
    alternatives = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(each) for each in alternatives.get_values_for_type(x509.IPAddress)] == ["192.0.2.1", "2001:db8::1"]
    Context(shown.chain, shown.key)
    assert not shown.is_to_be_renewed(NOW + 59 * 86_400)
    assert shown.is_to_be_renewed(NOW + 61 * 86_400)


def test_openssl_refuses_what_is_no_pair() -> None:
    one, other = (certificate.make("x", [], NOW) for _ in range(2))
    with pytest.raises(TlsUnavailable):
        Context(one.chain, other.key)
    with pytest.raises(TlsUnavailable):
        Context([b"garbage"], one.key)


def beside(config: DotConfig, now: float = NOW) -> tuple[DnsOverTls, list[dict[str, object]], list[float]]:
    clock = [now]
    made = DnsOverTls(config, addresses=["127.0.0.1"], identity="id", now=lambda: clock[0])
    shown: list[dict[str, object]] = []
    made.show = shown.append
    return made, shown, clock


def test_an_unusable_certificate_at_the_start_is_replaced_by_one_made_here_until_it_can_be_used(tmp_path: Path) -> None:
    config = DotConfig(certificate=str(tmp_path / "late.crt"), key=str(tmp_path / "late.key"))
    made, shown, _ = beside(config)
    assert made.status()["certificate"] == "self-signed"
    assert "No such file" in made.status()["certificate_problem"]
    assert "No such file" in made.reload(config)
    assert shown == []
    write_certificate(tmp_path, "late")
    assert made.reload(config) == ""
    assert made.status()["certificate"] == str(tmp_path / "late.crt")
    assert made.status()["certificate_problem"] == ""
    assert shown == [made.orders({"responder": {}})["tls"]]


@pytest.mark.parametrize("fault", ["missing", "expired", "another key", "too short a key"])
def test_at_a_reload_the_old_certificate_stays_where_the_new_one_is_unusable(tmp_path: Path, fault: str) -> None:
    files = write_certificate(tmp_path, "old")
    config = DotConfig(certificate=str(files[0]), key=str(files[1]))
    made, shown, _ = beside(config)
    before = made.orders({"responder": {}})["tls"]
    match fault:
        case "missing":
            files[0].unlink()
        case "expired":
            write_certificate(tmp_path, "old", begins=-9 * DAY, ends=-DAY)
        case "another key":
            write_certificate(tmp_path, "other")[1].rename(files[1])
        case _:
            command = ["openssl", "req", "-x509", "-newkey", "rsa:512", "-nodes", "-subj", "/CN=short", "-keyout"]
            subprocess.run([*command, files[1], "-out", files[0]], check=True, capture_output=True)
    assert made.reload(config) != ""
    assert made.orders({"responder": {}})["tls"] == before
    assert shown == []
    write_certificate(tmp_path, "old")
    assert made.reload(config) == ""
    assert len(shown) == 1


def test_a_reload_that_changes_nothing_shows_nothing_anew(tmp_path: Path) -> None:
    made, shown, _ = beside(DotConfig())
    assert made.reload(DotConfig()) == ""
    files = write_certificate(tmp_path, "new")
    config = DotConfig(certificate=str(files[0]), key=str(files[1]))
    assert made.reload(config) == ""
    assert made.reload(config) == ""
    assert len(shown) == 1
    assert made.reload(DotConfig()) == ""
    assert (made.status()["certificate"], len(shown)) == ("self-signed", 2)


def test_a_certificate_that_ends_soon_is_told_of_and_one_of_our_own_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = write_certificate(tmp_path, "ends", ends=datetime.timedelta(seconds=EXPIRES_SOON_SECONDS + 3600))
    made, _, clock = beside(DotConfig(certificate=str(files[0]), key=str(files[1])))
    told = []
    for hours in (0, 2, 3, 27):
        clock[0] = NOW + 3600 * hours
        made.tick()
        told.append(caplog.text.count("certificate expires soon"))
    assert told == [0, 1, 1, 2]
    own, shown, own_clock = beside(DotConfig())
    own.tick()
    assert shown == []
    own_clock[0] += 61 * 86_400
    own.tick()
    own.tick()
    assert len(shown) == 1


def test_orders_differ_from_the_workers_by_limits_certificate_and_idle_time() -> None:
    made, _, _ = beside(DotConfig(connections=7, connections_per_client=3, idle_seconds=4))
    common = {"responder": {"nsid": "00", "tcp_idle_seconds": 10}, "tcp": {"connections": 8000}, "account": None}
    orders = made.orders(common)
    assert orders["responder"] == {"nsid": "00", "tcp_idle_seconds": 4}
    assert orders["tcp"] == {"connections": 7, "connections_per_client": 3, "idle_seconds": 4}
    assert common["tcp"] == {"connections": 8000}
    assert made.slot == TLS_SLOT


@pytest.mark.parametrize(
    "made",
    [
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-224"],
        ["-newkey", "rsa:1024"],
    ],
    ids=["secp256k1", "P-224", "RSA 1024"],
)
def test_a_certificate_with_which_no_handshake_succeeds_is_not_shown(tmp_path: Path, made: list[str]) -> None:
    bad, bad_key = tmp_path / "bad.crt", tmp_path / "bad.key"
    subprocess.run(
        ["openssl", "req", "-x509", *made, "-nodes", "-subj", "/CN=bad", "-days", "90", "-keyout", bad_key,
         "-out", bad],
        check=True, capture_output=True,
    )  # fmt: skip
    good = DotConfig(certificate=str(write_certificate(tmp_path, "good")[0]), key=str(tmp_path / "good.key"))
    dot = DnsOverTls(good, addresses=["127.0.0.1"], identity="x")
    shown = dot.orders({"responder": {}})["tls"]
    assert str(bad) in dot.reload(DotConfig(certificate=str(bad), key=str(bad_key)))
    assert dot.orders({"responder": {}})["tls"] == shown
    assert dot.reload(good) == ""


ODD = {
    "a curve that is unknown": b"\x2a\x86\x48\xce\x3d\x03\x01\x07",
    "a kind of key that is unknown": b"\x2a\x86\x48\xce\x3d\x02\x01",
    "a version that there is not": b"\xa0\x03\x02\x01\x02",
    "a point that is on no curve": b"\x03\x42\x00\x04",
    "a date that is none": b"\x30\x1e\x17\x0d",  # with what holds it: one serial number of 2,400 has the last two
}
"""What is in the octets of a P-256 certificate, or its key, by what becomes of it when the end of that is another."""


@pytest.mark.parametrize("fault", ODD)
def test_what_cryptography_does_not_understand_is_unusable_and_ends_nobody(tmp_path: Path, fault: str) -> None:
    made = certificate.make("odd", ["192.0.2.1"], NOW)
    files = tmp_path / "crt", tmp_path / "key"
    for number, (octets, label) in enumerate(((made.chain[0], "CERTIFICATE"), (made.key, "PRIVATE KEY"))):
        at = octets.find(ODD[fault])
        if at >= 0:
            at += len(ODD[fault]) + (3 if "on no curve" in fault else 0) - ("that is none" not in fault)
            octets = octets[:at] + bytes([octets[at] ^ 0x41]) + octets[at + 1 :]
        text = base64.encodebytes(octets).decode()
        files[number].write_text(f"-----BEGIN {label}-----\n{text}-----END {label}-----\n")
    config = DotConfig(certificate=str(files[0]), key=str(files[1]))
    dot = DnsOverTls(config, addresses=["127.0.0.1"], identity="x")
    assert dot.problem.startswith("dot.")
    assert str(tmp_path) in dot.problem
    assert dot.reload(config) == dot.problem
    good = DotConfig(certificate=str(write_certificate(tmp_path, "good")[0]), key=str(tmp_path / "good.key"))
    assert dot.reload(good) == ""


@pytest.mark.parametrize("identity", ["é" * 64, "x" + "é" * 63, "根" * 42, "", "x" * 128, "."])
def test_one_is_made_for_whatever_name_an_instance_may_have(identity: str) -> None:
    made = DnsOverTls(DotConfig(), addresses=["127.0.0.1"], identity=identity)
    assert made.problem == ""
    assert made.status()["certificate"] == "self-signed"


@pytest.mark.parametrize("kind", ["ed25519", "rsa:3072"])
def test_keys_that_tls_knows_are_shown(tmp_path: Path, kind: str) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", kind, "-nodes", "-subj", "/CN=good", "-days", "90", "-keyout",
         tmp_path / "key", "-out", tmp_path / "crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    config = DotConfig(certificate=str(tmp_path / "crt"), key=str(tmp_path / "key"))
    assert DnsOverTls(config, addresses=["127.0.0.1"], identity="x").problem == ""


def test_what_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    _, key = write_certificate(tmp_path, "good")
    os.mkfifo(tmp_path / "fifo")
    assert refusal((tmp_path / "fifo", key)).endswith("is no file")
    assert "directory" in refusal((tmp_path, key))
    assert refusal((Path("/dev/zero"), key)).endswith("is no file")


def test_a_clock_that_is_set_after_the_start_mends_what_was_shown(tmp_path: Path) -> None:
    files = write_certificate(tmp_path, "good")
    config = DotConfig(certificate=str(files[0]), key=str(files[1]))
    for wrong in (0.0, NOW + 3000 * 86_400):  # no clock on the board; a battery that is not ours
        clock = [wrong]
        made = DnsOverTls(config, addresses=["127.0.0.1"], identity="x", now=lambda clock=clock: clock[0])
        assert made.status()["certificate"] == "self-signed"
        assert made.problem
        clock[0] = NOW
        made.tick()
        assert (made.problem, made.status()["certificate"]) == ("", str(files[0]))
        clock[0] = wrong
        own = DnsOverTls(DotConfig(), addresses=["127.0.0.1"], identity="x", now=lambda clock=clock: clock[0])
        clock[0] = NOW
        own.tick()
        assert abs(own.status()["certificate_expires_seconds"] - 90 * 86_400) < 60


def test_a_pair_that_became_one_after_the_reload_is_shown_a_minute_later(tmp_path: Path) -> None:
    old, new = write_certificate(tmp_path, "old"), write_certificate(tmp_path, "new")
    made, shown, clock = beside(DotConfig(certificate=str(old[0]), key=str(old[1])))
    late = tmp_path / "late.key"
    assert made.reload(DotConfig(certificate=str(new[0]), key=str(late))) != ""
    assert made.status()["certificate"] == str(old[0])
    new[1].rename(late)
    made.tick()
    assert shown == []
    clock[0] += 61
    made.tick()
    assert len(shown) == 1
    assert (made.problem, made.status()["certificate"]) == ("", str(new[0]))
