"""Archiving a fiscal year: what it will take, having it done, and approving that its rows are dropped.

The last two are one operation, which goes on from wherever the year stands.
"""

from __future__ import annotations

from dataclasses import asdict
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from api.operations import operation_answer
from api.state import CurrentState, State, stamp
from api.years import check_confirmed, late_records_of
from archive import closing
from archive.estimate import estimate
from archive.year_plan import year_plan
from ledger.domain.fiscal_year import FiscalYear
from ledger.domain.words import Stage
from ledger.domain.year_states import FENCED, NEXT, Ground
from ledger.errors import ConflictError
from workers.archiving import check_ready, in_the_way, policy_of
from workers.cold_stores import is_bucket
from workers.years import closing_of

router = APIRouter(prefix="/api/v1/archive/years", tags=["fiscal years"])


@router.get("/{label}/plan")
def show_plan(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """What a year's end would find, take and cost, whether the year is open or closed, and what comes next.

    Nothing is changed. It counts the rows of a year that is open.
    """
    closes, by = closing_of(state.ledger, state.settings), stamp(request)
    year = closing.known_year(closes, label, by)
    refused = in_the_way(closes, state.settings, year)
    policy, is_priced = policy_of(state.settings), is_bucket(state.settings)
    return {
        **year_plan(closes, year, by, policy, refused, is_priced=is_priced),
        "store": state.settings.archive_url,
        "late_records": late_records_of(state, year),
    }


@router.get("/{label}/archive")
def show_archive(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """What archiving a closed year takes and costs, about, and all that is in the way."""
    closes = closing_of(state.ledger, state.settings)
    year = closing.known_year(closes, label, stamp(request))
    with state.ledger.transaction() as session:
        policy, is_priced = policy_of(state.settings), is_bucket(state.settings)
        found = estimate(state.ledger, session, closes.calendar, year, policy, is_priced=is_priced)
    return {**found, "in_the_way": [asdict(each) for each in in_the_way(closes, state.settings, year)]}


@router.post("/{label}/archive", status_code=HTTPStatus.ACCEPTED)
def archive(label: str, request: Request, state: CurrentState) -> dict[str, Any]:
    """Ask for a closed year to be archived, up to a verified archive: the operation. Its rows stay where they are.

    Refused at once if something is in the way now.
    """
    closes = closing_of(state.ledger, state.settings)
    year = closing.known_year(closes, label, stamp(request))
    if year.state not in FENCED:
        raise ConflictError(f"Fiscal year {label} is {year.state.value}.", NEXT[year.state].format(label=label))
    check_ready(closes, state.settings, year)
    return _requested(state, label, request)


@router.post("/{label}/drop", status_code=HTTPStatus.ACCEPTED)
def drop(
    label: str,
    request: Request,
    state: CurrentState,
    confirm: Annotated[str, Body(embed=True, description="The name of the year once more.")],
) -> dict[str, Any]:
    """Approve, as another person than who closed the year, that its rows are dropped: the operation that does."""
    check_confirmed(label, confirm, "dropped")
    by = stamp(request)

    def approve(year: FiscalYear) -> None:
        if not year.is_drop_authorized:
            year.authorize_drop(by, ground=Ground.APPROVAL)

    closing.decide(closing_of(state.ledger, state.settings), label, by, approve)
    return _requested(state, label, request)


def _requested(state: State, label: str, request: Request) -> dict[str, Any]:
    operation = state.ledger.request(Stage.ARCHIVE_YEAR, {"fiscal_year": label}, stamp(request))
    return operation_answer(operation, operation.status, None)
