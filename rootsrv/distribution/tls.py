"""The one way to make a TLS context, and what RFC 9103 asks of a connection: TLS 1.3, and "dot" by ALPN."""
# Whether a client offered a wrong protocol or none makes a difference (RFC 9103 §7.1: Unbound offers none, and its zone
# is verified by ZONEMD; who says "h2" speaks another protocol), and OpenSSL's `selected_alpn_protocol` is None in both
# cases: a server that finds nothing in common goes on without.  So we look at the ClientHello, which `ssl` shows to a
# message callback; it is not in the documentation of `ssl`, but in every version since 3.8, and tests/distribution
# would notice.  Where it were missing, an absent offer would be refused like a wrong one.

import ssl
import struct
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from rootsrv.config.checks import ConfigError

DOT = "dot"
_CLIENT_HELLO, _ALPN = 1, 16


def client_context(key: str, *, ca: str = "", pinned: bool = False, dot: bool = False) -> ssl.SSLContext:
    """For a connection that we open.  ConfigError names *key* when *ca* cannot be read.

    *pinned*: whose certificate it is, is no matter of authorities: the caller compares its digest before anything is
    sent, or does not care.  *dot*: DNS, so TLS 1.3 and ALPN.
    """
    if pinned:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reads no authorities, which takes milliseconds
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        try:
            context = ssl.create_default_context(cafile=ca or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{key}: {ca}: {error}") from error
    # Python 3.13 also refuses certificates that lack what RFC 5280 §4.2.1 asks of issuers, an authority key identifier
    # say, as many a private authority's do: an upgrade of the machine must not part it from primary and engine.
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if dot else ssl.TLSVersion.TLSv1_2  # RFC 9103 §7.1
    if dot:
        context.set_alpn_protocols([DOT])
    return context


def show_certificate(context: ssl.SSLContext, key: str, certificate: str, private_key: str) -> None:
    """Have *context* show our certificate.  ConfigError names *key* when it cannot be read."""
    asked: list[bool] = []

    def no_passphrase() -> str:  # OpenSSL itself would ask at the terminal, and everything would wait
        asked.append(True)
        return ""

    try:
        context.load_cert_chain(certificate, private_key, no_passphrase)
    except (OSError, ssl.SSLError) as error:
        reason = f"{private_key}: the key has a passphrase" if asked else f"{certificate}: {error}"
        raise ConfigError(f"{key}: {reason}") from error


def https_server_context(key: str, certificate: str, private_key: str) -> ssl.SSLContext:
    """For https that we accept, with HTTP/1.1.  ConfigError names *key* when the certificate cannot be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    show_certificate(context, key, certificate, private_key)
    return context


class HttpsCertificate:
    """What an https server of ours shows, read anew from its files without a restart.

    A context that serves is never given another certificate: OpenSSL takes the certificate, finds that the key is not
    its own, and is left with neither, so that half of a pair would be the end of TLS for everybody.
    """

    def __init__(self, key: str, certificate: str, private_key: str) -> None:
        """ConfigError, which names *key*, when they cannot be read."""
        self._files = key, certificate, private_key
        self._shown = https_server_context(*self._files)
        self.context = https_server_context(*self._files)
        """For the listening socket; every new client is handed to the context that is shown."""

        def hand_over(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
            connection.context = self._shown

        self.context.sni_callback = hand_over

    def reload(self) -> None:
        """ConfigError when the files cannot be read; nothing has changed then."""
        self._shown = https_server_context(*self._files)


def server_context(key: str, certificate: str, private_key: str, *, client_ca: str = "") -> ssl.SSLContext:
    """For DNS over TLS that we accept.  ConfigError names *key* when certificates cannot be read.

    *client_ca*: who shows a certificate from there is known by its name (mutual TLS).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # RFC 9103 §7.1
    context.set_alpn_protocols([DOT])
    show_certificate(context, key, certificate, private_key)
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{key}: {client_ca}: {error}") from error
        context.verify_mode = ssl.CERT_OPTIONAL
    _watch_client_hellos(context)
    return context


_offered: "WeakKeyDictionary[Any, tuple[bytes, ...]]" = WeakKeyDictionary()
"""What each client offered by ALPN, by its SSLObject."""


def _watch_client_hellos(context: ssl.SSLContext) -> None:
    def seen(connection: Any, direction: str, version: Any, content: Any, message: Any, octets: bytes) -> None:
        if direction == "read" and message == _CLIENT_HELLO and content == 22:
            _offered[connection] = offered_protocols(octets)

    watch: Callable[..., None] = seen
    context._msg_callback = watch  # type: ignore[attr-defined]


def offered_protocols(client_hello: bytes) -> tuple[bytes, ...]:
    """The protocols in the ALPN extension of a ClientHello (RFC 8446 §4.1.2, RFC 7301 §3.1); empty if it has none."""
    try:
        at = 4 + 2 + 32
        at += 1 + client_hello[at]  # session id
        at += 2 + int.from_bytes(client_hello[at : at + 2], "big")  # cipher suites
        at += 1 + client_hello[at]  # compression methods
        end = at + 2 + int.from_bytes(client_hello[at : at + 2], "big")
        at += 2
        while at < end:
            kind, size = struct.unpack_from("!HH", client_hello, at)
            if kind == _ALPN:
                return _protocols(client_hello[at + 6 : at + 4 + size])
            at += 4 + size
    except (IndexError, struct.error):
        pass  # OpenSSL, which has the say, refuses it
    return ()


def _protocols(listed: bytes) -> tuple[bytes, ...]:
    found = []
    at = 0
    while at < len(listed):
        found.append(listed[at + 1 : at + 1 + listed[at]])
        at += 1 + listed[at]
    return tuple(found)


def alpn_of(connection: "ssl.SSLObject | ssl.SSLSocket") -> str:
    """What was agreed on: "dot", "" for an absent offer, else what the other one wanted instead."""
    selected = connection.selected_alpn_protocol()
    if selected is not None:
        return selected
    if not connection.server_side:
        return ""
    return b",".join(_offered.get(connection, (b"unknown",))).decode("ascii", "backslashreplace")
