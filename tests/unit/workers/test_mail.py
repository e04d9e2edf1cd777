"""The mail about a failed file: what it says, and that nothing in it can be more than text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from uuid import UUID

import pytest

from ledger.domain.base import LedgerEvent, Stamp
from ledger.domain.filejob import FileJob
from ledger.domain.words import Stage
from workers.mail_message import message_of

JOB_ID = UUID("0b0f4f3e-6a58-4a4c-9c6c-2a1f4b7a3d51")
START = datetime(2026, 4, 1, 9, 30, 0, 123456, tzinfo=UTC)
REFUSED = {
    "code": "value_invalid",
    "message": "Record 7 (line 8) of 'payments.csv' does not fit dataset 'payments', column 'amount'.",
    "remedy": "Correct it and send the file again. Nothing of this file stays loaded.",
    "record": 7,
    "line": 8,
    "byte_offset": None,
    "column": "amount",
}


def stamp(seconds: int, actor: str = "worker") -> Stamp:
    return Stamp(START + timedelta(seconds=seconds), actor, "request-1")


def story(
    *, filename: str = "payments.csv", records: int | None = 12_000, error: dict[str, Any] | None = None
) -> list[LedgerEvent]:
    """The events of a job that failed for good: in its load, or in its plan if there are no records."""
    job = FileJob.receive(
        JOB_ID,
        stamp(0, "anna"),
        sha256="ab" * 32,
        size=1_234_567,
        filename=filename,
        content_type="text/csv",
        door="http",
        dataset="payments",
    )
    if records is not None:
        dialect = {"format": "delimited", "encoding": "utf-8"}
        job.queue(stamp(1), format="delimited", dialect=dialect, parser_version="1", contract_version=1,
                  contract_digest="cd" * 32, plan="ef" * 32, data_start=10, chunks_total=4,
                  records=records)  # fmt: skip
    job.fail(
        stamp(2),
        stage=Stage.PLAN if records is None else Stage.LOAD,
        chunk=None if records is None else 3,
        attempt=2,
        error=REFUSED if error is None else error,
        rows_withdrawn=0 if records is None else 9_000,
    )
    return [event for event in job.pending_events if isinstance(event, LedgerEvent)]


def mail(public_url: str | None = None, **told: Any) -> EmailMessage:
    """The mail as whoever gets it reads it, after it went through the wire's bytes."""
    message = message_of(
        story(**told), sender="ledger@example.com", recipients=["anna@example.com", "ben@example.com"],
        public_url=public_url,
    )  # fmt: skip
    read = message_from_bytes(message.as_bytes(), policy=policy.default)
    assert isinstance(read, EmailMessage)
    return read


def body(message: EmailMessage) -> str:
    return str(message.get_content()).replace("\r\n", "\n")  # the wire's line ends


@pytest.mark.parametrize(
    ("records", "subject"),
    [
        (12_000, "payments.csv failed: 12,000 records not loaded into payments"),
        (1, "payments.csv failed: 1 record not loaded into payments"),
        (None, "payments.csv failed: not loaded into payments"),
    ],
)
def test_the_subject_says_what_failed_and_how_much(records: int | None, subject: str) -> None:
    assert mail(records=records)["Subject"] == subject


def test_the_body_says_what_where_why_and_what_to_do() -> None:
    lines = [" ".join(line.split()) for line in body(mail()).splitlines()]
    for line in (
        f"Why: {REFUSED['message']}",
        f"What to do: {REFUSED['remedy']}",
        "Stage: load",
        "Chunk: 3",
        "Record: 7",
        "Line: 8",
        "Column: amount",
        "File: payments.csv",
        "Dataset: payments",
        "Size: 1,234,567 bytes",
        "Records: 12,000",
        f"Job: {JOB_ID}",
        "Sent by: anna, http",
        "Received at: 2026-04-01 09:30:00+00:00",
        "Failed at: 2026-04-01 09:30:02+00:00",
        "Attempts: 2",
        "Rows withdrawn: 9,000",
        f"Look at it: ledger jobs show {JOB_ID}",
    ):
        assert line in lines
    assert not any("Byte" in line or "None" in line for line in lines), "what is not known is not said"


