"""Taking files: the multipart form, and the raw body."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from http import HTTPStatus
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from api.answers import task_from_log
from api.arrivals import arrivals_of
from api.auth import check_job, check_reaches
from api.choices import Choices, checked_choices
from api.errors import PayloadTooLargeError
from api.state import CurrentState, State, caller, stamp
from api.uploads import StoredFile, checked_filename, store_body, store_form
from ledger import telemetry
from ledger.application import Received
from ledger.domain.access import Permission
from ledger.errors import InvalidRequestError

router = APIRouter(tags=["files"])

HTTP_DOOR = "http"


@router.post("/uploadfiles/", status_code=HTTPStatus.ACCEPTED)
async def upload_files(request: Request, state: CurrentState) -> dict[str, Any]:
    """Take files from a multipart form: `files` (one or many), and optionally `dataset` and `on_duplicate`.

    Each file is a task, and so is each file of a zip archive; `<name>.totals.json` beside `<name>` is none, but says
    what that comes to: see `api.arrivals`.
    """
    settings = state.settings
    form = await store_form(
        request, state.blobs, bytes_max=settings.upload_bytes_max, files_max=settings.upload_files_max
    )
    if not form.files:
        raise InvalidRequestError("The form holds no file.", "Send at least one part named 'files' with a file name.")
    said = form.fields
    choices = checked_choices(said.get("dataset") or None, said.get("on_duplicate", "return"), said)
    await _check_corrects(request, state, choices)
    return await _receive(request, state, form.files, choices)


@router.put("/api/v1/files/{name:path}", status_code=HTTPStatus.ACCEPTED)
async def put_file(
    name: str,
    request: Request,
    response: Response,
    state: CurrentState,
    dataset: str | None = None,
    on_duplicate: str = "return",
) -> dict[str, Any]:
    """Take one file from the request's raw body: the fastest way in.

    What else the sender says of it goes into the query: see `api.choices`. A zip archive is as many tasks as files.
    """
    filename = checked_filename(name)
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > state.settings.upload_bytes_max:
        raise PayloadTooLargeError(
            f"The body announces {announced} bytes; the most is {state.settings.upload_bytes_max}.",
            "Split the file, or ask for a higher LEDGER_UPLOAD_BYTES_MAX.",
        )
    choices = checked_choices(dataset, on_duplicate, request.query_params)
    await _check_corrects(request, state, choices)
    file = await store_body(request, state.blobs, filename, state.settings.upload_bytes_max)
    answer = await _receive(request, state, [file], choices)
    response.headers["Location"] = f"/api/v1/jobs/{answer['tasks'][0]['task_id']}"
    return answer


async def _check_corrects(request: Request, state: State, choices: Choices) -> None:
    if choices.corrects is not None and caller(request).is_limited:
        await check_job(request, state, str(choices.corrects))


async def _receive(request: Request, state: State, files: list[StoredFile], choices: Choices) -> dict[str, Any]:
    return await asyncio.to_thread(_write_down, request, state, files, choices)


def _write_down(request: Request, state: State, files: list[StoredFile], choices: Choices) -> dict[str, Any]:
    may_adjust = caller(request).may(Permission.ADJUST)
    found = arrivals_of(files, choices, state.blobs, files_max=state.settings.upload_files_max)
    arrivals = [replace(arrival, may_adjust=may_adjust) for arrival in found]
    for dataset in sorted({arrival.dataset for arrival in arrivals}):
        check_reaches(request, dataset)
    with telemetry.span(telemetry.SPAN_RECEIVE, {telemetry.EVENT_COUNT: len(arrivals)}):
        answers = state.ledger.receive(arrivals, stamp(request), door=HTTP_DOOR, on_duplicate=choices.on_duplicate)
    new = [arrival for arrival, answer in zip(arrivals, answers, strict=True) if not answer.duplicate]
    telemetry.FILES_RECEIVED.add(len(new))
    # The bytes of an archive came once, however many files are in it.
    telemetry.BYTES_RECEIVED.add(sum({arrival.sha256: arrival.size for arrival in new}.values()))
    tasks: dict[UUID, dict[str, Any]] = {}
    for answer in answers:
        if answer.job_id not in tasks:
            tasks[answer.job_id] = task_from_log(state.ledger, answer.job_id)
    return {"tasks": [_answer(tasks, answer) for answer in answers]}


def _answer(tasks: dict[UUID, dict[str, Any]], answer: Received) -> dict[str, Any]:
    return {**tasks[answer.job_id], "duplicate": answer.duplicate}
