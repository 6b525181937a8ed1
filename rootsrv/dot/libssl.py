"""libssl.so.3 through cffi: TLS 1.3 on a connection's descriptor, as a server.

Only what DNS over TLS uses.  No compiler is needed; what is declared here is the same in every OpenSSL 3.
"""
# Why not `ssl`: of Python 3.11 it can neither put one group before others nor refuse a wrong ALPN offer, and a socket
# object or two BIOs per connection cost more (bench/dot.py has both beside this).  asyncio's TLS transports leaked in
# 3.11 (CPython issue 109534); here a connection's memory ends with SSL_free.
#
# The thread's error queue is empty between calls, or SSL_get_error would tell of another connection's fault: whoever
# finds an error empties it.
#
# What comes in is read by us, much in one system call, and goes through a memory BIO; OpenSSL itself would read each
# record in two, head and body, and what it reads ahead it holds while nothing wakes us.  So an SSL_read never sees more
# than what was read in this turn, also where that is a thousand changes of keys.  What goes out it writes itself: that
# is one system call either way.
#
# ALPN is chosen by a callback.  It is ctypes' and not cffi's: libffi has ready-made trampolines for that one, while
# cffi's wants memory that is writable and executable, which MemoryDenyWriteExecute= refuses.

import ctypes
import errno
import functools
import os
from collections.abc import Sequence
from itertools import count, repeat, takewhile
from typing import Any, NoReturn

from rootsrv.process.c_declarations import declared

_LIBRARIES = ("libssl.so.3", "libcrypto.so.3")
_GROUPS = b"X25519:P-256:P-384"
DOT = b"dot"
"""The ALPN identification of DNS over TLS (IANA, RFC 7858)."""

RECORD_OCTETS = 16_384
"""The plain text of the largest record (RFC 8446 §5.1).  So much has room where it is read to, so that nothing is left
in OpenSSL while nothing wakes us (SSL_pending)."""

STEP_SESSIONS, STEP_OCTETS = 32, 512
"""`read_each`: of so many sessions, records of at most so many octets."""

_FED_OCTETS = 4096  # given to OpenSSL at once: a memory BIO keeps the room that it once had

_MAX_USELESS_READS = 2 * 16
"""Calls of SSL_read without plain text after which octets that came at once are too many: two for each KeyUpdate, which
costs a derivation of keys and an answer; nobody needs more than one.  Go's crypto/tls takes 16 such records, too."""

_TLS1_3 = 0x0304

# Commands of SSL_CTX_ctrl, options and modes (openssl/ssl.h, openssl/tls1.h).
_SET_MODE, _SET_SESSION_CACHE, _CLEAR_MODE, _CHAIN_CERTIFICATE, _SET_GROUPS, _SET_MINIMUM = 33, 44, 78, 89, 92, 123
_OP_IGNORE_UNEXPECTED_EOF, _OP_NO_TICKET, _OP_OUR_PREFERENCE, _OP_NO_RENEGOTIATION = 1 << 7, 1 << 14, 1 << 22, 1 << 30
_PARTIAL_WRITE, _MOVING_BUFFER, _AUTO_RETRY, _RELEASE_BUFFERS = 1, 2, 4, 16

_WANT_READ, _WANT_WRITE, _SYSTEM_CALL, _ZERO_RETURN = 2, 3, 5, 6  # SSL_get_error
_ALPN_GOOD, _ALPN_REFUSED = 0, 2  # SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_ALERT_FATAL

_ffi = declared(
    "libssl",
    """
const void *TLS_server_method(void);
void *SSL_CTX_new(const void *);
void SSL_CTX_free(void *);
long SSL_CTX_ctrl(void *, int command, long number, void *pointer);
uint64_t SSL_CTX_set_options(void *, uint64_t);
int SSL_CTX_set_num_tickets(void *, size_t);
int SSL_CTX_set_max_early_data(void *, uint32_t);
int SSL_CTX_use_certificate(void *, void *);
int SSL_CTX_use_PrivateKey(void *, void *);
int SSL_CTX_check_private_key(const void *);
void SSL_CTX_set_alpn_select_cb(void *, void *callback, void *);
void *SSL_new(void *);
void SSL_free(void *);
void SSL_set_bio(void *, void *, void *);
void SSL_set_accept_state(void *);
int SSL_is_init_finished(const void *);
int SSL_read(void *, void *, int);
int SSL_write(void *, const void *, int);
int SSL_shutdown(void *);
int SSL_get_error(const void *, int);
unsigned long ERR_get_error(void);
void ERR_clear_error(void);
void ERR_error_string_n(unsigned long, char *, size_t);
const void *BIO_s_mem(void);
void *BIO_new(const void *);
void *BIO_new_socket(int, int);
int BIO_free(void *);
int BIO_write(void *, const void *, int);
size_t BIO_ctrl_pending(void *);
void *d2i_X509(void **, const unsigned char **, long);
void X509_free(void *);
void *d2i_AutoPrivateKey(void **, const unsigned char **, long);
void EVP_PKEY_free(void *);
""",
)


