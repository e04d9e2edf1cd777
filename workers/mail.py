"""The mailer: it follows the log and sends one mail for each file that failed for good, and each year to be closed.

Rules:
1. The place in the log is the row `mail` of `work.positions`. Whoever sends holds it locked, so two mailers at once
   are safe: the one that does not get the row does nothing.
2. Without the row the mailer begins at the end of the log: mail that is turned on late is silent about the past.
3. One mail is one transaction: the server takes the mail, then the position behind its event is committed. A crash
   between the two sends it a second time, with the same Message-ID; none is passed over.
4. A server that is away, puts a mail off or refuses us (the login, say) costs time: the mailer waits, longer each
   time, and tries again. A mail that the server refuses for good is logged as an error, and the next one follows.
5. Credentials are sent only over TLS, to a server whose certificate is verified, and are in no log.
"""

from __future__ import annotations

import logging
import smtplib
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from urllib.parse import SplitResult, unquote, urlsplit

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger import telemetry
from ledger.application import Ledger
from ledger.database import LogListener
from ledger.domain.base import LedgerEvent
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear
from ledger.errors import PartUnavailableError
from ledger.event_log import LoggedEvent
from ledger.event_store import EVENTS_TABLE
from ledger.failpoints import failpoint
from ledger.settings import Settings
from workers.mail_message import message_of

log = logging.getLogger(__name__)

NAME = "mail"
BATCH_EVENTS = 500
IDLE_SECONDS_MAX = 1.0
PAUSE_SECONDS = 0.5
PORTS = {"smtp": 25, "smtps": 465}
REFUSED_FOR_GOOD = 500
# 530, authentication required: it is about us and not about this mail, so every other mail would go the same way.
LOGIN_WANTED = 530

Reply = tuple[int, bytes]


