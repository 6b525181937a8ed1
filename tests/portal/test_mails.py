"""Mails and a real mail server that says no: to one of them, to us, with a 4xx; and what cannot be written as one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from rootsrv.portal.mails import FIRST_PAUSE_SECONDS
from rootsrv.portal.visits import Portal
from tests.portal.site import MailServer, portal_in

NOW = 1_800_000_000.0


class Particular(MailServer):
    """Says no to senders and recipients, too."""

    def __init__(self) -> None:
        super().__init__()
        self.of_senders = ""
        self.of_recipients: dict[str, str] = {}
        self.recipients: list[list[str]] = []

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        return self.of_senders or "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if refusal := self.of_recipients.get(address):
            return refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.recipients.append(envelope.rcpt_tos)
        return await super().handle_DATA(server, session, envelope)


@pytest.fixture
def server() -> Iterator[Particular]:
    made = Particular()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def portal(tmp_path: Path, server: Particular) -> Iterator[Portal]:
    made = portal_in(tmp_path, smtp_port=server.port)
    yield made
    made.accounts.register.close()


def waiting(portal: Portal) -> dict[str, tuple[int, float]]:
    """By recipient: how often it was tried, and when it is tried again."""
    rows = portal.accounts.register.rows("SELECT * FROM mails")
    return {row["recipient"]: (row["tries"], row["next"]) for row in rows}


def test_a_mail_that_cannot_be_written_holds_up_no_other(portal: Portal, server: Particular) -> None:
    # Of a register of before, whose pages took such an address.
    for each in ("=?utf-8?q?=0A?=@b.example", "a@b.example", "c@b.example"):
        portal.mails.put(each, "subject", "text\n", NOW)
    assert portal.mails.send(NOW) == 2
    assert server.recipients == [["a@b.example"], ["c@b.example"]]
    assert waiting(portal) == {}
    assert portal.mails.error == ""


def test_what_stands_in_a_subject_is_text(portal: Portal, server: Particular) -> None:
    portal.mails.put("a@b.example", "your server =?utf-8?q?x=0D=0ABcc:_z@d.example=0D=0A?= ä", "text\n", NOW)
    portal.mails.send(NOW)
    (mail,) = server.mails
    assert "Bcc" not in mail
    assert mail.get_payload() == "text\r\n"
    assert "\n" not in str(mail["Subject"]).replace("\r\n ", "")


def test_a_recipient_that_is_refused_is_dropped_or_put_off_and_the_others_go(
    portal: Portal, server: Particular
) -> None:
    server.of_recipients = {"gone@b.example": "550 no such mailbox", "full@b.example": "452 mailbox full"}
    for each in ("gone@b.example", "full@b.example", "a@b.example"):
        portal.mails.put(each, "subject", "text\n", NOW)
    assert portal.mails.send(NOW) == 1
    assert waiting(portal) == {"full@b.example": (1, NOW + FIRST_PAUSE_SECONDS)}


def test_a_server_that_ends_in_the_middle_counts_no_try_twice(portal: Portal, server: Particular) -> None:
    server.of_recipients = {"busy@b.example": "421 too busy, closing"}
    for each in ("a@b.example", "busy@b.example", "c@b.example"):
        portal.mails.put(each, "subject", "text\n", NOW)
    assert portal.mails.send(NOW) == 1
    assert {each: tries for each, (tries, _) in waiting(portal).items()} == {"busy@b.example": 1, "c@b.example": 1}


@pytest.mark.parametrize("reply", ["530 authentication required", "550 sender rejected", "451 try later"])
def test_a_server_that_refuses_us_delays_mails_and_loses_none(portal: Portal, server: Particular, reply: str) -> None:
    server.of_senders = reply
    for each in ("a@b.example", "c@b.example"):
        portal.mails.put(each, "subject", "text\n", NOW)
    assert portal.mails.send(NOW) == 0
    assert portal.mails.error
    assert set(waiting(portal)) == {"a@b.example", "c@b.example"}
    server.of_senders = ""
    assert portal.mails.send(NOW + FIRST_PAUSE_SECONDS) == 2
    assert portal.mails.error == ""
