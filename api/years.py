"""Fiscal years: where each stands, and closing, reopening and holding them.

Closing one for good is an operation, for it reads all its rows. Everything else is done at once.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Request

from api.operations import operation_answer
from api.state import CurrentState, Reason, State, stamp
from archive import closing
from archive.closing import Closing
from archive.preflight import Refusal
from archive.restoration import schema_of
from ledger.domain.base import Stamp
from ledger.domain.fiscal_calendar import Year
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.words import Stage
from ledger.domain.year_states import CopyState
from ledger.errors import ConflictError, InvalidRequestError
from ledger.findings import Level
from workers.adjustments import open_late_records
from workers.archives import decide_hold
from workers.cold_stores import refusals_of_cold_store
from workers.years import closing_of, operations_under_way

router = APIRouter(prefix="/api/v1/archive/years", tags=["fiscal years"])

CASE_CHARACTERS_MAX = 200

Case = Annotated[str, Body(max_length=CASE_CHARACTERS_MAX, description="The legal case.")]


@router.get("")
def list_years(request: Request, state: CurrentState) -> dict[str, Any]:
    """The fiscal years that have rows or a story, in their order."""
    years = closing.known_years(closing_of_request(state), stamp(request))
    return {"years": [year_answer(state, year) for year in years]}


@router.get("/{label}")
def show_year(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Where a fiscal year stands, and what is under way."""
    year = closing.known_year(closing_of_request(state), label, stamp(request))
    under_way = operations_under_way(state.ledger, label)
    return {
        **year_answer(state, year),
        "operations": [{"operation_id": str(each.id), "kind": each.kind.value} for each in under_way],
    }


@router.get("/{label}/closing")
def show_closing(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """What closing a year would close, and all that is in the way, its cold store too. It counts the rows."""
    return closing.plan(closing_of_request(state), label, stamp(request), _unfit_store(state))


@router.post("/{label}/soft-close")
def soft_close(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Have a year that has ended take adjustments only."""
    return year_answer(state, closing.soft_close(closing_of_request(state), label, stamp(request)))


@router.post("/{label}/close", status_code=HTTPStatus.ACCEPTED)
def close(
    label: str,
    request: Request,
    state: CurrentState,
    confirm: Annotated[str, Body(embed=True, description="The name of the year once more.")],
) -> dict[str, Any]:
    """Ask for a year to be closed for good: the operation. Refused at once if something is in the way now."""
    check_confirmed(label, confirm, "closed")
    closing.check(closing_of_request(state), label, stamp(request), _unfit_store(state))
    operation = state.ledger.request(Stage.CLOSE_YEAR, {"fiscal_year": label}, stamp(request))
    return operation_answer(operation, operation.status, None)


@router.post("/{label}/verify", status_code=HTTPStatus.ACCEPTED)
def verify(
    label: str,
    request: Request,
    state: CurrentState,
    content: Annotated[bool, Body(embed=True, description="Whether every object is read as well.")] = False,
) -> dict[str, Any]:
    """Ask for the archives of a year to be verified against their signed manifests: the operation."""
    if closing.known_year(closing_of_request(state), label, stamp(request)).manifest_sha256 is None:
        raise ConflictError(
            f"Nothing of fiscal year {label} is archived.", f"See where it stands: `ledger archive status {label}`."
        )
    arguments = {"level": Level.ARCHIVES.value, "fiscal_year": label, "content": content}
    operation = state.ledger.request(Stage.VERIFY, arguments, stamp(request))
    return operation_answer(operation, operation.status, None)


@router.post("/{label}/reopen")
def reopen(
    label: str,
    request: Request,
    state: CurrentState,
    reason: Reason,
) -> dict[str, Any]:
    """Ask for a year to take adjustments again, which a second person has to approve."""
    by = stamp(request)
    years = closing_of_request(state)
    return year_answer(state, closing.decide(years, label, by, lambda year: year.request_reopen(by, reason=reason)))


@router.post("/{label}/approve")
def approve(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Approve that a year is reopened, as another person than who asked for it."""
    return year_answer(state, closing.reopen(closing_of_request(state), label, stamp(request)))


@router.post("/{label}/hold")
def hold(
    label: str,
    request: Request,
    state: CurrentState,
    case: Annotated[str, Body(embed=True, max_length=CASE_CHARACTERS_MAX, description="The legal case.")],
) -> dict[str, Any]:
    """Let nothing of a year be destroyed, for a legal case."""
    by = stamp(request)
    return _held(state, label, by, lambda year: year.place_hold(by, case=case))


@router.post("/{label}/lift-hold")
def lift_hold(label: str, request: Request, state: CurrentState, case: Case, reason: Reason) -> dict[str, Any]:
    """Lift a hold, as another person than who placed it."""
    by = stamp(request)
    return _held(state, label, by, lambda year: year.lift_hold(by, case=case, reason=reason))


def _held(state: State, label: str, by: Stamp, act: Callable[[FiscalYear], None]) -> dict[str, Any]:
    """The year, and the operation by which its objects in cold storage follow; None if there are none."""
    year, operation = decide_hold(closing_of_request(state), label, by, act)
    return {**year_answer(state, year), "operation_id": None if operation is None else str(operation.id)}


def year_answer(state: State, year: FiscalYear) -> dict[str, Any]:
    """A fiscal year as JSON. `end` is the first day after it; of late records those are told that are not settled."""
    days = Year(year.label, year.start, year.end)
    return {
        "fiscal_year": year.label,
        "start": year.start.isoformat(),
        "end": year.end.isoformat(),
        "state": year.state.value,
        "is_proposed": year.is_proposed,
        "generation": year.generation,
        "copy": year.copy.value,
        "copy_schema": schema_of(days, year.generation) if year.copy is CopyState.RESTORED else None,
        "rows": sum(table["rows"] for table in year.tables) if year.tables else None,
        "closed_by": year.closed_by,
        "parts": len(year.parts),
        "parts_stored": len(year.stored),
        "is_drop_authorized": year.is_drop_authorized,
        "closed_at_position": year.closed_at_position,
        "manifest_sha256": year.manifest_sha256,
        "reopen_requested_by": year.reopen_requested_by,
        "holds": [{"case": case, "placed_by": by} for case, by in sorted(year.holds.items())],
        "late_records": late_records_of(state, year),
        "adjustments": year.adjustments,
    }


def late_records_of(state: State, year: FiscalYear) -> list[dict[str, Any]]:
    """How many records came too late for a year and are not settled, by job."""
    late = {job: len(open_late_records(state.ledger, UUID(job), year.label)) for job in sorted(year.late)}
    return [{"job": job, "records": count} for job, count in late.items() if count]


def closing_of_request(state: State) -> Closing:
    """What deciding about years needs."""
    return closing_of(state.ledger, state.settings)


def _unfit_store(state: State) -> list[Refusal]:
    """What is in the way of archiving a year once it is closed; nothing, if the ledger archives none."""
    return refusals_of_cold_store(state.settings) if state.settings.archive_url else []


def check_confirmed(label: str, confirm: str, done: str) -> None:
    """Raise InvalidRequestError unless who wants something done for good has typed the name of the year."""
    if confirm != label:
        raise InvalidRequestError(
            f"Nothing was {done}: {confirm[:80]!r} is not the name of the year.", f"Confirm it with {label}."
        )
