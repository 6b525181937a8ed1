"""`rootsrv doctor` of a LocalRoot service: what it needs, and nothing of what an instance needs."""

import socket
from pathlib import Path

import pytest

from bench.peers.daemon import free_port
from rootsrv.commands.doctor import examine
from rootsrv.config import file as config_file
from rootsrv.doctor.finding import Finding, Grade
from tests.needs import require_root
from tests.portal.site import MailServer


def configured(directory: Path, *, portal: str = "", **changed: object) -> Path:
    values = {"name": '"localroot.example"', "addresses": '["127.0.0.1"]', "port": free_port("127.0.0.1"), **changed}
    text = "[localroot]\n" + "\n".join(f"{key} = {value}" for key, value in values.items())
    text += '\n[[zone]]\nname = "."\ntrust_anchors = "anchors"\nzonemd = "required"\n'
    text += f'[service]\naddresses = ["127.53.53.53"]\n[state]\ndirectory = "{directory}/state"\n'
    text += f'runtime_directory = "{directory}/run"\n{portal}'
    (directory / "anchors").write_text("")
    path = directory / "localroot.toml"
    path.write_text(text)
    return path


def found(path: Path) -> dict[str, Finding]:
    return {each.about: each for each in examine(config_file.load(path), path, path.with_name("network.conf"))}


def test_nothing_is_said_of_what_it_does_not_need(tmp_path: Path) -> None:
    told = found(configured(tmp_path))
    assert told["address 127.0.0.1"].grade is Grade.GOOD
    assert "no transfers over TLS" in told["certificate"].found
    assert "there are none" in told["pages"].found
    for word in ("BIRD", "network", "fast path", "BPF", "service address"):
        assert [about for about in told if word in about] == []
    assert "rootsrv-localroot.service" in told[f"state directory {tmp_path}/state"].remedy


def test_what_is_wrong_is_told_with_what_to_do(tmp_path: Path) -> None:
    require_root()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        portal = '[portal]\nurl = "https://p.example"\nmail_from = "a@p.example"\n'
        portal += f"smtp_port = {free_port('127.0.0.1')}\nport = {free_port('127.0.0.1')}\n"
        told = found(
            configured(
                tmp_path,
                portal=portal,
                addresses='["127.0.0.1", "192.0.2.99"]',
                port=port,
                tls_certificate='"none.pem"',
                tls_key='"none.key"',
            )
        )
    wrong = {about: each for about, each in told.items() if each.grade is Grade.BAD}
    assert f"TCP port {port} of 127.0.0.1" in wrong
    assert "is on no interface" in wrong["address 192.0.2.99"].found
    assert "No such file" in wrong[f"certificate {tmp_path}/none.pem"].found
    assert "refused" in wrong["mails"].found
    assert "secrets" not in told  # one that is not there is no secret kept
    assert all(each.remedy for each in wrong.values())


@pytest.mark.parametrize("contact", ["", "us"])
def test_pages_with_a_mail_server_are_good(tmp_path: Path, contact: str) -> None:
    mail = MailServer()
    mail.start()
    try:
        portal = f'[portal]\nurl = "https://p.example"\nmail_from = "a@p.example"\nsmtp_port = {mail.port}\n'
        portal += f'contact = "{contact}"\nport = {free_port("127.0.0.1")}\n'
        told = found(configured(tmp_path, portal=portal))
    finally:
        mail.stop()
    assert told["mails"].grade is Grade.GOOD
    assert told["pages"].grade is (Grade.GOOD if contact else Grade.REMARK)