class Mailer:
    """Turns permanent failures in the log into mails. For settings with `smtp_url`."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        assert settings.smtp_url is not None
        assert settings.mail_from is not None
        self._ledger = ledger
        self._settings = settings
        self._url = urlsplit(settings.smtp_url.get_secret_value())
        self._sender = settings.mail_from
        # Whom the mail at this position need not be sent to any more, while it is tried again.
        self._settled: tuple[int, set[str]] = (0, set())

    def begin(self) -> None:
        """Take the place at the end of the log, if there is none yet."""
        with self._ledger.transaction() as session:
            session.execute(
                text(
                    "INSERT INTO work.positions (name, position)"
                    f" SELECT :name, coalesce(max(id), 0) FROM {EVENTS_TABLE} ON CONFLICT DO NOTHING"
                ),
                {"name": NAME},
            )

    def follow(self) -> int:
        """Follow the next events, up to the first that asks for a mail; how many were followed.

        Raises:
            OSError: the mail server cannot be reached or breaks off; the mail stays to be sent.
            PartUnavailableError: the same for the database, or the mail server puts the mail off.
        """
        with self._ledger.transaction() as session:
            position = self._locked_position(session)
            if position is not None:
                return self._follow_from(session, position)
        # There is no place yet, or another mailer holds it.
        self.begin()
        return 0

    def run(self, stop: threading.Event) -> None:
        """Follow until told to stop."""
        listener = LogListener(self._ledger.engine)
        failures = 0
        try:
            while not stop.is_set():
                try:
                    if not self.follow():
                        listener.wait(IDLE_SECONDS_MAX)
                    failures = 0
                except Exception as error:  # the edge of a thread: whatever went wrong, the mail is still to be sent
                    expected = isinstance(error, PartUnavailableError | OSError)
                    log.warning("the mailer waits: %s", error, extra={"action": "mailer_waits"}, exc_info=not expected)
                    stop.wait(min(self._settings.retry_seconds_max, PAUSE_SECONDS * 2 ** min(failures, 16)))
                    failures += 1
        finally:
            listener.close()

    def _locked_position(self, session: Session) -> int | None:
        found = session.execute(
            text("SELECT position FROM work.positions WHERE name = :name FOR UPDATE SKIP LOCKED"), {"name": NAME}
        ).scalar()
        return None if found is None else int(found)

    def _follow_from(self, session: Session, position: int) -> int:
        followed = 0
        for logged in self._ledger.events_after(position, BATCH_EVENTS):
            position = logged.position
            followed += 1
            if _asks_for_a_mail(logged.event):
                self._tell(logged)
                failpoint("mail_sent")
                break
        if followed:
            session.execute(
                text("UPDATE work.positions SET position = :position WHERE name = :name"),
                {"name": NAME, "position": position},
            )
        return followed

    def _tell(self, logged: LoggedEvent) -> None:
        """Send the mail about an event to everybody; return when nobody is left who may still get it."""
        stream, about = logged.event.originator_id, _about(logged.event)
        recipients = self._settings.recipients()
        story = [known.event for known in self._ledger.events_of(stream) if known.position <= logged.position]
        message = message_of(story, sender=self._sender, recipients=recipients, public_url=self._settings.public_url)
        if self._settled[0] != logged.position:
            self._settled = (logged.position, set())
        settled = self._settled[1]
        waiting = [recipient for recipient in recipients if recipient not in settled]
        if not waiting:  # sent before, but the position could not be committed
            return
        with self._connected() as server:
            refused = _hand_over(server, message, waiting)
        put_off = {recipient: reply for recipient, reply in refused.items() if not _is_for_good(reply)}
        settled.update(recipient for recipient in waiting if recipient not in put_off)
        _report(about, [recipient for recipient in waiting if recipient not in refused], refused)
        if put_off:
            raise PartUnavailableError(
                f"The mail server put off the mail about {about} to {', '.join(put_off)}"
                f" ({_shown(next(iter(put_off.values())))}).",
                "It is sent again by itself.",
            )

    @contextmanager
    def _connected(self) -> Iterator[smtplib.SMTP]:
        """The mail server, ready to take a mail."""
        host, port = self._url.hostname or "", self._url.port or PORTS[self._url.scheme]
        seconds_max = self._settings.smtp_seconds_max
        server = (
            smtplib.SMTP_SSL(host, port, timeout=seconds_max, context=_tls(verified=True))
            if self._url.scheme == "smtps"
            else smtplib.SMTP(host, port, timeout=seconds_max)
        )
        try:
            _enter(server, self._url)
            yield server
        finally:
            # How the server takes leave changes nothing about what it took before.
            with suppress(OSError):
                server.quit()
            server.close()


def _enter(server: smtplib.SMTP, url: SplitResult) -> None:
    """Encrypt the connection if that is possible, and log in if there are credentials."""
    server.ehlo_or_helo_if_needed()
    if url.scheme == "smtp" and server.has_extn("starttls"):
        # Without credentials it keeps out who only listens, as mail servers among themselves do.
        server.starttls(context=_tls(verified=url.username is not None))
    elif url.scheme == "smtp" and url.username is not None:
        raise PartUnavailableError(
            "The mail server offers no encryption (STARTTLS), so the password was not sent.",
            "Name in LEDGER_SMTP_URL a port that offers it, or use smtps://.",
        )
    if url.username is None:
        return
    try:
        server.login(unquote(url.username), unquote(url.password or ""))
    except (smtplib.SMTPException, UnicodeError) as error:
        # A server's answer may repeat what it was sent: only the code is told.
        code = getattr(error, "smtp_code", type(error).__name__)
        raise PartUnavailableError(
            f"The mail server did not take the login ({code}).", "Correct LEDGER_SMTP_URL."
        ) from None


def _tls(*, verified: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _hand_over(server: smtplib.SMTP, message: EmailMessage, recipients: Sequence[str]) -> dict[str, Reply]:
    """Offer the mail; the server's reply for each recipient who does not get it now."""
    try:
        return server.send_message(message, to_addrs=recipients)
    except smtplib.SMTPRecipientsRefused as error:
        # Nobody gets it, those included whom the server was not asked about because it hung up.
        return {recipient: error.recipients.get(recipient, (421, b"")) for recipient in recipients}
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        reply = error.smtp_error if isinstance(error.smtp_error, bytes) else error.smtp_error.encode()
        return dict.fromkeys(recipients, (error.smtp_code, reply))


def _asks_for_a_mail(event: LedgerEvent) -> bool:
    is_failure = isinstance(event, FileJob.Failed) and event.retry_at is None
    return is_failure or isinstance(event, FiscalYear.Proposed)


def _about(event: LedgerEvent) -> str:
    if isinstance(event, FiscalYear.Proposed):
        return f"fiscal year {event.label}"
    return f"job {event.originator_id}"


def _report(about: str, accepted: Sequence[str], refused: dict[str, Reply]) -> None:
    if accepted:
        telemetry.MAILS.add(len(accepted), {telemetry.OUTCOME: "sent"})
        log.info("sent a mail about %s", about, extra={"action": "mail_sent", "about": about})
    for recipient, reply in refused.items():
        if _is_for_good(reply):
            telemetry.MAILS.add(1, {telemetry.OUTCOME: "refused"})
            log.error(
                "the mail server refused the mail about %s to %s: %s",
                about,
                recipient,
                _shown(reply),
                extra={"action": "mail_refused", "about": about, "recipient": recipient},
            )


def _is_for_good(reply: Reply) -> bool:
    return reply[0] >= REFUSED_FOR_GOOD and reply[0] != LOGIN_WANTED


def _shown(reply: Reply) -> str:
    return f"{reply[0]} {reply[1].decode('ascii', 'replace')}"[:200].strip()
