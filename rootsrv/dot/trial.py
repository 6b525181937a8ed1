"""A certificate tried before clients are shown it: a handshake with ourselves."""
# OpenSSL takes a key that TLS 1.3 has no signature for (secp256k1, DSA), or a chain that it refuses only while it is
# sent; then every handshake would fail, where the old certificate could have stayed.

import contextlib
import errno
import socket

from rootsrv.dot.certificate import CertificateUnusable, Shown
from rootsrv.dot.libssl import RECORD_OCTETS, Context, TlsUnavailable
from rootsrv.server.sockets import TCP_SEND_BUFFER_OCTETS

_FLIGHTS = 64
"""Of a handshake there are three; a long chain takes some reads more."""


def tried(shown: Shown, name: str) -> Context:
    """What shows *shown*, with which a handshake has succeeded; CertificateUnusable says of the file *name* why not."""
    try:
        context = Context(shown.chain, shown.key)
        _shake_hands(context)
    except TlsUnavailable as error:
        raise CertificateUnusable(f"dot.certificate: {name}: {error.strerror}") from error
    return context


def _shake_hands(context: Context) -> None:
    import ssl  # for this alone

    from rootsrv.distribution.tls import client_context

    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        there.setblocking(False)
        here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TCP_SEND_BUFFER_OCTETS)
        session = context.accept(here.fileno())
        try:
            with client_context("dot.certificate", pinned=True, dot=True).wrap_socket(
                there, do_handshake_on_connect=False
            ) as client:
                for _ in range(_FLIGHTS):
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.do_handshake()
                    session.read(here.recv(RECORD_OCTETS))
                    if session.is_established:
                        return
            raise TlsUnavailable(errno.EPROTO, "no handshake succeeds")
        except TlsUnavailable:
            raise
        except OSError as error:
            raise TlsUnavailable(errno.EPROTO, f"no handshake succeeds: {error.strerror or error}") from error
        finally:
            session.end(politely=False)
