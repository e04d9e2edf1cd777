"""The gate before every route: who is calling (`api.identity`), and whether that may (`api.permissions`).

Rules:
1. It decides before a route runs and before a byte of the body is read, so that no route can forget it.
2. Who is not known gets 401, whatever the path. Who is known and may not, 403; what concerns a dataset that the caller
   does not see is answered as if that were not there, 404.
3. Every refusal is on record (`api.access_record`).
4. A route runs only for a request that was decided as one for that very route.
"""

from __future__ import annotations

from uuid import UUID

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access_record import Attempt
from api.errors import ForbiddenError, UnauthorizedError, problem_of
from api.permissions import Found, Reach, Routes
from api.state import State, caller, state_of
from ledger.domain.access import Caller, Permission, roles_with
from ledger.errors import LedgerError, no_such_dataset, no_such_job

METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})
PERMISSION_MISSING = "permission_missing"
DATASET_NOT_GRANTED = "dataset_not_granted"
WHOLE_LEDGER = "whole_ledger"
NOT_IN_THE_TABLE = "route_not_listed"


class Gate:
    """ASGI middleware that lets through who may, and says who it is in `request.state.caller`."""

    def __init__(self, app: ASGIApp, routes: Routes) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, or answer why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":  # there is no such route
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        found = self._routes.find(scope)
        request.state.found = found
        if found is None or found.door is None or not found.door.is_open:
            try:
                await _admit(request, found)
            except LedgerError as error:
                await problem_of(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def confirm_route(request: Request) -> None:  # or health would wait for a thread to be free
    """Refuse a route that is another one than the gate has decided about (rule 4): a dependency of every route."""
    found: Found | None = request.state.found
    if found is None or found.door is None or found.endpoint is not request.scope["endpoint"]:
        raise _denied(request, NOT_IN_THE_TABLE, ForbiddenError("Nobody may use this route.", "Report this."))


def check_reaches(request: Request, dataset: str) -> None:
    """Refuse to put something into a dataset that the caller does not see.

    Raises:
        ForbiddenError: so it is.
    """
    if not caller(request).reaches(dataset):
        error = ForbiddenError(
            f"You may not put anything into dataset {dataset[:80]!r}.",
            f"Nothing was taken. You may use: {_granted(caller(request))}. An admin can give you a key for others.",
        )
        raise _denied(request, DATASET_NOT_GRANTED, error, dataset)


async def _admit(request: Request, found: Found | None) -> None:
    """Find out who calls, and let them through.

    Raises:
        LedgerError: they may not, or nobody can tell now.
    """
    state = state_of(request)
    try:
        request.state.caller = await state.identification.caller(request.headers.getlist("authorization"))
    except UnauthorizedError as error:
        _record(request, error.actor, error.reason)
        raise
    if found is not None and found.door is not None:
        _check_permission(request, found.door.permission)
        if caller(request).is_limited:
            await _check_reach(request, state, found)


def _check_permission(request: Request, permission: Permission | None) -> None:
    who = caller(request)
    if permission is None or who.may(permission):
        return
    has = ", ".join(who.roles) or "no role"
    error = ForbiddenError(
        f"This needs the permission {permission.value}, which you do not have ({has}).",
        f"An admin can give you one of these roles, which have it: {', '.join(roles_with(permission))}.",
    )
    raise _denied(request, PERMISSION_MISSING, error)


async def _check_reach(request: Request, state: State, found: Found) -> None:
    """Refuse what concerns datasets that the caller does not see."""
    assert found.door is not None
    who, named = caller(request), found.parameters.get(found.door.parameter, "")
    match found.door.reach:
        case Reach.WHOLE:
            error = ForbiddenError(
                f"This concerns the whole ledger, and you see only some datasets: {_granted(who)}.",
                "An admin can give you a key without such a limit.",
            )
            raise _denied(request, WHOLE_LEDGER, error)
        case Reach.READ if not who.reaches(named):
            raise _denied(request, DATASET_NOT_GRANTED, no_such_dataset(named), named)
        case Reach.WRITE:
            check_reaches(request, named)
        case Reach.SENT:
            for dataset in request.query_params.getlist("dataset"):
                check_reaches(request, dataset)
        case Reach.JOB:
            await check_job(request, state, named)
        case _:
            pass


async def check_job(request: Request, state: State, named: str) -> None:
    """Answer for a job of a dataset that the caller does not see as if it were not there.

    Raises:
        NotFoundError: so it is.
    """
    try:
        job_id = UUID(named)
    except ValueError:
        return  # which the route tells
    dataset = await state.identification.ask(lambda: state.ledger.dataset_of_job(job_id))
    if dataset is None:  # what else may have that id concerns the whole ledger
        raise no_such_job(job_id)
    if not caller(request).reaches(dataset):
        raise _denied(request, DATASET_NOT_GRANTED, no_such_job(job_id), dataset)


def _denied(request: Request, reason: str, error: LedgerError, dataset: str | None = None) -> LedgerError:
    """The error, once it is on record."""
    _record(request, caller(request).actor, reason, dataset)
    return error


def _record(request: Request, actor: str, reason: str, dataset: str | None = None) -> None:
    found: Found | None = request.state.found
    permission = found.door.permission if found is not None and found.door is not None else None
    attempt = Attempt(
        actor,
        request.method if request.method in METHODS else "*",
        None if found is None else found.template,
        None if permission is None else permission.value,
        None if dataset is None else dataset[:80],
        reason,
    )
    address = "" if request.client is None else request.client.host
    state_of(request).access.denied(attempt, address)


def _granted(who: Caller) -> str:
    return ", ".join(sorted(who.datasets or ())) or "none"
