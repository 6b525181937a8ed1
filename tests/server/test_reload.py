"""`rootsrv reload` while queries come: identity and cookies change (RFC 9018 §5), and nobody notices but by these."""

import os
import re
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.query
import pytest

from tests.server.live import REPOSITORY, SERIALS, Instance, running, wait_until

OLD, NEW = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"
WORKERS = 2


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[Instance]:
    """An instance of two workers that requires cookies, so that a wrong secret shows."""
    with running(tmp_path, workers=WORKERS, service=cookies(OLD)) as made:
        yield made


def cookies(secret: str, *previous: str) -> str:
    """The section, to stand behind [service]."""
    listed = ", ".join(f'"{each}"' for each in previous)
    return f'[cookies]\nsecret = "{secret}"\nprevious_secrets = [{listed}]\nrequire_server_cookie = true\n'


def rewrite(instance: Instance, pattern: str, new: str) -> None:
    path = instance.directory / "rootsrv.toml"
    text, changed = re.subn(pattern, new, path.read_text(), count=1, flags=re.DOTALL)
    assert changed == 1
    path.write_text(text)


def command_reload(instance: Instance) -> "subprocess.CompletedProcess[str]":
    command = (sys.executable, "-m", "rootsrv", "reload", "--config", str(instance.directory / "rootsrv.toml"))
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)


def nsids(instance: Instance) -> set[bytes]:
    """What every worker says: each query comes from another port, so that both are met."""
    asked = dns.message.make_query(".", "SOA", use_edns=0, options=[dns.edns.GenericOption(dns.edns.NSID, b"")])
    asked.flags &= ~dns.flags.RD
    return {
        dns.query.udp(asked, "127.0.0.1", timeout=5, port=instance.port).options[0].to_wire() or b"" for _ in range(24)
    }


def full_cookie(instance: Instance) -> bytes:
    """Client and server cookie, as the first response gives them (RFC 7873 §5.4)."""
    return ask_with_cookie(instance, secrets.token_bytes(8))[1]


def ask_with_cookie(instance: Instance, cookie: bytes) -> tuple[int, bytes]:
    """Extended rcode and COOKIE of the response."""
    option = dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)
    asked = dns.message.make_query(".", "SOA", use_edns=0, options=[option])
    response = dns.query.udp(asked, "127.0.0.1", timeout=5, port=instance.port)
    return int(response.rcode()), response.options[0].to_wire() or b""


def test_all_workers_take_another_identity_and_secret_without_losing_a_query(instance: Instance) -> None:
    workers = instance.worker_pids()
    given = full_cookie(instance)
    assert [ask_with_cookie(instance, given)[0] for _ in range(12)] == [0] * 12
    connection = instance.connect()
    done = threading.Event()
    answered: list[int] = []
    lost: list[int] = []

    def ask_all_the_time() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(5)
            asking.connect(("127.0.0.1", instance.port))
            while not done.is_set():
                query = dns.message.make_query(f"n{len(answered)}.", "A")
                asking.send(query.to_wire())
                try:
                    response = asking.recv(4096)
                except TimeoutError:
                    lost.append(query.id)
                else:
                    answered.append(dns.message.from_wire(response).id)

    threads = [threading.Thread(target=ask_all_the_time) for _ in range(WORKERS)]
    for thread in threads:
        thread.start()
    try:
        rewrite(instance, 'nsid = "live.example"', 'nsid = "other.example"')
        rewrite(instance, r"\[cookies\].*?true\n", cookies(NEW, OLD))
        reloaded = command_reload(instance)
        wait_until(lambda: nsids(instance) == {b"other.example"}, "both workers have the new name")
    finally:
        done.set()
        for thread in threads:
            thread.join()

    assert (reloaded.returncode, reloaded.stdout, reloaded.stderr) == (0, "done\n", "")
    assert not lost
    assert len(answered) > 100
    # What the old secret made is good, and replaced by what the new one makes.
    replaced = {ask_with_cookie(instance, given) for _ in range(12)}
    assert {rcode for rcode, _ in replaced} == {0}
    assert all(cookie[:8] == given[:8] and cookie[16:] != given[16:] for _, cookie in replaced)
    assert instance.worker_pids() == workers
    query = dns.message.make_query(".", "SOA")
    connection.sendall(len(query.to_wire()).to_bytes(2, "big") + query.to_wire())
    assert len(connection.recv(4096)) > 12
    connection.close()
    assert instance.page.active == 1


def test_a_secret_that_is_taken_away_counts_no_more_and_a_worker_that_is_replaced_has_the_new_one(
    instance: Instance,
) -> None:
    given = full_cookie(instance)
    rewrite(instance, r"\[cookies\].*?true\n", cookies(NEW))
    instance.reload()  # as systemd does it

    badcookie = 23
    wait_until(lambda: {ask_with_cookie(instance, given)[0] for _ in range(12)} == {badcookie}, "nobody takes it")
    fresh = full_cookie(instance)
    killed = instance.worker_pids()[0]
    os.kill(killed, 9)
    wait_until(lambda: instance.is_ready() and instance.worker_pids()[0] not in (0, killed), "replaced")

    assert [ask_with_cookie(instance, fresh)[0] for _ in range(12)] == [0] * 12


def test_other_settings_and_another_zone_at_once_both_come_into_force(instance: Instance) -> None:
    instance.put_zone(1)
    rewrite(instance, 'nsid = "live.example"', 'nsid = "first.example"')
    instance.reload()
    wait_until(lambda: nsids(instance) == {b"first.example"}, "the first name")
    rewrite(instance, 'nsid = "first.example"', 'nsid = "second.example"')
    instance.reload()

    wait_until(lambda: nsids(instance) == {b"second.example"}, "the second name")
    wait_until(lambda: instance.page.active == 2 and instance.is_ready(), "the second version")
    assert nsids(instance) == {b"second.example"}
    assert instance.ask(".", "SOA").answer[0][0].serial == SERIALS[1]


def test_whatever_takes_a_restart_is_named_until_there_was_one_or_it_is_as_before(instance: Instance) -> None:
    """Neither the kernel fast path nor a capture's new key comes by itself, and to be told "done" misleads."""
    path = instance.directory / "rootsrv.toml"
    before = path.read_text()
    path.write_text(f'{before}\n[fastpath]\ntap_every = 7\n[capture]\n[report]\nport = 9354\n[log]\nformat = "json"\n')

    told = [command_reload(instance).stdout for _ in range(2)]
    path.write_text(before)
    told.append(command_reload(instance).stdout)

    later = "done (note: only after a restart: capture, fastpath, log, report)\n"
    assert told == [later, later, "done\n"]
    assert "only_after_restart=capture,fastpath,log,report" in instance.log


def test_an_error_in_the_file_changes_nothing_and_is_named(instance: Instance) -> None:
    rewrite(instance, 'nsid = "live.example"', f'nsid = "{"x" * 129}"')

    reloaded = command_reload(instance)

    assert reloaded.returncode == 2
    assert "identity.nsid: at most 128 octets, got 129" in reloaded.stderr
    instance.reload()
    wait_until(lambda: instance.log.count("reload refused") == 2, "both roles say so")
    assert nsids(instance) == {b"live.example"}
