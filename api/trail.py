"""The audit trail: questions, single events, and exports. Each of these reads is on record before its answer leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response, StreamingResponse

from api.answers import event_answer, view_answer
from api.state import POSITION_MAX, CurrentState, State, id_of, stamp
from ledger.audit_reads import kept, record_read
from ledger.domain.audit import AuditExport, ReadKind, Told
from ledger.domain.base import Stamp
from ledger.domain.moments import end_of, start_of
from ledger.domain.words import ExportFormat
from ledger.errors import InvalidRequestError, NotFoundError
from ledger.manifests import digest_of, keep_manifest, manifest_text, signed_manifest
from projections.trail.export import Export, entry_values, stored_at
from projections.trail.questions import Question, newest_first, oldest_first

router = APIRouter(prefix="/api/v1/audit", tags=["audit"])

PAGE_ENTRIES = 50
PAGE_ENTRIES_MAX = 1_000
WORDS_MAX = 500
MEDIA_TYPES = {ExportFormat.NDJSON: "application/x-ndjson", ExportFormat.CSV: "text/csv; charset=utf-8"}
HOW = frozenset({"before", "after", "limit", "format"})

Words = Annotated[str | None, Query(max_length=WORDS_MAX)]
Position = Annotated[int | None, Query(ge=0, le=POSITION_MAX)]


@dataclass(frozen=True)
class Asked:
    """A question, and what was asked for in the words of who asked."""

    question: Question
    words: dict[str, str]


def _asked(
    request: Request,
    state: CurrentState,
    job: Annotated[str | None, Query(description="A job, or what another has to do with it.")] = None,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="The bytes of a file.")] = None,
    filename: Annotated[str | None, Query(max_length=WORDS_MAX, description="The whole name of a file.")] = None,
    actor: Words = None,
    dataset: Words = None,
    fiscal_year: Annotated[str | None, Query(max_length=WORDS_MAX, description="Such as FY2025-26.")] = None,
    topic: Annotated[str | None, Query(max_length=WORDS_MAX, description="Of events, or its beginning.")] = None,
    since: Annotated[str | None, Query(description="A day or an instant; from its beginning on.")] = None,
    until: Annotated[str | None, Query(description="A day or an instant, with all of it.")] = None,
    text: Annotated[str | None, Query(max_length=WORDS_MAX, description="In reasons, messages, names.")] = None,
) -> Asked:
    given = {
        "job": job, "sha256": sha256, "filename": filename, "actor": actor, "dataset": dataset,
        "fiscal_year": fiscal_year, "topic": topic, "since": since, "until": until, "text": text,
    }  # fmt: skip
    unknown = sorted(set(request.query_params) - set(given) - HOW)
    if unknown:  # without what was meant, the answer would be to another question
        raise InvalidRequestError(f"Nothing is asked for by {', '.join(unknown)[:200]}.", f"Use: {', '.join(given)}.")
    words = {name: value for name, value in given.items() if value is not None}
    for name, value in words.items():
        if "\0" in value or not value:
            raise InvalidRequestError(f"{name} is empty, or holds a NUL character.", "Leave it away, or say what.")
    zone = ZoneInfo(state.settings.time_zone)
    question = Question(
        job=None if job is None else id_of(job),
        sha256=sha256,
        filename=filename,
        actor=actor,
        dataset=dataset,
        fiscal_year=fiscal_year,
        topic=None if topic is None else topic.removesuffix("*").removesuffix("."),
        since=None if since is None else start_of(since, zone),
        until=None if until is None else end_of(until, zone),
        text=text,
    )
    return Asked(question, words)


CurrentAsked = Annotated[Asked, Depends(_asked)]


@router.get("")
def ask(
    request: Request,
    state: CurrentState,
    asked: CurrentAsked,
    before: Annotated[Position, Query(description="Entries before this position, newest first.")] = None,
    after: Annotated[Position, Query(description="Entries after this position, oldest first.")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_ENTRIES_MAX)] = PAGE_ENTRIES,
) -> dict[str, Any]:
    """Entries of the trail, the newest first unless `after` is given, and what to go on with in the same direction."""
    if before is not None and after is not None:
        raise InvalidRequestError("Both before and after are given.", "Give the one that the last page ended with.")
    with state.ledger.transaction() as session:
        page = (
            newest_first(session, asked.question, before=before, limit=limit)
            if after is None
            else oldest_first(session, asked.question, after=after, limit=limit)
        )
    positions = [entry.position for entry in page.entries]
    record_read(state.ledger, stamp(request), ReadKind.QUESTION, asked.words, Told.of(positions))
    return {
        "entries": [entry_values(entry) for entry in page.entries],
        "next": positions[-1] if page.more else None,
        "view": view_answer(state, page.position),
    }


@router.get("/export")
def export(
    request: Request, state: CurrentState, asked: CurrentAsked, format: ExportFormat = ExportFormat.NDJSON
) -> StreamingResponse:
    """Every entry that is asked for, in the order of the log, as a file.

    The link in the answer's head leads to its manifest, once the last byte has been read.
    """
    act, export_id = stamp(request), uuid4()
    taken = Export(state.ledger, asked.question, format)
    record_read(state.ledger, act, ReadKind.EXPORT, {**asked.words, "format": format.value}, Told.of([]))
    return StreamingResponse(
        _blocks(state, taken, asked, act, export_id),
        media_type=MEDIA_TYPES[format],
        headers={
            "Content-Disposition": f'attachment; filename="audit-trail.{format.value}"',
            "Link": f'</api/v1/audit/exports/{export_id}/manifest>; rel="describedby"',
        },
    )


@router.get("/exports/{export_id}/manifest")
def show_manifest(export_id: str, state: CurrentState) -> Response:
    """The manifest of an export: a signed note, see `ledger.manifests`."""
    with state.ledger.transaction() as session:
        return Response(signed_manifest(session, id_of(export_id, "export")), media_type="text/plain; charset=utf-8")


@router.get("/{position}")
def show_event(position: int, request: Request, state: CurrentState) -> dict[str, Any]:
    """One event of the log with all of its fields, and the digest of how it is stored."""
    found = state.ledger.events_after(position - 1, 1) if position <= POSITION_MAX else []
    if not found or found[0].position != position:
        raise NotFoundError(f"There is no event at position {position}.", "`ledger audit trail` shows positions.")
    with state.ledger.transaction() as session:
        stored = stored_at(session, [position])[position]
    record_read(state.ledger, stamp(request), ReadKind.EVENT, {}, Told.of([position]))
    return {**event_answer(found[0]), "stream": str(found[0].event.originator_id), **stored}


def _blocks(state: State, taken: Export, asked: Asked, act: Stamp, export_id: UUID) -> Iterator[bytes]:
    """The file; behind its last byte it is on record, and only then does the answer end well."""
    yield from taken.blocks()
    manifest = manifest_text(
        {
            "export_id": str(export_id),
            "taken_at": act.at.isoformat(),
            "taken_by": act.actor,
            "asked": asked.words,
            "time_zone": state.settings.time_zone,
            **taken.manifest_values(),
        }
    )
    event = AuditExport.take(
        export_id,
        act,
        format=taken.format.value,
        asked=kept(asked.words),
        told=taken.told,
        size=taken.size,
        sha256=taken.sha256,
        manifest_sha256=digest_of(manifest),
    )
    with state.ledger.transaction() as session:
        keep_manifest(session, export_id, manifest)
        state.ledger.save(event, session=session)
