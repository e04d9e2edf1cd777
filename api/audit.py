"""The seal's door: what was signed, proofs that hold without this server, and verification."""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import Response

from api.operations import operation_answer
from api.state import CurrentState, State, id_of, stamp
from ledger.domain.filejob import FileJob
from ledger.domain.words import Stage
from ledger.errors import ConflictError, InvalidRequestError, NotFoundError
from ledger.findings import Level
from ledger.merkle import consistency_proof
from ledger.proofs import Record, prove_event, prove_stream
from ledger.seal import StoredNodes, newest_checkpoint
from ledger.seal_key import public_keys
from projections.lineage import origin_of

router = APIRouter(prefix="/api/v1", tags=["audit"])

PROOF = "application/json"


@router.get("/audit/checkpoint")
def show_checkpoint(
    state: CurrentState,
    since: Annotated[int, Query(ge=0, description="The size of the last checkpoint that the caller has seen.")] = 0,
) -> dict[str, Any]:
    """The newest checkpoint, and the proof that it continues an older one."""
    with state.ledger.transaction() as session:
        newest = newest_checkpoint(session)
        if newest is None:
            raise NotFoundError("Nothing is sealed yet.", "Ask again in a moment; is the sealer running?")
        size, note = newest
        if since > size:
            raise ConflictError(
                f"Only {size:,} events are sealed, and the caller has seen a checkpoint over {since:,}.",
                "The database was restored from before, or it is another ledger.",
            )
        proof = consistency_proof(StoredNodes(session), since, size)
    return {
        "size": size,
        "checkpoint": note.decode(),
        "since": since,
        "consistency": [each.hex() for each in proof],
        "public_keys": [str(key) for key in public_keys(state.settings)],
    }


@router.get("/audit/verify_proof.py")
def show_verifier() -> Response:
    """The program that verifies a proof without the rest of the ledger."""
    return Response(files("ledger").joinpath("verify_proof.py").read_text(), media_type="text/x-python")


@router.post("/audit/verify", status_code=HTTPStatus.ACCEPTED)
def verify_record(
    request: Request,
    state: CurrentState,
    level: Annotated[Level, Body()] = Level.EVENTS,
    sample: Annotated[
        int | None, Body(ge=1, description="How many objects of each archive are read, chosen by chance.")
    ] = None,
) -> dict[str, Any]:
    """Ask for the record to be verified against what was sealed: the operation, which a worker carries through."""
    arguments: dict[str, Any] = {"level": level.value}
    if sample is not None:
        if level is not Level.ARCHIVES:
            raise InvalidRequestError(
                f"The level {level} reads no archives.", f"Ask for a sample of the level {Level.ARCHIVES}."
            )
        arguments["sample"] = sample
    operation = state.ledger.request(Stage.VERIFY, arguments, stamp(request))
    return operation_answer(operation, operation.status, None)


@router.get("/jobs/{job_id}/proof")
def prove_job(
    job_id: str,
    state: CurrentState,
    record: Annotated[int | None, Query(ge=1, description="A record of the job, to be proven with it.")] = None,
) -> Response:
    """The proof of all that happened to a job; and, if asked for, of one of its records."""
    job = state.ledger.job(id_of(job_id))
    proven = None if record is None else _record(state, job, record)
    with state.ledger.transaction() as session:
        return Response(prove_stream(session, job.id, proven), media_type=PROOF)


@router.get("/events/{position}/proof")
def prove_one_event(position: int, state: CurrentState) -> Response:
    """The proof of one event."""
    with state.ledger.transaction() as session:
        return Response(prove_event(session, position), media_type=PROOF)


def _record(state: State, job: FileJob, number: int) -> Record:
    origin = origin_of(state.blobs, job, number)
    return Record(number, origin.text_offset, origin.text)
