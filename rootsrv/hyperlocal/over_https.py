"""The zone by https on loopback, for Knot Resolver, which takes one in no other way (its module prefill)."""
# The certificate is made anew at each start, for this host's addresses and for ever: nobody but the resolver beside us
# is to believe it, and a clock that is wrong at boot must not part the two.  Its private key never leaves the runtime
# directory; the certificate is what the resolver's `ca_file` names.

import datetime
import ipaddress
import os
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from pathlib import Path

from rootsrv.distribution.tls import https_server_context
from rootsrv.http.server import HttpServer, Request, Response
from rootsrv.process import whole_file
from rootsrv.process.child import Inherited, in_child

PATH = "/root.zone"
CERTIFICATE, KEY = "https.pem", "https.key"
"""In the runtime directory."""

_FOR_EVER = datetime.datetime(1990, 1, 1), datetime.datetime(2100, 1, 1)


class ZoneOverHttps:
    """Serves what *zone* says."""

    def __init__(self, zone: Callable[[], Awaitable[bytes | None]], directory: Path) -> None:
        """*zone*: the zone file, or None while the copy is withheld; *directory*: for certificate and key."""
        self._zone = zone
        self._directory = directory
        self._server = HttpServer({PATH: self._page})

    async def start(self, addresses: Sequence[str], port: int, inherited: Inherited) -> None:
        """Make a certificate and listen; CannotListen, OSError, ChildFailed or TimeoutError if that cannot be."""
        certificate, key = await in_child(lambda: make_certificate(addresses), inherited)
        whole_file.replace(self._directory / KEY, key, 0o600)
        whole_file.replace(self._directory / CERTIFICATE, certificate, 0o644)
        made = str(self._directory / CERTIFICATE), str(self._directory / KEY)
        context = https_server_context("hyperlocal.https_port", *made)
        os.unlink(self._directory / KEY)
        await self._server.listen(tuple(addresses), port, context=context, key="hyperlocal.https_port")

    def close(self) -> None:
        """Listen no more."""
        self._server.close()

    async def _page(self, request: Request) -> Response:
        octets = await self._zone()
        if octets is None:
            # The resolver drops what it has of it, and asks the root servers.
            return Response(b"the copy is withheld\n", "text/plain", HTTPStatus.SERVICE_UNAVAILABLE)
        return Response(octets, "text/dns; charset=utf-8")


def make_certificate(addresses: Sequence[str]) -> tuple[bytes, bytes]:
    """A self-signed certificate for *addresses* and its private key, PEM."""
    # Only a child has these in memory.
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "rootsrv hyperlocal")])
    names = [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), *_FOR_EVER)
        .add_extension(x509.SubjectAlternativeName([*names, x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    certificate = builder.sign(key, SHA256())
    pem = serialization.Encoding.PEM
    return certificate.public_bytes(pem), key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