class TlsUnavailable(OSError):
    """libssl.so.3 is not to be had, or does not do what is asked of it."""


class TlsFailed(OSError):
    """The connection is over: the other end has broken the protocol, or is gone."""


class _Library:
    """The functions of both libraries."""

    def __init__(self) -> None:
        try:
            ssl, crypto = map(_ffi.dlopen, _LIBRARIES)
        except OSError as error:
            raise TlsUnavailable(errno.ENOENT, f"OpenSSL 3 is not installed: {error}") from error
        for name in dir(ssl):
            function = getattr(crypto if name.startswith(("BIO_", "ERR_", "d2i_", "X509_", "EVP_")) else ssl, name)
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def reason(self) -> str:
        """What the error queue says first; it is empty afterwards."""
        code, text = self.ERR_get_error(), _ffi.new("char[256]")
        self.ERR_clear_error()
        self.ERR_error_string_n(code, text, 256)
        return str(_ffi.string(text).decode("ascii", "replace")) if code else "no reason given"


@functools.cache
def _library() -> _Library:
    return _Library()


class Context:
    """What all connections have in common: certificate, key, and what is not done (tickets, early data, TLS 1.2)."""

    def __init__(self, chain: Sequence[bytes], key: bytes) -> None:
        """*chain*: DER, our certificate first; *key*: DER of its private key.  TlsUnavailable says what is wrong."""
        self._library = library = _library()
        self.wrong_protocols = 0
        """Handshakes that were refused because something else than "dot" was offered by ALPN."""

        self.buffer = _ffi.new("char[]", RECORD_OCTETS)
        self.octets = _ffi.buffer(self.buffer)
        self._context = _ffi.gc(self._checked(library.SSL_CTX_new(library.TLS_server_method())), library.SSL_CTX_free)
        context = self._context
        self._checked(library.SSL_CTX_ctrl(context, _SET_MINIMUM, _TLS1_3, _ffi.NULL))
        groups = _ffi.new("char[]", _GROUPS)
        self._checked(library.SSL_CTX_ctrl(context, _SET_GROUPS, 0, groups))
        library.SSL_CTX_ctrl(context, _CLEAR_MODE, _AUTO_RETRY, _ffi.NULL)  # one record per read, whatever it is
        library.SSL_CTX_ctrl(context, _SET_MODE, _PARTIAL_WRITE | _MOVING_BUFFER | _RELEASE_BUFFERS, _ffi.NULL)
        library.SSL_CTX_ctrl(context, _SET_SESSION_CACHE, 0, _ffi.NULL)
        library.SSL_CTX_set_options(
            context, _OP_IGNORE_UNEXPECTED_EOF | _OP_NO_TICKET | _OP_OUR_PREFERENCE | _OP_NO_RENEGOTIATION
        )
        self._checked(library.SSL_CTX_set_num_tickets(context, 0))
        self._checked(library.SSL_CTX_set_max_early_data(context, 0))
        self._show(chain, key)
        self._choose = _ALPN_CALLBACK(self._choose_protocol)
        self._dot = ctypes.create_string_buffer(DOT, len(DOT))
        address = ctypes.cast(self._choose, ctypes.c_void_p).value
        library.SSL_CTX_set_alpn_select_cb(context, _ffi.cast("void *", address), _ffi.NULL)

    def _checked(self, result: Any) -> Any:
        if not result:
            raise TlsUnavailable(errno.EINVAL, f"OpenSSL: {self._library.reason()}")
        return result

    def _show(self, chain: Sequence[bytes], key: bytes) -> None:
        library, context = self._library, self._context
        for number, octets in enumerate(chain):
            certificate = self._checked(library.d2i_X509(_ffi.NULL, _pointer_to(octets), len(octets)))
            try:
                if number == 0:
                    self._checked(library.SSL_CTX_use_certificate(context, certificate))
                else:
                    self._checked(library.SSL_CTX_ctrl(context, _CHAIN_CERTIFICATE, 1, certificate))  # copies it
            finally:
                library.X509_free(certificate)
        private = self._checked(library.d2i_AutoPrivateKey(_ffi.NULL, _pointer_to(key), len(key)))
        try:
            self._checked(library.SSL_CTX_use_PrivateKey(context, private))
        finally:
            library.EVP_PKEY_free(private)
        self._checked(library.SSL_CTX_check_private_key(context))

    def _choose_protocol(self, _: int, chosen: Any, size: Any, offered: int, octets: int, __: int) -> int:
        """Called with what a client offers by ALPN (RFC 7301 §3.1); not at all if it offers nothing."""
        listed = ctypes.string_at(offered, octets)
        at = 0
        while at < octets:
            if listed[at + 1 : at + 1 + listed[at]] == DOT:
                chosen[0] = ctypes.addressof(self._dot)
                size[0] = len(DOT)
                return _ALPN_GOOD
            at += 1 + listed[at]
        self.wrong_protocols += 1
        return _ALPN_REFUSED

    def accept(self, descriptor: int) -> "TlsSession":
        """TLS on an accepted connection, whose *descriptor* stays the caller's.  TlsUnavailable: no memory."""
        library = self._library
        session = self._checked(library.SSL_new(self._context))
        incoming, outgoing = library.BIO_new(library.BIO_s_mem()), library.BIO_new_socket(descriptor, 0)
        if not (incoming and outgoing):
            library.BIO_free(incoming)
            library.BIO_free(outgoing)
            library.SSL_free(session)
            raise TlsUnavailable(errno.ENOMEM, f"OpenSSL: {library.reason()}")
        library.SSL_set_bio(session, incoming, outgoing)  # which are the session's from now on
        library.SSL_set_accept_state(session)
        return TlsSession(self, session, incoming, library)


