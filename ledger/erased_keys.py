"""Whether the keys that are destroyed are those that the log says were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy.orm import Session

from ledger.database import rows
from ledger.event_store import EVENTS_TABLE
from ledger.findings import Finding


def findings_about_keys(session: Session) -> Iterator[Finding]:
    """What does not go with the log: see `ledger.verifier`, rule 5."""
    [(table,)] = rows(session, "SELECT to_regclass('subjects.keys')")
    if table is None:
        return
    # In one statement, for an erasure may be committed at any time.
    told = rows(
        session,
        f"SELECT NULL AS destroyed, id, state FROM {EVENTS_TABLE} WHERE topic = 'erasure.carried_out'"
        " UNION ALL SELECT subject, NULL, NULL FROM subjects.keys WHERE wrapped IS NULL",
    )
    erased: dict[str, int] = {}
    for row in told:
        if row.destroyed is None:
            with suppress(ValueError, KeyError, TypeError):  # one that was changed is a finding already
                erased[str(json.loads(bytes(row.state))["subject"])] = row.id
    for subject in sorted(row.destroyed for row in told if row.destroyed is not None):
        if subject not in erased:
            yield Finding("key_destroyed", f"The key of {subject} is destroyed, and no event says so.")
    for row in rows(
        session,
        "SELECT subject FROM subjects.keys WHERE wrapped IS NOT NULL AND subject = ANY(:erased) ORDER BY 1",
        erased=list(erased),
    ):
        message = f"The key of {row.subject} is there again, though it was destroyed. Erase it once more."
        yield Finding("key_restored", message, erased[row.subject])
