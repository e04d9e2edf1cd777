"""The record of reads of the audit trail: each stands there before its answer leaves, and no flood fills the log.

Rules:
1. The first read of a kind (who, what was asked for) is an event at once. Those of the following minute are only
   counted, in the table `audit.reads`, and become one event with their number when the minute is over. So a kind of
   read costs at most two events a minute, however often it comes, and reading those events costs no more.
2. The cursor and the length of a page are no part of what was asked for: the pages of one walk are one kind.
3. Who asks for more than `KINDS_MAX` different things within a minute is counted as asking for various things.
4. What was counted is gathered by the next read of the same kind, or else by the dispatcher, which looks now and then.
"""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import UTC, datetime, timedelta
from threading import Event as StopSignal
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.orm import Session

from ledger.application import Ledger
from ledger.database import lock, rows
from ledger.domain.audit import AuditRead, ReadKind, Told
from ledger.domain.base import Stamp
from ledger.errors import PartUnavailableError

log = logging.getLogger(__name__)

GATHERED = timedelta(minutes=1)
GATHER_SECONDS = 5.0
KINDS_MAX = 30
GATHERED_AT_ONCE = 100
# What is asked for with these is not kept, only that it was: it can name a person.
NAMING = frozenset({"filename", "text"})
NOT_KEPT = "(not kept)"


def kept(asked: dict[str, str]) -> dict[str, str]:
    """What may be written down for ever of what was asked for."""
    return {name: NOT_KEPT if name in NAMING else value for name, value in asked.items()}


def record_read(ledger: Ledger, stamp: Stamp, kind: ReadKind, asked: dict[str, str], told: Told) -> None:
    """Put a read of the trail on record.

    Args:
        asked: what was asked for, without the cursor and the length of a page.
    """
    with ledger.transaction() as session:
        lock(session, f"audit reads {stamp.actor}")
        if _counts_as_various(session, stamp, _key(stamp, kind, asked)):
            kind, asked = ReadKind.VARIOUS, {}
        key = _key(stamp, kind, asked)
        open_reads = rows(session, "SELECT * FROM audit.reads WHERE key = :key FOR UPDATE", key=key)
        if open_reads and stamp.at - open_reads[0].opened_at < GATHERED:
            _count(session, key, stamp, told)
            return
        _open(session, key, kind, asked, stamp)
        first = AuditRead.record(
            uuid4(),
            stamp,
            kind=kind,
            asked=kept(asked),
            reads=1,
            told=told,
            first_read_at=stamp.at.astimezone(UTC).isoformat(),
        )
        ledger.save(*(_gathered(row, stamp.at) for row in open_reads if row.reads), first, session=session)


def gather_reads(ledger: Ledger, now: datetime) -> int:
    """Turn what was counted more than a minute ago into events; how many kinds of reads were done with."""
    with ledger.transaction() as session:
        over = rows(
            session,
            "DELETE FROM audit.reads WHERE key IN (SELECT key FROM audit.reads WHERE opened_at <= :opened_before"
            " ORDER BY opened_at LIMIT :limit FOR UPDATE SKIP LOCKED) RETURNING *",
            opened_before=now - GATHERED,
            limit=GATHERED_AT_ONCE,
        )
        events = [_gathered(row, now) for row in over if row.reads]
        if events:
            ledger.save(*events, session=session)
    return len(over)


def _key(stamp: Stamp, kind: ReadKind, asked: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps([stamp.actor, kind, asked], sort_keys=True).encode()).hexdigest()


def _counts_as_various(session: Session, stamp: Stamp, key: str) -> bool:
    [found] = rows(
        session,
        "SELECT count(*) AS kinds, coalesce(bool_or(key = :key), false) AS known FROM audit.reads"
        " WHERE actor = :actor AND opened_at > :opened_after",
        key=key,
        actor=stamp.actor,
        opened_after=stamp.at - GATHERED,
    )
    return found.kinds >= KINDS_MAX and not found.known


def _open(session: Session, key: str, kind: ReadKind, asked: dict[str, str], stamp: Stamp) -> None:
    session.execute(text("DELETE FROM audit.reads WHERE key = :key"), {"key": key})
    session.execute(
        text(
            "INSERT INTO audit.reads (key, actor, kind, asked, correlation, traceparent, opened_at)"
            " VALUES (:key, :actor, :kind, :asked, :correlation, :traceparent, :opened_at)"
        ),
        {
            "key": key,
            "actor": stamp.actor,
            "kind": kind.value,
            "asked": json.dumps(kept(asked)),
            "correlation": stamp.correlation,
            "traceparent": stamp.traceparent,
            "opened_at": stamp.at,
        },
    )


def _count(session: Session, key: str, stamp: Stamp, told: Told) -> None:
    session.execute(
        text(
            "UPDATE audit.reads SET reads = reads + 1, entries = entries + :entries,"
            " first_position = least(first_position, :first_position),"
            " last_position = greatest(last_position, :last_position),"
            " first_read_at = coalesce(first_read_at, :at) WHERE key = :key"
        ),
        {
            "key": key,
            "entries": told.entries,
            "first_position": told.first_position,
            "last_position": told.last_position,
            "at": stamp.at,
        },
    )


def _gathered(row: Any, now: datetime) -> AuditRead:
    return AuditRead.record(
        uuid4(),
        Stamp(now, row.actor, row.correlation, row.traceparent),
        kind=ReadKind(row.kind),
        asked=row.asked,
        reads=row.reads,
        told=Told(row.entries, row.first_position, row.last_position),
        first_read_at=row.first_read_at.astimezone(UTC).isoformat(),
    )


def keep_gathering(ledger: Ledger, stop: StopSignal) -> None:
    """Gather what is due now and then, until told to stop."""
    while not stop.wait(GATHER_SECONDS):
        try:
            while gather_reads(ledger, datetime.now(UTC)) == GATHERED_AT_ONCE:
                pass
        except PartUnavailableError as error:
            log.warning("reads of the audit trail wait: %s", error, extra={"action": "audit_reads_wait"})
