"""Erasing what the log says of a file's name or of an actor: at once, with the certificate as the answer."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Request

from api.state import CurrentState, Reason, State, id_of, stamp
from ledger.domain.erasure import Erasure
from ledger.erasures import NOT_ERASED, erase_actor, erase_job
from ledger.errors import InvalidRequestError, NotFoundError
from projections.status import rfc3339

router = APIRouter(prefix="/api/v1", tags=["erasures"])

ACTOR_CHARACTERS_MAX = 200


@router.post("/erasures")
def erase(
    request: Request,
    state: CurrentState,
    reason: Reason,
    job_id: Annotated[str | None, Body(description="The job whose file's name is to be erased.")] = None,
    actor_id: Annotated[
        str | None, Body(max_length=ACTOR_CHARACTERS_MAX, description="The pseudonym of whom to erase.")
    ] = None,
) -> dict[str, Any]:
    """Erase the name of a job's file, or of an actor: its certificate. The same again gives the same."""
    if (job_id is None) == (actor_id is None):
        raise InvalidRequestError("It has to be either a job or an actor.", "Give job_id or actor_id.")
    if job_id is not None:
        erasure = erase_job(state.ledger, id_of(job_id), stamp(request), reason=reason)
    else:
        erasure = erase_actor(state.ledger, str(actor_id), stamp(request), reason=reason)
    return _certificate(erasure)


@router.get("/erasures/{erasure_id}")
def show_erasure(erasure_id: str, state: CurrentState) -> dict[str, Any]:
    """The certificate of an erasure."""
    return _certificate(_known(state, id_of(erasure_id, "erasure")))


def _known(state: State, erasure_id: UUID) -> Erasure:
    erasure = state.ledger.erasure(erasure_id)
    if erasure is None:
        raise NotFoundError(f"There is no erasure {erasure_id}.", "`ledger jobs events` tells that of a job.")
    return erasure


def _certificate(erasure: Erasure) -> dict[str, Any]:
    return {
        "erasure_id": str(erasure.id),
        "subject": erasure.subject,
        "fields": erasure.fields,
        "streams": erasure.streams,
        "reason": erasure.reason,
        "erased_at": rfc3339(erasure.created_on),
        "erased_by": erasure.carried_out_by,
        "repeated_at": [rfc3339(moment) for moment in erasure.repeated_at],
        "not_erased": list(NOT_ERASED),
    }
