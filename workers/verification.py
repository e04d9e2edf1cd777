"""Verifying the record, as an operation: on somebody's request, or by itself every so often.

Rules:
1. The result is part of the record: what level, how many events, the checkpoint, and the first `FINDINGS_TOLD` findings
   of all. That something was found is no failure of the operation; it is what it was asked for. `holds` is true only
   if everything was looked at and nothing was found; it is null if nothing was found, and something not compared.
2. A year that is named has its archives verified, and nothing else is looked at. The level `archives` looks at all of
   them, and not at their content but for a sample, if one is asked for.
3. Findings are an error in the log (`record_differs`) and a metric, so that somebody is told who did not ask. What was
   found in the log itself stays found, and is in the result, if a part that the views need is away.
4. It is asked for by itself when `verify_seconds` have passed since it was last so, and none is still open: once,
   however many dispatchers run. If it fails, that is an error in the log as well (`workers.operations`, rule 5).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, text

from archive.stores import StoreUnfitError
from ledger import telemetry
from ledger.application import Ledger
from ledger.checkpoints import CheckpointStore, open_checkpoint_store, read_checkpoint
from ledger.database import rows
from ledger.domain.base import Stamp
from ledger.domain.operation import Operation
from ledger.domain.words import Stage
from ledger.errors import InvalidRequestError, PartUnavailableError
from ledger.findings import Finding, Level, NotCompared
from ledger.notes import Checkpoint, NoteRefusedError, PublicKey
from ledger.seal_key import public_keys
from ledger.settings import Settings
from ledger.verifier import verify
from projections.view_store import connect
from projections.views import Order, Parts
from workers.archive_checks import verify_archives
from workers.operations import SCHEDULE
from workers.view_checks import findings_about_views_and_files
from workers.workshop import Workshop

log = logging.getLogger(__name__)

ANCHORS_NEWEST, ANCHORS_OLDER = 1_000, 100
DUE = (
    "asked_at < clock_timestamp() - :seconds * interval '1 second'"
    " AND NOT EXISTS (SELECT FROM work.items WHERE stage = :name)"
)


def verify_record(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Verify the record up to the level that the order names; what it came to, as JSON values. Raises as `verified`."""
    level = level_of(order.arguments["level"])
    if "fiscal_year" in order.arguments:
        return _verify_year(workshop, order)
    archives: list[dict[str, Any]] = []

    def more() -> Iterator[Finding | NotCompared]:
        yield from _findings_about_views_and_files(workshop, order)
        if level is Level.ARCHIVES:
            sample = order.arguments.get("sample")
            found = verify_archives(workshop, order.tell, label=None, content=False, sample=sample)
            archives.extend(found.archives)
            yield from found.all()

    result = verified(
        workshop.ledger.engine,
        workshop.settings,
        level,
        lambda position, last: order.tell({"events": position, "position": position, "log_position": last}),
        more if level.needs_ledger else None,
    )
    return {**result, "archives": archives}


def _verify_year(workshop: Workshop, order: Order) -> dict[str, Any]:
    """Verify the archives of the year that an order names, and nothing else."""
    label, content = order.arguments["fiscal_year"], order.arguments["content"]
    found = verify_archives(workshop, order.tell, label=label, content=content)
    _say(found.findings, found.findings_total, Level.ARCHIVES)
    return {
        "level": Level.ARCHIVES.value,
        "fiscal_year": label,
        "holds": found.holds,
        "archives": found.archives,
        "findings_total": found.findings_total,
        "findings": [_told(finding) for finding in found.findings],
        "not_compared": found.not_compared,
    }


