"""Mail about failed files, on real PostgreSQL and a real mail server: one for each, whatever goes wrong in between."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from api.embedded.home import free_port
from ledger import failpoints, telemetry
from ledger.application import Arrival, Ledger
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import FiscalCalendar
from ledger.domain.words import OnDuplicate, Stage
from ledger.errors import PartUnavailableError
from ledger.failpoints import FailpointError
from ledger.settings import Settings
from ledger.year_records import save_year, year_to_decide_about
from tests.integration.smtp import WAIT_SECONDS_MAX, Postbox, certificate
from tests.waiting import wait_until
from workers.mail import Mailer
from workers.mail_message import message_of

STAMP = Stamp(datetime(2026, 4, 1, tzinfo=UTC), "anna", "request-1")
ANNA, BEN = "anna@example.com", "ben@example.com"
PASSWORD = "tulip/4711"
LOGIN = "smtp://ledger:tulip%2F4711@localhost"
MAIL_ALL = """
from ledger import failpoints
from ledger.application import Ledger
from ledger.settings import Settings
from workers.mail import Mailer
settings = Settings()
failpoints.use(settings.failpoints)
mailer = Mailer(Ledger(settings), settings)
while mailer.follow():
    pass
"""


@pytest.fixture
def postbox(ledger: Ledger) -> Postbox:
    """A mail server that nobody has started yet; the mailer's place is the end of the log."""
    forget_the_place(ledger)
    postbox = Postbox(free_port(0))
    mailer(ledger, postbox).begin()
    return postbox


def forget_the_place(ledger: Ledger) -> None:
    with ledger.transaction() as session:
        session.execute(text("DELETE FROM work.positions WHERE name = 'mail'"))


def place(ledger: Ledger) -> int:
    """How far the mailer has come, -1 if it has not begun."""
    with ledger.transaction() as session:
        found = session.execute(text("SELECT position FROM work.positions WHERE name = 'mail'")).scalar()
        return -1 if found is None else int(found)


def settings_of(postbox: Postbox, url: str = "smtp://127.0.0.1", to: str = ANNA) -> Settings:
    return Settings(
        smtp_url=f"{url}:{postbox.port}",
        mail_from="ledger@example.com",
        mail_to=to,
        retry_seconds_min=0.02,
        retry_seconds_max=0.02,
    )


def mailer(ledger: Ledger, postbox: Postbox, **settings: str) -> Mailer:
    return Mailer(ledger, settings_of(postbox, **settings))


def receive(ledger: Ledger, filename: str = "payments.csv") -> UUID:
    arrival = Arrival(uuid4(), uuid4().hex * 2, 110, filename, "text/csv", "payments")
    ledger.receive([arrival], STAMP, door="http", on_duplicate=OnDuplicate.RETURN)
    return arrival.job_id


def fail(ledger: Ledger, job_id: UUID, retry_at: datetime | None = None) -> str:
    """Fail a job; the Message-ID of the mail about it."""
    job = ledger.job(job_id)
    error = {"code": "x", "message": "It is broken.", "remedy": "Repair it."}
    job.fail(STAMP, stage=Stage.PLAN, chunk=None, attempt=1, error=error, retry_at=retry_at)
    ledger.save(job)
    return f"<{job_id}.{job.version}@example.com>"


def failed(ledger: Ledger, filename: str = "payments.csv") -> str:
    return fail(ledger, receive(ledger, filename))


def follow_all(mailer: Mailer) -> None:
    while mailer.follow():
        pass


@contextmanager
def running(mailer: Mailer, stop: threading.Event | None = None) -> Iterator[threading.Thread]:
    """The mailer as a thread, as the dispatcher's process runs it."""
    stop = stop or threading.Event()
    thread = threading.Thread(target=mailer.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(WAIT_SECONDS_MAX)
        assert not thread.is_alive(), "it does not stop"


def actions(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "action", "") for record in caplog.records]


