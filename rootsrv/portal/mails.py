"""Mails: kept in the register until a mail server has taken them, however long it is down."""
# A page never waits for a mail server.  One that is down is tried again, later and later; what it refuses for good is
# dropped and logged.  So is one that cannot be written down at all: no mail holds up another.
#
# What strangers write stands in headers: an address, which was checked, and the name of a server.  Python's email reads
# encoded words (RFC 2047) in what it is given, so that `=?utf-8?q?=0D=0A…?=` would be a line break, and in an address
# another recipient: there are none in either, and the envelope has the address itself.

import contextlib
import email.policy
import email.utils
import smtplib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from email.message import EmailMessage
from pathlib import Path

from rootsrv.config.portal import PortalConfig
from rootsrv.distribution.tls import client_context
from rootsrv.localroot.register import Register
from rootsrv.localroot.servers import NotAccepted
from rootsrv.portal.counting import Happenings
from rootsrv.process import log

MAX_WAITING = 5000
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 3600.0
KEPT_SECONDS = 3 * 86_400.0
"""After that a mail is given up."""

AT_A_TIME = 50
_SMTP_SECONDS = 20.0


class MailFailed(Exception):
    """The mail server cannot be reached or does not take anything now."""


class Mails:
    """What waits, and the way to the mail server."""

    def __init__(self, register: Register, config: PortalConfig, happened: Happenings) -> None:
        self._register = register
        self._happened = happened
        self._config = config
        self.error = ""
        """Why the mail server took nothing last; empty = it did."""

        self.on_put: Callable[[], object] = lambda: None
        """Called, in whichever thread, when there is one more."""

    @property
    def can_send(self) -> bool:
        """Whether there is a mail server at all."""
        return bool(self._config.mail_from)

    def put(self, recipient: str, subject: str, body: str, now: float) -> None:
        """Have it sent.  NotAccepted when there is no mail server, or too much waits for it."""
        if not self.can_send:
            raise NotAccepted("email", "this service sends no mail")
        with self._register.writing() as database:
            if database.execute("SELECT count(*) FROM mails").fetchone()[0] >= MAX_WAITING:
                raise NotAccepted("email", "mail cannot be sent just now: please try again later")
            database.execute(
                "INSERT INTO mails (recipient, subject, body, created, next) VALUES (?, ?, ?, ?, ?)",
                (recipient, subject, body, now, now),
            )
        self._happened.add("mails", "queued")
        self.on_put()

    def put_what_can_be(self, recipients: Iterable[str], letter: tuple[str, str], now: float) -> NotAccepted | None:
        """Have *letter* sent to each; why one of them cannot be told, if so: what it tells of is done already."""
        hindered = None
        for each in recipients:
            try:
                self.put(each, *letter, now)
            except NotAccepted as error:
                hindered = error
        return hindered

    def waiting(self) -> int:
        """How many."""
        row = self._register.row("SELECT count(*) AS waiting FROM mails")
        return int(row["waiting"]) if row else 0

    def send(self, now: float) -> int:
        """Send what is due, one connection for all, in whichever thread this is called; how many were taken."""
        rows = self._register.rows("SELECT * FROM mails WHERE next <= ? ORDER BY next LIMIT ?", now, AT_A_TIME)
        if not rows:
            return 0
        sent = 0
        left = {row["id"]: row["tries"] for row in rows}
        try:
            with self._connected() as server:
                for row in rows:
                    sent += self._send_one(server, row, now)
                    del left[row["id"]]
        except (OSError, smtplib.SMTPException, ValueError) as error:
            self._put_off(list(left.items()), now)
            self._happened.add("mails", "put-off", by=len(left))
            reason = f"{self._config.smtp_host} port {self._config.smtp_port}: {error}"
            if not self.error:
                log.alarm("mails cannot be sent", reason=reason, waiting=self.waiting())
            self.error = reason
        else:
            if self.error:
                log.event("mails can be sent again", sent=sent)
            self.error = ""
        self._give_up(now)
        return sent

    def _send_one(self, server: smtplib.SMTP, row: sqlite3.Row, now: float) -> bool:
        """Whether it was taken; SMTPException, OSError when the server takes nothing at all."""
        number = row["id"]
        try:
            message = self._message(row["recipient"], row["subject"], row["body"], number)
        except Exception as error:  # whatever stands in this one, the others go
            log.alarm("mail cannot be written", mail=number, error=f"{type(error).__name__}: {error}")
            self._drop(number, "refused")
            return False
        try:
            server.sendmail(self._config.mail_from, [row["recipient"]], message)
        except smtplib.SMTPSenderRefused:
            raise  # it is we who are refused, whoever the mail is to
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPResponseException) as error:
            self._refused(number, error, row["tries"], now)
            return False
        self._drop(number, "sent")
        return True

    def _drop(self, number: int, why: str) -> None:
        with self._register.writing() as database:
            database.execute("DELETE FROM mails WHERE id = ?", (number,))
        self._happened.add("mails", why)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        config = self._config
        context = client_context("portal.smtp_tls")
        server: smtplib.SMTP
        if config.smtp_tls == "tls":
            server = smtplib.SMTP_SSL(config.smtp_host, config.smtp_port, timeout=_SMTP_SECONDS, context=context)
        else:
            server = smtplib.SMTP(config.smtp_host, config.smtp_port, timeout=_SMTP_SECONDS)
        with server:
            if config.smtp_tls == "starttls":
                server.starttls(context=context)
            if config.smtp_user:
                server.login(config.smtp_user, Path(config.password_file).read_text(encoding="utf-8").strip())
            yield server

    def _message(self, recipient: str, subject: str, body: str, number: int) -> bytes:
        message = EmailMessage()
        message["From"] = email.utils.formataddr((self._config.title, self._config.mail_from))
        message["To"] = recipient
        message["Subject"] = subject.replace("=?", "= ?")  # no encoded word
        message["Date"] = email.utils.formatdate(usegmt=True)
        message["Message-ID"] = email.utils.make_msgid(str(number), self._config.host)
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation answers to it
        message.set_content(body)
        return message.as_bytes(policy=email.policy.SMTP)

    def _refused(self, number: int, error: Exception, tries: int, now: float) -> None:
        """This one, not the others."""
        codes = (
            [code for code, _ in error.recipients.values()]
            if isinstance(error, smtplib.SMTPRecipientsRefused)
            else [getattr(error, "smtp_code", 0)]
        )
        if codes and min(codes) >= 500:
            log.alarm("mail refused", code=min(codes), mail=number)
            self._drop(number, "refused")
        else:
            self._put_off([(number, tries)], now)

    def _put_off(self, mails: list[tuple[int, int]], now: float) -> None:
        with self._register.writing() as database:
            for number, tries in mails:
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(tries, 20))
                database.execute("UPDATE mails SET tries = tries + 1, next = ? WHERE id = ?", (now + pause, number))

    def _give_up(self, now: float) -> None:
        with self._register.writing() as database:
            given_up = database.execute("DELETE FROM mails WHERE created < ?", (now - KEPT_SECONDS,)).rowcount
        if given_up:
            self._happened.add("mails", "given-up", by=given_up)
            log.alarm("mails given up", mails=given_up, after_days=KEPT_SECONDS / 86_400)