_ALPN_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_ubyte),
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_void_p,
)


def _pointer_to(octets: bytes) -> Any:
    """A pointer that d2i functions move along *octets*."""
    return _ffi.new("const unsigned char **", _ffi.from_buffer("const unsigned char[]", octets))


class TlsSession:
    """TLS on one connection.  `end` it, or its memory is never given back."""

    __slots__ = ("_context", "_library", "incoming", "is_at_end", "ssl")

    def __init__(self, context: Context, ssl: Any, incoming: Any, library: _Library) -> None:
        self._context = context  # kept while the session lives, also when another certificate is shown to newcomers
        self._library = library
        self.ssl = ssl
        self.incoming = incoming
        """Where OpenSSL reads: what came goes in there."""

        self.is_at_end = False
        """Whether the other end has said that it sends no more."""

    @property
    def is_established(self) -> bool:
        """Whether the handshake is over."""
        return bool(self._library.SSL_is_init_finished(self.ssl))

    def read(self, octets: bytes) -> bytes:
        """The plain text that comes of *octets*, which were received; goes on with the handshake first.

        b"" if there is none yet, or `is_at_end`.  TlsFailed: the connection is over.
        """
        library, incoming = self._library, self.incoming
        records: list[bytes] = []
        useless = 0
        for at in range(0, len(octets), _FED_OCTETS):
            part = octets[at : at + _FED_OCTETS] if at or len(octets) > _FED_OCTETS else octets
            pending = len(part)
            if library.BIO_write(incoming, part, pending) != pending:
                raise TlsFailed(errno.ENOMEM, self._library.reason())
            while pending:
                record = self._read_record()
                pending = library.BIO_ctrl_pending(incoming)
                if record:
                    records.append(record)
                    continue
                if self.is_at_end:
                    return b"".join(records)
                useless += 1
                if useless > _MAX_USELESS_READS:
                    raise TlsFailed(errno.EPROTO, "too many records without plain text")
        return records[0] if len(records) == 1 else b"".join(records)

    def _read_record(self) -> bytes:
        """The plain text of the next record; b"" if it has none, or is not complete."""
        context = self._context
        size: int = self._library.SSL_read(self.ssl, context.buffer, RECORD_OCTETS)
        if size > 0:
            octets: bytes = context.octets[:size]
            return octets
        self.note_end(size)
        return b""

    def note_end(self, result: int) -> None:
        """SSL_read returned *result* and no plain text: `is_at_end` from now on, or nothing; TlsFailed: it is over."""
        if self._failure(result, _WANT_READ) == _ZERO_RETURN:
            self.is_at_end = True

    def write(self, octets: bytes | bytearray) -> int:
        """Send what there is room for; how much that was.

        BlockingIOError: no room; then the next `write` must begin with the same octets.  TlsFailed: it is over.
        """
        if len(octets) <= RECORD_OCTETS and isinstance(octets, bytes):
            # All of it or nothing, and cffi gives the address of a bytes object by itself.
            done: int = self._library.SSL_write(self.ssl, octets, len(octets))
            if done <= 0:
                self.cannot_write(done)
            return done
        with _ffi.from_buffer(octets) as pointer:
            sent, size = 0, len(octets)
            while sent < size:
                done = self._library.SSL_write(self.ssl, pointer + sent, size - sent)
                if done <= 0:
                    try:
                        self.cannot_write(done)
                    except BlockingIOError:
                        if not sent:
                            raise
                        break
                sent += done
        return sent

    def cannot_write(self, result: int) -> NoReturn:
        """SSL_write returned *result*: BlockingIOError, or TlsFailed."""
        if self._failure(result, _WANT_WRITE) == _ZERO_RETURN:
            raise TlsFailed(errno.EPIPE, "closed by the client")
        raise BlockingIOError

    def _failure(self, result: int, may_want: int) -> int:
        """What it means that a call returned *result*: it wants what it may, or is at the end; TlsFailed: it failed.

        Reading that wants to write is a failure, too: only who asks for new keys and does not read the answers, which
        fill what the kernel holds, can bring that about.
        """
        error: int = self._library.SSL_get_error(self.ssl, result)
        if error in (may_want, _ZERO_RETURN):
            return error
        if error == _SYSTEM_CALL:
            number = _ffi.errno or errno.ECONNRESET
            self._library.ERR_clear_error()
            raise TlsFailed(number, os.strerror(number))
        raise TlsFailed(errno.EPROTO, self._library.reason())

    def end(self, *, politely: bool) -> None:
        """Give its memory back; *politely*: tell the other end first (close_notify), if there is room for that."""
        if politely and self.is_established:
            self._library.SSL_shutdown(self.ssl)
            self._library.ERR_clear_error()
        self._library.SSL_free(self.ssl)
        self.ssl = self.incoming = _ffi.NULL