def test_an_error_of_which_little_is_known_is_told_all_the_same() -> None:
    told = body(mail(records=None, error={}))
    assert "unknown" in told
    assert "What to do" not in told
    assert "Chunk" not in told


def test_the_attempt_that_only_finds_the_others_exhausted_is_not_counted() -> None:
    error = {**REFUSED, "code": "attempts_exhausted"}
    assert "Attempts:       1\n" in body(mail(error=error))


@pytest.mark.parametrize("public_url", ["https://ledger.example.com", "https://ledger.example.com/"])
def test_the_link_leads_to_the_job(public_url: str) -> None:
    assert f"https://ledger.example.com/api/v1/jobs/{JOB_ID}\n" in body(mail(public_url))
    assert "/api/v1/" not in body(mail())


def test_the_headers_say_whose_mail_it_is_and_that_a_machine_wrote_it() -> None:
    message = mail()
    assert message["From"] == "ledger@example.com"
    assert message["To"] == "anna@example.com, ben@example.com"
    assert message["Message-ID"] == f"<{JOB_ID}.3@example.com>"
    assert message["Date"].datetime == START.replace(microsecond=0) + timedelta(seconds=2)
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "text/plain"


def test_the_same_failure_is_always_the_same_mail() -> None:
    first, second = (
        message_of(story(), sender="ledger@example.com", recipients=["anna@example.com"], public_url=None)
        for _ in range(2)
    )
    assert first.as_bytes() == second.as_bytes()


HOSTILE = {
    "line ends": "a.csv\r\nBcc: thief@example.com\r\n\r\nYou won",
    "line end alone": "a.csv\nBcc: thief@example.com",
    "carriage return alone": "a.csv\rBcc: thief@example.com",
    "right to left": "invoice\u202evsc.exe",
    "isolates": "a\u2066b\u2069.csv",
    "surrogate": "a\udcff.csv",
    "separators": "a\u2028b\u2029c\x85d.csv",
    "controls": "a\x00b\x1b[31mc\x7f.csv",
    "encoded word": "=?utf-8?q?a.csv=0D=0ABcc:_thief@example.com?=",
    "encoded direction": "=?utf-8?b?4oCu?= vsc.exe",
    "long": "x" * 4_000,
    "long and not ASCII": "ü" * 4_000 + "\r\nBcc: thief@example.com",
}


@pytest.mark.parametrize("filename", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_name_is_only_a_name(filename: str) -> None:
    error = {**REFUSED, "message": f"There is something in {filename!r}, {filename}.", "column": filename}
    message = mail(filename=filename, error=error)
    assert sorted(message.keys()) == [
        "Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "MIME-Version", "Message-ID",
        "Subject", "To",
    ]  # fmt: skip
    assert message["Subject"].endswith(" failed: 12,000 records not loaded into payments")
    assert len(message["Subject"]) < 600
    assert not [line for line in body(message).splitlines() if line.startswith(("Bcc", "You won"))]
    for character in "\r\x00\x1b\x7f\x85\u2028\u2029\u202e\u2066\udcff":
        assert character not in message["Subject"] + body(message)
    assert "\n" not in message["Subject"]


def test_an_honest_name_is_shown_as_it_is() -> None:
    name = "Überweisungen 2026 - 支払い 😀.csv"
    message = mail(filename=name)
    assert message["Subject"].startswith(f"{name} failed")
    assert f"File:           {name}\n" in body(message)


def test_a_hidden_character_can_be_recognised() -> None:
    assert mail(filename="invoice\u202evsc.exe")["Subject"].startswith("invoice\\u202evsc.exe failed")


def test_the_wire_carries_short_lines_of_ascii() -> None:
    long = {**REFUSED, "message": "ü" * 5_000}
    raw = message_of(
        story(filename="ü" * 200, error=long), sender="ledger@example.com", recipients=["anna@example.com"],
        public_url=None,
    ).as_bytes()  # fmt: skip
    assert raw.isascii()
    assert max(len(line) for line in raw.splitlines()) <= 998
