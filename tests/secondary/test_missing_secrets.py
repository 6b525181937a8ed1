"""Secrets and certificates that cannot be had when an instance starts end nothing that is in service, and heal (D31).

Such a file is put on all instances alike, by whatever distributes configuration.
"""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from tests.secondary.certificates import Authority
from tests.secondary.maintained import Maintained, maintained
from tests.secondary.scripted import ScriptedPrimary, primary_section, scripted
from tests.secondary.versions import FIRST, version

SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IQ=="


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Maintained, ScriptedPrimary, int]]:
    """An instance with every kind of such a file, of which only the first primary needs none."""
    certified = Authority(tmp_path).certify("admin.example")
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text(SECRET)
    tls_port = free_port()
    more = f"""
[[key]]
name = "from-file.example."
secret_file = "{tmp_path}/secret"
[[primary]]
name = "with-a-file"
address = "127.0.0.1"
port = 1
key = "from-file.example."
zones = ["."]
[[primary]]
name = "at-a-url"
url = "https://127.0.0.1:1/root.zone"
tls_ca = "{tmp_path}/ca.pem"
zones = ["."]
[[peer]]
name = "peer"
address = "127.0.0.1"
key = "from-file.example."
zones = ["."]
"""
    tls = f'tls_certificate = "{certified.certificate}"\ntls_key = "{certified.key}"\ntls_port = {tls_port}\n'
    with scripted(version(FIRST)) as primary:
        with maintained(tmp_path / "box", primary_section(primary, "scripted") + more) as instance:
            instance.configuration.write_text(
                instance.configuration.read_text().replace("[admin]\n", f"[admin]\n{tls}")
            )
            instance.wait_for_serial(FIRST)
            assert instance.command("reload").returncode == 0, instance.log
            instance.wait(lambda: is_open(tls_port), "transfers over TLS")
            yield instance, primary, tls_port


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def taken(address: tuple[str, int]) -> socket.socket | None:
    """Somebody else's listening socket there; None while it cannot be had."""
    try:
        return socket.create_server(address)
    except OSError:
        return None


def primary_of(instance: Maintained, name: str) -> dict[str, object]:
    return next((each for each in instance.zone().get("primaries", []) if each["name"] == name), {})


def test_files_that_are_gone_when_the_machine_starts_silence_nothing_and_heal_when_they_are_back(
    running: tuple[Maintained, ScriptedPrimary, int], tmp_path: Path
) -> None:
    instance, primary, tls_port = running
    names = ("secret", "ca.pem", "admin.example.pem", "admin.example.key")
    kept = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    refused = instance.command("reload")
    assert refused.returncode == 1
    assert "No such file" in refused.stdout + refused.stderr
    assert is_open(tls_port)

    instance.kill()
    (instance.directory / "run" / "page").unlink()
    instance.start()
    instance.wait_for_serial(FIRST)
    primary.publish(version(FIRST + 1))
    instance.wait(instance.status, "it can be asked")
    instance.order("zone-refresh")
    instance.wait_for_serial(FIRST + 1)
    for name, key in (("with-a-file", "key.secret_file: "), ("at-a-url", "primary.at-a-url.tls_ca: ")):
        instance.wait(
            lambda name=name, key=key: key in str(primary_of(instance, name).get("last_error")), f"{name} told"
        )
    for told in ("keys cannot be had", "no transfers over TLS", "primary cannot be asked"):
        assert told in instance.log
    assert not is_open(tls_port)

    (tmp_path / "secret").touch(0o600)
    for name, octets in kept.items():
        (tmp_path / name).write_bytes(octets)
    instance.wait(lambda: is_open(tls_port), "transfers over TLS again")
    assert "keys can be had" in instance.log
    instance.wait(lambda: instance.order("zone-refresh") and _tries(instance), "both primaries are asked again")
    assert instance.serial() == FIRST + 1


def _tries(instance: Maintained) -> bool:
    """Whether both were spoken to: nobody listens where they should be."""
    told = [str(primary_of(instance, name).get("last_error")) for name in ("with-a-file", "at-a-url")]
    return not any("No such file" in each for each in told)


def test_an_administrative_address_that_is_not_there_yet_is_bound_when_it_is(tmp_path: Path) -> None:
    with scripted(version(FIRST)) as primary, contextlib.ExitStack() as stack:
        with maintained(tmp_path, primary_section(primary, "scripted")) as instance:
            instance.wait_for_serial(FIRST)
            instance.kill()
            (instance.directory / "run" / "page").unlink()
            other = stack.enter_context(instance.wait(lambda: taken(instance.admin), "the port is free"))
            instance.start()
            instance.wait_for_serial(FIRST)
            instance.wait(lambda: "admin addresses cannot be bound" in instance.log, "told")
            primary.publish(version(FIRST + 1))
            instance.order("zone-refresh")
            instance.wait_for_serial(FIRST + 1)
            other.close()
            instance.wait(lambda: is_open(instance.admin[1]), "bound")
