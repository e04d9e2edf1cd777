"""Erasing: the key of a subject is destroyed and the certificate appended, in one transaction.

Rules:
1. Nothing that is stored is rewritten: every event keeps its bytes, so every proof of the log still holds.
2. The name of a job's file is erased when the job has ended, for until then its file has to be read. What names a file
   that was received before names were sealed stands in the log as it is: its erasure is refused.
3. Asked for again, an erasure is the one that there is. Only if the key is there again, it is destroyed again.
4. What an erasure does not reach is told with it: `NOT_ERASED`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eventsourcing.utils import get_topic
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.database import lock, lock_job, rows
from ledger.domain.base import LedgerEvent, Stamp
from ledger.domain.erasure import Covered, Erasure, erasure_id
from ledger.domain.personal import actor_subject, field_of, job_subject
from ledger.errors import ConflictError, InvalidRequestError, NotFoundError
from ledger.event_store import EVENTS_TABLE
from ledger.failpoints import failpoint

NOT_ERASED = (
    "The rows that were loaded stay in the data tables, and refused records with the rejects.",
    "The file itself stays in the blob store, and an archive names the files in it.",
    "The name of a dataset stays, also where it was made from a file's name, and so do reasons that people typed.",
    "A backup of the table subjects.keys, and what PostgreSQL has not overwritten of it, can bring the key back to "
    "whoever has the master key: let these backups expire.",
    "Mails, answers, exports and logs of servers that were written before keep what they say.",
)


@dataclass
class Found:
    """What the log says of a subject: sealed fields by topic, the streams they stand in, and fields that are plain."""

    fields: Covered = field(default_factory=dict)
    streams: set[UUID] = field(default_factory=set)
    plain: int = 0


def erase_job(ledger: Ledger, job_id: UUID, stamp: Stamp, *, reason: str) -> Erasure:
    """Erase what names the file of a job.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has not ended, or its names are not sealed.
        InvalidRequestError: nothing says why.
    """
    _check_reason(reason)
    with ledger.transaction() as session:
        lock_job(session, job_id)
        job, subject = ledger.job(job_id), job_subject(job_id)
        found = _found(session, subject, "originator_id = :stream", stream=job_id)
        if found.plain:
            raise ConflictError(
                f"The file of job {job_id} was received before names were sealed: its name stands in the log as it is, "
                "and the log is never rewritten.",
                "It can be erased only with the log itself.",
            )
        erasure = _destroy(ledger, session, subject, found, stamp, reason)
        if not job.name_erased:
            job.erase_name(stamp, erasure=erasure.id)
        _append(ledger, session, erasure, job)
    failpoint("erasure_committed")
    return erasure


def erase_actor(ledger: Ledger, actor: str, stamp: Stamp, *, reason: str) -> Erasure:
    """Erase who is behind the pseudonym of an actor.

    Raises:
        NotFoundError: nothing that is sealed is said of such an actor.
        InvalidRequestError: nothing says why.
    """
    _check_reason(reason)
    with ledger.transaction() as session:
        subject = actor_subject(actor)
        lock(session, f"subject {subject}")
        # Its events are in many streams, but of few kinds, and each has its subject somewhere among its bytes.
        condition = "topic = ANY(:topics) AND position(convert_to(:written, 'UTF8') IN state) > 0"
        written = json.dumps(subject, ensure_ascii=False)
        found = _found(session, subject, condition, topics=sorted(_personal_kinds()), written=written)
        if not found.streams:
            raise NotFoundError(
                f"The log says nothing of an actor {actor!r} that could be erased.",
                "Name it as events do, by its pseudonym.",
            )
        erasure = _destroy(ledger, session, subject, found, stamp, reason)
        _append(ledger, session, erasure)
    failpoint("erasure_committed")
    return erasure


def last_name_erased(ledger: Ledger) -> int:
    """The position of the last event by which the name of a job's file was erased, 0 if there is none."""
    with ledger.transaction() as session:
        [found] = rows(
            session, f"SELECT coalesce(max(id), 0) AS position FROM {EVENTS_TABLE} WHERE topic = 'filejob.name_erased'"
        )
    return int(found.position)


def _check_reason(reason: str) -> None:
    if not reason.strip():
        raise InvalidRequestError("Nothing says why it is to be erased.", "Give a reason, for the record.")


def _destroy(ledger: Ledger, session: Session, subject: str, found: Found, stamp: Stamp, reason: str) -> Erasure:
    """Destroy the key; its certificate, with what is news of it."""
    known = ledger.erasure(erasure_id(subject))
    destroyed = ledger.subject_keys.destroy(session, subject)
    failpoint("erasure_key_destroyed")
    if known is None:
        return Erasure.carry_out(stamp, subject=subject, fields=found.fields, streams=len(found.streams), reason=reason)
    if destroyed:
        known.repeat(stamp, reason=reason)
    return known


def _append(ledger: Ledger, session: Session, *aggregates: Any) -> None:
    news = [aggregate for aggregate in aggregates if aggregate.pending_events]
    if news:
        ledger.save(*news, session=session)
    failpoint("erasure_appended")


def _found(session: Session, subject: str, condition: str, **parameters: Any) -> Found:
    """What events, of those that a condition selects, say of a subject."""
    found, kinds = Found(), _personal_kinds()
    for row in rows(session, f"SELECT originator_id, topic, state FROM {EVENTS_TABLE} WHERE {condition}", **parameters):
        if row.topic not in kinds:
            continue
        state = json.loads(bytes(row.state))
        for name in kinds[row.topic].PERSONAL:
            value = field_of(state, name)
            if isinstance(value, dict) and value.get("subject") == subject:
                counts = found.fields.setdefault(row.topic, {})
                counts[name] = counts.get(name, 0) + 1
                found.streams.add(row.originator_id)
            found.plain += isinstance(value, str)
    return found


def _personal_kinds() -> dict[str, type[LedgerEvent]]:
    """The classes of events that have personal fields, by topic."""
    return {get_topic(kind): kind for kind in _below(LedgerEvent) if kind.PERSONAL}


def _below(base: type[LedgerEvent]) -> Iterator[type[LedgerEvent]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _below(kind)
