"""What a mail says about a file that failed for good, or about a fiscal year that is to be closed.

Rules:
1. Composed from events of one stream and nothing else, so that the second copy of a mail is equal to the first, with
   the same Message-ID. Its date is that of the last of them.
2. What a sender chose (the name of the file) or what quotes a sender (the error's message) can neither add a header
   nor make a line look like another: characters that nobody sees are shown by their escapes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from email.message import EmailMessage
from email.policy import SMTP

from ledger.domain.base import LedgerEvent
from ledger.domain.filejob import FileJob
from ledger.domain.fiscal_year import FiscalYear

SUBJECT_NAME_CHARACTERS_MAX = 80
# Controls, direction marks, surrogates, private use, unassigned, separators of lines.
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
LABEL_CHARACTERS = 16

Line = tuple[str, object]


def message_of(
    story: Sequence[LedgerEvent], *, sender: str, recipients: Sequence[str], public_url: str | None
) -> EmailMessage:
    """The mail about the event that ends `story`: those of a job or of a year, from the first one to that."""
    last = story[-1]
    subject, body = _of_year(story) if isinstance(last, FiscalYear.Proposed) else _of_job(story, public_url)
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Subject"] = subject
    message["Date"] = last.timestamp
    host = sender.rpartition("@")[2]
    message["Message-ID"] = f"<{last.originator_id}.{last.originator_version}@{host}>"
    message["Auto-Submitted"] = "auto-generated"
    # Quoted-printable passes every server on the way, also one that knows only ASCII and short lines.
    message.set_content(body, cte="quoted-printable")
    return message


def seen(text: object) -> str:
    """A text on one line, in which every character can be seen."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in UNSEEN else character
        for character in str(text)
    )


def _of_job(story: Sequence[LedgerEvent], public_url: str | None) -> tuple[str, str]:
    received, failed = story[0], story[-1]
    assert isinstance(received, FileJob.Received)
    assert isinstance(failed, FileJob.Failed)
    planned = [event.records for event in story if isinstance(event, FileJob.Queued)]
    records = planned[-1] if planned else None
    return _subject(received, records), _body(received, failed, records, public_url)


def _of_year(story: Sequence[LedgerEvent]) -> tuple[str, str]:
    opened, proposed = story[0], story[-1]
    assert isinstance(opened, FiscalYear.Opened)
    assert isinstance(proposed, FiscalYear.Proposed)
    label = proposed.label
    what = (
        "It is closed by itself now, if nothing is in the way."
        if proposed.closes_by_itself
        else "It stays open until somebody closes it."
    )
    paragraphs = [
        f"Fiscal year {label} ended more than {proposed.grace_days} days ago. {what}",
        _lines(
            ("From", opened.start),
            ("Up to", opened.end),
            ("Proposed at", proposed.timestamp.isoformat(" ", "seconds")),
            ("What to do", f"ledger archive close {label} --dry-run"),
            ("Look at it", f"ledger archive status {label}"),
        ),
    ]
    return f"Fiscal year {label} is to be closed", "\n\n".join(paragraphs) + "\n"


def _subject(received: FileJob.Received, records: int | None) -> str:
    name = received.filename
    if len(name) > SUBJECT_NAME_CHARACTERS_MAX:
        name = name[: SUBJECT_NAME_CHARACTERS_MAX - 1] + "…"
    what = "" if records is None else f"{records:,} record{'' if records == 1 else 's'} "
    # What begins an encoded word would be decoded, to whatever it hides.
    return f"{seen(name)} failed: {what}not loaded into {seen(received.dataset)}".replace("=?", "=\\x3f")


def _body(received: FileJob.Received, failed: FileJob.Failed, records: int | None, public_url: str | None) -> str:
    error = failed.error
    # The attempt that finds too many before it does no work itself.
    attempts = failed.attempt - (error.get("code") == "attempts_exhausted")
    paragraphs = [
        f"The file {seen(received.filename)} was not loaded into the dataset {seen(received.dataset)}."
        " It will not be tried again by itself.",
        _lines(
            ("Why", " ".join(str(error.get("message") or error.get("code") or "unknown").split())),
            ("What to do", " ".join(str(error.get("remedy") or "").split()) or None),
        ),
        _lines(
            ("Stage", failed.stage),
            ("Chunk", failed.chunk),
            ("Record", error.get("record")),
            ("Line", error.get("line")),
            ("Byte", error.get("byte_offset")),
            ("Column", error.get("column")),
            ("Error code", error.get("code")),
        ),
        _lines(
            ("File", received.filename),
            ("Size", f"{received.size:,} bytes"),
            ("Records", None if records is None else f"{records:,}"),
            ("Dataset", received.dataset),
            ("Job", failed.originator_id),
            ("Sent by", f"{received.actor}, {received.door}"),
            ("Received at", received.timestamp.isoformat(" ", "seconds")),
            ("Failed at", failed.timestamp.isoformat(" ", "seconds")),
            ("Attempts", attempts),
            ("Rows withdrawn", f"{failed.rows_withdrawn:,}"),
        ),
        _lines(
            ("Look at it", f"ledger jobs show {failed.originator_id}"),
            ("", None if public_url is None else f"{public_url.rstrip('/')}/api/v1/jobs/{failed.originator_id}"),
        ),
    ]
    return "\n\n".join(paragraphs) + "\n"


def _lines(*lines: Line) -> str:
    """One line for each value that is known, its label before it."""
    return "\n".join(
        f"{label + ':' if label else '':{LABEL_CHARACTERS}}{seen(value)}" for label, value in lines if value is not None
    )
