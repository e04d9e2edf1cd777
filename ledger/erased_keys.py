"""Whether the keys that are destroyed are those that the log says were."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.event_store import EVENTS_TABLE, content_of
from ledger.findings import Finding

NAMES_WITHOUT_KEY = f"""
SELECT id, originator_id FROM {EVENTS_TABLE} e
WHERE topic = 'filejob.received' AND position('"sealed":'::bytea IN state) > 0
    AND NOT EXISTS (SELECT FROM subjects.keys WHERE subject = 'job:' || e.originator_id) ORDER BY id
"""


def findings_about_keys(session: Session) -> Iterator[Finding]:
    """What does not go with the log: see `ledger.verifier`, rule 5."""
    [(table,)] = rows(session, "SELECT to_regclass('subjects.keys')")
    if table is None:
        return
    erased: dict[str, int] = {}
    for row in rows(session, f"SELECT id, state FROM {EVENTS_TABLE} WHERE topic = 'erasure.carried_out'"):
        event = content_of(bytes(row.state))
        if event is not None and "subject" in event:  # one that was changed is a finding already
            erased[str(event["subject"])] = row.id
    destroyed = {row.subject for row in rows(session, "SELECT subject FROM subjects.keys WHERE wrapped IS NULL")}
    for subject in sorted(destroyed - erased.keys()):
        yield Finding("key_destroyed", f"The key of {subject} is destroyed, and no event says so.")
    there = rows(session, "SELECT subject FROM subjects.keys WHERE subject = ANY(:erased)", erased=list(erased))
    for subject in sorted({row.subject for row in there} - destroyed):
        message = f"The key of {subject} is there again, though it was destroyed. Erase it once more."
        yield Finding("key_restored", message, erased[subject])
    for subject in sorted(erased.keys() - {row.subject for row in there}):
        message = f"That {subject} was erased is written down in the log, and no longer beside it."
        yield Finding("key_lost", message, erased[subject])
    for row in rows(session, NAMES_WITHOUT_KEY):
        message = (
            f"The name of the file of job {row.originator_id} cannot be read: its key is lost, and was not erased."
        )
        yield Finding("key_lost", message, row.id, row.originator_id)
