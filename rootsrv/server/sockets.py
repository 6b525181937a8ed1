"""The sockets on which DNS is answered: bound by the parent, inherited by the workers."""
# Each worker has a socket of its own per address and transport (SO_REUSEPORT: the kernel spreads clients over them).
# The parent binds all of them before privileges are dropped and keeps them open: a replaced worker finds its queue.
# An IPv6 address that is tentative or dadfailed is bound as well (process/held_back.py): it answers when it comes.  So
# is one on a host on which IPv6 is switched off: what a sysctl does to all hosts alike must not take IPv4 along.

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rootsrv.process import held_back

# Names that Python 3.11 does not know (linux/in.h, linux/in6.h, asm-generic/socket.h).
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_OMIT = 5
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

UDP_BUFFER_OCTETS = 16 * 1024 * 1024
"""Some 12,000 queries of kernel memory: what arrives in 50 ms at 250,000 a second."""

TCP_SEND_BUFFER_OCTETS = 256 * 1024
"""What the kernel holds per connection of responses that a client has not read."""

BACKLOG = 4096
"""Connections that the kernel holds until we accept them; net.core.somaxconn caps it."""

_SIOCINQ = 0x541B
_TCP_INFO_UNACKED = struct.Struct("=24xI")  # of a listening socket: connections that wait to be accepted


class CannotBind(OSError):
    """A socket for an address cannot be had."""


@dataclass(frozen=True, slots=True)
class ServiceSocket:
    """One socket of one worker."""

    socket: socket.socket
    address: str
    worker: int

    @property
    def is_tcp(self) -> bool:
        """Whether it listens for connections."""
        return self.socket.type == socket.SOCK_STREAM

    def waiting(self) -> bool:
        """Whether a datagram or a connection waits in its queue."""
        if self.is_tcp:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            return bool(_TCP_INFO_UNACKED.unpack_from(info)[0])
        import fcntl  # not where there is no SIOCINQ either

        (octets,) = struct.unpack("i", fcntl.ioctl(self.socket.fileno(), _SIOCINQ, bytes(4)))
        return bool(octets)


def bind_all(addresses: Sequence[str], port: int, workers: int) -> list[ServiceSocket]:
    """A UDP and a TCP socket per address and worker; CannotBind names address and cause, and leaves none open."""
    sockets: list[ServiceSocket] = []
    addresses = held_back.of_known_families(addresses)
    try:
        for address in addresses:
            refuse_if_taken(address, port)
        for worker in range(workers):
            for address in addresses:
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    sockets.append(ServiceSocket(_bind(address, port, kind), address, worker))
    except OSError:
        for each in sockets:
            each.socket.close()
        raise
    return sockets


def listen_at(addresses: Sequence[str], port: int, worker: int) -> list[ServiceSocket]:
    """A TCP socket per address for one *worker*; CannotBind names address and cause, and leaves none open."""
    sockets: list[ServiceSocket] = []
    try:
        for address in held_back.of_known_families(addresses):
            refuse_if_taken(address, port, (socket.SOCK_STREAM,))
            sockets.append(ServiceSocket(_bind(address, port, socket.SOCK_STREAM), address, worker))
    except OSError:
        for each in sockets:
            each.socket.close()
        raise
    return sockets


def refuse_if_taken(
    address: str, port: int, kinds: Sequence[socket.SocketKind] = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
) -> None:
    """CannotBind if somebody answers at *address* and *port* already, or the address is not ours.

    SO_REUSEPORT would let us share the port with another process of the same user, which would take some queries.
    """
    for kind in kinds:
        probe = socket.socket(_family(address), kind)
        try:
            if kind == socket.SOCK_STREAM:  # connections in TIME_WAIT are no obstacle, a listener is
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            held_back.bind(probe, address, port)
        except OSError as error:
            raise _cannot_bind(address, port, kind, error) from error
        finally:
            probe.close()


def _bind(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(_family(address), kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            _set_udp_options(sock)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, TCP_SEND_BUFFER_OCTETS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        held_back.bind(sock, address, port)
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot_bind(address, port, kind, error) from error
    return sock


def _set_udp_options(sock: socket.socket) -> None:
    if sys.platform.startswith("linux"):
        # OMIT: never fragment by a path MTU that somebody else's ICMP message claims (RFC 9715 §3.1; D9).
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_OMIT)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_OMIT)
    for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, UDP_BUFFER_OCTETS)
        except OSError:  # needs CAP_NET_ADMIN; else as much as net.core.rmem_max and wmem_max allow
            sock.setsockopt(socket.SOL_SOCKET, plain, UDP_BUFFER_OCTETS)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET


_CAUSES = {
    errno.EADDRINUSE: "the port is in use",
    errno.EADDRNOTAVAIL: "the address is not on this host",
    errno.EACCES: "not permitted (a port below 1024 needs CAP_NET_BIND_SERVICE)",
    errno.EAFNOSUPPORT: "this host has no such address family",
}


def _cannot_bind(address: str, port: int, kind: socket.SocketKind, error: OSError) -> CannotBind:
    transport = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    cause = _CAUSES.get(error.errno or 0, error.strerror)
    return CannotBind(error.errno, f"{address} port {port} ({transport}): {cause}")
