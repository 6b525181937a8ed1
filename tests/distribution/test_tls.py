"""TLS contexts: the same certificates are believed whatever Python's defaults are."""

import os
import pty
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from rootsrv.distribution.tls import client_context, server_context
from tests.secondary.certificates import Authority

STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
"""What Python 3.13 adds to the defaults of 3.11."""

_create_default_context = ssl.create_default_context


def strict_context(*, cafile: str | None = None) -> ssl.SSLContext:
    context = _create_default_context(cafile=cafile)
    context.verify_flags |= STRICT
    return context


def handshake(client_side: ssl.SSLContext, server_side: ssl.SSLContext, name: str) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


def test_a_certificate_without_authority_key_identifier_is_believed_by_every_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path, identified=False)
    shown = authority.certify("primary.example")
    server = server_context("admin.tls", str(shown.certificate), str(shown.key))
    # The certificate is one that Python 3.13 refuses as it is shipped.
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(strict_context(cafile=str(authority.path)), server, "primary.example")
    monkeypatch.setattr("ssl.create_default_context", strict_context)
    handshake(client_context("tls_ca", ca=str(authority.path), dot=True), server, "primary.example")


def test_another_name_and_another_authority_are_refused(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), tmp_path / "other"
    other.mkdir()
    shown = authority.certify("primary.example")
    server = server_context("admin.tls", str(shown.certificate), str(shown.key))
    for ca, name in ((authority.path, "else.example"), (Authority(other).path, "primary.example")):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(client_context("tls_ca", ca=str(ca), dot=True), server, name)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    """OpenSSL itself would ask at the terminal of whoever has started us, and everything would wait."""
    key, crt = tmp_path / "key", tmp_path / "crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=x", "-passout", "pass:x"]
    subprocess.run([*command, "-keyout", key, "-out", crt], check=True, capture_output=True)
    code = (
        "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "from rootsrv.config.checks import ConfigError; from rootsrv.distribution.tls import server_context\n"
        f"try: server_context('admin.tls', '{crt}', '{key}')\nexcept ConfigError as error: print(f'[{{error}}]')"
    )
    terminal, ours = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=ours, stdout=ours, stderr=ours, start_new_session=True
        ) as child:
            said = b""
            while b"phrase:" not in said and b"]" not in said and child.poll() is None:
                said += os.read(terminal, 4096)
            child.kill()
    finally:
        os.close(terminal)
        os.close(ours)
    assert f"[admin.tls: {key}: the key has a passphrase]" in said.decode()
