"""Errors as answers: ERROR → STATUS in one table, told as problem details (RFC 9457)."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from opentelemetry import trace
from starlette.exceptions import HTTPException

from ledger.domain.access import ANONYMOUS
from ledger.errors import (
    ConflictError,
    FileRefusedError,
    InvalidRequestError,
    LedgerError,
    NotFoundError,
    PartUnavailableError,
)

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
SEE_DESCRIPTION = "/api/v1/openapi.json describes what can be asked."


class UnauthorizedError(LedgerError):
    """Who asks did not show who that is. `reason` is a word for the record, `actor` who it is if that is known."""

    code = "unauthorized"

    def __init__(self, message: str, remedy: str, *, reason: str, actor: str = ANONYMOUS) -> None:
        super().__init__(message, remedy)
        self.reason = reason
        self.actor = actor


class ForbiddenError(LedgerError):
    """It is known who asks, and that is not allowed to."""

    code = "forbidden"


class PayloadTooLargeError(LedgerError):
    """The body is larger than a door takes."""

    code = "payload_too_large"


STATUS_OF: dict[type[LedgerError], HTTPStatus] = {
    InvalidRequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
    FileRefusedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnauthorizedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    PayloadTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    PartUnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def problem(status: HTTPStatus, code: str, detail: str, remedy: str = "", **more: Any) -> JSONResponse:
    """A problem details answer. `remedy` says what to do; `trace_id` is the number to quote."""
    span = trace.get_current_span().get_span_context()
    body = {
        "type": f"/problems/{code}",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
        "remedy": remedy,
        "trace_id": f"{span.trace_id:032x}" if span.is_valid else None,
        **more,
    }
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body, status.value, headers, media_type="application/problem+json")


def problem_of(error: LedgerError) -> JSONResponse:
    """The answer to an error of the world."""
    status = next(
        (STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), HTTPStatus.INTERNAL_SERVER_ERROR
    )
    return problem(status, error.code, error.message, error.remedy)


def add_handlers(app: FastAPI) -> None:
    """Answer every error as a problem; a traceback goes to the log and never to the caller."""

    async def of_the_world(request: Request, error: Exception) -> Response:
        assert isinstance(error, LedgerError)
        return problem_of(error)

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = HTTPStatus(error.status_code)
        answer = problem(status, status.name.lower(), str(error.detail), SEE_DESCRIPTION)
        answer.headers.update(error.headers or {})
        return answer

    async def of_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [
            {"where": ".".join(str(part) for part in found["loc"]), "what": found["msg"]} for found in error.errors()
        ]
        detail = "; ".join(f"{found['where']}: {found['what']}" for found in errors)
        return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail, SEE_DESCRIPTION, errors=errors)

    async def of_ours(request: Request, error: Exception) -> Response:
        log.error("unexpected error", exc_info=error, extra={"action": "request_crashed"})
        return problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal_error",
            "Something went wrong here that was not the request's fault.",
            "Try again; if it stays, report the trace id.",
        )

    app.add_exception_handler(LedgerError, of_the_world)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(Exception, of_ours)
