"""Archives of fiscal years: bringing one back to be read, what locks and holds them, and what belongs to none."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request

from api.operations import operation_answer
from api.state import CurrentState, Reason, State, stamp
from api.years import closing_of_request, year_answer
from archive import closing, retention, retrieval
from archive.garbage import garbage
from archive.retrieval_plan import plan
from archive.sealed import newest_archive
from archive.stores import Tier
from ledger.domain.fiscal_year import FiscalYear
from workers.archives import request_restore
from workers.cold_stores import cold_store

router = APIRouter(prefix="/api/v1/archive", tags=["archives"])

DAYS, DAYS_MAX = 3, 365

TierAsked = Annotated[Tier, Query(description="How fast: the faster, the dearer.")]
DaysAsked = Annotated[int, Query(ge=1, le=DAYS_MAX, description="Days for which copies stay in the cold store.")]


@router.get("/years/{label}/restore")
def show_restore(
    label: str, request: Request, state: CurrentState, tier: TierAsked = Tier.STANDARD, days: DaysAsked = DAYS
) -> dict[str, Any]:
    """What bringing a year back would take: objects, bytes, hours and dollars. Nothing is asked for."""
    archive = newest_archive(state.ledger, cold_store(state.settings), _year(state, label, request))
    return plan(archive.manifest, tier, days)


@router.post("/years/{label}/restore", status_code=HTTPStatus.ACCEPTED)
def restore(
    label: str,
    request: Request,
    state: CurrentState,
    reason: Reason,
    tier: Annotated[Tier, Body(description="How fast: the faster, the dearer.")] = Tier.STANDARD,
    days: Annotated[int, Body(ge=1, le=DAYS_MAX, description="Days for which copies stay in the cold store.")] = DAYS,
) -> dict[str, Any]:
    """Ask for the rows of an archived year to be brought back, to be read beside the archive: the operation."""
    years, store = closing_of_request(state), cold_store(state.settings)
    operation = request_restore(years, store, label, stamp(request), tier=tier, days=days, reason=reason)
    return operation_answer(operation, operation.status, None)


@router.post("/years/{label}/release")
def release(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Drop the copy of a year that was brought back, or want none any more. The archive stays."""
    return year_answer(state, retrieval.release(closing_of_request(state), label, stamp(request)))


@router.get("/years/{label}/locks")
def show_locks(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Until when a year's objects are locked, which are on hold, and what is not as the log says. It asks for each."""
    return retention.report(state.ledger, cold_store(state.settings), _year(state, label, request))


@router.get("/garbage")
def show_garbage(state: CurrentState) -> dict[str, Any]:
    """What lies in the cold store and belongs to no archive. Nothing is deleted."""
    return garbage(state.ledger, cold_store(state.settings), state.settings.origin)


def _year(state: State, label: str, request: Request) -> FiscalYear:
    return closing.known_year(closing_of_request(state), label, stamp(request))
