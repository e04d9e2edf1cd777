"""API keys, and who one is."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response

from api.state import CurrentState, Reason, caller, stamp
from ledger import keys
from ledger.application import Ledger
from ledger.domain.access import Role
from ledger.domain.api_key import NAME_CHARACTERS_MAX
from ledger.keys import ListedKey
from projections.status import rfc3339, rfc3339_or_none

router = APIRouter(prefix="/api/v1", tags=["access"])

EXPIRES_SECONDS_MAX = 100 * 366 * 86_400


@router.post("/keys", status_code=HTTPStatus.CREATED)
def create_key(
    request: Request,
    response: Response,
    state: CurrentState,
    name: Annotated[str, Body(max_length=NAME_CHARACTERS_MAX, description="Whose it is.")],
    role: Annotated[Role, Body(description="What it may do.")],
    datasets: Annotated[list[str] | None, Body(description="The only ones that it sees; all if not given.")] = None,
    expires_in_seconds: Annotated[
        int | None, Body(gt=0, le=EXPIRES_SECONDS_MAX, description="Never by default.")
    ] = None,
) -> dict[str, Any]:
    """Give out a key. The answer is the only one that ever holds it."""
    created = keys.create_key(
        state.ledger,
        stamp(request),
        name=name,
        role=role,
        datasets=datasets,
        expires_in=None if expires_in_seconds is None else timedelta(seconds=expires_in_seconds),
    )
    response.headers["Cache-Control"] = "no-store"
    return {"key": created.text, **_answer(ListedKey(created.key, has_expired=False, last_used_at=None))}


@router.get("/keys")
def list_keys(state: CurrentState) -> dict[str, Any]:
    """All keys that were ever given out, without their secrets."""
    return {"keys": [_answer(listed) for listed in keys.list_keys(state.ledger)]}


@router.post("/keys/{key_id}/revoke")
def revoke_key(
    key_id: str,
    request: Request,
    state: CurrentState,
    reason: Reason,
) -> dict[str, Any]:
    """Close a key for ever, from now on."""
    key = keys.revoke_key(state.ledger, key_id, stamp(request), reason=reason)
    return {"key_id": key.key_id, "status": "revoked", "revoked_at": rfc3339_or_none(key.revoked_at)}


@router.get("/whoami")
def whoami(request: Request, state: CurrentState) -> dict[str, Any]:
    """Who the caller is to the ledger, and what it may do."""
    who = caller(request)
    return {
        "actor": who.actor,
        "name": _name_of(state.ledger, who.actor),
        "roles": [role.value for role in who.roles],
        "permissions": sorted(permission.value for permission in who.permissions),
        "datasets": None if who.datasets is None else sorted(who.datasets),
    }


def _name_of(ledger: Ledger, actor: str) -> str | None:
    kind, _, its_id = actor.partition(":")
    known = ledger.api_key(its_id) if kind == "key" else ledger.user(its_id) if kind == "user" else None
    return None if known is None else known.name


def _answer(listed: ListedKey) -> dict[str, Any]:
    key = listed.key
    return {
        "key_id": key.key_id,
        "name": key.name,
        "role": key.role.value,
        "datasets": key.datasets,
        "status": "revoked" if key.revoked_at else "expired" if listed.has_expired else "active",
        "created_at": rfc3339(key.created_on),
        "created_by": key.created_by,
        "expires_at": rfc3339_or_none(key.expires_at),
        "last_used_at": rfc3339_or_none(listed.last_used_at),
        "revoked_at": rfc3339_or_none(key.revoked_at),
        "revoked_by": key.revoked_by,
        "revoked_because": key.revoked_because,
    }
