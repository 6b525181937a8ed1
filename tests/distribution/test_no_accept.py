"""Where the host has nothing for a connection to whoever gives zones out: it comes later, and all else goes on."""

import errno
import socket
import ssl
from pathlib import Path

import pytest

from rootsrv.demo import generate
from rootsrv.distribution import listener
from rootsrv.process import accepting
from rootsrv.wire.message import parse
from tests.distribution.service import query, send, service
from tests.framing import receive
from tests.process.listening import Listening
from tests.secondary.certificates import Authority

ONE = generate.root_contents(serial=1, tlds=60, seed=1)
LACKS = [errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EMFILE]


@pytest.mark.parametrize("over", ["tcp", "tls"])
@pytest.mark.parametrize("error", LACKS, ids=errno.errorcode.get)
def test_a_client_for_whom_the_host_has_nothing_is_answered_when_it_has(
    error: int, over: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(accepting, "AGAIN_SECONDS", 0.05)
    authority = Authority(tmp_path)
    certified = authority.certify("admin.example")
    tls = {"tls_certificate": str(certified.certificate), "tls_key": str(certified.key)}
    made_here: list[Listening] = []
    genuine = listener.held_back.bound

    def bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
        made = genuine(address, port, kind)
        if kind == socket.SOCK_STREAM:
            made_here.append(made := Listening(made, [error] * 3))
        return made

    monkeypatch.setattr(listener.held_back, "bound", bound)
    with service(tls=tls) as made:
        made.put(ONE)
        port = made.port if over == "tcp" else made.tls_port
        with socket.create_connection((made.address, port), timeout=20) as plain:
            assert parse(made.udp(query("SOA"))).rcode == 0
            client: socket.socket = plain
            if over == "tls":
                context = ssl.create_default_context(cafile=str(authority.path))
                context.check_hostname = False
                context.set_alpn_protocols(["dot"])
                client = context.wrap_socket(plain)
            with client:
                send(client, query("SOA"))
                assert parse(receive(client)).rcode == 0
        (which,) = (each for each in made_here if each.tries)
        assert which.tries == 3 + 2, "each that succeeds is followed by one that finds nobody"
        assert made.call(lambda: len(made.listener._conversations)) <= 1
    assert caplog.text.count("administrative connection is not accepted") == 1
    assert caplog.text.count("administrative connections are accepted again") == 1
