"""etcd: one node or three, with mutual TLS, as a mesh uses it; options as docs/mesh.md says."""

import contextlib
import datetime
import ipaddress
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.peers.daemon import PeerFailed, free_port, running, tool


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, of the nodes, and of clients by name."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.directory / "ca.pem"

    def certificate(self, name: str) -> Path:
        """Somebody's certificate."""
        return self.directory / f"{name}.pem"

    def key(self, name: str) -> Path:
        """Somebody's private key."""
        return self.directory / f"{name}.key"


@dataclass
class Node:
    """One node."""

    name: str
    client_port: int
    peer_port: int
    command: list[str]
    log: Path
    pid: int = 0
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def start(self, wait: bool = True) -> None:
        """Start it, or start it again."""

        def ready() -> bool:
            if not wait:
                return True
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.client_port), 0.2):
                return True
            return False

        self.pid = self.stack.enter_context(_until_stopped(self.name, self.command, self.log, ready))

    def kill(self) -> None:
        """At once (SIGKILL)."""
        os.kill(self.pid, signal.SIGKILL)
        self.stack.close()

    def freeze(self) -> None:
        """It lives and does nothing (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def _until_stopped(name: str, command: Sequence[str], log: Path, ready: object) -> Iterator[int]:
    try:
        with running(name, command, log, ready) as pid:  # type: ignore[arg-type]
            try:
                yield pid
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    except PeerFailed as failure:
        if "ended by itself" not in str(failure):
            raise


@dataclass
class Cluster:
    """Nodes that run."""

    nodes: list[Node]
    certificates: Certificates
    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    """In front of every command: `ip netns exec …`."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """URLs for clients."""
        return tuple(f"https://{self.address}:{node.client_port}" for node in self.nodes)

    def ctl(self, *arguments: str, client: str = "root", check: bool = True, given: str = "") -> str:
        """What `etcdctl` says, as somebody with *client*'s certificate; *given* is its standard input."""
        files = self.certificates
        done = subprocess.run(
            [*self.prefix, tool("etcdctl"), f"--endpoints={','.join(self.endpoints)}", f"--cacert={files.ca}",
             f"--cert={files.certificate(client)}", f"--key={files.key(client)}",
             "--command-timeout=5s", "--dial-timeout=3s", *arguments],
            capture_output=True, text=True, timeout=60, check=False, input=given, env=os.environ | {"ETCDCTL_API": "3"},
        )  # fmt: skip
        if check and done.returncode:
            raise PeerFailed(f"etcdctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr


@contextlib.contextmanager
def cluster(
    directory: Path,
    nodes: int = 1,
    *,
    clients: Sequence[str] = (),
    quota_octets: int = 0,
    address: str = "127.0.0.1",
    prefix: tuple[str, ...] = (),
) -> Iterator[Cluster]:
    """*nodes* nodes at *address* until the block ends; certificates for `root` and *clients*."""
    etcd = tool("etcd")
    files = make_certificates(directory / "certificates", ["root", *clients], address)
    made = []
    for number in range(nodes):
        made.append((f"etcd{number}", free_port(), free_port()))
    everybody = ",".join(f"{name}=https://{address}:{peer}" for name, _, peer in made)
    running_nodes = []
    for name, client, peer in made:
        command = [
            *prefix, etcd, "--name", name, "--data-dir", str(directory / name), "--log-level", "error",
            "--listen-client-urls", f"https://{address}:{client}",
            "--advertise-client-urls", f"https://{address}:{client}",
            "--listen-peer-urls", f"https://{address}:{peer}",
            "--initial-advertise-peer-urls", f"https://{address}:{peer}",
            "--initial-cluster", everybody, "--initial-cluster-token", str(directory.name),
            "--client-cert-auth", "--trusted-ca-file", str(files.ca),
            "--cert-file", str(files.certificate("node")), "--key-file", str(files.key("node")),
            "--peer-client-cert-auth", "--peer-trusted-ca-file", str(files.ca),
            "--peer-cert-file", str(files.certificate("node")), "--peer-key-file", str(files.key("node")),
            "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "5m",
            *(("--quota-backend-bytes", str(quota_octets)) if quota_octets else ()),
        ]  # fmt: skip
        running_nodes.append(Node(name, client, peer, command, directory / f"{name}.log"))
    started = Cluster(running_nodes, files, address, prefix)
    with contextlib.ExitStack() as stack:
        for node in running_nodes:
            stack.callback(node.stack.close)
            node.start(wait=False)
        _wait_until_healthy(started)
        yield started


def _wait_until_healthy(started: Cluster) -> None:
    for _ in range(40):
        if started.ctl("endpoint", "health", check=False).count("is healthy") == len(started.nodes):
            return
    raise PeerFailed("etcd: not healthy: " + "".join(node.log.read_text()[-500:] for node in started.nodes))


def make_certificates(directory: Path, clients: Sequence[str], address: str = "127.0.0.1") -> Certificates:
    """An authority, a certificate for the nodes at *address*, and one for each client."""
    directory.mkdir(parents=True, exist_ok=True)
    files = Certificates(directory)
    authority = ec.generate_private_key(ec.SECP256R1())
    issuer = "authority of the tests"
    _write(files, "ca", authority, _certificate(issuer, authority, issuer, authority, address))
    for name in ("node", *clients):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(files, name, key, _certificate(name, key, issuer, authority, address))
    return files


def _certificate(
    name: str, key: ec.EllipticCurvePrivateKey, issuer: str, signer: ec.EllipticCurvePrivateKey, address: str
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in {"127.0.0.1", address}]
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=key is signer, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(signer, hashes.SHA256())
    )


def _write(files: Certificates, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    files.certificate(name).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    octets = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.key(name).write_bytes(octets)