@functools.cache
def _step() -> tuple[Any, list[Any]]:
    """Room for what `read_each` reads: its octets, and where those of each session begin."""
    room = _ffi.new("char[]", STEP_SESSIONS * STEP_OCTETS)
    return _ffi.buffer(room), [room + number * STEP_OCTETS for number in range(STEP_SESSIONS)]


_IS_DONE = (0).__lt__  # what SSL_read or SSL_write returned, in C


def read_each(sessions: Sequence[TlsSession], octets: Sequence[bytes]) -> list[bytes | OSError]:
    """The plain text of each of *octets*, one whole record for each of *sessions*, without a line of Python between.

    b"": no more comes.  BlockingIOError: there is none in it; TlsFailed: the connection is over.
    """
    library = _library()
    buffer, places = _step()
    incoming = [each.incoming for each in sessions]
    if [*map(library.BIO_write, incoming, octets, map(len, octets))] != [*map(len, octets)]:
        raise TlsUnavailable(errno.ENOMEM, library.reason())
    plain: list[bytes | OSError] = []
    handles = [each.ssl for each in sessions]
    while (done := len(plain)) < len(handles):
        # It ends where one fails: the error queue is then that one's alone.
        sizes = takewhile(_IS_DONE, map(library.SSL_read, handles[done:], places, repeat(STEP_OCTETS)))
        plain.extend([buffer[at : at + size] for at, size in zip(count(0, STEP_OCTETS), sizes)])
        if len(plain) < len(handles):
            session = sessions[len(plain)]
            try:
                session.note_end(-1)
                plain.append(b"" if session.is_at_end else BlockingIOError())
            except TlsFailed as error:
                plain.append(error.with_traceback(None))
    return plain


def write_each(sessions: Sequence[TlsSession], octets: Sequence[bytes]) -> list[int | OSError]:
    """`TlsSession.write` for each of *sessions*, of at most RECORD_OCTETS each: how much, or what it raised."""
    library = _library()
    written: list[int | OSError] = []
    handles, sizes = [each.ssl for each in sessions], [*map(len, octets)]
    while (done := len(written)) < len(handles):
        called = map(library.SSL_write, handles[done:], octets[done:], sizes[done:])
        written += [*takewhile(_IS_DONE, called)]
        if len(written) < len(handles):
            try:
                sessions[len(written)].cannot_write(-1)
            except OSError as error:
                written.append(error.with_traceback(None))
    return written