def verified(
    engine: Engine,
    settings: Settings,
    level: Level,
    on_progress: Callable[[int, int], None],
    more: Callable[[], Iterator[Finding | NotCompared]] | None = None,
) -> dict[str, Any]:
    """What a verification comes to. But for views it needs nothing that a ledger has besides its database.

    Args:
        more: finds what the level asks for besides.

    Raises:
        InvalidRequestError: there is no key to verify with.
        PartUnavailableError: something that is needed for it is away, and nothing was found before.
    """
    keys = public_keys(settings)
    store = open_checkpoint_store(settings)
    anchors, refused = ([], []) if store is None else kept_elsewhere(store, keys, settings.origin)
    found = verify(engine, keys, settings.origin, anchors, level, on_progress)
    if store is not None and found.checkpoints and not store.sizes():  # asked again: it could just have been the first
        message = "The log is sealed, and of its checkpoints none is where they are kept elsewhere."
        refused.append(Finding("anchors_missing", message))
    found.put_first(refused)
    _say(found.findings, found.findings_total, level)
    if more is not None:
        told = len(found.findings)
        try:
            found.extend(more())
        except (PartUnavailableError, StoreUnfitError) as away:
            if not found.findings_total:
                raise
            found.add(
                NotCompared(
                    f"Views, files or archives were not all looked at: a part was away or refused ({away.code})."
                )
            )
        _say(found.findings[told:], found.findings_total, level)
    return {
        "level": level.value,
        "holds": found.holds,
        "checkpoints": found.checkpoints,
        "leaves": found.leaves,
        "events": found.events,
        "events_not_sealed": found.unsealed,
        "anchors": len(anchors),
        "checkpoint": None if found.checkpoint is None else found.checkpoint.text(),
        "findings_total": found.findings_total,
        "findings": [_told(finding) for finding in found.findings],
        "not_compared": found.not_compared,
    }


def _say(findings: list[Finding], total: int, level: Level) -> None:
    """Say at once what was found: what comes behind it may end the run."""
    telemetry.VERIFICATION_FINDINGS.set(total, {telemetry.LEVEL: level.value})
    for finding in findings:
        log.error("the record differs: %s", finding.message, extra={"action": "record_differs", "code": finding.code})


def level_of(name: str) -> Level:
    """The level of that name. Raises InvalidRequestError if there is none."""
    if name not in list(Level):
        raise InvalidRequestError(f"There is no level {name[:80]!r}.", f"The levels are: {', '.join(Level)}.")
    return Level(name)


def _findings_about_views_and_files(workshop: Workshop, order: Order) -> Iterator[Finding | NotCompared]:
    database = connect(workshop.settings.views_url.get_secret_value())
    try:
        parts = Parts(workshop.ledger, workshop.blobs, database, workshop.calendar)
        yield from findings_about_views_and_files(workshop, parts, order)
    finally:
        database.client.close()


def kept_elsewhere(
    store: CheckpointStore, keys: list[PublicKey], origin: str
) -> tuple[list[Checkpoint], list[Finding]]:
    """Checkpoints that are kept out of the database's reach, and what is wrong with those that are none."""
    anchors: list[Checkpoint] = []
    findings: list[Finding] = []
    for size in chosen(store.sizes()):
        try:
            anchors.append(read_checkpoint(store, size, keys, origin))
        except NoteRefusedError as refused:
            message = f"The checkpoint {size} that is kept elsewhere: {refused.message}"
            findings.append(Finding("anchor_refused", message))
    return anchors, findings


def chosen(sizes: list[int]) -> list[int]:
    """The newest of many, and some of the older ones: other ones each time, so that none is safe from being read."""
    older = sizes[:-ANCHORS_NEWEST]
    return sorted(random.sample(older, min(ANCHORS_OLDER, len(older)))) + sizes[-ANCHORS_NEWEST:]


def request_if_due(ledger: Ledger, settings: Settings) -> Operation | None:
    """Ask for a verification if the last one by itself, or the first start, is long enough ago (rule 4)."""
    if not settings.verify_seconds or not (settings.seal_public_keys or settings.seal_key_file):
        return None
    schedule = {"name": Stage.VERIFY.value, "seconds": settings.verify_seconds}
    with ledger.transaction() as session:
        found = rows(session, f"SELECT {DUE} AS is_due FROM work.schedule WHERE name = :name", **schedule)
        if not found:  # the first start
            session.execute(
                text("INSERT INTO work.schedule VALUES (:name, clock_timestamp()) ON CONFLICT DO NOTHING"), schedule
            )
        if not found or not found[0].is_due:
            return None
        moved: Any = session.execute(
            text(f"UPDATE work.schedule SET asked_at = clock_timestamp() WHERE name = :name AND {DUE}"), schedule
        )
        if not moved.rowcount:  # another dispatcher has just asked
            return None
        stamp = Stamp(datetime.now(UTC), SCHEDULE, str(uuid4()), telemetry.current_traceparent())
        operation = Operation.request(uuid4(), stamp, kind=Stage.VERIFY, arguments={"level": Level.EVENTS.value})
        ledger.save(operation, session=session)
    return operation


def _told(finding: Finding) -> dict[str, Any]:
    stream = None if finding.stream is None else str(finding.stream)
    return {name: value for name, value in {**asdict(finding), "stream": stream}.items() if value is not None}
