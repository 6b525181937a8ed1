"""Clients of DNS over TLS, good and bad, and an instance that has it."""

import contextlib
import datetime
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dns.message
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.peers.daemon import free_port
from tests.framing import framed
from tests.server.live import Instance, serving, wait_until

DAY = datetime.timedelta(days=1)


class Dot:
    """An instance, and its port of DNS over TLS."""

    def __init__(self, instance: Instance, port: int) -> None:
        self.instance = instance
        self.port = port

    def status(self) -> dict[str, Any]:
        """What serve tells of it."""
        told: dict[str, Any] = self.instance.status()["dot"]
        return told

    def counted(self, name: str) -> int:
        """One of TLS_COUNTERS, or of TCP_COUNTERS."""
        counters = self.status()["counters"]
        number: int = counters[name] if name in counters else counters["connections"][name]
        return number

    def connect(
        self, address: str = "127.0.0.1", *, source: str = "", context: ssl.SSLContext | None = None, **options: Any
    ) -> ssl.SSLSocket:
        """A connection whose handshake is over."""
        plain = self.connect_plainly(address, source=source)
        try:
            return (context or client_context()).wrap_socket(plain, **options)
        except BaseException:
            plain.close()
            raise

    def connect_plainly(self, address: str = "127.0.0.1", *, source: str = "") -> socket.socket:
        """A connection on which nothing was said."""
        return socket.create_connection((address, self.port), timeout=10, source_address=(source, 0))


def client_context(*protocols: str) -> ssl.SSLContext:
    """Of a client that authenticates nobody, and offers *protocols* by ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


@contextlib.contextmanager
def serving_dot(directory: Path, dot: str = "", more: str = "") -> Iterator[Dot]:
    """The role serve with `[dot]` (*dot*: more lines of it), ready; *more*: other sections."""
    port = free_port()
    with serving(directory, service=f"[dot]\nport = {port}\n{dot}\n{more}") as instance:
        made = Dot(instance, port)
        wait_until(lambda: made.status()["ready"], "DNS over TLS answers")
        yield made


def query(number: int = 1, name: str = ".", rtype: str = "SOA", **options: object) -> bytes:
    """A query with the length before it."""
    message = dns.message.make_query(name, rtype, **options)  # type: ignore[arg-type]
    message.id = number
    return framed(message.to_wire())


def write_certificate(
    directory: Path,
    name: str,
    *,
    begins: datetime.timedelta = -DAY,
    ends: datetime.timedelta = 60 * DAY,
    hosts: Sequence[str] = (),
) -> tuple[Path, Path]:
    """PEM files of a self-signed certificate for *name*, and of its key; valid from and to that much from now.

    *hosts*: host names that it is for, where somebody compares them.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in hosts]), False)
    made = builder.sign(key, hashes.SHA256())
    certificate, private = directory / f"{name}.crt", directory / f"{name}.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, private


def shown_name(connection: ssl.SSLSocket) -> str:
    """The common name of the certificate that a client was shown."""
    octets = connection.getpeercert(binary_form=True)
    assert octets is not None
    name = x509.load_der_x509_certificate(octets).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    return name if isinstance(name, str) else name.decode()