class Counted:
    """Stands in for a counter of the telemetry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcomes: list[str] = []
        monkeypatch.setattr(telemetry, "MAILS", self)

    def add(self, amount: int, attributes: dict[str, str]) -> None:
        self.outcomes += [attributes[telemetry.OUTCOME]] * amount


def test_each_failure_for_good_is_one_mail_and_one_that_will_be_retried_is_none(
    ledger: Ledger, postbox: Postbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    receive(ledger)
    first = failed(ledger)
    fail(ledger, receive(ledger), retry_at=datetime(2026, 4, 2, tzinfo=UTC))
    again = receive(ledger)
    second = fail(ledger, again)
    job = ledger.job(again)
    job.retry(STAMP, reason="the server was repaired")
    ledger.save(job)
    third = fail(ledger, again)
    with postbox.serving():
        follow_all(mailer(ledger, postbox))
        follow_all(mailer(ledger, postbox))
    assert postbox.ids() == [first, second, third]
    assert place(ledger) == ledger.position()
    assert counted.outcomes == ["sent"] * 3


def test_the_mail_that_arrives_is_the_one_that_was_written(ledger: Ledger, postbox: Postbox) -> None:
    failed(ledger, "Überweisungen 支払い.csv")
    with postbox.serving():
        follow_all(mailer(ledger, postbox, to=f"{ANNA},{BEN}"))
    [mail] = postbox.mails
    assert mail.recipients == [ANNA, BEN]
    assert mail.message["To"] == f"{ANNA}, {BEN}"
    assert mail.message["Subject"] == "Überweisungen 支払い.csv failed: not loaded into payments"
    assert "It is broken." in mail.message.get_content()


def test_a_year_that_is_to_be_closed_is_one_mail(ledger: Ledger, postbox: Postbox) -> None:
    calendar = FiscalCalendar.parse("04-01", "UTC")
    with ledger.transaction() as session:
        year = year_to_decide_about(ledger, session, "FY1999-00", STAMP, calendar)
        year.propose(STAMP, grace_days=30, closes_by_itself=False)
        save_year(ledger, session, year)
    with postbox.serving():
        follow_all(mailer(ledger, postbox))
    assert len(postbox.mails) == 1
    message = message_of(
        [logged.event for logged in ledger.events_of(year.id)],
        sender="ledger@example.com",
        recipients=[ANNA],
        public_url=None,
    )
    assert message["Subject"] == "Fiscal year FY1999-00 is to be closed"
    said = message.get_content()
    assert "It stays open until somebody closes it." in said
    assert "ledger archive close FY1999-00 --dry-run" in said


def test_mail_that_is_turned_on_late_is_silent_about_the_past(ledger: Ledger, postbox: Postbox) -> None:
    forget_the_place(ledger)
    failed(ledger)
    with postbox.serving(), running(mailer(ledger, postbox)):
        wait_until(lambda: place(ledger) == ledger.position(), "it does not begin")
        late = failed(ledger)
        wait_until(lambda: postbox.mails, "no mail comes")
    assert postbox.ids() == [late]


def test_who_begins_again_keeps_the_place(ledger: Ledger, postbox: Postbox) -> None:
    before = place(ledger)
    failed(ledger)
    mailer(ledger, postbox).begin()
    assert place(ledger) == before


def test_who_was_stopped_goes_on_where_it_was(ledger: Ledger, postbox: Postbox) -> None:
    with postbox.serving():
        with running(mailer(ledger, postbox)):
            expected = [failed(ledger) for _ in range(3)]
            wait_until(lambda: len(postbox.mails) == 3, "the mails do not come")
            wait_until(lambda: place(ledger) == ledger.position(), "the place is not written")
        expected += [failed(ledger) for _ in range(2)]
        with running(mailer(ledger, postbox)):
            expected.append(failed(ledger))
            wait_until(lambda: place(ledger) == ledger.position(), "it does not go on")
    assert postbox.ids() == expected


def test_a_mail_server_that_is_away_costs_time_only(
    ledger: Ledger, postbox: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    with running(mailer(ledger, postbox)) as thread:
        expected = [failed(ledger), failed(ledger)]
        wait_until(lambda: actions(caplog).count("mailer_waits") >= 3, "it does not try")
        assert thread.is_alive()
        with postbox.serving():
            wait_until(lambda: place(ledger) == ledger.position(), "the mails do not come")
    assert postbox.ids() == expected


@pytest.mark.parametrize("answer", ["450 Later", "421 Closing", "530 Authentication required"])
@pytest.mark.parametrize("step", ["sender", "recipient", "data"])
def test_a_mail_that_is_put_off_is_sent_again(
    ledger: Ledger, postbox: Postbox, caplog: pytest.LogCaptureFixture, step: str, answer: str
) -> None:
    answers = {"sender": postbox.sender, "data": postbox.data, "recipient": []}[step]
    answers += [answer, answer]
    if step == "recipient":
        postbox.recipients[ANNA] = answers
    expected = [failed(ledger), failed(ledger)]
    with postbox.serving(), running(mailer(ledger, postbox)):
        wait_until(lambda: place(ledger) == ledger.position(), "the mails do not come")
    assert postbox.ids() == expected
    assert actions(caplog).count("mailer_waits") == 2


@pytest.mark.parametrize("step", ["sender", "recipient", "data"])
def test_a_mail_that_is_refused_for_good_is_said_and_holds_up_no_other(
    ledger: Ledger, postbox: Postbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    counted = Counted(monkeypatch)
    answers = {"sender": postbox.sender, "data": postbox.data, "recipient": []}[step]
    answers += ["552 Never"]
    if step == "recipient":
        postbox.recipients[ANNA] = answers
    failed(ledger)
    second = failed(ledger)
    with postbox.serving():
        follow_all(mailer(ledger, postbox))
    assert postbox.ids() == [second]
    [said] = [record for record in caplog.records if getattr(record, "action", "") == "mail_refused"]
    assert said.levelno == logging.ERROR
    assert ANNA in said.getMessage()
    assert "552 Never" in said.getMessage()
    assert counted.outcomes == ["refused", "sent"]


def test_who_is_refused_while_others_are_not_is_named(
    ledger: Ledger, postbox: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    postbox.recipients[ANNA] = ["550 Unknown"]
    failed(ledger)
    with postbox.serving():
        follow_all(mailer(ledger, postbox, to=f"{ANNA},{BEN}"))
    assert [mail.recipients for mail in postbox.mails] == [[BEN]]
    [said] = [record for record in caplog.records if getattr(record, "action", "") == "mail_refused"]
    assert getattr(said, "recipient", None) == ANNA


def test_who_is_put_off_gets_the_mail_later_and_nobody_gets_it_twice(ledger: Ledger, postbox: Postbox) -> None:
    postbox.recipients[ANNA] = ["452 Too many recipients", "451 Greylisted"]
    first, second = failed(ledger), failed(ledger)
    with postbox.serving(), running(mailer(ledger, postbox, to=f"{ANNA},{BEN}")):
        wait_until(lambda: place(ledger) == ledger.position(), "the mails do not come")
    got = [(mail.message_id, mail.recipients) for mail in postbox.mails]
    assert got == [(first, [BEN]), (first, [ANNA]), (second, [ANNA, BEN])]


def test_a_server_that_hangs_up_between_recipients_loses_none(ledger: Ledger, postbox: Postbox) -> None:
    postbox.recipients[BEN] = ["421 Closing"]
    expected = failed(ledger)
    with postbox.serving(), running(mailer(ledger, postbox, to=f"{ANNA},{BEN},carol@example.com")):
        wait_until(lambda: place(ledger) == ledger.position(), "the mail does not come")
    assert [(mail.message_id, mail.recipients) for mail in postbox.mails] == [
        (expected, [ANNA, BEN, "carol@example.com"])
    ]


@pytest.mark.parametrize("farewell", ["421 Closing", "500 What?", ""])
def test_a_server_that_takes_leave_badly_has_still_taken_the_mail(
    ledger: Ledger, postbox: Postbox, farewell: str
) -> None:
    postbox.farewell = farewell
    expected = failed(ledger)
    with postbox.serving():
        follow_all(mailer(ledger, postbox))
    assert postbox.ids() == [expected]


def test_a_mail_whose_place_could_not_be_written_is_not_sent_again_by_who_sent_it(
    ledger: Ledger, postbox: Postbox, tmp_path: Path
) -> None:
    expected = failed(ledger)
    sending = mailer(ledger, postbox)
    failpoints.use(tmp_path)
    (tmp_path / "mail_sent").write_text("raise")
    try:
        with postbox.serving():
            with pytest.raises(FailpointError):
                sending.follow()
            assert place(ledger) < ledger.position()
            follow_all(sending)
    finally:
        failpoints.use(None)
    assert (postbox.ids(), postbox.connections) == ([expected], 1)
    assert place(ledger) == ledger.position()


def test_while_one_mailer_sends_another_leaves_the_mail_to_it(ledger: Ledger, postbox: Postbox) -> None:
    expected = failed(ledger)
    postbox.hold = threading.Event()
    with postbox.serving():
        sending = threading.Thread(target=follow_all, args=(mailer(ledger, postbox),), daemon=True)
        sending.start()
        assert postbox.held.wait(WAIT_SECONDS_MAX)
        assert mailer(ledger, postbox).follow() == 0
        postbox.hold.set()
        sending.join(WAIT_SECONDS_MAX)
        assert not sending.is_alive()
        follow_all(mailer(ledger, postbox))
    assert postbox.ids() == [expected]


def test_two_mailers_at_once_send_each_mail_once(ledger: Ledger, postbox: Postbox) -> None:
    with postbox.serving(), running(mailer(ledger, postbox)), running(mailer(ledger, postbox)):
        expected = [failed(ledger) for _ in range(10)]
        wait_until(lambda: place(ledger) == ledger.position(), "the mails do not come")
    assert postbox.ids() == expected


def test_a_mailer_that_is_killed_sends_that_mail_again_as_the_same_and_the_others_once(
    ledger: Ledger, postbox: Postbox, tmp_path: Path
) -> None:
    expected = [failed(ledger) for _ in range(3)]
    settings = settings_of(postbox)
    assert settings.smtp_url is not None
    environment = {
        **os.environ,
        "LEDGER_DATABASE_URL": ledger.engine.url.render_as_string(hide_password=False),
        "LEDGER_SMTP_URL": settings.smtp_url.get_secret_value(),
        "LEDGER_MAIL_FROM": "ledger@example.com",
        "LEDGER_MAIL_TO": ANNA,
        "LEDGER_FAILPOINTS": str(tmp_path),
    }
    (tmp_path / "mail_sent").write_text("kill")
    command = [sys.executable, "-c", MAIL_ALL]
    with postbox.serving():
        killed = subprocess.run(command, env=environment, check=False, timeout=WAIT_SECONDS_MAX)
        assert (killed.returncode, postbox.ids()) == (-signal.SIGKILL, expected[:1])
        # PostgreSQL needs a moment to notice that the process is gone and its lock with it.
        wait_until(lambda: mailer_may_send(ledger), "the lock of the dead is kept")
        assert subprocess.run(command, env=environment, check=False, timeout=WAIT_SECONDS_MAX).returncode == 0
    assert postbox.ids() == [expected[0], *expected]
    assert place(ledger) == ledger.position()


def mailer_may_send(ledger: Ledger) -> bool:
    with ledger.transaction() as session:
        statement = "SELECT 1 FROM work.positions WHERE name = 'mail' FOR UPDATE SKIP LOCKED"
        return session.execute(text(statement)).scalar() is not None


def test_whatever_goes_wrong_in_the_ledger_costs_time_and_never_a_mail(
    ledger: Ledger, postbox: Postbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [PartUnavailableError("PostgreSQL is away."), ZeroDivisionError(), OSError("broken pipe")]
    real = Ledger.events_of

    def sometimes(self: Ledger, originator_id: UUID) -> Any:
        if errors:
            raise errors.pop(0)
        return real(self, originator_id)

    monkeypatch.setattr(Ledger, "events_of", sometimes)
    with postbox.serving(), running(mailer(ledger, postbox)) as thread:
        expected = [failed(ledger), failed(ledger)]
        wait_until(lambda: place(ledger) == ledger.position(), "the mails do not come")
        assert thread.is_alive()
    assert postbox.ids() == expected
    waits = [record for record in caplog.records if getattr(record, "action", "") == "mailer_waits"]
    assert [bool(record.exc_info) for record in waits] == [False, True, False], "our own mistake has its traceback"


def test_the_pause_grows_to_its_maximum_and_begins_anew_after_a_success(ledger: Ledger, postbox: Postbox) -> None:
    pauses: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(timeout or 0)
            return super().wait(0.001)

    settings = settings_of(postbox).model_copy(update={"retry_seconds_max": 3.0})
    failed(ledger)
    with running(Mailer(ledger, settings), Stop()):
        wait_until(lambda: len(pauses) >= 6, "it does not try again")
        with postbox.serving():
            wait_until(lambda: place(ledger) == ledger.position(), "the mail does not come")
        before = len(pauses)
        failed(ledger)
        wait_until(lambda: len(pauses) >= before + 3, "it does not try again")
    assert pauses[:6] == [0.5, 1, 2, 3, 3, 3]
    assert pauses[before : before + 3] == [0.5, 1, 2]


def test_credentials_go_only_through_an_encrypted_connection(
    ledger: Ledger, postbox: Postbox, caplog: pytest.LogCaptureFixture
) -> None:
    failed(ledger)
    with postbox.serving():
        with pytest.raises(PartUnavailableError, match="no encryption"):
            follow_all(mailer(ledger, postbox, url=LOGIN))
        assert postbox.connections == 1
    assert (postbox.logins, postbox.mails) == ([], [])


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_credentials_go_only_to_a_server_whose_certificate_is_good(
    ledger: Ledger, postbox: Postbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    tls, trusted = certificate(tmp_path)
    url = LOGIN.replace("smtp", scheme)
    expected = failed(ledger)
    with postbox.serving(tls, at_once=scheme == "smtps"):
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            follow_all(mailer(ledger, postbox, url=url))
        assert (postbox.logins, postbox.mails) == ([], [])
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            follow_all(mailer(ledger, postbox, url=url.replace("localhost", "127.0.0.1")))
        assert (postbox.logins, postbox.mails) == ([], [])
        follow_all(mailer(ledger, postbox, url=url))
    assert postbox.logins == [("ledger", PASSWORD)]
    assert [(mail.message_id, mail.user) for mail in postbox.mails] == [(expected, "ledger")]


def test_without_credentials_what_can_be_encrypted_is(ledger: Ledger, postbox: Postbox, tmp_path: Path) -> None:
    tls, _ = certificate(tmp_path)
    failed(ledger)
    with postbox.serving(tls):
        follow_all(mailer(ledger, postbox))
    assert [mail.encrypted for mail in postbox.mails] == [True]


def test_a_refused_login_waits_for_a_better_one_and_tells_no_password(
    ledger: Ledger, postbox: Postbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tls, trusted = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    expected = failed(ledger)
    with postbox.serving(tls):
        with running(mailer(ledger, postbox, url="smtp://ledger:wrong4711@localhost")):
            wait_until(lambda: actions(caplog).count("mailer_waits") >= 2, "it does not try")
        assert "wrong4711" in str(postbox.logins)
        assert postbox.mails == []
        assert "535" in caplog.text
        follow_all(mailer(ledger, postbox, url=LOGIN))
    assert postbox.ids() == [expected]
    told = [
        record.getMessage() + str(record.exc_info) for record in caplog.records if record.name.startswith("workers")
    ]
    assert not [line for line in told if "wrong4711" in line or PASSWORD in line]
