import socket

import pytest

from bench.peers.daemon import free_port
from rootsrv.server import sockets


def test_each_worker_has_a_socket_per_address_and_transport() -> None:
    bound = sockets.bind_all(("127.0.0.1", "::1"), free_port(), 2)
    try:
        assert sorted((each.worker, each.address, each.is_tcp) for each in bound) == sorted(
            (worker, address, is_tcp)
            for worker in (0, 1)
            for address in ("127.0.0.1", "::1")
            for is_tcp in (False, True)
        )
        assert not any(each.waiting() for each in bound)
    finally:
        for each in bound:
            each.socket.close()


def test_udp_sockets_send_whole_whatever_path_mtu_is_claimed() -> None:
    bound = sockets.bind_all(("127.0.0.1", "::1"), free_port(), 1)
    try:
        v4, v6 = (each.socket for each in bound if not each.is_tcp)
        assert v4.getsockopt(socket.IPPROTO_IP, 10) == 5  # IP_MTU_DISCOVER = IP_PMTUDISC_OMIT
        assert v6.getsockopt(socket.IPPROTO_IPV6, 23) == 5
        assert v6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    finally:
        for each in bound:
            each.socket.close()


def test_what_waits_is_seen_without_being_taken() -> None:
    port = free_port()
    bound = sockets.bind_all(("127.0.0.1",), port, 1)
    udp, tcp = bound
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("127.0.0.1", port))
        with socket.create_connection(("127.0.0.1", port)):
            assert (udp.waiting(), tcp.waiting()) == (True, True)
            assert udp.socket.recv(10) == b"x"
            tcp.socket.accept()[0].close()
            assert (udp.waiting(), tcp.waiting()) == (False, False)
    finally:
        for each in bound:
            each.socket.close()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_a_port_in_use_is_named(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # even if it would share
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        port = other.getsockname()[1]
        transport = "UDP" if kind == socket.SOCK_DGRAM else "TCP"

        with pytest.raises(sockets.CannotBind, match=rf"127.0.0.1 port {port} \({transport}\): the port is in use"):
            sockets.bind_all(("127.0.0.1",), port, 1)


def test_an_address_of_another_host_is_named() -> None:
    with pytest.raises(sockets.CannotBind, match=r"192.0.2.99 port 53 .*: the address is not on this host"):
        sockets.bind_all(("192.0.2.99",), 53, 1)
